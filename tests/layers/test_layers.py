"""Layers against plain loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from vmt.layers.dynamic_conv import (
    apply_dynamic_layers,
    num_dynamic_parameters,
    split_dynamic_parameters,
)
from vmt.layers.ms_deform_attn import MSDeformAttn
from vmt.layers.position import sine_position_2d, sine_position_of_cells
from vmt.layers.transformer import SelfAttention
from vmt.ops.resize import aligned_upsample2, cell_centres_px


def test_aligned_upsampling_in_one_dimension() -> None:
    x = torch.tensor([[[0.0, 1, 2, 3]]])
    expected = torch.tensor([0, 0, 0.5, 1, 1.5, 2, 2.5, 3])
    assert torch.equal(aligned_upsample2(x)[0, 0], expected)


def test_aligned_upsampling_is_the_published_sequence_of_steps() -> None:
    x = torch.randn(2, 3, 5, 7)
    h, w = x.shape[-2:]
    y = nn.functional.pad(x, (0, 1, 0, 1), mode="replicate")
    y = nn.functional.interpolate(
        y, size=(2 * h + 1, 2 * w + 1), mode="bilinear", align_corners=True
    )
    y = nn.functional.pad(y, (1, 0, 1, 0), mode="replicate")[:, :, : 2 * h, : 2 * w]
    torch.testing.assert_close(aligned_upsample2(x), y, atol=1e-6, rtol=1e-6)


def test_cell_centres() -> None:
    centres = cell_centres_px((2, 3), 8, torch.zeros(1))
    assert centres[0].tolist() == [[4, 12, 20]] * 2
    assert centres[1].tolist() == [[4] * 3, [12] * 3]


def slow_sine(valid: torch.Tensor, n: int, offset: float) -> torch.Tensor:
    h, w = valid.shape
    out = torch.zeros(h, w, 2 * n)
    for i in range(h):
        for j in range(w):
            rows = valid[:, j].sum().item()
            cols = valid[i].sum().item()
            y = (valid[: i + 1, j].sum().item() - offset) / (rows + 1e-6) * 2 * math.pi
            x = (valid[i, : j + 1].sum().item() - offset) / (cols + 1e-6) * 2 * math.pi
            for k in range(n):
                d = 10000 ** (2 * (k // 2) / n)
                wave = math.sin if k % 2 == 0 else math.cos
                out[i, j, k], out[i, j, n + k] = wave(y / d), wave(x / d)
    return out


@pytest.mark.parametrize("offset", [0.0, 0.5])
def test_sine_code(offset: float) -> None:
    valid = torch.ones(1, 4, 6, dtype=torch.bool)
    valid[:, 3:] = False
    valid[:, :, 5:] = False
    actual = sine_position_2d(valid, 8, offset)[0]
    expected = slow_sine(valid[0], 8, offset)
    torch.testing.assert_close(actual[:3, :5], expected[:3, :5], atol=1e-5, rtol=1e-5)


def test_code_of_chosen_cells_is_that_of_the_map() -> None:
    whole = sine_position_2d(torch.ones(1, 5, 7, dtype=torch.bool), 6, 0.0)[0]
    rows, cols = torch.tensor([0, 4, 2]), torch.tensor([6, 0, 3])
    some = sine_position_of_cells(rows, cols, (5, 7), 6, 0.0)
    torch.testing.assert_close(some, whole[rows, cols])


def test_dynamic_layers_are_per_instance_convolutions() -> None:
    widths = (11, 8, 8, 1)
    assert num_dynamic_parameters(widths) == 177
    assert num_dynamic_parameters((10, 8, 8, 1)) == 169
    parameters, features = torch.randn(3, 177), torch.randn(3, 11, 4, 5)
    actual = apply_dynamic_layers(features, split_dynamic_parameters(parameters, widths))
    for n in range(3):
        p, x = parameters[n], features[n]
        weights = p[:88].view(8, 11), p[88:152].view(8, 8), p[152:160].view(1, 8)
        biases = p[160:168], p[168:176], p[176:177]
        for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            x = torch.einsum("oi,ihw->ohw", weight, x) + bias[:, None, None]
            x = x.relu() if i < 2 else x
        torch.testing.assert_close(actual[n], x, atol=1e-4, rtol=1e-4)


def test_self_attention_is_multi_head_attention_with_positions_on_query_and_key() -> None:
    torch.manual_seed(0)
    ours, theirs = SelfAttention(16, 4).eval(), nn.MultiheadAttention(16, 4, batch_first=True)
    nn.init.normal_(ours.in_proj_bias)
    theirs.load_state_dict(ours.state_dict())
    x, position = torch.randn(2, 9, 16), torch.randn(2, 9, 16)
    expected, _ = theirs.eval()(x + position, x + position, x)
    torch.testing.assert_close(ours(x, position), expected, atol=1e-6, rtol=1e-5)


def slow_deform_attn(module: MSDeformAttn, query, reference, value, shapes, padding):
    """Equation 3 of Deformable DETR, a query, head, level and point at a time."""
    b, q, c = query.shape
    heads, levels, points = module.num_heads, module.num_levels, module.num_points
    d = c // heads
    v = module.value_proj(value)
    v = v.masked_fill(padding[..., None], 0.0).view(b, -1, heads, d)
    offsets = module.sampling_offsets(query).view(b, q, heads, levels, points, 2)
    weights = module.attention_weights(query).view(b, q, heads, -1).softmax(-1)
    weights = weights.view(b, q, heads, levels, points)
    out = torch.zeros(b, q, heads, d)
    starts = [0]
    for h, w in shapes:
        starts.append(starts[-1] + h * w)
    for bi in range(b):
        for qi in range(q):
            for m in range(heads):
                for level, (h, w) in enumerate(shapes):
                    plane = v[bi, starts[level] : starts[level + 1], m].view(h, w, d)
                    for k in range(points):
                        ref = reference[bi, qi, level]
                        off = offsets[bi, qi, m, level, k]
                        if len(ref) == 2:
                            x, y = ref[0] + off[0] / w, ref[1] + off[1] / h
                        else:
                            x = ref[0] + off[0] / points * ref[2] * 0.5
                            y = ref[1] + off[1] / points * ref[3] * 0.5
                        px, py = x.item() * w - 0.5, y.item() * h - 0.5
                        x0, y0 = math.floor(px), math.floor(py)
                        for yy in (y0, y0 + 1):
                            for xx in (x0, x0 + 1):
                                if 0 <= yy < h and 0 <= xx < w:
                                    share = (1 - abs(py - yy)) * (1 - abs(px - xx))
                                    out[bi, qi, m] += (
                                        weights[bi, qi, m, level, k] * share * plane[yy, xx]
                                    )
    return module.output_proj(out.view(b, q, c))


@pytest.mark.parametrize("box", [False, True])
def test_deformable_attention_module(box: bool) -> None:
    torch.manual_seed(0)
    shapes = [(4, 5), (2, 3)]
    module = MSDeformAttn(8, num_levels=2, num_heads=2, num_points=3)
    nn.init.normal_(module.sampling_offsets.weight, std=0.5)
    nn.init.normal_(module.attention_weights.weight)
    query, value = torch.randn(2, 3, 8), torch.randn(2, 26, 8)
    reference = torch.rand(2, 3, 2, 4 if box else 2)
    padding = torch.zeros(2, 26, dtype=torch.bool)
    padding[1, 15:20] = True
    with torch.no_grad():
        actual = module(query, reference, value, shapes, padding)
        expected = slow_deform_attn(module, query, reference, value, shapes, padding)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def test_deformable_attention_starts_looking_in_compass_directions() -> None:
    module = MSDeformAttn(32, num_levels=2, num_heads=8, num_points=3)
    offsets = module.sampling_offsets.bias.detach().view(8, 2, 3, 2)
    assert offsets[0, 0].tolist() == [[1, 0], [2, 0], [3, 0]]
    torch.testing.assert_close(offsets[2, 1], torch.tensor([[0.0, 1], [0, 2], [0, 3]]))
    assert offsets[1, 0, 1].abs().max() == pytest.approx(2)
