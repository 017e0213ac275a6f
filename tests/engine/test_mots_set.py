"""Evaluation on BDD100K MOTS: files that the server takes, and numbers, of videos of blobs."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import cocoapi_hq
from cocoapi_hq.mots.bitmask_png import write_bitmasks
from cocoapi_hq.mots.mots_config import BDD100K_MOTS
from cocoapi_hq.mots.scalabel_io import load_frames
from tests.inference.fake_model import BlobFrameModel, BlobModel, blob_video
from vmt.config.node import load_config
from vmt.engine.evaluate import SetResults, evaluate_set
from vmt.engine.mots_set import MotsSet
from vmt.inference.video_writer import write_png
from vmt.structures.labels import LabelSpace
from vmt.utils.errors import ConfigError, VideoError

SIZE, T = (48, 80), 4
#: Classes of the blobs: red, green, blue.
CARS = LabelSpace("cars", ("car", "rider", "bus"), (3, 2, 5))
#: Scores of the two classes that are there, over all eight.
PERFECT = {"bdd_mots/mMOTSA": 25.0, "bdd_mots/mMOTSP": 25.0, "bdd_mots/mIDF1": 25.0}


class CarModel(BlobModel):
    def __init__(self, space: LabelSpace = CARS) -> None:
        super().__init__(noise_queries=0)
        self.label_space = space


class CarFrameModel(BlobFrameModel):
    def __init__(self) -> None:
        super().__init__("quasi_dense")
        self.label_space = CARS


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The layout of BDD100K with two videos of val, a red and a green blob each, without labels."""
    for k in range(2):
        for t, frame in enumerate(blob_video(T, SIZE)):
            path = tmp_path / f"bdd100k/images/seg_track_20/val/v{k}/v{k}-{t + 1:07d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.roll(frame.numpy(), 5 * k, 1)
            cv2.imwrite(str(path), pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 100])
    return tmp_path


def labels_of(root: Path, form: str) -> Path:
    return root / f"bdd100k/labels/seg_track_20/{form}/val"


def evaluate(root: Path, out: Path, *words: str, model: Any = None, name: str = "val") -> Any:
    settings = ("DATASETS.ROOT", str(root), "INPUT.MIN_SIZE_TEST", str(SIZE[0]), *words)
    cfg = load_config(None, list(settings))
    return evaluate_set(cfg, model or CarModel(), f"bdd100k_mots_{name}", out)


def annotate(root: Path, results: Path, form: str, first: int = 0) -> None:
    """Make results the truth: rles count frames by threes, from ``first``."""
    frames = load_frames(str(results), BDD100K_MOTS, is_gt=False)
    target = labels_of(root, form)
    if form == "bitmasks":
        write_bitmasks(target, frames, BDD100K_MOTS)
        return
    target.mkdir(parents=True)
    content = json.loads(results.read_text())
    for frame in content:
        frame["frameIndex"] = first + 3 * frame["frameIndex"]
        for label in frame["labels"]:
            del label["score"]
    for video in ("v0", "v1"):
        own = [frame for frame in content if frame["videoName"] == video]
        (target / f"{video}.json").write_text(json.dumps(own))


@pytest.fixture
def unlabelled(root: Path) -> SetResults:
    """Results of the frames as if they were those of test."""
    images = root / "bdd100k/images/seg_track_20"
    shutil.copytree(images / "val", images / "test")
    found = evaluate(root, root / "first", name="test")
    assert found is not None
    return found


def test_without_labels_there_are_files_and_no_numbers(root: Path, unlabelled: SetResults) -> None:
    assert unlabelled.numbers == {}
    frames = json.loads((root / "first/results_scalabel.json").read_text())
    assert [(f["videoName"], f["name"], f["frameIndex"]) for f in frames] == [
        (f"v{k}", f"v{k}-{t + 1:07d}.jpg", t) for k in range(2) for t in range(T)
    ]
    assert {x["category"] for f in frames for x in f["labels"]} == {"car", "rider"}
    assert len(list((root / "first/bitmasks").rglob("*.png"))) == 2 * T


@pytest.mark.parametrize("form", ["bitmasks", "rles"])
def test_the_truth_has_full_marks_in_either_form(
    form: str, root: Path, unlabelled: SetResults
) -> None:
    annotate(root, root / "first/results_scalabel.json", form, first=7)
    found = evaluate(root, root / "out", "TEST.ZIP", "true")
    assert found.numbers.items() >= PERFECT.items()
    assert found.numbers["frame_ap/AP"] == pytest.approx(100.0)
    assert found.numbers["bdd_mots/IDSw"] == 0
    indices = [
        f["frameIndex"] for f in json.loads((root / "out/results_scalabel.json").read_text())
    ]
    assert indices[:T] == ([0, 1, 2, 3] if form == "bitmasks" else [7, 10, 13, 16])
    written = json.loads((root / "out/metrics.json").read_text())
    assert written["bdd_mots/mMOTSA"] == 25.0
    assert written["frame_ap/APl"] is None, "no object is so large"
    with zipfile.ZipFile(root / "out/results.zip") as archive:
        names = archive.namelist()
        assert names == [f"v{k}/v{k}-{t + 1:07d}.png" for k in range(2) for t in range(T)]
        assert archive.read(names[0]) == (root / "out/bitmasks" / names[0]).read_bytes()


def test_both_forms_of_results_have_the_same_numbers(root: Path, unlabelled: SetResults) -> None:
    annotate(root, root / "first/results_scalabel.json", "bitmasks")
    for path in labels_of(root, "bitmasks").rglob("*2.png"):  # a frame that we get wrong
        write_png(path, np.zeros((*SIZE, 4), np.uint8))
    found = evaluate(root, root / "out")
    assert 0 < found.numbers["bdd_mots/mMOTSA"] < 25
    truth = str(labels_of(root, "bitmasks"))
    answers = [
        cocoapi_hq.evaluate(truth, str(root / "out" / name), ["bdd_mots"]).others["bdd_mots"]
        for name in ("results_scalabel.json", "bitmasks")
    ]
    assert answers[0] == answers[1]
    assert answers[0]["mMOTSA"] == found.numbers["bdd_mots/mMOTSA"]


