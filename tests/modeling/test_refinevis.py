"""RefineVIS on each of its frame models: what learns from what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.synthetic import shape_clip
from vmt.engine.optimizer import parameter_groups
from vmt.modeling.criteria.point_sampling import PointSampler, reference_points
from vmt.modeling.meta_arch.build import build_network
from vmt.modeling.meta_arch.refinevis import RefineVIS
from vmt.modeling.video_model import ClipBatch
from vmt.utils.errors import ConfigError

MASKDINO, IDOL, MASK2FORMER = (
    "quick/refinevis_tiny",
    "quick/refinevis_condinst_tiny",
    "quick/refinevis_mask2former_tiny",
)
CONFIGS = (MASKDINO, IDOL, MASK2FORMER)
#: The same where one of them is enough for a look.
ONE_FAST = [pytest.param(name, marks=() if name == IDOL else pytest.mark.slow) for name in CONFIGS]
#: Untrained queries are nowhere near: all of them stand for their object, and are refined.
LENIENT = (
    "MODEL.REFINEVIS.TRAIN_TRACKLETS", "gt", "MODEL.REFINEVIS.TRAIN_IOU", "0.0",
    "MODEL.REFINEVIS.TRAIN_SCORE", "0.0", "MODEL.CONDINST.DROPOUT", "0.0",
    "MODEL.LOSS.MASK_POINTS", "64",
)  # fmt: skip
#: Zero at the start, or like zero, which hides what moves boxes, steers attention and refines.
MOVED = ("heads.cls", "heads.box", "heads.mask", "masks.controller", "attention_weights", "tar.")
FRAME_LOSSES = ("loss_ce", "loss_mask", "loss_dice", "loss_bbox", "loss_giou")
Build = Callable[..., RefineVIS]


@pytest.fixture(scope="module")
def build(config_of) -> Build:
    def make(name: str = MASKDINO, *overrides: str, moved: bool = True) -> RefineVIS:
        torch.manual_seed(0)
        model = build_network(*config_of(name, *LENIENT, *overrides))
        assert isinstance(model, RefineVIS)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter, value in model.named_parameters():
                if moved and any(part in parameter for part in MOVED):
                    value.copy_(torch.randn(value.shape, generator=generator) * 0.2)
        return model.train()

    return make


def clip_of(num_frames: int, seed: int = 0, valid: list[list[bool]] | None = None) -> Any:
    clip = shape_clip(num_frames, (64, 96), seed)
    seen = [[True] * num_frames] * len(clip["targets"]) if valid is None else valid
    return {**clip, "targets": replace(clip["targets"], valid=torch.tensor(seen))}


def losses_of(model: RefineVIS, *clips: Any, seed: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return model.losses(ClipBatch.from_inputs(clips))


def total(losses: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(losses.values())).sum()


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(
    "num_frames", [2, *(pytest.param(count, marks=pytest.mark.slow) for count in (3, 5))]
)
def test_every_parameter_learns(build: Build, name: str, num_frames: int) -> None:
    model = build(name)
    losses = losses_of(model, clip_of(num_frames))
    assert all(torch.isfinite(loss) for loss in losses.values())
    total(losses).backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


@pytest.mark.parametrize("tracklets", ["gt", "tracker"])
@pytest.mark.parametrize("name", ONE_FAST)
@pytest.mark.parametrize(
    "valid",
    [[], [[True, True]], [[True, False], [False, True]], [[False, True], [False, True]]],
    ids=["nobody", "one", "disjoint", "second frame alone"],
)
def test_clips_that_show_little_reach_every_parameter(
    build: Build, name: str, tracklets: str, valid: list[list[bool]]
) -> None:
    model = build(name, "MODEL.REFINEVIS.TRAIN_TRACKLETS", tracklets)
    clip = shape_clip(2, (64, 96), 0)
    clip["targets"] = clip["targets"].select(torch.arange(len(valid)))
    seen = torch.tensor(valid, dtype=torch.bool).view(-1, 2)
    clip["targets"] = replace(clip["targets"], valid=seen)
    names = losses_of(model, clip_of(2)).keys()
    losses = losses_of(model, clip)
    assert losses.keys() == names
    assert all(torch.isfinite(loss) for loss in losses.values())
    total(losses).backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


@pytest.mark.parametrize("name", CONFIGS)
def test_frame_losses_are_the_frame_models_own_of_the_first_frame(build: Build, name: str) -> None:
    model = build(name, "MODEL.MASKDINO.DN_QUERIES", "0")
    if hasattr(model.frame_model.criterion, "sampler"):
        model.frame_model.criterion.sampler = PointSampler(64, draw=reference_points)
    clips = [clip_of(3, seed) for seed in (0, 1)]
    with torch.no_grad():
        found = losses_of(model, *clips)
        first = [clip_of(1, seed) for seed in (0, 1)]
        for one, clip in zip(first, clips, strict=True):
            one["image"] = clip["image"][:1]
            one["targets"] = replace(
                clip["targets"],
                boxes_cxcywh=clip["targets"].boxes_cxcywh[:, :1],
                masks=clip["targets"].masks[:, :1],
                valid=clip["targets"].valid[:, :1],
            )
        own = model.frame_model.losses(ClipBatch.from_inputs(first))
        alone = losses_of(model, *first)
    assert own.keys() == alone.keys() < found.keys()
    for loss, value in own.items():
        torch.testing.assert_close(found[loss], value, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(alone[loss], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_frame_model_learns_from_all_frames_but_objects_of_the_first(
    build: Build, name: str
) -> None:
    model, clip = build(name), clip_of(3)
    clip["image"] = clip["image"].float().requires_grad_()
    losses = losses_of(model, clip)
    own = {loss for loss in losses if not ("reid" in loss or "refine" in loss)}
    assert {"loss_ce", "loss_mask_0"} <= own
    parts = {
        "frame": own,
        "association": {"loss_reid"},
        "refinement": {f"loss_{kind}_refine" for kind in ("ce", "mask", "dice")},
    }
    if name == MASKDINO:
        parts["association_cdn"] = {"loss_reid_dn"}
        parts["temporal_cdn"] = {f"loss_{kind}_refine_dn" for kind in ("ce", "mask", "dice")}
    assert set().union(*parts.values()) == losses.keys()
    for part, names in parts.items():
        value = total({loss: losses[loss] for loss in names})
        (gradient,) = torch.autograd.grad(value, clip["image"], retain_graph=True)
        reached = gradient.flatten(1).abs().sum(1) > 0
        assert reached.tolist() == ([True, False, False] if part == "frame" else [True] * 3)


def test_objects_of_other_frames_alone_stay_their_targets(build: Build) -> None:
    """Unlike in IDOL; they are in the association's frames, and are tracklets of refinement."""
    model = build(IDOL)
    clip = clip_of(2, valid=[[True, True], [False, True]])
    batch = ClipBatch.from_inputs([clip])
    clips = [model.normalise(frames) for frames in batch.clips]
    [frames] = model.frame_model.train_frames(clips, batch.targets, 1.0).frames
    assert [frame.target.slots.tolist() for frame in frames] == [[0], [0, 1]]
    assert model.loss_count(batch) == 1


