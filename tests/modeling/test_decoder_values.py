"""The decoder: what flows between layers, frames and queries, and what does not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vmt.layers.deformable_encoder import Levels, _cell_centres, _valid_ratio
from vmt.layers.mask_head import MaskHead, relative_coordinates
from vmt.layers.query_heads import BoxHeads
from vmt.modeling.seqformer.decoder import Decoder
from vmt.structures.boxes import inverse_sigmoid

SHAPES = ((4, 6), (2, 3))
TOKENS = 24 + 6
DIM = 16


def decoder(layers: int = 2) -> tuple[Decoder, BoxHeads]:
    torch.manual_seed(0)
    built = Decoder(layers, 5, DIM, 2, 2, 2, 16, 0.0, 0)
    heads = BoxHeads(layers, DIM)
    for parameter in (*built.parameters(), *heads.parameters()):
        torch.nn.init.normal_(parameter, std=0.3)
    return built, heads


def run(built: Decoder, heads: BoxHeads, frames: int, memory: Tensor | None = None) -> list:
    generator = torch.Generator().manual_seed(1)
    if memory is None:
        memory = torch.randn(frames, TOKENS, DIM, generator=generator)
    levels = Levels(SHAPES, torch.ones(frames, 2, 2), None)
    return built(memory, levels, frames, heads)


def test_each_box_head_learns_from_its_own_layer() -> None:
    """Boxes that steer the next layer are detached, as in Deformable DETR."""
    built, heads = decoder()
    states = run(built, heads, 2)
    states[1].boxes.sum().backward(retain_graph=True)
    assert all(p.grad is None or not p.grad.any() for p in heads[0].parameters())
    assert all(p.grad is not None and p.grad.any() for p in heads[1].parameters())
    states[0].boxes.sum().backward()
    assert any(p.grad is not None and p.grad.any() for p in heads[0].parameters())


@torch.no_grad()
def test_frames_share_a_query_by_weights_that_add_up_to_one() -> None:
    """With one frame its weight is 1, whatever its score; with equal scores all count alike."""
    built, heads = decoder(1)
    (before,) = run(built, heads, 1)
    built.layers[0].frame_score.weight.mul_(-3)
    (after,) = run(built, heads, 1)
    torch.testing.assert_close(before.query, after.query)
    memory = torch.randn(1, TOKENS, DIM).repeat(3, 1, 1)
    (three,) = run(built, heads, 3, memory)
    (one,) = run(built, heads, 1, memory[:1])
    torch.testing.assert_close(three.query, one.query, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_frame_with_a_high_score_is_the_one_that_is_read() -> None:
    """Weights are a softmax over frames of each query alone."""
    built, heads = decoder(1)
    layer = built.layers[0]
    scores: list[Tensor] = []
    layer.frame_score.register_forward_hook(lambda *a: scores.append(a[2]))
    gathered: list[Tensor] = []
    layer.cross_attn.output_proj.register_forward_hook(lambda *a: gathered.append(a[2]))
    layer.instance_norm1.register_forward_pre_hook(lambda _, a: gathered.append(a[0]))
    layer.instance_norm2.register_forward_hook(lambda *a: gathered.append(a[2]))
    run(built, heads, 3)
    query, sampled, read = gathered
    expected = torch.zeros_like(query)
    for q in range(5):
        weights = scores[0][0, :, q, 0].exp()
        for t in range(3):
            expected[0, q] += weights[t] / weights.sum() * sampled[0, t, q]
    torch.testing.assert_close(read - query, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_boxes_are_moved_in_log_odds() -> None:
    built, heads = decoder()
    for head in heads:
        head.layers[2].weight.zero_()
        head.layers[2].bias.copy_(torch.tensor([0.5, -0.5, 0.0, 1.0]))
    first, second = run(built, heads, 2)
    start = built.reference(built.query_pos)  # log-odds of the centre
    size = torch.tensor([0.0, 1.0]).expand(5, 2)
    expected = torch.cat([start + torch.tensor([0.5, -0.5]), size], 1).sigmoid()
    torch.testing.assert_close(first.boxes[0, 1], expected, atol=1e-4, rtol=1e-4)
    expected = torch.cat([start + torch.tensor([1.0, -1.0]), 2 * size], 1).sigmoid()
    torch.testing.assert_close(second.boxes[0, 0], expected, atol=1e-4, rtol=1e-4)
    # centres are those of the boxes that came in
    torch.testing.assert_close(first.centres[0, 0], start.sigmoid(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(second.centres, first.boxes[..., :2], atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("layer", [0, 1])
def test_references_are_scaled_to_the_padded_frame(layer: int) -> None:
    """Half of the width and a quarter of the height of a frame are valid, of sizes too."""
    built, heads = decoder()
    seen: list[Tensor] = []
    for part in built.layers:
        part.register_forward_pre_hook(lambda _, a: seen.append(a[3]))
    memory = torch.randn(2, TOKENS, DIM)
    ratios = torch.tensor([[0.5, 0.25], [0.75, 1.0]]).expand(2, 2, 2)
    states = built(memory, Levels(SHAPES, ratios, None), 2, heads)
    start = built.reference(built.query_pos).sigmoid().expand(1, 2, 5, 2)
    reference = start if layer == 0 else states[0].boxes
    for level, (w, h) in enumerate(((0.5, 0.25), (0.75, 1.0))):
        scale = torch.tensor([w, h] if layer == 0 else [w, h, w, h])
        torch.testing.assert_close(seen[layer][:, :, :, level], reference * scale)


def test_log_odds_of_the_ends_are_finite() -> None:
    values = inverse_sigmoid(torch.tensor([0.0, 0.5, 1.0, -1.0, 2.0])).tolist()
    big = 11.5129  # ln 1e5
    assert values == pytest.approx([-big, 0, big, -big, big], abs=1e-3)


# --- where tokens and cells lie -----------------------------------------------------------------


def test_valid_ratios_are_width_then_height() -> None:
    valid = torch.zeros(1, 4, 8, dtype=torch.bool)
    valid[:, :1, :6] = True
    assert _valid_ratio(valid).tolist() == [[0.75, 0.25]]


def test_centres_of_tokens_in_all_levels() -> None:
    """A frame of which the left three quarters are valid at level 0, all at level 1."""
    ratios = torch.tensor([[[0.75, 1.0], [1.0, 1.0]]])
    centres = _cell_centres(((1, 4), (1, 2)), ratios)
    assert centres.shape == (1, 6, 2, 2)
    # the second of four cells: 0.375 of the padded frame, half of the valid one
    assert centres[0, 1].tolist() == [[0.375, 0.5], [0.5, 0.5]]
    # the first of two cells of level 1 lies at 0.25
    assert centres[0, 4].tolist() == [[0.25 * 0.75, 0.5], [0.25, 0.5]]


def test_offsets_point_from_cells_to_the_centre() -> None:
    offsets = relative_coordinates(torch.tensor([[20.0, 6.0]]), (2, 3), 8)
    assert offsets[0, 0].tolist() == [[16, 8, 0], [16, 8, 0]]
    assert offsets[0, 1].tolist() == [[2, 2, 2], [-6, -6, -6]]


@torch.no_grad()
def test_the_mask_head_reads_three_levels() -> None:
    """Fusing from coarse to fine, by nearest neighbour."""
    torch.manual_seed(0)
    head = MaskHead(8, 4)
    shapes = ((4, 4), (2, 2), (1, 1), (1, 1))
    memory = torch.randn(1, 22, 8)
    s8, s16, s32, _ = (
        part.transpose(1, 2).unflatten(2, shape)
        for part, shape in zip(memory.split([16, 4, 1, 1], 1), shapes, strict=True)
    )
    x = head.fpn["s32"](s32).relu().repeat_interleave(2, 2).repeat_interleave(2, 3)
    x = head.fpn["s16"](s16 + x).relu().repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(head.fuse(memory, shapes), s8 + x)
