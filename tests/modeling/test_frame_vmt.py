"""VMT's refiner on networks for frames: what it learns from, and that all else stays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.modeling.test_vmt import targets_for
from vmt.checkpoint.files import write_weights
from vmt.checkpoint.load import load_weights
from vmt.inference.predictor import PredictorOptions, VideoPredictor
from vmt.modeling.frame_training import ObjectEmbeddings, TrainedFrame, objects_of
from vmt.modeling.meta_arch.build import build_model
from vmt.modeling.refiners.tracks import window_of_objects
from vmt.ops.resize import nearest
from vmt.structures.frame_targets import FrameTargets
from vmt.structures.track_window import ABSENT, FrameMaps
from vmt.utils.errors import ConfigError

SMALL = (
    *("MODEL.REFINER.NAME", "quadtree", "MODEL.REFINER.NUM_LAYERS", "1"),
    *("MODEL.REFINER.FFN_DIM", "16", "MODEL.REFINER.TRAIN_POINTS", "200"),
    *("MODEL.LOSS.MASK_POINTS", "64"),
)
FROZEN = ("MODEL.REFINER.TRAIN_BASE", "False")
NETWORKS = ["idol", "minvis", "refinevis"]
#: Losses of the refiner.
REFINER_LOSSES = {
    f"loss_refiner_{name}"
    for name in (
        "mask_refine",
        "mask_dice_refine",
        "mask_bound_refine",
        "refine",
        "inc",
        "inc_dice",
    )
}


def clip_of(num_frames: int = 2) -> dict:
    """A clip whose second object is in its first frame alone."""
    generator = torch.Generator().manual_seed(1)
    frames = torch.randint(0, 255, (num_frames, 3, 60, 90), generator=generator, dtype=torch.uint8)
    targets = targets_for(num_frames, 60, 90)
    targets.valid[1, 1:] = False
    targets.masks[1, 1:] = False
    return {"image": frames, "targets": targets}


@pytest.mark.parametrize("network", NETWORKS)
def test_everything_learns(network: str, tiny: Callable) -> None:
    model = tiny(f"quick/{network}_tiny", *SMALL).train()
    losses = model([clip_of()])
    assert losses.keys() >= REFINER_LOSSES | {"loss_ce", "loss_mask", "loss_dice"}
    torch.stack(list(losses.values())).sum().backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    assert torch.isfinite(torch.stack(list(losses.values()))).all()
    alone = tiny(f"quick/{network}_tiny").train()
    assert alone([clip_of()]).keys() == losses.keys() - REFINER_LOSSES


@pytest.mark.parametrize("network", NETWORKS)
def test_the_refiner_learns_alone(network: str, tiny: Callable) -> None:
    model = tiny(f"quick/{network}_tiny", *SMALL, *FROZEN).train()
    inside = [m.training for n, m in model.named_modules() if n.startswith("refiner")]
    outside = [m.training for n, m in model.named_modules() if n and not n.startswith("refiner")]
    assert all(inside)
    assert not any(outside)
    losses = model([clip_of(), clip_of()])
    assert losses.keys() == REFINER_LOSSES
    torch.stack(list(losses.values())).sum().backward()
    learned = {n for n, p in model.named_parameters() if p.grad is not None}
    assert learned == {n for n, _ in model.named_parameters() if n.startswith("refiner.")}
    assert not any(m.training for m in model.eval().modules())


def test_clips_of_a_batch_keep_to_themselves(tiny: Callable) -> None:
    model = tiny("quick/idol_tiny", *SMALL, *FROZEN).train()
    inputs: list = []
    model.refiner.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    first, second = clip_of(), clip_of()
    second["image"] = second["image"].flip(-1)
    second["targets"].valid[0] = False  # its first object is in no frame
    second["targets"].masks[0] = False
    for clips in ([first, second], [second]):
        model(clips)
    both, alone = inputs[1], inputs[2]
    assert (len(inputs), len(inputs[0].query), len(alone.query)) == (3, 2, 1)
    assert torch.equal(both.frames, alone.frames)
    assert not torch.equal(both.frames, inputs[0].frames)
    assert torch.allclose(both.coarse_logits, alone.coarse_logits, atol=1e-4)
    assert torch.equal(alone.masks_gt.flatten(2).any(2), second["targets"].valid[1:])


def test_an_object_without_a_query_is_not_refined(tiny: Callable, monkeypatch) -> None:
    model = tiny("quick/idol_tiny", *SMALL, *FROZEN).train()
    inputs: list = []
    model.refiner.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    clip = clip_of()
    model([clip])
    found = model.objects_in

    def second_alone(frames, times: Tensor) -> ObjectEmbeddings:
        objects = found(frames, times)
        refs = None if objects.refs is None else objects.refs[1:]
        return ObjectEmbeddings(objects.slots[1:], objects.embeds[1:], objects.present[1:], refs)

    monkeypatch.setattr(model, "objects_in", second_alone)
    model([clip])
    assert len(inputs[0].query) == 2
    assert torch.equal(inputs[1].masks_gt, inputs[0].masks_gt[1:])
    assert not torch.equal(inputs[1].masks_gt, inputs[0].masks_gt[:1])


def test_queries_learn_from_the_refiner(tiny: Callable) -> None:
    """What RefineVIS refines over time, too: the refiner's losses reach it, and the frame model."""
    model = tiny("quick/refinevis_tiny", *SMALL).train()
    losses = model([clip_of(3)])
    torch.stack([losses[name] for name in REFINER_LOSSES]).sum().backward()
    with_gradient = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    for part in ("tar.linear2.", "frame_model.decoder.", "frame_model.backbone.", "refiner."):
        assert any(name.startswith(part) for name in with_gradient), part
    assert not any(name.startswith("association_head.") for name in with_gradient)


