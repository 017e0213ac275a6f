"""Dropout belongs to training; heads scale by their own width."""

from __future__ import annotations

import pytest
import torch

from tests.varlen_kernels import varlen_on_cpu
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


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("reach_px", [0.0, 3.0])
@pytest.mark.parametrize("lengths", [[1, 1], [2, 3, 1, 7], [5, 5, 5]])
def test_a_gpu_attends_in_one_call_as_one_by_one(
    reach_px: float, lengths: list[int], autocast: bool
) -> None:
    torch.manual_seed(0)
    layer = NodeAttentionLayer(16, 2, 32, 0.0, reach_px)
    count = sum(lengths)
    x = torch.randn(1, count, 16, requires_grad=True)
    position = torch.randn(1, count, 16 + 2 * bool(reach_px))

    def run() -> tuple[torch.Tensor, torch.Tensor]:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            out = layer(x, position, lengths).float()
        return out, torch.autograd.grad(out.square().sum(), x)[0]

    apart, apart_grad = run()
    with varlen_on_cpu() as calls:
        together, together_grad = run()
    kernel = "flash" if autocast and not reach_px else "efficient"  # distances want fp32
    assert calls == {kernel: 1, f"{kernel} backward": 1}
    close = 0.1 if autocast else 1e-4
    torch.testing.assert_close(together, apart, atol=close, rtol=close)
    torch.testing.assert_close(together_grad, apart_grad, atol=10 * close, rtol=close)


def test_a_single_sequence_needs_no_list_of_ends() -> None:
    attention = SelfAttention(16, 2)
    x = torch.randn(1, 5, 16)
    with varlen_on_cpu() as calls:
        attention(x, x, [5])
        attention(x, x)
    assert not calls
