"""The scripts in datasets/ against small copies of the trees they expect."""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from cocoapi_hq.io import rle
from tests.synthetic import moving_shapes, write_moving_shapes
from vmt.data.datasets.splits import VideoSplit
from vmt.data.verify import verify_split

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(repo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a script as a person would, in this process."""
    monkeypatch.syspath_prepend(str(repo / "datasets"))

    def call(script: str, root: Path, *more: str) -> tuple[int, str]:
        path = str(repo / "datasets" / script)
        monkeypatch.setattr(sys, "argv", [path, "--root", str(root), *more])
        with pytest.raises(SystemExit) as caught:
            runpy.run_path(path, run_name="__main__")
        captured = capsys.readouterr()
        return int(caught.value.code or 0), captured.out + captured.err

    return call


def as_ytvis(path: Path, target: Path, videos: slice = slice(None)) -> None:
    """A copy with the class names of YouTube-VIS and some of the videos."""
    content = json.loads(path.read_text())
    content["videos"] = content["videos"][videos]
    ids = {video["id"] for video in content["videos"]}
    content["annotations"] = [a for a in content["annotations"] if a["video_id"] in ids]
    for row, name in zip(content["categories"], ("person", "lizard", "ape"), strict=True):
        row["name"] = name
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(content))


@pytest.fixture
def hq(tmp_path: Path) -> Path:
    """A root with three videos, one per split of HQ-YTVIS, and the coarse train.json."""
    source = write_moving_shapes(tmp_path / "ytvis_2019/train", 3, 4, (32, 48), seed=0)
    as_ytvis(source, tmp_path / "ytvis_2019/train.json")
    source.unlink()
    for k, part in enumerate(("train", "val", "test")):
        target = tmp_path / f"hq_ytvis/ytvis_hq-{part}.json"
        as_ytvis(tmp_path / "ytvis_2019/train.json", target, slice(k, k + 1))
    return tmp_path


ROW = VideoSplit(
    name="small",
    annotations=("ytvis_2019/train.json",),
    images=("ytvis_2019/train/JPEGImages",),
    categories="ytvis_2019",
    num_videos=3,
    source="nowhere",
)


def test_a_sound_split(hq: Path) -> None:
    result = verify_split(ROW, str(hq))
    assert result.problems == []
    assert "3 videos, 12 frames, 3 classes" in result.found
    assert "frames and masks decoded of 3 of 3 videos (--decode)" in result.found
    result = verify_split(ROW, str(hq), decode=2)
    assert "frames and masks decoded of 2 of 3 videos (--decode)" in result.found


def test_what_verification_finds(hq: Path) -> None:
    images = hq / "ytvis_2019/train/JPEGImages"
    (images / "shapes_001/00002.jpg").unlink()
    (images / "shapes_002/00001.jpg").write_bytes(b"no image")
    cut = (images / "shapes_002/00003.jpg").read_bytes()
    (images / "shapes_002/00003.jpg").write_bytes(cut[: len(cut) // 2])
    path = hq / "ytvis_2019/train.json"
    content = json.loads(path.read_text())
    content["videos"] += [content["videos"][0] | {"id": 77}]
    content["categories"][0]["name"] = "ufo"
    content["annotations"][0]["segmentations"][0]["counts"] = "~"
    path.write_text(json.dumps(content))
    text = "\n".join(verify_split(ROW, str(hq)).problems)
    assert "has 4 videos, the published split 3" in verify_split(ROW, str(hq)).notes[0]
    for part in (
        "1 of 3 categories have no class",
        "video shapes_001 lacks 1 of 4 frames",
        "shapes_002/00001.jpg: cannot be read as an image",
        "shapes_002/00003.jpg: cannot be read as an image: it is cut off",
        "annotations[0].segmentations: counts '~'",
    ):
        assert part in text
    missing = verify_split(ROW, str(hq / "elsewhere")).problems
    assert len(missing) == 1
    assert "no annotations under" in missing[0]


def test_hq_ytvis(hq: Path, run: Run) -> None:
    out = hq / "cut"
    status, text = run(
        "prepare_hq_ytvis.py", hq, "--cut", str(hq / "ytvis_2019/train.json"),
        "--output", str(out),
    )  # fmt: skip
    assert status == 0  # far fewer videos than published, but they can be used
    assert "hq_ytvis_train: ready, not the published size" in text
    assert "has 1 videos, the published split 1678" in text
    for k, part in enumerate(("train", "val", "test")):
        content = json.loads((out / f"train-{part}.json").read_text())
        assert [v["id"] for v in content["videos"]] == [k + 1]
        assert {a["video_id"] for a in content["annotations"]} == {k + 1}
    as_ytvis(hq / "ytvis_2019/train.json", hq / "hq_ytvis/ytvis_hq-val.json", slice(0, 2))
    assert "train and val share 1 videos (first: shapes_000)" in run("prepare_hq_ytvis.py", hq)[1]


def test_ytvis_says_what_is_missing(hq: Path, run: Run) -> None:
    status, text = run("prepare_ytvis.py", hq, "ytvis_2019_train", "ovis_train")
    assert status == 1
    assert "1 of 2 splits are ready" in text
    assert "data set ovis_train: no annotations under" in text
    assert "Source: https://songbai.site/ovis" in text


def test_davis(tmp_path: Path, run: Run) -> None:
    root = tmp_path / "DAVIS"
    for k in range(2):
        for kind in ("JPEGImages", "Annotations"):
            (root / kind / f"480p/v{k}").mkdir(parents=True)
        video = moving_shapes(3, (32, 48), seed=k)
        for t in range(3):
            labels = (video.masks[0, t] + 2 * video.masks[1, t]).astype(np.uint8)
            cv2.imwrite(str(root / f"Annotations/480p/v{k}/{t:05d}.png"), labels)
            cv2.imwrite(str(root / f"JPEGImages/480p/v{k}/{t:05d}.jpg"), video.frames[t])
    lists = root / "ImageSets/2017"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("v1\n")
    (lists / "val.txt").write_text("v0\nv9\n")
    status, text = run("prepare_davis.py", tmp_path, "--json", str(tmp_path / "out"))
    assert status == 1
    assert "davis_2017: ready" in text
    assert "1 videos have no label maps (first: v9)" in text
    content = json.loads((tmp_path / "out/train.json").read_text())
    assert [v["file_names"][0] for v in content["videos"]] == ["v1/00000.jpg"]


def test_bdd100k(tmp_path: Path, run: Run) -> None:
    images = tmp_path / "bdd100k/images/seg_track_20/train/v0"
    images.mkdir(parents=True)
    labels = tmp_path / "bdd100k/labels/seg_track_20/rles/train"
    labels.mkdir(parents=True)
    video = moving_shapes(2, (32, 48), seed=0)
    frames = []
    for t in range(2):
        cv2.imwrite(str(images / f"v0-{t}.jpg"), video.frames[t])
        found = [{"id": "1", "category": "car", "rle": dict(rle.encode(video.masks[1, t]))}]
        frames.append({"videoName": "v0", "name": f"v0-{t}.jpg", "frameIndex": t, "labels": found})
    (labels / "v0.json").write_text(json.dumps(frames))
    out = tmp_path / "out"
    status, text = run("prepare_bdd100k_mots.py", tmp_path, "--json", str(out))
    assert status == 1  # val is missing
    assert "data set bdd100k_mots_val: no annotations under" in text
    assert "train.json (1 videos, 2 frames, 1 annotations)" in text
    assert "0 of 1 splits" in run("prepare_bdd100k_mots.py", tmp_path, "bdd100k_mots_test")[1]
    assert run("prepare_bdd100k_mots.py", tmp_path, "bdd100k_mots_train")[0] == 0
    for extra in ("v0/v0-2.jpg", "v1/v1-0.jpg"):
        (images.parent / extra).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(images.parent / extra), video.frames[0])
    status, text = run("prepare_bdd100k_mots.py", tmp_path, "bdd100k_mots_train")
    assert status == 1
    assert "1 of 1 splits are ready" in text
    for video_name, frame in (("v0", "v0-2.jpg"), ("v1", "v1-0.jpg")):
        assert f"video {video_name} has 1 frames without labels (first: {frame})" in text
    status, text = run("prepare_bdd100k_mots.py", tmp_path, "bdd100k_mots_tset")
    assert status == 2
    assert "unknown split bdd100k_mots_tset; choose from bdd100k_mots_train" in text


def test_bdd100k_whole(tiny_datasets: Path, run: Run) -> None:
    status, text = run("prepare_bdd100k_mots.py", tiny_datasets, "--decode", "1")
    assert status == 0
    assert "5 of 5 splits are ready" in text
    assert "bdd100k_mots_test: ready, not the published size" in text
