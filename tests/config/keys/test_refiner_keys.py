"""Keys of the refiners: on a clip of random maps, which nodes there are and what reaches them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.config.keys.pairs import Pair, dropouts, network, outline, shows, shows_each
from vmt.modeling.refiners.base import RefinerInput
from vmt.modeling.refiners.quadtree.criterion import QuadtreeOutput
from vmt.utils.errors import ConfigError

QUADTREE = ("MODEL.REFINER.NAME", "quadtree")
#: Thresholds: every cell is a node; cells that the annotation marks have score 1, and of the
#: detector's no more than 1e-30.
ALL, ANY = (0.0, 0.0, 0.0), (1.0e-30, 1.0e-30, 1.0e-30)
#: Tracklets, frames, cells of each level in a frame of 32x48.
N, T, CELLS = 2, 2, (24, 96, 384)


def refiner_of(cfg: Any, thresholds: tuple[float, ...] | None = None) -> Any:
    refiner = network(cfg).refiner.eval()
    if thresholds is not None:
        refiner.thresholds = thresholds
    return refiner


def clip(masks_gt: Tensor | None = None, frames: int = T) -> RefinerInput:
    """N tracklets over frames of 32x48; no stride-2 map as wide as the refiner."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    return RefinerInput(
        frames=random(frames, 3, 32, 48), stride4=random(frames, 16, 8, 12), stride2=None,
        fused=random(frames, 32, 4, 6), coarse_logits=random(N, frames, 4, 6),
        query=random(N, 32), centres_px=torch.full((N, frames, 2), 20.0),
        boxes_cxcywh=torch.full((N, frames, 4), 0.5), frame_size=(32, 48),
        box_query=random(N, frames, 32), masks_gt=masks_gt,
    )  # fmt: skip


def trained(refiner: Any, masks_gt: Tensor) -> QuadtreeOutput:
    torch.manual_seed(0)
    refiner.train()
    output = refiner(clip(masks_gt))
    assert isinstance(output, QuadtreeOutput)
    return output


def masks() -> Tensor:
    """(N, T, 32, 48), the left half, up to the edge of a cell of every level."""
    filled = torch.zeros(N, T, 32, 48, dtype=torch.bool)
    filled[..., :24] = True
    return filled


# --- what is built ------------------------------------------------------------------------------


@shows_each(
    {
        "MODEL.REFINER.NAME": (
            "dense_band", lambda n: type(n.refiner).__name__, "QuadtreeRefiner", "DenseBand"
        ),
        "MODEL.REFINER.EMBED_DIM": (
            8, lambda n: [n.refiner.reduce_s8.out_channels,
                          n.refiner.node_encoder.level_embed.shape[1]], [16, 16], [8, 8],
        ),
        "MODEL.REFINER.NUM_HEADS": (
            4, lambda n: [n.refiner.encoder.layers[0].self_attn.num_heads,
                          n.refiner.encoder.guidance[0].num_heads], [2, 2], [4, 4],
        ),
        "MODEL.REFINER.NUM_LAYERS": (
            3, lambda n: [len(n.refiner.encoder.layers), len(n.refiner.encoder.guidance)],
            [1, 1], [3, 3],
        ),
        "MODEL.REFINER.FFN_DIM": (
            48, lambda n: n.refiner.encoder.layers[0].linear1.out_features, 32, 48
        ),
        "MODEL.REFINER.DROPOUT": (
            0.25, lambda n: [dropouts(n.refiner), n.refiner.encoder.layers[0].self_attn.dropout],
            [{0.0}, 0.0], [{0.25}, 0.25],
        ),
        # a token is made of the feature and the coarse probability of each cell around
        "MODEL.REFINER.CONTEXT": (
            3, lambda n: n.refiner.node_encoder.token.in_features, 17, 9 * 17
        ),
        "MODEL.REFINER.SHARED_HEAD": (
            True, lambda n: n.refiner.decoder.shared is None, True, False
        ),
    },
    "measure,before,after",
    *QUADTREE,
)  # fmt: skip
def test_refiner_sizes(pair: Pair, measure: Any, before: Any, after: Any) -> None:
    assert [measure(outline(cfg)) for cfg in pair] == [before, after]


@shows("MODEL.REFINER.PRESET", "ours", *QUADTREE)
def test_preset(pair: Pair) -> None:
    keys = ("WINDOW", "CONTEXT", "REACH_PX", "SHARED_HEAD", "OFFSET_UNIT_PX", "TRAIN_MAPS")
    found = [[cfg.MODEL.REFINER[key] for key in keys] for cfg in pair]
    assert found == [[0, 1, 0.0, False, 1.0, False], [4, 3, 4.0, True, 64.0, True]]
    net = outline(pair.configs()[1]).refiner
    assert [net.options.window, net.options.reach_px] == [4, 4.0]
    with pytest.raises(ConfigError, match="PRESET is 'best'; choose paper or ours"):
        pair.to("best")