def test_metrics_can_be_chosen(root: Path, unlabelled: SetResults) -> None:
    annotate(root, root / "first/results_scalabel.json", "rles")
    found = evaluate(root, root / "out", "TEST.METRICS", "[hota, tube_mask]")
    assert {key.partition("/")[0] for key in found.numbers} == {"hota"}
    assert found.numbers["hota/HOTA"] == pytest.approx(1.0)
    assert evaluate(root, root / "none", "TEST.METRICS", "[]").numbers == {}
    assert MotsSet.metrics(["tube_mask"]) == ("bdd_mots", "frame_ap")


def test_tracks_of_quasi_dense_detections(root: Path, unlabelled: SetResults) -> None:
    annotate(root, root / "first/results_scalabel.json", "rles")
    found = evaluate(root, root / "out", model=CarFrameModel())
    assert found.numbers["bdd_mots/IDSw"] == 0
    assert found.numbers["bdd_mots/FP"] == found.numbers["bdd_mots/FN"] == 0
    frames = json.loads((root / "out/results_scalabel.json").read_text())
    assert [sorted(x["id"] for x in f["labels"]) for f in frames] == [["1", "2"]] * 2 * T
    assert frames[0]["labels"][0]["score"] == pytest.approx(1 / (1 + np.exp(-2)))


def test_detections_are_scored_apart(root: Path, unlabelled: SetResults) -> None:
    """With a bar that no detection passes as a track, the detector still has full marks."""
    annotate(root, root / "first/results_scalabel.json", "bitmasks")
    words = ("TEST.QUASI_DENSE.DETECTIONS", "true", "TEST.QUASI_DENSE.INIT_SCORE", "0.95")
    found = evaluate(root, root / "out", *words, model=CarFrameModel())
    assert (found.numbers["frame_ap/AP"], found.numbers["bdd_mots/FN"]) == (0, 4 * T)
    assert found.numbers["detection_ap/AP50"] == pytest.approx(100.0)
    assert found.numbers["detection_ap/allow_overlap"] == 1
    frames = json.loads((root / "out/detections_scalabel.json").read_text())
    assert [len(f["labels"]) for f in frames] == [2] * 2 * T, "the third has no pixel"
    assert json.loads((root / "out/results.json").read_text()) == []
    usual = evaluate(root, root / "usual", *words[:2], model=CarFrameModel())
    assert usual.numbers["detection_ap/AP50"] == pytest.approx(100.0)
    assert usual.numbers["bdd_mots/FN"] == 0
    with pytest.raises(ConfigError, match=r"is for TEST\.ASSOCIATION quasi_dense; the assoc"):
        evaluate(root, root / "no", *words)
    with pytest.raises(ConfigError, match="quasi_dense; bisoftmax gives tracks alone"):
        evaluate(root, root / "no", *words, "TEST.ASSOCIATION", "bisoftmax", model=CarFrameModel())


def test_a_killed_evaluation_goes_on(root: Path, unlabelled: SetResults) -> None:
    annotate(root, root / "first/results_scalabel.json", "rles")
    evaluate(root, root / "out")
    everything = (root / "out/results_scalabel.json").read_bytes()
    (root / "out/videos/2.json").unlink()  # killed before this one was done
    (root / "out/frames/2.json").write_text("half")
    model = CarModel()
    again = evaluate(root, root / "out", model=model)
    assert model.clips == [T]
    assert (root / "out/results_scalabel.json").read_bytes() == everything
    assert again.numbers.items() >= PERFECT.items()


def test_a_broken_video_leaves_nothing(root: Path, unlabelled: SetResults) -> None:
    annotate(root, root / "first/results_scalabel.json", "rles")
    (root / "bdd100k/images/seg_track_20/val/v1/v1-0000003.jpg").write_bytes(b"no image")
    with pytest.raises(VideoError, match="v1-0000003"):
        evaluate(root, root / "strict")
    found = evaluate(root, root / "mild", "TEST.SKIP_BROKEN_VIDEOS", "true")
    assert found.skipped == (2,)
    assert [p.name for p in (root / "mild/bitmasks").iterdir()] == ["v0"]
    assert 0 < found.numbers["bdd_mots/mMOTSA"] < 25, "the other counts as empty"


def test_classes_must_count(root: Path, unlabelled: SetResults) -> None:
    annotate(root, root / "first/results_scalabel.json", "rles")
    with pytest.raises(ConfigError, match=r"scored class by class, but DATASETS\.CLASS_MATCH"):
        evaluate(root, root / "out", "DATASETS.CLASS_MATCH", "any")
    foreign = CarModel(LabelSpace("more", ("car", "zebra", "bus"), (3, 2, 5)))
    found = evaluate(root, root / "out", model=foreign)
    frames = json.loads((root / "out/results_scalabel.json").read_text())
    assert {x["category"] for f in frames for x in f["labels"]} == {"car"}
    assert found.numbers["bdd_mots/FN"] == 2 * T


def test_boxes_are_nothing_to_test_on(tiny_datasets: Path, tmp_path: Path) -> None:
    cfg = load_config(None, ["DATASETS.ROOT", str(tiny_datasets)])
    with pytest.raises(ConfigError, match="bdd100k_det_val: has boxes and no masks to score"):
        evaluate_set(cfg, CarModel(), "bdd100k_det_val", tmp_path / "out")
