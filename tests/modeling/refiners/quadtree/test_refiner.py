"""The paper's refiner: what must hold of it whatever its weights are, and that it learns."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.modeling.test_vmt import targets_for
from tests.synthetic import shape_clip
from vmt.checkpoint.files import write_weights
from vmt.checkpoint.load import load_weights
from vmt.modeling.meta_arch.build import build_model
from vmt.modeling.refiners.base import RefinerInput
from vmt.modeling.refiners.quadtree import refiner as quadtree_refiner
from vmt.modeling.refiners.quadtree.criterion import QuadtreeOutput, node_l1_loss
from vmt.modeling.refiners.quadtree.options import QuadtreeOptions
from vmt.modeling.refiners.quadtree.refiner import STRIDES, QuadtreeRefiner
from vmt.modeling.refiners.quadtree.sequence_encoder import InstanceGuidance, SequenceEncoder
from vmt.modeling.refiners.quadtree.window import Window, window_around
from vmt.modeling.refiners.quadtree.write_back import to_next_level
from vmt.ops import strips
from vmt.utils.errors import ConfigError

DIM, EMBED = 32, 16
#: What a dense_band or released file lacks for the quadtree refiner.
NEW = (
    "refiner.reduce_s8", "refiner.rgb", "refiner.detector", "refiner.node_encoder",
    "refiner.encoder.guidance", "refiner.encoder.instance", "refiner.encoder.own",
    "refiner.decoder",
)  # fmt: skip


def refiner_with(
    has_stride2: bool = True,
    frame_chunk: int = 2,
    thresholds: tuple[float, ...] = (0.5, 0.5, 0.5),
    **changes,
) -> QuadtreeRefiner:
    torch.manual_seed(0)
    options = QuadtreeOptions(embed_dim=EMBED, num_heads=2, num_layers=2, ffn_dim=32)
    refiner = QuadtreeRefiner(replace(options, **changes), 24, has_stride2, DIM, frame_chunk)
    refiner.thresholds = thresholds
    return refiner.eval()


def clip_input(
    size: tuple[int, int] = (50, 66), num: int = 3, frames: int = 3, stride2: bool = True
) -> RefinerInput:
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    h, w = size
    (h8, w8), (h4, w4), (h2, w2) = ((-(-h // s), -(-w // s)) for s in STRIDES)
    coarse = torch.full((num, frames, h8, w8), -2.0)
    masks = torch.zeros(num, frames, h, w, dtype=torch.bool)
    for n in range(num):
        coarse[n, :, n : n + 3, 1 : 3 + n] = 2.0
        masks[n, :, 8 * n : 8 * n + 23, 5 : 24 + 8 * n] = True
    return RefinerInput(
        frames=normal(frames, 3, h, w),
        stride4=normal(frames, 24, h4, w4),
        stride2=normal(frames, EMBED, h2, w2) if stride2 else None,
        fused=normal(frames, DIM, h8, w8),
        coarse_logits=coarse + 0.1 * normal(num, frames, h8, w8),
        query=normal(num, DIM),
        centres_px=torch.rand(num, frames, 2, generator=generator) * 60,
        boxes_cxcywh=torch.rand(num, frames, 4, generator=generator) * 0.5,
        frame_size=size,
        box_query=normal(num, frames, DIM),
        masks_gt=masks,
    )


def frames_of(inputs: RefinerInput, rows: slice) -> RefinerInput:
    per_frame = {n: getattr(inputs, n)[rows] for n in ("frames", "stride4", "stride2", "fused")}
    per_tracklet = {
        n: getattr(inputs, n)[:, rows]
        for n in ("coarse_logits", "centres_px", "boxes_cxcywh", "box_query", "masks_gt")
    }
    return replace(inputs, **per_frame, **per_tracklet)


def propagated(coarse: Tensor, out: QuadtreeOutput) -> list[Tensor]:
    levels = [coarse]
    for size in out.tree.sizes[1:]:
        levels.append(to_next_level(levels[-1], size))
    return levels


def node_maps(out: QuadtreeOutput) -> list[Tensor]:
    """(N, T, h, w) bool per level."""
    maps = []
    for level, size in enumerate(out.tree.sizes):
        cells = torch.zeros(out.tree.num_tracklets, out.tree.num_frames, *size, dtype=torch.bool)
        cells[out.tree.cells(out.tree.level == level)] = True
        maps.append(cells)
    return maps


@torch.no_grad()
@pytest.mark.parametrize("size", [(50, 66), (64, 96), (33, 47)])
@pytest.mark.parametrize("stride2", [True, False])
@pytest.mark.parametrize("detector", ["video_query", "frame_query", "fcn"])
def test_shapes_and_nodes(size: tuple[int, int], stride2: bool, detector: str) -> None:
    refiner = refiner_with(has_stride2=stride2, detector=detector, frame_chunk=2)
    if detector == "fcn":  # small random weights mark nothing
        torch.nn.init.normal_(refiner.detector.static[-1].weight)
    out = refiner(clip_input(size, stride2=stride2))
    h4, w4 = -(-size[0] // 4), -(-size[1] // 4)
    h2, w2 = (-(-size[0] // 2), -(-size[1] // 2)) if stride2 else (2 * h4, 2 * w4)
    assert out.mask_stride == 2
    assert out.mask_logits.shape == (3, 3, h2, w2)
    assert out.stage_logits.shape == (3, 3, h4, w4)
    assert torch.isfinite(out.mask_logits).all()
    assert out.detector_logits == out.regions == ()
    assert 0 < len(out.tree) < sum(3 * 3 * h * w for h, w in out.tree.sizes)
    child = out.tree.parent >= 0
    parent = out.tree.parent[child]
    assert torch.equal(out.tree.y[parent], out.tree.y[child] // 2)
    assert torch.equal(out.tree.tracklet[parent], out.tree.tracklet[child])


@torch.no_grad()
def test_masks_change_only_at_nodes_and_below() -> None:
    refiner = refiner_with()
    inputs = clip_input()
    out = refiner(inputs)
    before = propagated(inputs.coarse_logits, out)
    may_change = torch.zeros_like(before[0], dtype=torch.bool)
    for level, (nodes, size) in enumerate(zip(node_maps(out), out.tree.sizes, strict=True)):
        if level:
            may_change = to_next_level(may_change.float(), size) > 0
        may_change |= nodes
    assert 0.01 < may_change.float().mean() < 0.99
    assert torch.equal(out.mask_logits[~may_change], before[2][~may_change])
    finest = node_maps(out)[2]
    assert (out.mask_logits[finest] != before[2][finest]).float().mean() > 0.99
    at_level = out.tree.level == 2
    assert torch.equal(out.mask_logits[out.tree.cells(at_level)], out.node_logits[at_level])


def in_stride4(inputs: RefinerInput) -> RefinerInput:
    """The same clip with masks that have detail at stride 4."""
    h4, w4 = inputs.stride4.shape[-2:]
    fine = to_next_level(inputs.coarse_logits, (h4, w4))
    checkers = torch.arange(h4)[:, None] + torch.arange(w4)
    return replace(inputs, coarse_logits=fine + (checkers % 2) * 0.5, coarse_stride=4)


@torch.no_grad()
def test_masks_of_stride4_keep_their_detail() -> None:
    refiner = refiner_with()
    inputs = in_stride4(clip_input())
    out = refiner(inputs)
    maps = node_maps(out)
    before = to_next_level(inputs.coarse_logits, out.tree.sizes[2])
    may_change = (to_next_level(maps[1].float(), out.tree.sizes[2]) > 0) | maps[2]
    assert 0.01 < may_change.float().mean() < 0.99
    assert (out.mask_logits[may_change] != before[may_change]).float().mean() > 0.9
    assert torch.equal(out.mask_logits[~may_change], before[~may_change])
    assert torch.equal(out.stage_logits[~maps[1]], inputs.coarse_logits[~maps[1]])


@torch.no_grad()
def test_all_levels_read_masks_of_stride4() -> None:
    refiner = refiner_with()
    inputs = in_stride4(clip_input(size=(64, 96)))
    probs = inputs.coarse_logits.sigmoid()
    levels = (F.avg_pool2d(probs, 2), probs, to_next_level(probs, (32, 48)))
    given = refiner(replace(inputs, coarse_levels=levels))
    out = refiner(inputs)
    assert len(out.tree) > 0
    assert torch.equal(out.node_logits, given.node_logits)
    assert torch.equal(out.mask_logits, given.mask_logits)


@torch.no_grad()
def test_no_nodes_give_the_propagated_coarse_mask() -> None:
    refiner = refiner_with(thresholds=(1.1, 1.1, 1.1))
    inputs = clip_input()
    out = refiner(inputs)
    assert len(out.tree) == 0
    assert torch.equal(out.mask_logits, propagated(inputs.coarse_logits, out)[2])
    nobody = refiner(replace(inputs, **{
        name: getattr(inputs, name)[:0]
        for name in ("coarse_logits", "query", "centres_px", "boxes_cxcywh", "box_query")
    }))  # fmt: skip
    assert nobody.mask_logits.shape == (0, 3, 25, 33)


@torch.no_grad()
def test_without_grouping_frames_run_one_by_one() -> None:
    refiner, inputs = refiner_with(grouped=False), clip_input()
    whole = refiner(inputs)
    single = [refiner(frames_of(inputs, slice(t, t + 1))).mask_logits for t in range(3)]
    torch.testing.assert_close(whole.mask_logits, torch.cat(single, 1), atol=1e-4, rtol=1e-4)
    grouped = refiner_with(grouped=True)
    apart = [grouped(frames_of(inputs, slice(t, t + 1))).mask_logits for t in range(3)]
    assert (grouped(inputs).mask_logits - torch.cat(apart, 1)).abs().max() > 1e-2


@torch.no_grad()
@pytest.mark.parametrize("grouped", [True, False])
def test_one_frame_is_the_same_with_and_without_grouping(grouped: bool) -> None:
    inputs = frames_of(clip_input(), slice(0, 1))
    with_, without = (refiner_with(grouped=g)(inputs) for g in (grouped, False))
    torch.testing.assert_close(with_.mask_logits, without.mask_logits)


@torch.no_grad()
@pytest.mark.parametrize(
    "options",
    [{}, {"grouped": False}, {"guided": False}, {"max_points": 90}, {"window": 2}, {"context": 3}],
)
def test_permuting_tracklets_permutes_masks(options: dict) -> None:
    refiner, inputs = refiner_with(**options), clip_input()
    order = torch.tensor([2, 0, 1])
    permuted = replace(inputs, **{
        name: getattr(inputs, name)[order]
        for name in ("coarse_logits", "query", "centres_px", "boxes_cxcywh", "box_query")
    })  # fmt: skip
    before, after = refiner(inputs).mask_logits, refiner(permuted).mask_logits
    torch.testing.assert_close(before[order], after, atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("guided", [True, False])
def test_other_tracklets_matter_only_through_guidance(guided: bool) -> None:
    refiner, inputs = refiner_with(guided=guided), clip_input()
    other = inputs.query.clone()
    other[2] += 1.0
    moved = refiner(replace(inputs, query=other)).mask_logits - refiner(inputs).mask_logits
    assert (moved[:2].abs().max() > 1e-4) == guided


@torch.no_grad()
@pytest.mark.parametrize("frame_chunk", [0, 1])
def test_frame_chunks_change_nothing(frame_chunk: int) -> None:
    inputs = clip_input()
    two, other = (refiner_with(frame_chunk=c)(inputs) for c in (2, frame_chunk))
    assert len(two.tree) == len(other.tree)
    torch.testing.assert_close(two.mask_logits, other.mask_logits, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_budget_is_deterministic_and_keeps_the_surest() -> None:
    inputs = clip_input()
    everything = refiner_with()(inputs).tree
    refiner = refiner_with(max_points=40)
    first = refiner(inputs)
    torch.manual_seed(9)
    assert torch.equal(first.mask_logits, refiner(inputs).mask_logits)
    assert max(first.tree.lengths()) == 40
    assert min(everything.lengths()) < 40 or len(first.tree) == 120
    roots = everything.level == 0
    for n in range(3):
        kept = first.tree.score[first.tree.tracklet == n].min()
        dropped = everything.score[roots & (everything.tracklet == n)]
        assert (dropped > kept).sum() <= 40


def test_a_node_of_one_tracklet_reads_its_marked_key() -> None:
    """Guidance written out: keys of all tracklets, the own one with the marker added."""
    torch.manual_seed(0)
    layer = InstanceGuidance(8, 2, 0.0).double().eval()
    x, position = torch.randn(5, 8).double(), torch.randn(5, 8).double()
    instances, own = torch.randn(3, 8).double(), torch.randn(8).double()
    tracklet = torch.tensor([0, 2, 2, 1, 0])
    actual = layer(x, position, instances, own, tracklet)
    for p in range(5):
        keys = instances.clone()
        keys[tracklet[p]] += own
        q = layer.query_proj(x[p] + position[p]).view(2, 4)
        k, v = layer.key_proj(keys).view(3, 2, 4), layer.value_proj(instances).view(3, 2, 4)
        read = []
        for m in range(2):
            weights = (k[:, m] @ q[m] / 2).softmax(0)
            read.append(weights @ v[:, m])
        expected = layer.norm(x[p] + layer.out_proj(torch.cat(read)))
        torch.testing.assert_close(actual[p], expected)


@torch.no_grad()
def test_sequences_do_not_see_each_other() -> None:
    torch.manual_seed(0)
    encoder = SequenceEncoder(16, 32, 2, 2, 32, 0.0, guided=True).eval()
    x, position, query = torch.randn(12, 16), torch.randn(12, 16), torch.randn(3, 32)
    tracklet = torch.tensor([0] * 5 + [2] * 7)
    together = encoder(x, position, [5, 0, 7], query, tracklet)
    start = 0
    for length in (5, 7):
        part = slice(start, start + length)
        alone = encoder(x[part], position[part], [length], query, tracklet[part])
        torch.testing.assert_close(together[part], alone, atol=1e-5, rtol=1e-5)
        start += length


@torch.no_grad()
@pytest.mark.parametrize("size", [(104, 138), (97, 131)])
@pytest.mark.parametrize("stride2", [True, False])
def test_windows_and_strips_change_nothing(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], stride2: bool
) -> None:
    """Fine levels near the roots only and a few rows at a time, against whole maps."""
    inputs = clip_input(size, num=2, frames=2, stride2=stride2)
    refiner = refiner_with(has_stride2=stride2, thresholds=(0.0, 2.0, 2.0))
    roots = refiner(inputs).tree.score
    refiner.thresholds = (roots.sort().values[-3].item(), 0.0, 0.0)
    windows = []

    def watched(marked: Tensor, margin: int) -> Window:
        windows.append((window_around(marked, margin), marked.shape))
        return windows[-1][0]

    monkeypatch.setattr(quadtree_refiner, "window_around", watched)
    monkeypatch.setattr(strips, "STRIP_VALUES", 1)
    monkeypatch.setattr(strips, "MIN_ROWS", 7)
    small = refiner(inputs)
    assert any(w.right - w.left < shape[-1] - 2 for w, shape in windows)
    monkeypatch.setattr(quadtree_refiner, "WINDOW_MARGIN", 10**6)
    monkeypatch.setattr(strips, "STRIP_VALUES", 10**9)
    whole = refiner(inputs)
    assert len(small.tree) > 20
    assert torch.equal(small.tree.y, whole.tree.y)
    torch.testing.assert_close(small.tree.score, whole.tree.score, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(small.mask_logits, whole.mask_logits, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("window", [0, 3])
@pytest.mark.parametrize("max_points", [0, 90])
def test_tracklets_run_one_after_another(
    window: int, max_points: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    refiner, inputs = refiner_with(window=window, max_points=max_points), clip_input()
    together = refiner(inputs)
    assert (max(together.tree.lengths()) == 90) == (max_points == 90)
    monkeypatch.setattr(quadtree_refiner, "CPU_NODES", 1)
    apart = refiner(inputs)
    assert len(apart.tree) == len(together.tree)
    torch.testing.assert_close(apart.node_logits, together.node_logits, atol=1e-5, rtol=1e-5)


def test_memory_says_how_many_nodes_run_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quadtree_refiner, "values_at_once", lambda device: 10**6)
    refiner = refiner_with()
    width = refiner.options.embed_dim
    devices = [torch.device(name) for name in ("cpu", "cuda")]
    with torch.no_grad():
        assert [refiner._nodes_at_once(device) for device in devices] == [
            8192,
            10**6 // (16 * width),
        ]
    assert [refiner._nodes_at_once(device) for device in devices] == [0, 0]


def test_budgets_and_nodes_of_training() -> None:
    inputs = clip_input(num=4)
    refiner = refiner_with(train_frame_points=8, train_points=30, train_tracklets=2).train()
    refiner.thresholds = (1.0, 1.0, 1.0)  # the annotation's cells, and none of the detector's
    torch.manual_seed(3)
    out = refiner(inputs)
    torch.manual_seed(3)
    again = refiner(inputs)
    assert torch.equal(out.tree.y, again.tree.y)
    assert len(out.tracklets) == 2
    assert out.mask_logits.shape[0] == 2
    assert max(out.tree.lengths()) <= 30
    groups = torch.stack([out.tree.tracklet, out.tree.frame, out.tree.level])
    assert groups.unique(dim=1, return_counts=True)[1].max() <= 8
    for level, region in enumerate(out.regions):
        assert region[out.tree.cells(out.tree.level == level)].all()
    assert [d.shape for d in out.detector_logits] == [r.shape for r in out.regions]
    union = refiner_with().train()(inputs)
    detected = refiner_with().train()(replace(inputs, masks_gt=None))
    assert len(union.tree) > len(detected.tree)


def test_node_loss_is_the_slow_one() -> None:
    inputs = clip_input((33, 47), num=2)
    out = refiner_with()(inputs)
    loss = node_l1_loss(out.node_logits, out.tree, inputs.masks_gt, STRIDES, 4.0)
    total = 0.0
    for n in range(2):
        misses = []
        for p in (out.tree.tracklet == n).nonzero()[:, 0].tolist():
            s = STRIDES[out.tree.level[p]]
            y, x = s * out.tree.y[p] + s // 2, s * out.tree.x[p] + s // 2
            inside = y < 33 and x < 47
            wanted = float(inputs.masks_gt[n, out.tree.frame[p], y, x]) if inside else 0.0
            misses.append(abs(out.node_logits[p].sigmoid().item() - wanted))
        total += sum(misses) / len(misses)
    assert loss.item() == pytest.approx(total / 4, rel=1e-5)


# --- in the whole network -----------------------------------------------------------------------


def test_training_reaches_every_part(tiny, clip) -> None:
    model = tiny("quick/vmt_tiny").train()
    other = clip[:, :, :50, :80]
    batch = [
        {"image": clip, "targets": targets_for(4, 70, 102)},
        {"image": other, "targets": targets_for(4, 50, 80, num=1)},
    ]
    losses = model(batch)
    assert {"loss_inc", "loss_inc_dice", "loss_refine", "loss_mask_refine"} <= set(losses)
    total = sum(losses.values())
    assert torch.isfinite(total)
    total.backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if n.startswith("refiner.")}
    lacking = [n for n, g in gradients.items() if g is None or not torch.isfinite(g).all()]
    assert lacking == []
    families = {
        "reduce_s8", "fuse_s4", "reduce_s4", "rgb", "detector.reduce.s8", "detector.reduce.s4",
        "detector.reduce.s2", "detector_controller", "controller", "node_encoder.token",
        "node_encoder.level_embed", "encoder.layers.0.self_attn", "encoder.layers.1.self_attn",
        "encoder.layers.1.linear2", "encoder.guidance.0", "encoder.guidance.1", "encoder.instance",
        "encoder.own", "decoder",
    }  # fmt: skip
    for family in families:
        assert any(g.any() for n, g in gradients.items() if n.startswith(f"refiner.{family}")), (
            family
        )


def test_clip_without_objects_trains(tiny, clip) -> None:
    model = tiny("quick/vmt_tiny").train()
    losses = model([{"image": clip, "targets": targets_for(4, 70, 102, num=0)}])
    sum(losses.values()).backward()
    assert losses["loss_inc"].item() == losses["loss_refine"].item() == 0


def test_refined_masks_in_evaluation(tiny, clip) -> None:
    model = tiny("quick/vmt_tiny")
    for frames in (clip, clip[:1]):
        tracklets = model([{"image": frames}])[0]["tracklets"]
        assert tracklets.mask_logits.shape == (len(tracklets), len(frames), 35, 51)
        assert tracklets.mask_stride == 2
        again = model.segment_clip(frames)
        assert torch.equal(again.mask_logits, tracklets.mask_logits)


def test_a_dense_band_file_initialises_it(tiny, config_of, tmp_path) -> None:
    source = tiny("quick/vmt_tiny_released", "MODEL.REFINER.NUM_LAYERS", "2")
    path = tmp_path / "dense_band.safetensors"
    write_weights(source.state_dict(), path)
    torch.manual_seed(5)
    model = build_model(*config_of("quick/vmt_tiny"))
    report = load_weights(model, path, NEW)
    assert report.complete
    assert {prefix for prefix in NEW if not any(n.startswith(prefix) for n in report.new)} == set()
    assert "newly initialised" in report.text()
    theirs, ours = source.state_dict(), model.state_dict()
    shared = ["fuse_s4", "reduce_s4", "lift_s2", "controller.", "encoder.layers.1."]
    for family in shared:
        names = [n for n in ours if n.startswith(f"refiner.{family}")]
        assert names, family
        for name in names:
            assert torch.equal(ours[name], theirs[name]), name
    assert any("branches" in name for name in report.unexpected)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("DETECTOR", "magic"), ("REGION", "edge"), ("REACH_PX", "-1.0"), ("WINDOW", "-1"),
        ("CONTEXT", "2"),
    ],
)  # fmt: skip
def test_wrong_values_are_named(config_of, key: str, value: str) -> None:
    cfg, labels = config_of("quick/vmt_tiny", f"MODEL.REFINER.{key}", value)
    with pytest.raises(ConfigError, match=rf"MODEL\.REFINER\.{key}"):
        build_model(cfg, labels)


@pytest.mark.slow
def test_it_learns_one_clip(config_of) -> None:
    """The refiner alone, coarse masks and features fixed: losses inside the region fall."""
    cfg, labels = config_of("quick/vmt_tiny", "MODEL.REFINER.DROPOUT", "0.0")
    torch.manual_seed(0)
    model = build_model(cfg, labels).train()
    clip = shape_clip(2, (64, 96), 3)
    learned = [p for n, p in model.named_parameters() if n.startswith("refiner.")]
    optimiser = torch.optim.AdamW(learned, lr=2e-3)
    history = []
    for _ in range(40):
        torch.manual_seed(1)
        losses = model([clip])
        refined = {n: losses[n] for n in model.refiner_criterion.weights}
        optimiser.zero_grad()
        sum(refined.values()).backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimiser.step()
        history.append({n: v.item() for n, v in refined.items()})
    for name in ("loss_refine", "loss_mask_bound_refine", "loss_inc_dice"):
        first = sum(h[name] for h in history[:3])
        last = sum(h[name] for h in history[-3:])
        assert last < 0.8 * first, (name, [round(h[name], 3) for h in history])


@pytest.mark.slow
@torch.no_grad()
def test_parts_compile_in_one_graph() -> None:
    """Detector, token layer, attention, guidance and decoder; the tree's sizes depend on data."""
    torch._dynamo.reset()
    refiner, inputs = refiner_with(), clip_input()
    parameters = refiner._detector_parameters(inputs)
    own = torch.randn(3, 3, 3, 7, 9)
    x, position = torch.randn(30, EMBED), torch.randn(30, EMBED)
    tracklet = torch.arange(3).repeat_interleave(10)
    layer, guidance = refiner.encoder.layers[0], refiner.encoder.guidance[0]
    near = refiner_with(reach_px=4.0, shared_head=True)
    placed = torch.cat([position, 20 * torch.rand(30, 2)], 1)
    instances = refiner.encoder.instance(inputs.query)
    calls = [
        (refiner.detector, ("s8", torch.randn(3, EMBED, 7, 9), own, parameters)),
        (refiner.node_encoder, (x[:, None], x[:, :1])),
        (layer, (x[None], position[None], [10, 10, 10])),
        (near.encoder.layers[0], (x[None], placed[None], [10, 10, 10])),
        (guidance, (x, position, instances, refiner.encoder.own, tracklet)),
        (
            refiner.decoder,
            (x, x[:, :2], x[:, 0], refiner.controller(inputs.query), [10, 10, 10]),
        ),
        (near.decoder, (x, x[:, :2], x[:, 0], near.controller(inputs.query), [10, 10, 10])),
    ]
    for part, arguments in calls:
        compiled = torch.compile(part, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(*arguments), part(*arguments))
