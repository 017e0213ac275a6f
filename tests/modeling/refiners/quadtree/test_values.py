"""Parts of the quadtree refiner against loops and values computed by hand."""

from __future__ import annotations

import math

import pytest
import torch

from vmt.modeling.refiners.quadtree import pixel_decoder
from vmt.modeling.refiners.quadtree.criterion import QuadtreeCriterion, QuadtreeOutput
from vmt.modeling.refiners.quadtree.grow import build_quadtree
from vmt.modeling.refiners.quadtree.node_encoder import NodeEncoder
from vmt.modeling.refiners.quadtree.pixel_decoder import PixelDecoder
from vmt.modeling.refiners.quadtree.sequence_encoder import InstanceGuidance, NearAttention
from vmt.modeling.refiners.quadtree.tree import SequenceQuadtree
from vmt.modeling.refiners.quadtree.window import Window, window_around
from vmt.modeling.refiners.quadtree.write_back import to_next_level, write_back

SIZES = ((2, 3), (4, 6), (8, 12))


def full_tree(tracklets: int = 2, frames: int = 2) -> SequenceQuadtree:
    """Every cell of every level is a node."""
    scores = [torch.ones(tracklets, frames, *size) for size in SIZES]
    return build_quadtree(scores, [0.5, 0.5, 0.5])


@pytest.mark.parametrize("per_frame", [1, 2, 5])
def test_the_limit_of_nodes_is_that_of_a_frame(per_frame: int) -> None:
    """... of each tracklet and level; roots are 6 cells."""
    scores = [torch.ones(2, 3, *size) for size in SIZES]
    tree = build_quadtree(scores, [0.5] * 3, per_frame, torch.Generator().manual_seed(0))
    for tracklet in range(2):
        for frame in range(3):
            here = (tree.tracklet == tracklet) & (tree.frame == frame)
            assert (here & (tree.level == 0)).sum() == per_frame
            assert (here & (tree.level == 1)).sum() == min(per_frame, 4 * per_frame)


@torch.no_grad()
def test_frames_have_codes_only_where_they_are_told_apart() -> None:
    tree = full_tree()
    encoder = NodeEncoder(8, 3)
    first = (tree.frame == 0).nonzero()[:, 0]
    second = (tree.frame == 1).nonzero()[:, 0]
    apart, alike = (encoder.position(tree, with_time=w) for w in (True, False))
    assert torch.equal(alike[first], alike[second])
    assert (apart[first] - apart[second]).abs().max() > 1e-3
    assert torch.allclose(alike[first], apart[first])


@pytest.mark.parametrize(
    ("cells", "margin", "expected"),
    [
        ([(2, 3), (4, 5)], 0, Window(2, 5, 3, 6)),
        ([(2, 3), (4, 5)], 1, Window(1, 6, 2, 7)),
        ([(2, 3), (4, 5)], 3, Window(0, 8, 0, 9)),
        ([(7, 8)], 2, Window(5, 8, 6, 9)),
        ([], 3, Window(0, 1, 0, 1)),
    ],
)
def test_windows_around_marked_cells(cells, margin: int, expected: Window) -> None:
    marked = torch.zeros(2, 1, 8, 9, dtype=torch.bool)
    for k, (y, x) in enumerate(cells):
        marked[k, 0, y, x] = True
    assert window_around(marked, margin) == expected
    below = torch.arange(16 * 18.0).reshape(16, 18)
    part = expected.crop(below, 1)
    assert part[0, 0] == 18 * 2 * expected.top + 2 * expected.left
    assert part.shape == (2 * (expected.bottom - expected.top),
                          2 * (expected.right - expected.left))  # fmt: skip