@shows("MODEL.REFINER.TRAIN_BASE", False, *QUADTREE, "MODEL.META_ARCHITECTURE", "IDOL")
def test_what_learns_beside_the_refiner(pair: Pair) -> None:
    learning = [
        {name.partition(".")[0] for name, p in network(cfg).named_parameters() if p.requires_grad}
        for cfg in pair
    ]
    assert learning[0] > {"refiner", "decoder", "heads"}
    assert learning[1] == {"refiner"}


@shows("MODEL.REFINER.REACH_PX", 8.0, *QUADTREE)
def test_reach_of_the_heads(pair: Pair) -> None:
    plain, near = (refiner_of(cfg).encoder.layers[0].self_attn for cfg in pair)
    assert not hasattr(plain, "log_reach")
    assert near.log_reach.exp().tolist() == pytest.approx([8, 16])


# --- which nodes there are ----------------------------------------------------------------------


@torch.no_grad()
@shows("MODEL.REFINER.MAX_POINTS", 100, *QUADTREE)
def test_most_points(pair: Pair) -> None:
    """One frame: all 504 cells of each tracklet, or the limit."""
    refiners = [refiner_of(cfg, ALL) for cfg in pair]
    found = [refiner(clip(frames=1)).tree.lengths() for refiner in refiners]
    assert found == [[sum(CELLS)] * N, [100] * N]


def _marked(pair: Pair, masks_gt: Tensor) -> list[list[int]]:
    """Cells of each level that the annotation marks."""
    return [
        [int(level.sum()) for level in trained(refiner_of(cfg), masks_gt).regions] for cfg in pair
    ]


@shows("MODEL.REFINER.REGION", "boundary", *QUADTREE, "MODEL.REFINER.REGION", "mixed")
def test_region(pair: Pair) -> None:
    """A line along the edges of cells: no cell holds both labels; one column on each side."""
    before, after = _marked(pair, masks())
    assert before == [0, 0, 0]
    assert after == [N * T * 2 * rows for rows in (4, 8, 16)]


@shows("MODEL.REFINER.REGION", "mixed", *QUADTREE)
def test_region_rule(pair: Pair) -> None:
    """The same line: interpolated, it blurs into one column of cells on each side."""
    before, after = _marked(pair, masks())
    assert before == [N * T * 2 * rows for rows in (4, 8, 16)]
    assert after == [0, 0, 0]


@shows("MODEL.REFINER.TRAIN_FRAME_POINTS", 3, *QUADTREE, "MODEL.REFINER.TRAIN_FRAME_POINTS", "0",
       "MODEL.REFINER.TRAIN_POINTS", "0")  # fmt: skip
def test_nodes_of_a_frame_in_training(pair: Pair) -> None:
    levels = [
        trained(refiner_of(cfg, ANY), masks()).tree.level.bincount(minlength=3).tolist()
        for cfg in pair
    ]
    assert levels[0] == [N * T * count for count in CELLS]
    # limited at random, some of the drawn cells have no parent
    assert levels[1][0] == N * T * 3
    assert all(count <= N * T * 3 for count in levels[1])


@shows("MODEL.REFINER.TRAIN_POINTS", 10, *QUADTREE, "MODEL.REFINER.TRAIN_FRAME_POINTS", "0")
def test_training_points(pair: Pair) -> None:
    lengths = [trained(refiner_of(cfg, ALL), masks()).tree.lengths() for cfg in pair]
    assert lengths == [[T * sum(CELLS)] * N, [10] * N]


@shows("MODEL.REFINER.TRAIN_TRACKLETS", 1, *QUADTREE)
def test_training_tracklets(pair: Pair) -> None:
    all_of, one = (trained(refiner_of(cfg), masks()) for cfg in pair)
    assert all_of.tracklets is None
    assert all_of.mask_logits.shape[0] == N
    assert one.tracklets is not None
    assert len(one.tracklets) == one.mask_logits.shape[0] == 1


# --- what reaches them --------------------------------------------------------------------------


@torch.no_grad()
def _moved(cfg: Any, **changes: Any) -> Tensor:
    """How far the logit of every node moves when the input is changed."""
    refiner = refiner_of(cfg, ALL)
    inputs = clip()
    before, after = refiner(inputs), refiner(replace(inputs, **changes))
    assert len(before.tree) == len(after.tree) == N * T * sum(CELLS)
    moved: Tensor = (before.node_logits - after.node_logits).abs()
    return moved


