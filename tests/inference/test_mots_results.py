"""BDD100K's result files: from tracks of frames through both forms to the published numbers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cocoapi_hq
from cocoapi_hq.io import rle
from cocoapi_hq.mots import clear_mot, frame_masks, mots_config, scalabel_io
from cocoapi_hq.mots.bitmask_png import read_bitmask, write_bitmasks
from cocoapi_hq.mots.frame_masks import FrameMasks
from cocoapi_hq.mots.mots_config import BDD100K_MOTS, MotsConfig
from vmt.inference.mots_results import MotsVideo, MotsWriter
from vmt.inference.predictor import FrameResult, TrackMask
from vmt.utils.errors import OutputError

SIZE = (6, 8)
PEDESTRIAN, CAR = 0, 2


def box(x1: int, y1: int, x2: int, y2: int, size: tuple[int, int] = SIZE) -> rle.Rle:
    mask = np.zeros(size, np.bool_)
    mask[y1:y2, x1:x2] = True
    return rle.encode(mask)


def track(track_id: int, mask: rle.Rle, score: float = 0.9, label: int = 0) -> TrackMask:
    return TrackMask(track_id, label, score, mask, (0, 0, 1, 1), rle.area(mask))


def writer(folder: Path, count: int, labels: tuple[int | None, ...] = (CAR, PEDESTRIAN, None)):
    frames = [(f"v-{t + 1:07d}.jpg", 10 + t) for t in range(count)]
    video = MotsVideo("v", frames, BDD100K_MOTS, labels)
    return MotsWriter(folder / "v.json", folder / "png", video, folder / "all.json")


def test_both_forms_say_the_same(tmp_path: Path) -> None:
    own = writer(tmp_path, 2)
    own.add(FrameResult(0, (track(1, box(0, 0, 3, 3)), track(300, box(5, 0, 8, 6), 0.5, 1))), SIZE)
    own.add(FrameResult(1, (track(2, box(0, 0, 2, 2), 0.9, 2),)), SIZE)  # no class of the set
    own.close()
    first, second = json.loads((tmp_path / "v.json").read_text())
    assert (first["videoName"], first["name"], first["frameIndex"]) == ("v", "v-0000001.jpg", 10)
    assert [(x["id"], x["category"], x["score"]) for x in first["labels"]] == [
        ("1", "car", 0.9),
        ("300", "pedestrian", 0.5),
    ]
    assert (second["frameIndex"], second["labels"]) == (11, [])
    decoded = read_bitmask(tmp_path / "png/v/v-0000001.png", BDD100K_MOTS)
    assert decoded.track_ids.tolist() == [1, 300]
    assert decoded.labels.tolist() == [CAR, PEDESTRIAN]
    assert decoded.instance_map[:, 5:].min() == 2
    empty = read_bitmask(tmp_path / "png/v/v-0000002.png", BDD100K_MOTS)
    assert (empty.instance_map.shape, empty.track_ids.tolist()) == (SIZE, [])


def test_the_higher_score_has_the_pixel(tmp_path: Path) -> None:
    own = writer(tmp_path, 1)
    hidden, weak, strong = box(0, 0, 2, 2), box(1, 0, 6, 6), box(0, 0, 4, 6)
    tracks = (track(1, strong, 0.8), track(2, weak, 0.6), track(3, hidden, 0.7))
    own.add(FrameResult(0, tracks), SIZE)
    own.close()
    (frame,) = json.loads((tmp_path / "v.json").read_text())
    assert {x["id"]: x["rle"]["counts"] for x in frame["labels"]} == {
        "1": strong["counts"],
        "2": box(4, 0, 6, 6)["counts"],
    }
    decoded = read_bitmask(tmp_path / "png/v/v-0000001.png", BDD100K_MOTS)
    assert decoded.areas.tolist() == [24, 12]
    (frame,) = json.loads((tmp_path / "all.json").read_text())
    assert [x["rle"]["counts"] for x in frame["labels"]] == [
        mask["counts"] for mask in (strong, weak, hidden)
    ]


def test_detections_without_a_track_are_apart(tmp_path: Path) -> None:
    own = writer(tmp_path, 1)
    others = (track(0, box(0, 0, 8, 6), 0.2), track(0, box(0, 0, 8, 6), 0.1))
    own.add(FrameResult(0, (track(4, box(0, 0, 3, 3)),), detections=others), SIZE)
    own.close()
    (tracks,) = json.loads((tmp_path / "v.json").read_text())
    (everything,) = json.loads((tmp_path / "all.json").read_text())
    assert [x["id"] for x in tracks["labels"]] == ["4"]
    assert [(x["id"], x["score"]) for x in everything["labels"]] == [
        ("4", 0.9), ("0", 0.2), ("0", 0.1),
    ]  # fmt: skip


def test_a_video_without_frames_is_an_empty_list(tmp_path: Path) -> None:
    own = writer(tmp_path, 0)
    own.close()
    assert json.loads((tmp_path / "v.json").read_text()) == []


def test_what_a_bitmask_cannot_hold(tmp_path: Path) -> None:
    own = writer(tmp_path, 1)
    for tracks, message in (
        ((track(65536, box(0, 0, 1, 1)),), "id 65536 cannot stand in a bitmask"),
        ((track(1, box(0, 0, 1, 1)), track(1, box(2, 0, 3, 1))), "id 1 cannot .* each once"),
        ((track(1, box(0, 0, 1, 1, (6, 9))),), r"size \[6, 9\], but the frame is \[6, 8\]"),
    ):
        with pytest.raises(OutputError, match=message):
            own.add(FrameResult(0, tracks), SIZE)
    own.discard()
    assert [p.name for p in tmp_path.rglob("*")] == ["png"]


def test_more_masks_than_the_toolkit_takes_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    size = (20, 20)
    own = writer(tmp_path, 2)
    for t, count in enumerate((100, 101)):
        tracks = [
            track(k + 1, box(k % 20, k // 20, k % 20 + 1, k // 20 + 1, size)) for k in range(count)
        ]
        own.add(FrameResult(t, tuple(tracks)), size)
    own.close()
    assert "v: 1 frames have more than 100 masks" in caplog.text


# --- golden scores through the whole chain ----------------------------------------------------


def cases(shared_data: Path) -> list[Path]:
    folders = sorted((shared_data / "metrics/mots").glob("*"))
    return [f for f in folders if not f.name.startswith("raises_")]


def through_files(results: list[FrameMasks], config: MotsConfig, folder: Path) -> list[Any]:
    """Predictions as tracks of frames, then as files; flagged ones are not ours to make."""
    content: list[Any] = []
    for name, frames in frame_masks.group_by_video(results).items():
        size = next((tuple(m["size"]) for f in frames for m in f.rles), (26, 44))
        places = [(frame.name, frame.index) for frame in frames]
        video = MotsVideo(name, places, config, range(len(config.classes)))
        own = MotsWriter(folder / f"{name}.json", folder / "png", video)
        for t, frame in enumerate(frames):
            rows = zip(
                frame.rles, frame.labels, frame.track_ids, frame.scores, frame.ignored, strict=True
            )
            tracks = tuple(
                track(i, mask, 0.5 if math.isnan(score) else score, label)
                for mask, label, i, score, ignored in rows
                if not ignored
            )
            own.add(FrameResult(t, tracks), size)
        own.close()
        content += json.loads((folder / f"{name}.json").read_text())
    return content


def same(golden: Any, found: Any) -> bool:
    golden, found = float(golden), float(found)
    return (math.isnan(golden) and math.isnan(found)) or golden == pytest.approx(found, abs=1e-6)


NAMES = {"MOTSA": "MOTA", "MOTSP": "MOTP"}


def differences(golden: dict[str, Any], found: clear_mot.MotsResult) -> list[str]:
    return [
        f"{row} {key}"
        for row, numbers in found.rows().items()
        for key, value in numbers.items()
        if not same(golden[NAMES.get(key, key)][row], value)
    ]


def test_golden_scores_of_predictions_in_our_structures(shared_data: Path, tmp_path: Path) -> None:
    scored = bitmasks = 0
    for folder in cases(shared_data):
        golden = json.loads((folder / "golden.json").read_text())
        config = mots_config.load_config(str(folder / "config.json"))
        results = scalabel_io.load_frames(str(folder / "results.json"), config, is_gt=False)
        out = tmp_path / folder.name
        out.mkdir()
        content = through_files(results, config, out)
        written = {(f["videoName"], f["frameIndex"]): f["labels"] for f in content}
        repaired = any(
            [x["rle"]["counts"] for x in written[f.video, f.index]]
            != [m["counts"] for m, ignored in zip(f.rles, f.ignored, strict=True) if not ignored]
            for f in results
        )
        if repaired:  # the published evaluator drops such frames, we do not write them
            assert folder.name == "overlapping_predictions"
            continue
        found = clear_mot.evaluate_mots(str(folder / "gt.json"), content, config)
        assert differences(golden["mots"], found) == [], folder.name
        flagged = any(any(frame.ignored) for frame in results)
        if "ins_seg" in golden and not flagged:
            answer = cocoapi_hq.evaluate(
                str(folder / "gt.json"), content, ["frame_ap"], config=config
            ).others["frame_ap"]
            for key, row in golden["ins_seg"].items():
                assert same(row["OVERALL"], answer[key]), (folder.name, key)
            scored += 1
        truth = out / "truth"
        if (folder / "gt_png").is_dir():
            truth = folder / "gt_png"
        else:
            frames = scalabel_io.load_frames(str(folder / "gt.json"), config, is_gt=True)
            if overlap(frames):
                continue  # two objects have a pixel, which no bitmask can say
            write_bitmasks(truth, frames, config)
        found = clear_mot.evaluate_mots_bitmask(truth, out / "png", config)
        assert differences(golden["mots"], found) == [], folder.name
        bitmasks += 1
    assert scored >= 1
    assert bitmasks >= 3


def overlap(frames: list[FrameMasks]) -> bool:
    for frame in frames:
        covered = sum((rle.decode(mask).astype(int) for mask in frame.rles), np.zeros(()))
        if (covered > 1).any():
            return True
    return False


def test_bitmasks_of_a_list_of_frames(tmp_path: Path) -> None:
    frame = FrameMasks("v", "a.jpg", 0)
    frame.append(box(0, 0, 2, 2), CAR, track_id=5, ignored=True)
    assert write_bitmasks(tmp_path, [frame, FrameMasks("v", "b.jpg", 1)], BDD100K_MOTS) == 2
    decoded = read_bitmask(tmp_path / "v/a.png", BDD100K_MOTS)
    assert (decoded.track_ids.tolist(), decoded.ignored.tolist()) == ([5], [True])
    assert read_bitmask(tmp_path / "v/b.png", BDD100K_MOTS).instance_map.shape == SIZE
    write_bitmasks(tmp_path, [FrameMasks("w", "c.jpg", 0)], BDD100K_MOTS)
    assert read_bitmask(tmp_path / "w/c.png", BDD100K_MOTS).instance_map.shape == (720, 1280)
    with pytest.raises(cocoapi_hq.ScoringError, match="no mask that says its size"):
        write_bitmasks(tmp_path, [FrameMasks("w", "c.jpg", 0)], MotsConfig(("car",)))
