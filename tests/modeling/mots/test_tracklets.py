"""A refiner on the tracklets of QDTrack: what it reads, learns and sharpens."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.synthetic import moving_shapes, shape_clip
from vmt.inference.predictor import PredictorOptions, VideoPredictor
from vmt.modeling.meta_arch.build import build_network
from vmt.modeling.meta_arch.qdtrack import QDTrack
from vmt.modeling.meta_arch.qdtrack_vmt import QDTrackVMT
from vmt.modeling.mots.detector import boxes_in_px
from vmt.modeling.mots.tracklets import ABSENT, detected_boxes, window_of
from vmt.modeling.video_model import ClipBatch
from vmt.structures.boxes import pairwise_iou
from vmt.structures.frame_targets import frame_targets
from vmt.structures.track_window import FrameMaps, TrackWindow
from vmt.utils.errors import ConfigError

Build = Callable[..., QDTrackVMT]
#: Random weights say nothing with confidence; everything they say becomes a track.
EAGER = ("MODEL.MOTS.SCORE", "0.03", "MODEL.MOTS.DETECTIONS", "4", "MODEL.MOTS.NMS_IOU", "0.05")
SIZE = (64, 96)


@pytest.fixture(scope="module")
def tiny(config_of) -> Build:
    def build(*overrides: str) -> QDTrackVMT:
        torch.manual_seed(0)
        model = build_network(*config_of("quick/qdtrack_vmt_tiny", *overrides))
        assert isinstance(model, QDTrackVMT)
        return model.eval()

    return build


def losses_of(model: QDTrackVMT, *clips: dict[str, Any]) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return model.train().losses(ClipBatch.from_inputs(clips))


@pytest.mark.parametrize("refiner", ["quadtree", "dense_band"])
def test_every_parameter_learns(tiny: Build, refiner: str) -> None:
    clips = [shape_clip(2, SIZE, seed) for seed in (0, 1)]
    keys = ("MODEL.REFINER.NAME", refiner, "MODEL.REFINER.DROPOUT", "0.0")
    model = tiny(*keys)
    with torch.no_grad():  # last layers that start at zero keep gradients from those before
        for parameter in model.refiner.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.02)
    losses = losses_of(model, *clips)
    assert {"loss_mask_refine", "loss_refine", "loss_mask", "loss_track"} <= set(losses)
    assert all(value.isfinite() and value > 0 for value in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


def test_without_a_refiner_it_is_qdtrack(config_of) -> None:
    model = build_network(*config_of("quick/qdtrack_vmt_tiny", "MODEL.REFINER.NAME", "none"))
    assert type(model) is QDTrack


def test_a_base_that_stays_is_named_in_another_key(config_of) -> None:
    keys = ("MODEL.REFINER.TRAIN_BASE", "False")
    with pytest.raises(ConfigError, match=r"TRAIN_BASE False is not for QDTrackVMT.*SOLVER.FREEZE"):
        build_network(*config_of("quick/qdtrack_vmt_tiny", *keys))


def test_boxes_are_those_of_the_detector_where_it_has_any(tiny: Build) -> None:
    model = tiny()
    clip = shape_clip(2, SIZE, 0)
    frames, _ = model.pad([model.normalise(clip["image"])])
    targets = frame_targets([clip["targets"]], SIZE)
    truth = [boxes_in_px(target, SIZE) for target in targets]
    near = [boxes + torch.tensor([1.0, -1, 1, -1]) for boxes in truth]
    far = [boxes + 60 for boxes in truth]
    with torch.no_grad():
        features = model.pyramid(frames, [SIZE] * 2)
        model.roi_heads.box_predictor.bbox_pred.weight.zero_()
        model.roi_heads.box_predictor.bbox_pred.bias.zero_()
        for proposals, expected in ((near, near), (far, truth), ([x[:0] for x in far], truth)):
            boxes = detected_boxes(model, features, targets, proposals)
            for ours, theirs in zip(boxes, expected, strict=True):
                torch.testing.assert_close(ours, theirs.clamp(min=0), atol=1e-3, rtol=0)
        # The second stage moves them; only where it stays with the object.
        model.roi_heads.box_predictor.bbox_pred.bias.fill_(1.0)
        moved = detected_boxes(model, features, targets, near)
        model.roi_heads.box_predictor.bbox_pred.bias.fill_(20.0)
        away = detected_boxes(model, features, targets, near)
    overlap = [pairwise_iou(a, b).diagonal() for a, b in zip(moved, truth, strict=True)]
    assert all(((o > 0.5) & (o < 1)).all() for o in overlap)
    torch.testing.assert_close(torch.cat(away), torch.cat(truth), atol=1e-3, rtol=0)


def test_a_window_holds_tracklets_by_their_rows(tiny: Build) -> None:
    """The first tracklet is missing in the first frame; the query is the mean of its frames."""
    model = tiny()
    clip = shape_clip(3, SIZE, 0)
    valid = torch.tensor([[False, True, True], [True, True, False]])
    targets = frame_targets([replace(clip["targets"], valid=valid)], SIZE)
    frames, _ = model.pad([model.normalise(clip["image"])])
    boxes = [boxes_in_px(target, SIZE).float() for target in targets]
    with torch.no_grad():
        features = model.pyramid(frames, [SIZE] * 3)
        window = window_of(model, frames, features, targets, boxes)
        regions = features.pool(model.roi_heads.mask_roi_pool, boxes)
        queries = model.queries(regions)
    assert window.mask_logits.shape == (2, 3, 16, 24)
    assert ((window.mask_logits > ABSENT).flatten(2).any(2) == valid).all()
    torch.testing.assert_close(window.query[0], (queries[1] + queries[3]) / 2)
    torch.testing.assert_close(window.query[1], (queries[0] + queries[2]) / 2)
    assert window.maps.fused.shape == (3, 64, 8, 12)
    present = window.mask_logits[0, 1] > -14.9
    y, x = present.nonzero().float().mul(4).add(2).mean(0).tolist()
    x1, y1, x2, y2 = boxes[1][0].tolist()
    assert abs(x - (x1 + x2) / 2) < 3
    assert abs(y - (y1 + y2) / 2) < 3


def test_boxes_alone_teach_no_mask(tiny: Build) -> None:
    clip = shape_clip(2, SIZE, 0)
    plain = losses_of(tiny(), clip)
    losses = losses_of(tiny(), {**clip, "targets": replace(clip["targets"], boxes_only=True)})
    zero = {name for name, value in losses.items() if not value}
    masks = {"loss_mask", "loss_refine", "loss_inc", "loss_inc_dice"}
    masks |= {f"loss_mask{part}_refine" for part in ("", "_dice", "_bound")}
    assert zero == masks
    assert all(plain[name] > 0 for name in masks)
    torch.testing.assert_close(losses["loss_box_reg"], plain["loss_box_reg"])


# --- inference ----------------------------------------------------------------------------------


def video(count: int) -> list[Any]:
    return list(moving_shapes(count, SIZE, 3).frames)


def options(window: int) -> PredictorOptions:
    return PredictorOptions(min_size=64, window=window, stride=window, similarity_weight=1.0)


def eager(tiny: Build) -> QDTrackVMT:
    """A network whose every detection starts a track."""
    model = tiny(*EAGER)
    forward = model.segment_frames

    def sure(frames: Tensor) -> list[Any]:
        return [
            replace(frame, logits=torch.where(frame.logits > -100, 3.0, frame.logits))
            for frame in forward(frames)
        ]

    model.segment_frames = sure  # type: ignore[method-assign]
    return model


@pytest.mark.parametrize("window", [0, 3])
def test_tracks_are_sharpened_in_windows(tiny: Build, window: int) -> None:
    model = eager(tiny)
    seen: list[TrackWindow] = []
    refine = model.sharpen

    def sharpen(tracks: TrackWindow) -> tuple[Tensor, int]:
        seen.append(tracks)
        masks, stride = refine(tracks)
        assert stride == 2
        assert masks.shape[-2:] == (32, 48)
        return torch.full_like(masks, 5.0), 2

    model.sharpen = sharpen  # type: ignore[method-assign]
    results = list(VideoPredictor(model, options(window)).stream(video(7)))
    assert [result.index for result in results] == list(range(7))
    lengths = [1, 2, 3, 4, 5, 5, 5] if window == 0 else [3, 5, 5]
    assert [len(tracks.maps.pixels) for tracks in seen] == lengths
    areas = {track.area for result in results for track in result.tracks}
    assert areas == {SIZE[0] * SIZE[1]}  # what the refiner says is drawn


def test_a_live_video_goes_on_from_a_file(tiny: Build, tmp_path: Path) -> None:
    frames = video(5)
    model = eager(tiny)
    straight = VideoPredictor(model, options(0))
    expected = [straight.step(frame) for frame in frames]
    first, second = VideoPredictor(model, options(0)), VideoPredictor(model, options(0))
    for frame in frames[:3]:
        first.step(frame)
    first.save_state(tmp_path / "state")
    second.load_state(tmp_path / "state")
    assert [second.step(frame) for frame in frames[3:]] == expected[3:]
    assert any(result.tracks for result in expected[3:])


def test_video_sizes_do_not_matter(tiny: Build) -> None:
    frames = [np.ascontiguousarray(frame[:50, :71]) for frame in video(3)]
    results = list(VideoPredictor(eager(tiny), options(3)).stream(frames))
    assert len(results) == 3
    sizes = {tuple(track.rle["size"]) for result in results for track in result.tracks}
    assert sizes == {(50, 71)}


def test_a_window_is_out_when_it_ends_and_forgotten(tiny: Build) -> None:
    """No frame is read ahead of a window, and five maps are kept however long the video is."""
    model, read = eager(tiny), 0

    def frames() -> Iterator[Any]:
        nonlocal read
        for frame in video(4) * 6:
            read += 1
            yield frame

    def maps() -> int:
        return sum(type(part) is FrameMaps for part in gc.get_objects())

    gc.collect()
    kept, others = [], maps()
    for result in VideoPredictor(model, options(3)).stream(frames()):
        assert read == 3 * (result.index // 3 + 1)
        kept.append(maps() - others)
    assert len(kept) == 24
    assert max(kept[6:]) == max(kept[18:]) <= 12  # five frames, the window's own, and their stacks