@pytest.mark.parametrize("network", NETWORKS)
def test_a_clip_without_objects(network: str, tiny: Callable) -> None:
    clip = clip_of()
    empty = {"image": clip["image"], "targets": clip["targets"].select(torch.zeros(0).long())}
    model = tiny(f"quick/{network}_tiny", *SMALL, *FROZEN).train()
    losses = model([empty])
    assert losses.keys() == REFINER_LOSSES
    assert not torch.stack(list(losses.values())).any()
    torch.stack(list(losses.values())).sum().backward()
    assert all(parameter.grad is not None for parameter in model.refiner.parameters())


class Copies:
    """Stands for a network: the mask of a query is its first channel everywhere, plus ``pixel``."""

    def mask_head(self, embeds: Tensor, pixel: Tensor, refs: Tensor | None) -> Tensor:
        assert refs is not None
        return embeds[:, 0, None, None] + refs[:, 0, None, None] + pixel


def frame(slots: list[int], best: list[int], t: int) -> TrainedFrame:
    target = FrameTargets(
        torch.zeros(len(slots), dtype=torch.int64),
        torch.rand(len(slots), 4),
        torch.zeros(len(slots), 8, 8, dtype=torch.bool),
        track=torch.tensor(slots, dtype=torch.int64),
        num_tracks=4,
    )
    embeds = (100.0 * t + torch.arange(5.0))[:, None].repeat(1, 3).requires_grad_()
    return TrainedFrame(
        embeds,
        torch.zeros(5, 2),
        None,
        torch.full((2, 2), 0.25 * t),
        torch.arange(5.0)[:, None].repeat(1, 2) * 10,
        torch.tensor(best, dtype=torch.int64),
        torch.zeros(5, dtype=torch.bool),
        target,
    )


def test_objects_are_the_queries_that_stand_for_them() -> None:
    frames = [frame([0, 2], [4, -1], 0), frame([3, 0], [1, 2], 1)]
    objects = objects_of(frames)
    assert objects.slots.tolist() == [0, 3], "1 is never seen, 2 has no query"
    assert objects.present.tolist() == [[True, True], [False, True]]
    shown = objects.embeds[..., 0][objects.present]
    assert shown.tolist() == [4, 102, 101]
    assert objects.refs[..., 0][objects.present].tolist() == [40, 20, 10]
    assert objects_of([frame([], [], 0)]).embeds.shape == (0, 1, 3)


def test_masks_and_queries_of_objects() -> None:
    frames = [frame([0, 2], [4, -1], 0), frame([3, 0], [1, 2], 1)]
    maps = FrameMaps(
        torch.zeros(2, 3, 8, 8), torch.zeros(2, 1, 2, 2), None, torch.zeros(2, 1, 1, 1)
    )
    window = window_of_objects(Copies(), frames, objects_of(frames), maps, (7, 8))
    expected = torch.tensor([[44, 122.25], [ABSENT, 111.25]])
    assert torch.equal(window.mask_logits, expected[..., None, None].expand(-1, -1, 2, 2))
    assert (window.mask_stride, window.frame_size) == (4, (7, 8))
    assert window.query[:, 0].tolist() == [(4 + 102) / 2, 101]
    window.query.sum().backward()
    assert frames[0].embeds.grad[:, 0].tolist() == [0, 0, 0, 0, 0.5]
    assert frames[1].embeds.grad[:, 0].tolist() == [0, 1, 0.5, 0, 0]
    assert not window.mask_logits.requires_grad


