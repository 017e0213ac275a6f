"""Dropout belongs to training; heads scale by their own width."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from vmt.layers import transformer
from vmt.layers.transformer import EncoderLayer, SelfAttention
from vmt.modeling.refiners.quadtree.sequence_encoder import NodeAttentionLayer


def test_attention_drops_out_in_training_only() -> None:
    torch.manual_seed(0)
    attention = SelfAttention(8, 2, dropout=0.5)
    plain = SelfAttention(8, 2)
    plain.load_state_dict(attention.state_dict())
    x, position = torch.randn(1, 12, 8), torch.randn(1, 12, 8)
    torch.testing.assert_close(attention.eval()(x, position), plain(x, position))
    attention.train()
    assert not torch.allclose(attention(x, position), plain(x, position), atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("lengths", [None, [5], [2, 3], [1, 1, 3]])
def test_sequences_attend_within_themselves(lengths: list[int] | None) -> None:
    """Against softmax(q k' / sqrt(width of a head)) v, sequence by sequence."""
    torch.manual_seed(0)
    attention = SelfAttention(8, 2)
    x, position = torch.randn(1, 5, 8), torch.randn(1, 5, 8)
    read, start = [], 0
    weight, bias = attention.in_proj_weight, attention.in_proj_bias
    for length in lengths or [5]:
        part = x[0, start : start + length]
        code = part + position[0, start : start + length]
        start += length
        query, key = (code @ weight[k : k + 8].T + bias[k : k + 8] for k in (0, 8))
        value = part @ weight[16:].T + bias[16:]
        heads = []
        for head in (slice(0, 4), slice(4, 8)):
            share = (query[:, head] @ key[:, head].T / 4**0.5).softmax(-1)
            heads.append(share @ value[:, head])
        read.append(torch.cat(heads, 1))
    expected = attention.out_proj(torch.cat(read))[None]
    torch.testing.assert_close(attention(x, position, lengths), expected)


def test_a_layer_in_evaluation_is_the_same_each_time() -> None:
    layer = EncoderLayer(8, 2, 16, dropout=0.5).eval()
    x = torch.randn(2, 6, 8)
    assert torch.equal(layer(x, x), layer(x, x))
    layer.train()
    assert not torch.equal(layer(x, x), layer(x, x))


@pytest.mark.parametrize("reach_px", [0.0, 3.0])
@pytest.mark.parametrize("lengths", [[1, 1], [2, 3, 1, 7], [5, 5, 5]])
def test_padded_sequences_attend_as_one_by_one(
    reach_px: float, lengths: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    layer = NodeAttentionLayer(16, 2, 32, 0.0, reach_px)
    count = sum(lengths)
    x = torch.randn(1, count, 16, requires_grad=True)
    position = torch.randn(1, count, 16 + 2 * bool(reach_px))
    apart = layer(x, position, lengths)
    (apart_grad,) = torch.autograd.grad(apart.square().sum(), x)
    monkeypatch.setattr(transformer, "attends_together", lambda lengths, device: True)
    calls = count_calls(monkeypatch)
    together = layer(x, position, lengths)
    (together_grad,) = torch.autograd.grad(together.square().sum(), x)
    assert calls == [len(lengths)]
    torch.testing.assert_close(together, apart, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(together_grad, apart_grad, atol=1e-4, rtol=1e-4)


def count_calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """B of every call of the fused attention from now on."""
    calls: list[int] = []
    fused = F.scaled_dot_product_attention

    def counted(query: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        calls.append(len(query))
        return fused(query, *args, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", counted)
    return calls


@pytest.mark.parametrize(
    ("lengths", "device", "together"),
    [
        ([5, 6], "cuda", True),
        ([5, 6], "cpu", False),
        ([1000, 1024], "cuda", True),
        ([1000, 1025], "cuda", False),  # each fills a GPU
        ([1, 1, 1, 3], "cuda", True),  # 12 for 6
        ([1, 1, 1, 1, 1, 9], "cuda", False),  # 54 for 14
    ],
)
def test_short_sequences_of_about_one_length_are_padded(
    lengths: list[int], device: str, together: bool
) -> None:
    assert transformer.attends_together(lengths, torch.device(device)) == together