def test_denoising_queries_know_their_group_kind_and_tracklet(build: Build) -> None:
    """Slots are the clip's tracklets in all frames; of the other clip's three, too."""
    model = build(MASKDINO, "MODEL.MASKDINO.DN_QUERIES", "12").frame_model
    small = clip_of(2, 0, [[True, False], [False, True]])
    large = clip_of(2, 1)
    both = large["targets"].select(torch.tensor([0, 1, 1]))
    batch = ClipBatch.from_inputs([small, {**large, "targets": both}])
    seen: list[Any] = []
    model.decoder.register_forward_hook(lambda _, given, states: seen.append((given[0], states)))
    clips = [model.normalise(frames) for frames in batch.clips]
    trained = model.train_frames(clips, batch.targets, 1.0)
    [(content, states)] = seen
    frames = [frame for clip in trained.frames for frame in clip]
    present = [frame.noisy.present.tolist() for frame in frames]
    assert present == [[True, False, False], [False, True, False], *[[True] * 3] * 2]
    for n, frame in enumerate(frames):
        assert frame.noisy.embeds.shape == (4, 2, 3, 64)
        for group in range(4):
            for kind in range(2):
                for slot in range(3):
                    row = group * 6 + kind * 3 + slot
                    assert torch.equal(
                        frame.noisy.embeds[group, kind, slot], states[-1].embeds[n, row]
                    )
                    assert content[n, row].any() == frame.noisy.present[slot]
        assert torch.equal(frame.embeds, states[-1].embeds[n, 24:])