@torch.no_grad()
def test_instance_guidance_by_loops() -> None:
    """softmax over instances of (q k' + own marker) / sqrt(width of a head)."""
    torch.manual_seed(0)
    layer = InstanceGuidance(8, 4, 0.0)
    x, position, instances = torch.randn(5, 8), torch.randn(5, 8), torch.randn(3, 8)
    own, tracklet = torch.randn(8), torch.tensor([0, 2, 1, 0, 2])
    found = layer(x, position, instances, own, tracklet)
    query = layer.query_proj(x + position)
    for p in range(5):
        keys = [layer.key_proj(instances[n] + own * (n == tracklet[p])) for n in range(3)]
        values = layer.value_proj(instances)
        read = torch.zeros(8)
        for head in range(4):
            part = slice(2 * head, 2 * head + 2)
            scores = torch.stack([query[p, part] @ key[part] for key in keys]) / math.sqrt(2)
            read[part] = scores.softmax(0) @ values[:, part]
        expected = layer.norm(x[p] + layer.out_proj(read))
        torch.testing.assert_close(found[p], expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_near_attention_by_loops() -> None:
    """Scores less |a - b|^2 / (2 r^2); r doubles from head to head."""
    torch.manual_seed(0)
    layer = NearAttention(8, 2, 0.0, reach_px=3.0)
    x, code, place = torch.randn(1, 6, 8), torch.randn(1, 6, 8), 4 * torch.randn(1, 6, 2)
    found = layer(x, torch.cat([code, place], -1))[0]
    weight, bias = layer.in_proj_weight, layer.in_proj_bias
    query, key = ((x + code)[0] @ weight[k : k + 8].T + bias[k : k + 8] for k in (0, 8))
    value = x[0] @ weight[16:].T + bias[16:]
    far = (place[0, :, None] - place[0, None]).square().sum(-1)
    heads = []
    for head, reach in ((slice(0, 4), 3.0), (slice(4, 8), 6.0)):
        scores = query[:, head] @ key[:, head].T / 2 - far / (2 * reach**2)
        heads.append(scores.softmax(-1) @ value[:, head])
    expected = layer.out_proj(torch.cat(heads, 1))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("lengths", [[3, 0, 5, 1], [4], [0, 2], [0, 0]])
def test_the_decoder_takes_tracklets_together_as_one_by_one(
    lengths: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    count, decoder = sum(lengths), PixelDecoder(8)
    x, offsets, coarse = torch.randn(count, 8), torch.randn(count, 2), torch.rand(count)
    parameters = torch.randn(len(lengths), 177, requires_grad=True)
    leaves = [parameters, *decoder.parameters()]

    def run() -> list[torch.Tensor]:
        out = decoder(x, offsets, coarse, parameters, lengths)
        grads = torch.autograd.grad(out.square().sum(), leaves, materialize_grads=True)
        return [out, *grads]

    apart, calls = run(), []
    apply = pixel_decoder.apply_dynamic_layers

    def noted(features: torch.Tensor, layers: object) -> torch.Tensor:
        calls.append(len(features))
        return apply(features, layers)

    monkeypatch.setattr(pixel_decoder, "apply_dynamic_layers", noted)
    monkeypatch.setattr(pixel_decoder, "_one_by_one", pixel_decoder._together)
    for one, other in zip(run(), apart, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    assert calls == [len(lengths)]


def test_values_reach_the_cells_below() -> None:
    """One root; below it, values lie between its own and its neighbours'."""
    scores = [torch.zeros(1, 1, *size) for size in SIZES]
    scores[0][0, 0, 0, 1] = 1
    tree = build_quadtree(scores, [0.5, 0.5, 0.5])
    coarse = torch.zeros(1, 1, 2, 3)
    levels = write_back(tree, torch.tensor([8.0]), coarse)
    assert levels[0][0, 0].tolist() == [[0, 8, 0], [0, 0, 0]]
    assert levels[1][0, 0, 0].tolist() == [0, 2, 6, 6, 2, 0]
    assert torch.equal(to_next_level(levels[1], (8, 12)), levels[2])


def test_losses_of_the_detector_are_means_over_levels() -> None:
    """Logits 0 where nothing is marked: cross entropy ln 2 at each of three levels."""
    tree = full_tree(1, 1)
    regions = tuple(torch.zeros(1, 1, *size, dtype=torch.bool) for size in SIZES)
    output = QuadtreeOutput(
        mask_logits=torch.zeros(1, 1, 8, 12), mask_stride=2, stage_logits=torch.zeros(1, 1, 4, 6),
        tree=tree, node_logits=torch.zeros(len(tree)), tracklets=None,
        detector_logits=tuple(torch.zeros(1, 1, *size) for size in SIZES), regions=regions,
    )  # fmt: skip
    masks = torch.zeros(1, 1, 16, 24, dtype=torch.bool)
    losses = QuadtreeCriterion((8, 4, 2))._losses(output, masks, 1.0)
    assert float(losses["loss_inc"]) == pytest.approx(math.log(2))
    # 1 - 1 / (cells / 2 + 1), of 6, 24 and 96 cells
    dice = [1 - 1 / (h * w / 2 + 1) for h, w in SIZES]
    assert float(losses["loss_inc_dice"]) == pytest.approx(sum(dice) / 3)
    assert float(losses["loss_refine"]) == pytest.approx(0.5)
    halves = QuadtreeCriterion((8, 4, 2))._losses(output, masks, 2.0)
    assert float(halves["loss_inc"]) == pytest.approx(math.log(2) / 2)