@shows("MODEL.REFINER.QSG", False, *QUADTREE)
def test_grouping_lets_frames_tell_each_other(pair: Pair) -> None:
    fused = clip().fused.clone()
    fused[1] += 1
    for cfg, grouped in zip(pair, (True, False), strict=True):
        refiner = refiner_of(cfg, ALL)
        first = refiner(clip()).tree.frame == 0
        moved = _moved(cfg, fused=fused)
        assert moved[~first].max() > 1e-3
        assert (moved[first].max() > 1e-4) == grouped


@shows("MODEL.REFINER.IGL", False, *QUADTREE)
def test_guidance_lets_tracklets_tell_each_other(pair: Pair) -> None:
    query = clip().query.clone()
    query[1] += 1
    for cfg, guided in zip(pair, (True, False), strict=True):
        refiner = refiner_of(cfg, ALL)
        first = refiner(clip()).tree.tracklet == 0
        assert (_moved(cfg, query=query)[first].max() > 1e-5) == guided


@torch.no_grad()
@shows("MODEL.REFINER.WINDOW", 2, *QUADTREE)
def test_window(pair: Pair) -> None:
    """What changes at the lower right end reaches nodes at the upper left, or does not."""
    pixels = clip().frames.clone()
    pixels[:, :, 28:, 44:] += 3
    for cfg, everywhere in zip(pair, (True, False), strict=True):
        refiner = refiner_of(cfg, ALL)
        tree = refiner(clip()).tree
        corner = (tree.level == 0) & (tree.y == 0) & (tree.x == 0)
        assert (_moved(cfg, frames=pixels)[corner].max() > 1e-5) == everywhere


@shows("MODEL.REFINER.DETECTOR", "fcn", *QUADTREE)
def test_detector_of_its_own_weights(pair: Pair) -> None:
    """What it marks hangs on the query of the tracklet, or does not."""
    for cfg, dynamic in zip(pair, (True, False), strict=True):
        refiner = refiner_of(cfg).train()
        inputs = clip(masks())
        one, other = (refiner(replace(inputs, query=q)) for q in (inputs.query, inputs.query + 1))
        moved = (one.detector_logits[0] - other.detector_logits[0]).abs().max()
        assert (moved > 1e-4) == dynamic


@shows("MODEL.REFINER.DETECTOR", "frame_query", *QUADTREE)
def test_detector_of_one_query_per_frame(pair: Pair) -> None:
    for cfg, per_frame in zip(pair, (False, True), strict=True):
        refiner = refiner_of(cfg).train()
        inputs = clip(masks())
        assert inputs.box_query is not None
        box_query = inputs.box_query.clone()
        box_query[:, 1] += 1
        one, other = (refiner(replace(inputs, box_query=q)) for q in (inputs.box_query, box_query))
        moved = (one.detector_logits[0] - other.detector_logits[0]).abs().amax((0, 2, 3))
        assert moved[0] == 0
        assert (moved[1] > 1e-4) == per_frame


@torch.no_grad()
@shows("MODEL.REFINER.OFFSET_UNIT_PX", 64.0, *QUADTREE)
def test_unit_of_offsets(pair: Pair) -> None:
    """What detector and decoder are told of the way to the centre."""
    told: list[dict[str, Tensor]] = []
    for cfg in pair:
        refiner, seen = refiner_of(cfg, ALL), {}
        refiner.detector.register_forward_pre_hook(
            lambda _, args, seen=seen: seen.update({args[0]: args[2][:, :, :2]})
        )
        refiner.decoder.register_forward_pre_hook(
            lambda _, args, seen=seen: seen.update(decoder=args[1])
        )
        refiner(clip())
        told.append(seen)
    assert set(told[0]) == {"s8", "s4", "s2", "decoder"}
    assert told[0]["s8"][0, 0, :, 0, 0].tolist() == [20 - 4, 20 - 4]
    for name, offsets in told[0].items():
        torch.testing.assert_close(offsets, told[1][name] * 64)


@torch.no_grad()
@shows("MODEL.REFINER.OFFSET_UNIT_PX", 64.0, "MODEL.REFINER.NAME", "dense_band")
def test_unit_of_offsets_in_a_band(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Tensor] = []
    for cfg in pair:
        refiner = refiner_of(cfg)
        reads: list[Tensor] = []
        monkeypatch.setattr(
            "vmt.modeling.refiners.dense_band.apply_dynamic_layers",
            lambda x, layers, reads=reads: (reads.append(x), x[:, :1])[1],
        )
        refiner(clip())
        told.append(reads[0][:, :2])
    torch.testing.assert_close(told[0], told[1] * 64)


@shows("MODEL.REFINER.TRAIN_MAPS", True, *QUADTREE)
def test_gradients_of_maps(pair: Pair) -> None:
    for cfg, reached in zip(pair, (False, True), strict=True):
        refiner = refiner_of(cfg).train()
        inputs = replace(clip(masks()), stride4=clip().stride4.requires_grad_())
        refiner(inputs).node_logits.sum().backward()
        assert (inputs.stride4.grad is not None) == reached