@pytest.mark.parametrize("name", CONFIGS)
def test_what_stands_for_an_object_is_its_best_query(build: Build, name: str) -> None:
    model = build(name)
    batch = ClipBatch.from_inputs([clip_of(2), clip_of(2, 1)])
    clips = [model.normalise(frames) for frames in batch.clips]
    trained = model.frame_model.train_frames(clips, batch.targets, 1.0)
    assert [len(frames) for frames in trained.frames] == [2, 2]
    for frame in (frame for frames in trained.frames for frame in frames):
        assert frame.assigned[frame.best].all()
        assert len(frame.best.unique()) == len(frame.target)
        logits = model.class_head(frame.embeds)
        torch.testing.assert_close(logits, frame.logits)
        assert (frame.noisy is not None) == (name == MASKDINO)
        if name != MASK2FORMER:  # whose matching draws points
            ota, target = model.frame_model.criterion.ota, frame.target
            alone = ota(frame.logits, frame.boxes, target.labels, target.boxes_cxcywh)
            assert torch.equal(frame.best, alone.best)


@pytest.mark.parametrize("name", ONE_FAST)
def test_losses_of_embeddings_are_those_of_the_last_layer(build: Build, name: str) -> None:
    """The same classes and masks, by the same heads, with the divisor that is given."""
    model = build(name, "MODEL.MASKDINO.DN_QUERIES", "0").frame_model
    if hasattr(model.criterion, "sampler"):
        model.criterion.sampler = PointSampler(64, 1.0, 1.0, reference_points)
    batch = ClipBatch.from_inputs([clip_of(2)])
    clips = [model.normalise(frames) for frames in batch.clips]
    with torch.no_grad():
        trained = model.train_frames(clips, batch.targets, 2.0)
        frame = trained.frames[0][0]
        labels = torch.full((len(frame.embeds),), -1)
        chosen = torch.zeros_like(labels)
        object_of = {}
        if name == MASK2FORMER:
            object_of = {int(q): g for g, q in enumerate(frame.best)}
        else:
            target = frame.target
            match = model.criterion.ota(
                frame.logits, frame.boxes, target.labels, target.boxes_cxcywh
            )
            pairs = zip(match.query_index.tolist(), match.target_index.tolist(), strict=True)
            object_of = dict(pairs)
        for query, g in object_of.items():
            labels[query], chosen[query] = frame.target.labels[g], g
        count = 2.0 if name == MASK2FORMER else float(len(object_of))
        found = model.embedding_losses(
            frame.embeds, frame.refs, frame, labels, frame.target.masks[chosen], labels >= 0, count
        )
    weights = 2 + 0.1 * (len(labels) - 2) if name == MASK2FORMER else 1.0
    own = {loss: trained.losses[loss].item() for loss in found}
    own["loss_ce"] *= weights / 2 if name == MASK2FORMER else 1.0
    assert {loss: value.item() for loss, value in found.items()} == pytest.approx(own, rel=1e-4)


@pytest.mark.parametrize("masks", [[], [0]])
@pytest.mark.parametrize("name", ONE_FAST)
def test_embeddings_without_masks(build: Build, name: str, masks: list[int]) -> None:
    """Losses are zero, or of classes alone, and reach the embeddings and the heads."""
    model = build(name).frame_model
    batch = ClipBatch.from_inputs([clip_of(1)])
    clips = [model.normalise(frames) for frames in batch.clips]
    [[frame]] = model.train_frames(clips, batch.targets, 1.0).frames
    count = len(masks)
    embeds = frame.embeds[:count].detach().requires_grad_()
    refs = None if frame.refs is None else frame.refs[:count]
    labels, none = torch.full((count,), -1), torch.zeros(count, dtype=torch.bool)
    losses = model.embedding_losses(
        embeds, refs, frame, labels, frame.target.masks[:count], none, 1.0
    )
    assert [losses[f"loss_{kind}"].item() for kind in ("mask", "dice")] == [0, 0]
    assert (losses["loss_ce"].item() > 0) == bool(count)
    total(dict(losses)).backward()
    assert embeds.grad is not None


