"""The train loader: what a step holds depends on nothing but the seed and its number."""

from __future__ import annotations

import json
import logging
import os
import signal
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from torch.utils.data._utils.pin_memory import pin_memory

from cocoapi_hq.io import rle
from tests.synthetic import write_moving_shapes
from vmt.data import build
from vmt.data.build import (
    LoaderError,
    build_train_loader,
    steps_per_epoch,
)
from vmt.data.catalog import load_dataset
from vmt.data.labels import label_space_from_json
from vmt.data.mapper import ClipMapper
from vmt.data.order import SampleOrder
from vmt.data.workers import iterate
from vmt.utils.errors import AnnotationError, ConfigError, VideoError

Batches = list[list[dict[str, Any]]]


def take(cfg: Any, path: Path, steps: int, **kwargs: Any) -> Batches:
    return list(islice(build_train_loader(cfg, label_space_from_json(path), **kwargs), steps))


def flat(batches: Iterable[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    return list(chain.from_iterable(batches))


def assert_same(ours: Batches, others: Batches) -> None:
    assert [len(batch) for batch in ours] == [len(batch) for batch in others]
    for a, b in zip(flat(ours), flat(others), strict=True):
        assert (a["video_id"], a["clip_id"], a["dataset"]) == (
            b["video_id"],
            b["clip_id"],
            b["dataset"],
        )
        assert torch.equal(a["image"], b["image"])
        for field in ("labels", "boxes_cxcywh", "masks", "valid"):
            assert torch.equal(getattr(a["targets"], field), getattr(b["targets"], field))


@pytest.fixture(scope="module")
def straight(shapes: Path, make_config: Any) -> Batches:
    return take(make_config(train=shapes), shapes, 6)


def test_samples_are_what_the_model_takes(straight: Batches) -> None:
    for sample in flat(straight):
        targets = sample["targets"]
        assert sample["image"].dtype == torch.uint8
        assert type(sample["image"]) is torch.Tensor
        assert type(targets.masks) is torch.Tensor
        assert sample["image"].is_contiguous()
        assert tuple(sample["image"].shape) == (3, 3, *targets.input_size)
        assert len(targets) >= 1
        assert targets.valid.any(1).all()
        assert targets.video_id == sample["video_id"]
        assert len(sample["clip_id"].split(",")) == 3


def test_workers_do_not_change_what_is_seen(
    straight: Batches, shapes: Path, make_config: Any
) -> None:
    assert_same(take(make_config(train=shapes, DATALOADER__NUM_WORKERS=2), shapes, 6), straight)


def test_pinning_reaches_every_tensor_of_a_clip(
    straight: Batches, shapes: Path, make_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Page-locked memory needs a GPU; what is asked for it, and what comes back, does not.
    pinned: list[int] = []

    def pin(self: torch.Tensor) -> torch.Tensor:
        pinned.append(self.data_ptr())
        return self.clone()

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    space = label_space_from_json(shapes)
    clips = build_train_loader(make_config(train=shapes), space).clips
    drawn = [clips[n] for n in range(len(straight[0]))]
    expected = [
        tensor.data_ptr()
        for entry in drawn
        if entry.sample is not None
        for targets in [entry.sample["targets"]]
        for tensor in (
            entry.sample["image"],
            *(targets.labels, targets.boxes_cxcywh, targets.masks, targets.valid),
        )
    ]
    handed = pin_memory(drawn)
    assert sorted(pinned) == sorted(expected)
    assert_same([[entry.sample for entry in handed]], straight[:1])


def test_workers_pin_where_asked(
    straight: Batches, shapes: Path, make_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    class Spy(DataLoader[Any]):
        def __init__(self, *args: Any, **options: Any) -> None:
            asked.append(options.pop("pin_memory"))
            super().__init__(*args, **options)

    monkeypatch.setattr("vmt.data.build.DataLoader", Spy)
    cfg = make_config(train=shapes, DATALOADER__NUM_WORKERS=1)
    for wanted in (False, True):
        assert_same(take(cfg, shapes, 1, pin_memory=wanted), straight[:1])
    assert asked == [False, True]


def test_a_run_goes_on_where_it_stopped(straight: Batches, shapes: Path, make_config: Any) -> None:
    assert_same(take(make_config(train=shapes), shapes, 2, start_step=4), straight[4:])


def test_two_processes_see_together_what_one_sees(
    straight: Batches, shapes: Path, make_config: Any
) -> None:
    cfg = make_config(train=shapes)
    parts = [take(cfg, shapes, 3, rank=r, world_size=2) for r in range(2)]
    assert_same([a + b for a, b in zip(*parts, strict=True)], straight[:3])


def test_every_sample_draws_for_itself(straight: Batches) -> None:
    assert len({sample["targets"].input_size for sample in flat(straight)}) > 6


def test_another_seed_is_another_run(straight: Batches, shapes: Path, make_config: Any) -> None:
    others = take(make_config(train=shapes, ENGINE__SEED=7), shapes, 6)
    ids = [[(s["video_id"], s["clip_id"]) for s in flat(b)] for b in (straight, others)]
    assert ids[0] != ids[1]


def test_iterating_again_starts_again(straight: Batches, shapes: Path, make_config: Any) -> None:
    loader = build_train_loader(make_config(train=shapes), label_space_from_json(shapes))
    for _ in range(2):
        assert_same(list(islice(loader, 1)), straight[:1])


def test_steps_per_epoch(shapes: Path, make_config: Any) -> None:
    """Three videos of six frames in batches of four."""
    assert steps_per_epoch(make_config(train=shapes)) == 4
    loader = build_train_loader(make_config(train=shapes), label_space_from_json(shapes))
    assert loader.steps_per_epoch == 4
    assert steps_per_epoch(make_config(train=shapes, SOLVER__CLIPS_PER_BATCH=64)) == 1


# --- order --------------------------------------------------------------------------------------


def test_an_epoch_has_every_key_frame_once() -> None:
    order = SampleOrder([5, 7], [], seed=1)
    epochs = [[order(n) for n in range(12 * e, 12 * e + 12)] for e in range(2)]
    for epoch in epochs:
        assert sorted(epoch) == [(0, k) for k in range(5)] + [(1, k) for k in range(7)]
    assert epochs[0] != epochs[1]
    assert [w for w, _ in epochs[0]] != sorted(w for w, _ in epochs[0])  # sets are mixed


def test_ratios_hold_and_each_set_is_gone_through_evenly() -> None:
    order = SampleOrder([10, 90], [3, 1], seed=0)
    drawn = [order(n) for n in range(400)]
    assert Counter(which for which, _ in drawn) == {0: 300, 1: 100}
    small = Counter(key for which, key in drawn if which == 0)
    assert set(small.values()) == {30}
    assert max(Counter(key for which, key in drawn if which == 1).values()) == 2


def test_messages_of_ratios() -> None:
    for ratios in ([1.0], [1.0, 0.0], [1.0, -2.0]):
        with pytest.raises(ConfigError, match=r"DATASETS.RATIOS is .* give one positive number"):
            SampleOrder([4, 4], ratios, 0)


# --- joint training -----------------------------------------------------------------------------


def test_joint_training_maps_classes_and_mixes_sets(
    shapes: Path, shared_data: Path, make_config: Any
) -> None:
    images = f"{shared_data}/images/instances.json@{shared_data}/images/JPEGImages"
    videos = f"{shared_data}/clips/tiny/annotations.json@{shared_data}/clips/tiny/JPEGImages"
    cfg = make_config(
        train=[videos, images],
        DATASETS__RATIOS=[1, 1],
        DATASETS__CATEGORY_MAPS=["", "ytvis_2019"],
        DATASETS__UNKNOWN_CLASSES="drop",
        INPUT__CROP_PROB=0.0,
    )
    from vmt.data.datasets.categories import label_space

    loader = build_train_loader(cfg, label_space("ytvis_2019"))
    samples = flat(islice(loader, 3))
    sets = Counter(sample["dataset"] for sample in samples)
    assert set(sets) == {images, videos}
    for sample in samples:
        assert int(sample["targets"].labels.max()) < 40
        assert len(sample["image"]) == 3
        if sample["dataset"] == images:
            frames = sample["image"].float()
            assert (frames[0] - frames[2]).abs().mean() > 1  # the camera moves


# --- trouble ------------------------------------------------------------------------------------


def damage(json_path: Path, name: str, content: bytes | None) -> Path:
    path = json_path.parent / "JPEGImages" / name
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    return path


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["missing", "cut off", "no image"])
def test_damaged_frames_are_named_counted_and_skipped(
    kind: str,
    workers: int,
    two_videos: Path,
    make_config: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    name = "shapes_000/00001.jpg"
    whole = (two_videos.parent / "JPEGImages" / name).read_bytes()
    content = {"missing": None, "cut off": whole[: len(whole) // 2], "no image": b"text"}[kind]
    path = damage(two_videos, name, content)
    cfg = make_config(train=two_videos, DATALOADER__NUM_WORKERS=workers)
    loader = build_train_loader(cfg, label_space_from_json(two_videos))
    with caplog.at_level(logging.WARNING):
        batches = list(islice(loader, 4))
    assert all(len(batch) == 4 for batch in batches)
    assert loader.skipped.total() > 0
    assert all(str(path) in message for message in loader.skipped)
    assert str(path) in caplog.text
    assert len(caplog.records) == len(loader.skipped)  # once each, not once per clip


@pytest.mark.parametrize("workers", [0, 2])
def test_damaged_frames_are_fatal_when_asked(
    workers: int, two_videos: Path, make_config: Any
) -> None:
    path = damage(two_videos, "shapes_000/00001.jpg", None)
    cfg = make_config(
        train=two_videos, DATALOADER__NUM_WORKERS=workers, DATALOADER__ON_ERROR="fail"
    )
    with pytest.raises(VideoError, match=r"no such file; check the folder") as caught:
        take(cfg, two_videos, 8)
    assert str(path) in str(caught.value)


def test_frames_of_another_size_are_named(two_videos: Path, make_config: Any) -> None:
    write_moving_shapes(two_videos.parent, 1, 4, (40, 40), seed=0).unlink()
    content_size = r"is 40x40 pixels, but the annotations are for 48x32"
    write_two = make_config(train=two_videos, DATALOADER__ON_ERROR="fail")
    if not two_videos.is_file():  # the helper wrote its own JSON over ours
        other = write_moving_shapes(two_videos.parent / "again", 2, 4, (32, 48), seed=5)
        two_videos.write_bytes(other.read_bytes())
    with pytest.raises(VideoError, match=content_size):
        take(write_two, two_videos, 4)


def test_damaged_masks_follow_the_same_rule(two_videos: Path, make_config: Any) -> None:
    content = json.loads(two_videos.read_text())
    content["annotations"][0]["segmentations"] = [None]
    two_videos.write_text(json.dumps(content))
    loader = build_train_loader(make_config(train=two_videos), label_space_from_json(two_videos))
    assert all(len(batch) == 4 for batch in islice(loader, 3))
    assert any("annotations[0].segmentations" in message for message in loader.skipped)
    with pytest.raises(AnnotationError, match=r"has 1 entries, but video_id=1 lists 4"):
        take(make_config(train=two_videos, DATALOADER__ON_ERROR="fail"), two_videos, 4)


def blank(path: Path, rows: slice) -> None:
    content = json.loads(path.read_text())
    for row in content["annotations"][rows]:
        row["segmentations"] = [None] * 4
    path.write_text(json.dumps(content))


def test_clips_without_an_object_are_redrawn(two_videos: Path, make_config: Any) -> None:
    blank(two_videos, slice(0, 2))  # the first video shows nothing
    batches = take(make_config(train=two_videos), two_videos, 4)
    assert {sample["video_id"] for sample in flat(batches)} == {"shapes_001"}
    assert_same(take(make_config(train=two_videos), two_videos, 4), batches)


def test_redraws_end(two_videos: Path, make_config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    blank(two_videos, slice(None))
    monkeypatch.setattr(build, "MAX_REDRAWS", 5)
    cfg = make_config(train=two_videos)
    with pytest.raises(LoaderError, match=r"5 clips in a row could not be used"):
        take(cfg, two_videos, 1)


@pytest.mark.parametrize("workers", [0, 1])
def test_one_cause_for_all_ends_at_once_with_the_cause_first(
    workers: int, two_videos: Path, make_config: Any, caplog: pytest.LogCaptureFixture
) -> None:
    for path in (two_videos.parent / "JPEGImages").rglob("*.jpg"):
        path.unlink()
    cfg = make_config(train=two_videos, DATALOADER__NUM_WORKERS=workers)
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(LoaderError, match=r"^\S+jpg: no such file.* each of 8 clips drawn from"),
    ):
        take(cfg, two_videos, 1)
    assert not caplog.records  # the cause is not buried under its repetitions


def test_different_causes_are_redrawn_to_the_end(
    two_videos: Path, make_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, path in enumerate((two_videos.parent / "JPEGImages").rglob("*.jpg")):
        if number % 2:
            path.unlink()
        else:
            path.write_bytes(b"text")
    monkeypatch.setattr(build, "MAX_REDRAWS", 30)
    cfg = make_config(train=two_videos)
    with pytest.raises(LoaderError, match=r"each of 30 clips drawn from"):
        take(cfg, two_videos, 1)


def test_a_cause_that_comes_later_is_skipped(
    two_videos: Path, make_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten failures in a row of one cause, behind a clip that could be used."""
    monkeypatch.setattr(build, "MAX_REDRAWS", 30)
    cfg = make_config(train=two_videos)
    clips = build_train_loader(cfg, label_space_from_json(two_videos)).clips
    assert clips[0].sample is not None
    for path in (two_videos.parent / "JPEGImages").rglob("*.jpg"):
        path.unlink()
    with pytest.raises(LoaderError, match=r"each of 30 clips"):
        raise clips[1].error


def test_a_dead_worker_is_an_error_not_a_hang(
    shapes: Path, make_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = os.getpid()

    def die(self: ClipMapper, *args: Any) -> None:
        assert os.getpid() != parent
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(ClipMapper, "__call__", die)
    cfg = make_config(train=shapes, DATALOADER__NUM_WORKERS=1)
    with pytest.raises(LoaderError, match=r"that prepares clips died .DataLoader worker .pid"):
        take(cfg, shapes, 1)


def test_a_silent_worker_is_an_error_not_a_hang(
    shapes: Path, make_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ClipMapper, "__call__", lambda *args: time.sleep(60))
    monkeypatch.setattr(build, "TIMEOUT_S", 1)
    cfg = make_config(train=shapes, DATALOADER__NUM_WORKERS=1)
    with pytest.raises(LoaderError, match=r"no batch from 1 workers for 1 seconds"):
        take(cfg, shapes, 1)


def test_an_unexpected_error_keeps_its_traceback(
    shapes: Path, make_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for error in (ZeroDivisionError, RuntimeError):

        def fail(*args: Any, error: type[Exception] = error) -> None:
            raise error("ours")

        monkeypatch.setattr(ClipMapper, "__call__", fail)
        for workers in (0, 1):
            with pytest.raises(error, match=r"ours") as caught:
                take(make_config(train=shapes, DATALOADER__NUM_WORKERS=workers), shapes, 1)
            assert caught.type is error


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"SOLVER__CLIPS_PER_BATCH": 3}, r"SOLVER.CLIPS_PER_BATCH is 3.* multiple of the 2 proc"),
        ({"DATALOADER__ON_ERROR": "ask"}, r"DATALOADER.ON_ERROR is 'ask'; choose skip or fail"),
        ({"DATALOADER__NUM_WORKERS": -1}, r"DATALOADER.NUM_WORKERS is -1; give at least 0"),
        ({"INPUT__CLIP_FRAMES": 0}, r"INPUT.CLIP_FRAMES is 0; give at least 1"),
        ({"COMPAT": "x"}, r"COMPAT is 'x'; choose none or released"),
        ({"COMPAT": "released", "INPUT__SAMPLER": "range"}, r"leave INPUT.SAMPLER range out"),
        ({"INPUT__AUGMENTATION": "release"}, r"belongs to COMPAT released; write that"),
        ({"DATASETS__CATEGORY_MAPS": ["", ""]}, r"CATEGORY_MAPS is .*each of the 1 sets"),
        ({"train": []}, r"DATASETS.TRAIN is empty"),
    ],
)
def test_messages(values: dict[str, Any], message: str, shapes: Path, make_config: Any) -> None:
    cfg = make_config(**{"train": shapes, **values})
    with pytest.raises(ConfigError, match=message):
        build_train_loader(cfg, label_space_from_json(shapes), world_size=2)


def test_sets_without_annotations_cannot_train(two_videos: Path, make_config: Any) -> None:
    space = label_space_from_json(two_videos)
    content = json.loads(two_videos.read_text())
    two_videos.write_text(json.dumps(content | {"annotations": []}))
    with pytest.raises(ConfigError, match=r"has no annotations; it cannot train"):
        build_train_loader(make_config(train=two_videos), space)


# --- more ---------------------------------------------------------------------------------------


def test_keeping_invisible_tracklets(two_videos: Path, make_config: Any) -> None:
    blank(two_videos, slice(0, 1))
    for compat, counts in (("none", {1, 2}), ("released", {2})):
        cfg = make_config(train=two_videos, COMPAT=compat, INPUT__CROP_PROB=0.0)
        samples = flat(take(cfg, two_videos, 4))
        assert {len(sample["targets"]) for sample in samples} == counts


def test_one_frame_clips_and_short_videos(two_videos: Path, make_config: Any) -> None:
    for T in (1, 7):
        cfg = make_config(train=two_videos, INPUT__CLIP_FRAMES=T)
        for sample in flat(take(cfg, two_videos, 2)):
            assert sample["image"].shape[0] == T
            assert sample["targets"].num_frames == T


def test_refined_masks_reach_the_targets(two_videos: Path, make_config: Any) -> None:
    content = json.loads(two_videos.read_text())
    for row in content["annotations"]:
        row["segmentations_refined"] = [rle.encode(np.ones((32, 48), np.uint8))] * 4
    two_videos.write_text(json.dumps(content))
    cfg = make_config(train=two_videos)
    assert all(s["targets"].masks.all() for s in flat(take(cfg, two_videos, 2)))
    cfg = make_config(train=two_videos, DATASETS__MASK_KEY="segmentations")
    assert not any(s["targets"].masks.all() for s in flat(take(cfg, two_videos, 2)))


def test_coarse_masks_are_made_from_the_targets(shapes: Path, make_config: Any) -> None:
    plain = flat(take(make_config(train=shapes), shapes, 3))
    assert not any("coarse" in sample for sample in plain)
    halo = flat(take(make_config(train=shapes, INPUT__DEGRADE=["halo"]), shapes, 3))
    for sample in halo:
        masks = sample["targets"].masks
        shown = masks.flatten(2).any(2)
        assert sample["coarse"].shape == masks.shape
        assert (sample["coarse"] >= masks)[shown].all()
        assert (sample["coarse"].sum((2, 3)) > masks.sum((2, 3)))[shown].all()
        assert not sample["coarse"][~shown].any()
    clean = flat(take(make_config(train=shapes, INPUT__DEGRADE=["clean"]), shapes, 3))
    assert all(torch.equal(sample["coarse"], sample["targets"].masks) for sample in clean)
    cfg = make_config(train=shapes, INPUT__DEGRADE=["halo", "blur"])
    with pytest.raises(ConfigError, match=r"INPUT\.DEGRADE.*blur"):
        build_train_loader(cfg, label_space_from_json(shapes))


def test_eval_videos(shapes: Path, make_config: Any) -> None:
    data = load_dataset(f"{shapes}@{shapes.parent / 'JPEGImages'}")
    videos = [data[k] for k in range(len(data))]
    assert [(v.id, v.name, len(v), v.size) for v in videos] == [
        (k + 1, f"shapes_{k:03d}", 6, (48, 64)) for k in range(3)
    ]
    assert all(path.is_file() for video in videos for path in video.frame_paths)


def test_a_worker_that_dies_while_it_hands_over_a_batch_is_one_that_died() -> None:
    def batches() -> Iterator[int]:
        yield 1
        raise ConnectionResetError("reset by peer")

    found = iterate(batches())
    assert next(found) == 1
    with pytest.raises(RuntimeError, match=r"^DataLoader worker died .*reset by peer"):
        next(found)
