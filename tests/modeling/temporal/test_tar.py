"""TAR against a reference in loops, and what holds of it whatever its weights."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vmt.modeling.temporal.tar import TAR, TAROptions
from vmt.utils.errors import ConfigError

NORMS, POSITIONS = ("pre", "post"), ("input", "query_key")


def random_tar(norm: str = "pre", position: str = "input", dim: int = 16, heads: int = 4) -> TAR:
    torch.manual_seed(0)
    tar = TAR(TAROptions(dim, heads, 24, norm=norm, position=position))
    for parameter in tar.parameters():
        nn.init.normal_(parameter, std=0.3)
    return tar.double().eval()


def tracklets(n: int = 3, t: int = 5, dim: int = 16) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings with missed frames, indices with a gap, readable places."""
    torch.manual_seed(1)
    embeds = torch.randn(n, t, dim, dtype=torch.float64)
    embeds[0, 2] = embeds[1, -1] = 0
    times = torch.arange(t) * 3 + 1000
    readable = torch.ones(n, t, dtype=torch.bool)
    readable[1, :2] = False
    return embeds, times, readable


def time_code(frame: int, dim: int) -> Tensor:
    """sin(t / 10000^(2i/dim)) in the even channels, the cosine of the same in the odd ones."""
    code = []
    for i in range(dim // 2):
        angle = frame / 10000 ** (2 * i / dim)
        code += [math.sin(angle), math.cos(angle)]
    return torch.tensor(code, dtype=torch.float64)


def slow_weights(tar: TAR, row: Tensor, times: list[int], readable: list[bool]) -> Tensor:
    """(M, T, T) of one tracklet."""
    options, attn = tar.options, tar.self_attn
    dim, size = options.dim, options.dim // options.num_heads
    weights = torch.zeros(options.num_heads, len(row), len(row), dtype=torch.float64)
    for head in range(options.num_heads):
        part = slice(head * size, (head + 1) * size)
        for asks in range(len(row)):
            scores = []
            for read in range(len(row)):
                query = slow_tokens(tar, row[asks], times[asks])[0]
                key = slow_tokens(tar, row[read], times[read])[0]
                q = (attn.in_proj_weight[:dim] @ query + attn.in_proj_bias[:dim])[part]
                k = (attn.in_proj_weight[dim : 2 * dim] @ key + attn.in_proj_bias[dim : 2 * dim])[
                    part
                ]
                scores.append(q @ k / math.sqrt(size) if readable[read] else -math.inf)
            weights[head, asks] = torch.tensor(scores).softmax(0)
    return weights


def slow_tokens(tar: TAR, embed: Tensor, time: int) -> tuple[Tensor, Tensor]:
    """What queries and keys, and what values are made of."""
    value = tar.norm1(embed) if tar.options.norm == "pre" else embed
    timed = value + time_code(time, tar.options.dim)
    return timed, timed if tar.options.position == "input" else value


def slow_tar(tar: TAR, embeds: Tensor, times: list[int], readable: Tensor) -> Tensor:
    dim, attn = tar.options.dim, tar.self_attn
    size = dim // tar.options.num_heads
    out = torch.zeros_like(embeds)
    for n, row in enumerate(embeds):
        weights = slow_weights(tar, row, times, readable[n].tolist())
        for t in range(len(row)):
            mixed = torch.zeros(dim, dtype=torch.float64)
            for read in range(len(row)):
                value = slow_tokens(tar, row[read], times[read])[1]
                v = attn.in_proj_weight[2 * dim :] @ value + attn.in_proj_bias[2 * dim :]
                for head, weight in enumerate(weights[:, t, read]):
                    mixed[head * size : (head + 1) * size] += (
                        weight * v[head * size : (head + 1) * size]
                    )
            x = row[t] + attn.out_proj(mixed)
            if tar.options.norm == "post":
                x = tar.norm1(x)
                out[n, t] = tar.norm2(x + tar.linear2(F.relu(tar.linear1(x))))
            else:
                out[n, t] = x + tar.linear2(F.relu(tar.linear1(tar.norm2(x))))
    return out


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("position", POSITIONS)
@torch.inference_mode()
def test_equals_the_loops(norm: str, position: str) -> None:
    tar = random_tar(norm, position)
    embeds, times, readable = tracklets()
    expected = slow_tar(tar, embeds, times.tolist(), readable)
    refined = tar(embeds, times, readable)
    torch.testing.assert_close(refined, expected, rtol=0, atol=1e-6)
    last = tar(embeds, times.expand(3, -1), readable, last_only=True)
    torch.testing.assert_close(last, expected[:, -1:], rtol=0, atol=1e-6)
    assert (refined - embeds).abs().max() > 0.1


@pytest.mark.parametrize("position", POSITIONS)
@torch.inference_mode()
def test_weights_for_pictures_are_those_it_reads_by(position: str) -> None:
    tar = random_tar("pre", position)
    embeds, times, readable = tracklets()
    weights = tar.attention_weights(embeds, times, readable)
    for n, row in enumerate(embeds):
        expected = slow_weights(tar, row, times.tolist(), readable[n].tolist())
        torch.testing.assert_close(weights[n], expected, rtol=0, atol=1e-6)
    assert (weights[1, :, :, :2] == 0).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))