def run(model, frames: np.ndarray, options: PredictorOptions) -> tuple[list, list]:
    stream = VideoPredictor(model, options).stream(list(frames))
    return list(stream), stream.finish()


@pytest.mark.parametrize("network", ["idol", "refinevis"])
@pytest.mark.parametrize("window", [0, 3])
def test_ids_and_scores_are_those_without(
    network: str, window: int, config_of: Callable, tiny: Callable, clip: Tensor
) -> None:
    found = (
        *("TEST.BISOFTMAX.SELECT_SCORE", "0.0", "TEST.BISOFTMAX.MASK_IOU", "0.9"),
        *("TEST.WINDOW", str(window), "INPUT.MIN_SIZE_TEST", "64", "TEST.REFINE_WINDOW", "3"),
    )
    name = f"quick/{network}_tiny"
    plain, sharp = tiny(name, *found), tiny(name, *found, *SMALL)
    missing, unexpected = sharp.load_state_dict(plain.state_dict(), strict=False)
    assert all(key.startswith("refiner.") for key in missing)
    assert not unexpected
    options = PredictorOptions.from_config(config_of(name, *found)[0])
    memory = replace(options.bisoftmax.memory, first_score=0.0, birth_score=0.0)
    options = replace(options, bisoftmax=replace(options.bisoftmax, memory=memory))
    outputs = []
    hook = sharp.refiner.register_forward_hook(lambda m, args, out: outputs.append((args[0], out)))
    frames = clip.permute(0, 2, 3, 1).numpy()
    (before, ends), (after, ends_after) = (run(m, frames, options) for m in (plain, sharp))
    hook.remove()
    ids = [[(t.track_id, t.label, t.score) for t in r.tracks] for r in before]
    assert max(map(len, ids)) >= 2
    kept = [[(t.track_id, t.label, t.score) for t in r.tracks] for r in after]
    # a mask may lose its last pixel, or gain its first
    for one, other in zip(ids, kept, strict=True):
        shared = {i for i, *_ in one} & {i for i, *_ in other}
        assert shared
        assert [x for x in one if x[0] in shared] == [x for x in other if x[0] in shared]
    scores = {s.track_id: s.classes for s in ends}
    assert all(scores[s.track_id] == s.classes for s in ends_after if s.track_id in scores)
    inputs, out = outputs[-1]
    assert len(out.tree) > 0
    assert inputs.coarse_stride == 4
    marked = torch.zeros(out.stage_logits.shape, dtype=torch.bool)
    marked[out.tree.cells(out.tree.level == 1)] = True
    assert torch.equal(out.stage_logits[~marked], inputs.coarse_logits[~marked])
    size = out.mask_logits.shape[-2:]
    near = torch.nn.functional.max_pool2d(nearest(marked.float(), size), 3, 1, 1) > 0
    finest = torch.zeros_like(near)
    finest[out.tree.cells(out.tree.level == 2)] = True
    doubled = torch.nn.functional.interpolate(inputs.coarse_logits, scale_factor=2, mode="bilinear")
    untouched = ~near & ~finest
    assert 0.05 < untouched.float().mean() < 1
    assert torch.equal(out.mask_logits[untouched], doubled[untouched])


def test_weights_of_the_base_fit(tiny: Callable, tmp_path) -> None:
    plain = tiny("quick/idol_tiny")
    write_weights(plain.state_dict(), tmp_path / "base.safetensors")
    sharp = tiny("quick/idol_tiny", *SMALL)
    load_weights(sharp, str(tmp_path / "base.safetensors"), ["refiner."])
    for key, value in plain.state_dict().items():
        assert torch.equal(sharp.state_dict()[key], value), key


def test_a_refiner_that_cannot_be(config_of: Callable) -> None:
    with pytest.raises(ConfigError, match="QDTrack has no queries"):
        build_model(*config_of("quick/qdtrack_tiny", *SMALL))
    with pytest.raises(ConfigError, match=r"MODEL.MASKDINO.STRIDES is \[16, 32\]"):
        build_model(*config_of("quick/maskdino_tiny", *SMALL, "MODEL.MASKDINO.STRIDES", "[16, 32]"))