def test_masks_stand_in_for_boxes(build: Build) -> None:
    """Mask2Former's overlaps are those of masks, cell by cell, and so are its pairs."""
    model = build(MASK2FORMER).frame_model
    batch = ClipBatch.from_inputs([clip_of(1)])
    clips = [model.normalise(frames) for frames in batch.clips]
    [[frame]] = model.train_frames(clips, batch.targets, 1.0).frames
    truth = frame.target.masks[:, 2::4, 2::4]
    # queries whose masks are those of the objects, more or less, and nothing
    logits = torch.full((20, *truth.shape[1:]), -1.0)
    for query in range(12):
        logits[query][truth[query % 2].roll(query // 2, 1)] = 1.0
    model.mask_head = lambda *_: logits  # type: ignore[method-assign]
    iou = model.overlaps(frame)
    for query in range(20):
        for g in range(2):
            pairs = list(zip((logits[query] > 0).flatten(), truth[g].flatten(), strict=True))
            union = sum(bool(a | b) for a, b in pairs)
            both = sum(bool(a & b) for a, b in pairs)
            assert iou[query, g].item() == pytest.approx(both / union)
    frame.logits.data.zero_()
    positive, exclusion = model.reference_pairs(frame)
    for g in range(2):
        near, close = positive[g].nonzero()[:, 0].tolist(), exclusion[g].nonzero()[:, 0].tolist()
        assert len(near) == max(1, int(iou[:, g].topk(10).values.sum()))
        assert near == sorted(iou[:, g].argsort(descending=True)[: len(near)].tolist())
        assert set(near) <= set(close)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_fresh_network_refines_nothing(build: Build, name: str) -> None:
    """With norms first and zero last matrices, predictions are those of the frame model."""
    model = build(name, moved=False).eval()
    embeds = torch.randn(4, 3, model.frame_model.embed_dim)
    readable = torch.ones(4, 3, dtype=torch.bool)
    with torch.no_grad():
        assert torch.equal(model.refine(embeds, torch.arange(3), readable, False), embeds)


@pytest.mark.parametrize("name", CONFIGS)
def test_what_a_frame_gives(build: Build, name: str) -> None:
    model = build(name).eval()
    frames = shape_clip(2, (70, 90), 2)["image"]
    outputs = model.segment_frames(frames)
    own = model.frame_model.segment_frames(frames)
    for found, plain in zip(outputs, own, strict=True):
        assert found.query is not None
        assert torch.equal(found.logits, plain.logits)
        with torch.inference_mode():
            torch.testing.assert_close(found.embeddings, model.associated(found.query))
        assert torch.equal(found.embeddings, plain.embeddings) == (name == IDOL)
    assert model.predict({"image": frames})["frames"][0].embeddings.shape == (20, 64)


def test_sizes_of_the_paper(config_of) -> None:
    """Of heads and refinement at 256 channels; the head of IDOL is its own."""
    with torch.device("meta"):
        model = build_network(*config_of("Base-RefineVIS"))
    assert isinstance(model, RefineVIS)
    assert model.tar is not None
    assert sum(p.numel() for p in model.association_head.parameters()) == 197_376
    assert sum(p.numel() for p in model.tar.parameters()) == 1_315_072
    assert (model.tar.options.window, model.window) == (10, 10)


def test_a_method_with_a_head_has_no_second_one(build: Build) -> None:
    names = {name for name, _ in build(IDOL).named_parameters()}
    assert not any(name.startswith("association_head.") for name in names)
    assert any(name.startswith("frame_model.association_head.") for name in names)
    assert any(n.startswith("association_head.") for n, _ in build().named_parameters())


@pytest.mark.parametrize("name", CONFIGS)
def test_learning_rates_decay_and_stages_are_those_of_the_frame_model(
    build: Build, name: str, config_of
) -> None:
    model = build(name)
    cfg, _ = config_of(name, "SOLVER.BACKBONE_FACTOR", "0.1")
    groups = {group["name"]: group for group in parameter_groups(model, cfg.SOLVER)}
    slow = {n for title in groups for n in groups[title]["param_names"] if "backbone" in title}
    assert slow == {n for n, _ in model.named_parameters() if n.startswith("frame_model.backbone.")}
    assert model.backbone_stages() == model.frame_model.backbone_stages() != []
    assert model.stages() == model.frame_model.stages()
    undecayed = model.undecayed()
    assert {"tar.norm1.weight", "tar.norm2.bias"} <= undecayed
    assert {n for n in undecayed if n.startswith("frame_model.")} == {
        f"frame_model.{n}" for n in model.frame_model.undecayed()
    }
    assert undecayed <= {n for n, _ in model.named_parameters()}


def test_without_refinement_and_with_its_weights_it_is_idol(build: Build) -> None:
    """As long as every frame shows the objects of the first one alone."""
    keys = ("WINDOW", "0", "CONTRASTIVE_WEIGHT", "2.0", "COSINE_WEIGHT", "3.0")
    names = [f"MODEL.REFINEVIS.{key}" if key.isupper() else key for key in keys]
    model = build(IDOL, *names)
    clips = [clip_of(3, 0), clip_of(3, 1, [[True, False, True], [True, True, False]])]
    with torch.no_grad():
        found = losses_of(model, *clips)
        torch.manual_seed(0)
        idol = model.frame_model.losses(ClipBatch.from_inputs(clips))
    assert found.keys() == idol.keys()
    assert all(torch.equal(found[name], value) for name, value in idol.items())


def test_without_a_window_nothing_is_refined(build: Build) -> None:
    model = build(IDOL, "MODEL.REFINEVIS.WINDOW", "0")
    losses = losses_of(model, clip_of(2))
    assert model.tar is None
    assert "loss_reid" in losses
    assert not any("refine" in name for name in losses)


@pytest.mark.parametrize(
    ("switch", "value", "gone"),
    [
        ("ASSOCIATION_CDN", "False", {"loss_reid_dn"}),
        ("TEMPORAL_CDN", "False", {f"loss_{k}_refine_dn" for k in ("ce", "mask", "dice")}),
        ("COSINE_WEIGHT", "3.0", set()),
    ],
)
def test_switches_of_losses(build: Build, switch: str, value: str, gone: set[str]) -> None:
    with torch.no_grad():
        plain = losses_of(build(), clip_of(2)).keys()
        switched = losses_of(build(MASKDINO, f"MODEL.REFINEVIS.{switch}", value), clip_of(2)).keys()
    assert plain - switched == gone
    assert switched - plain == ({"loss_reid_aux"} if switch == "COSINE_WEIGHT" else set())


def test_weights_of_the_association(build: Build) -> None:
    """1 in the paper; in IDOL's code 2, and 3 for the cosines."""
    keys = ("MODEL.REFINEVIS.CONTRASTIVE_WEIGHT", "2.0", "MODEL.REFINEVIS.COSINE_WEIGHT", "3.0")
    with torch.no_grad():
        plain, idols = (losses_of(build(IDOL, *k), clip_of(3)) for k in ((), keys))
        own = build("quick/refinevis_condinst_tiny").frame_model.losses(
            ClipBatch.from_inputs([clip_of(3)])
        )
    torch.testing.assert_close(2 * plain["loss_reid"], idols["loss_reid"])
    # all objects are in all frames here, so IDOL's pairs are the same
    torch.testing.assert_close(idols["loss_reid"], own["loss_reid"], rtol=1e-4, atol=1e-4)
    assert idols["loss_reid_aux"] > 0


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("REFINEVIS.FRAME_MODEL", "SeqFormer", "'SeqFormer' does not exist"),
        ("REFINEVIS.FRAME_MODEL", "VideoMaskTransfiner", "gives no embeddings"),
        ("REFINEVIS.FRAME_MODEL", "RefineVIS", "gives no embeddings"),
        ("REFINEVIS.TRAIN_PASS", "both", "give recurrent or joint"),
        ("REFINEVIS.TRAIN_TRACKLETS", "none", "give tracker or gt"),
        ("REFINEVIS.ABSENT_CLASS", "all", "give none or object"),
        ("REFINEVIS.TRAIN_IOU", "1.0", "a number in"),
        ("REFINEVIS.NEGATIVE_TRACKLETS", "-1", "0 or more"),
        ("REFINEVIS.NUM_HEADS", "0", "at least 1"),
        ("REFINEVIS.NORM", "none", "choose pre or post"),
        ("MASKDINO.DN_KIND", "positive", "need contrastive denoising"),
        ("MASKDINO.MATCHER", "greedy", "one of hungarian, ota"),
    ],
)
def test_impossible_values_are_named(build: Build, key: str, value: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build(MASKDINO, f"MODEL.{key}", value)


def test_without_both_switches_any_denoising_works(build: Build) -> None:
    off = ("MODEL.REFINEVIS.ASSOCIATION_CDN", "False", "MODEL.REFINEVIS.TEMPORAL_CDN", "False")
    model = build(MASKDINO, "MODEL.MASKDINO.DN_KIND", "positive", *off)
    losses = losses_of(model, clip_of(2))
    assert "loss_ce_dn" in losses
    assert not any(name in losses for name in ("loss_reid_dn", "loss_ce_refine_dn"))