@torch.inference_mode()
def test_where_time_goes() -> None:
    """With one frame it is added to the value, or it changes nothing at all."""
    embeds = torch.randn(2, 1, 16, dtype=torch.float64)
    early, late = torch.tensor([0]), torch.tensor([7])
    both = {p: [random_tar("pre", p)(embeds, t) for t in (early, late)] for p in POSITIONS}
    assert torch.equal(*both["query_key"])
    assert not torch.equal(*both["input"])


@pytest.mark.parametrize("norm", NORMS)
@torch.inference_mode()
def test_tracklets_do_not_see_one_another(norm: str) -> None:
    tar = random_tar(norm)
    embeds, times, readable = tracklets(4)
    refined = tar(embeds, times, readable)
    order = torch.tensor([2, 0, 3, 1])
    assert torch.equal(tar(embeds[order], times, readable[order]), refined[order])
    changed = embeds.clone()
    changed[1] += 1
    again = tar(changed, times, readable)
    assert torch.equal(again[[0, 2, 3]], refined[[0, 2, 3]])
    assert not torch.equal(again[1], refined[1])


@torch.inference_mode()
def test_what_is_not_readable_counts_for_nothing() -> None:
    tar = random_tar()
    embeds, times, readable = tracklets()
    refined = tar(embeds, times, readable)
    embeds[1, :2] = 99.0
    again = tar(embeds, times, readable)
    assert torch.equal(again[1, 2:], refined[1, 2:])
    alone = tar(embeds[1:2, 2:], times[2:])
    torch.testing.assert_close(alone, refined[1:2, 2:])


@torch.inference_mode()
def test_a_missed_frame_is_read() -> None:
    """It says that it was missed: its value is the bias of the norm, and its weight is not 0."""
    tar = random_tar()
    embeds, times, _ = tracklets()
    readable = torch.ones(3, 5, dtype=torch.bool)
    with_missed = tar(embeds, times, readable)
    readable[0, 2] = False
    assert not torch.allclose(tar(embeds, times, readable)[0], with_missed[0])


def test_starts_as_the_identity_and_learns() -> None:
    torch.manual_seed(0)
    tar = TAR(TAROptions())
    assert sum(parameter.numel() for parameter in tar.parameters()) == 1_315_072
    embeds = torch.randn(3, 10, 256)
    embeds[1, 4:7] = 0
    refined = tar(embeds, torch.arange(10))
    assert torch.equal(refined, embeds)
    refined.square().sum().backward()
    assert tar.linear2.weight.grad is not None
    assert tar.linear2.weight.grad.abs().max() > 0
    assert all(parameter.grad is not None for parameter in tar.parameters())


def test_gradient_reaches_everything() -> None:
    tar = random_tar()
    embeds, times, readable = tracklets()
    embeds.requires_grad_()
    tar(embeds, times, readable)[:, -1].square().sum().backward()
    for name, parameter in tar.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
    assert embeds.grad is not None
    assert (embeds.grad[1, :2] == 0).all(), "not readable"
    assert (embeds.grad[2].abs().amax(-1) > 0).all(), "the last frame reads all"


@torch.inference_mode()
def test_late_frames_have_exact_times() -> None:
    """In single precision, frame 1,000,003 would lie a hundredth of a radian off."""
    tar = random_tar()
    tar.float()
    embeds = torch.randn(1, 2, 16)
    times = torch.tensor([1_000_000, 1_000_003])
    single = tar(embeds, times)
    torch.testing.assert_close(single, tar.double()(embeds.double(), times).float())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"norm": "mid"}, "norm is 'mid'; choose pre or post"),
        ({"position": "value"}, "choose input or query_key"),
        ({"window": -1}, "WINDOW is -1"),
        ({"dim": 20, "num_heads": 8}, "8 heads"),
    ],
)
def test_impossible_options(options: dict[str, int | str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        TAROptions(**options)  # type: ignore[arg-type]
