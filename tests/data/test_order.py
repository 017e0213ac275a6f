"""Which clip a sample is: by hand, or counted over whole epochs."""

from __future__ import annotations

import json
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from vmt.data import build
from vmt.data.build import LoaderError, build_train_loader
from vmt.data.labels import label_space_from_json
from vmt.data.order import SampleOrder


def test_every_key_frame_once_per_epoch() -> None:
    order = SampleOrder([3, 4], [], seed=1)
    for epoch in range(3):
        drawn = [order(sample) for sample in range(7 * epoch, 7 * epoch + 7)]
        assert sorted(drawn) == [(0, k) for k in range(3)] + [(1, k) for k in range(4)]
    assert [order(s) for s in range(7)] != [order(s) for s in range(7, 14)], "shuffled anew"


def test_sets_with_ratios_go_on_from_one_epoch_to_the_next() -> None:
    """10 of 12 samples are of the first set: its 4 frames 2.5 times, and then the other half."""
    order = SampleOrder([4, 8], [5.0, 1.0], seed=0)
    assert order.counts == (10, 2)
    drawn: list[list[int]] = [[], []]
    for sample in range(48):
        which, key = order(sample)
        drawn[which].append(key)
    assert [len(keys) for keys in drawn] == [40, 8]
    assert Counter(drawn[0]) == dict.fromkeys(range(4), 10)
    assert sorted(drawn[1]) == list(range(8)), "four epochs of two samples, each another one"


def take(cfg: Any, path: Path, steps: int, **options: Any) -> list[list[dict[str, Any]]]:
    return list(islice(build_train_loader(cfg, label_space_from_json(path), **options), steps))


def test_key_frames_belong_to_their_own_video(shapes: Path, make_config: Any) -> None:
    """Clips of one frame: an epoch of 18 samples is every frame of every video once."""
    cfg = make_config(train=shapes, INPUT__CLIP_FRAMES=1, SOLVER__CLIPS_PER_BATCH=1)
    seen = Counter((s["video_id"], s["clip_id"]) for (s,) in take(cfg, shapes, 18))
    videos = {video for video, _ in seen}
    assert len(videos) == 3
    missing = {(v, str(t)) for v in videos for t in range(6)} - set(seen)
    # a frame without an object in sight is drawn again
    assert len(missing) <= 2
    assert all(int(frame) < 6 for _, frame in seen)


@pytest.mark.parametrize("start", [1, 3])
def test_a_resumed_run_sees_what_comes_next(start: int, shapes: Path, make_config: Any) -> None:
    cfg = make_config(train=shapes)
    ids = [[s["clip_id"] + s["video_id"] for s in batch] for batch in take(cfg, shapes, start + 2)]
    resumed = take(cfg, shapes, 2, start_step=start)
    assert [[s["clip_id"] + s["video_id"] for s in batch] for batch in resumed] == ids[start:]
    parts = [take(cfg, shapes, 1, start_step=start, rank=r, world_size=2)[0] for r in range(2)]
    assert [s["clip_id"] + s["video_id"] for part in parts for s in part] == ids[start]


def test_a_clip_that_cannot_be_used_is_not_drawn_for_ever(
    shapes: Path, make_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of 18 key frames shows an object: draws of one sample differ until it is found."""
    content = json.loads(shapes.read_text())
    for row in content["annotations"]:
        keep = row["video_id"] == 2
        row["segmentations"] = [m if keep and t == 3 else None
                                for t, m in enumerate(row["segmentations"])]  # fmt: skip
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(content))
    (tmp_path / "JPEGImages").symlink_to(shapes.parent / "JPEGImages")
    few = {"INPUT__CLIP_FRAMES": 1, "SOLVER__CLIPS_PER_BATCH": 1, "INPUT__CROP_PROB": 0.0}
    monkeypatch.setattr(build, "MAX_REDRAWS", 400)
    batches = take(make_config(train=path, **few), path, 4)
    assert {s["clip_id"] for (s,) in batches} == {"3"}
    monkeypatch.setattr(build, "MAX_REDRAWS", 2)
    with pytest.raises(LoaderError, match="2 clips in a row"):
        take(make_config(train=path, **few), path, 18)
