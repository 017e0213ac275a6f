"""One opener of JSON: every spelling of one file reads alike everywhere; what is none is named."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import cocoapi_hq
from cocoapi_hq import split
from cocoapi_hq.check.files import check_file
from cocoapi_hq.exceptions import ScoringError
from cocoapi_hq.io.json_file import read_json, write_json
from cocoapi_hq.mots import scalabel_io
from cocoapi_hq.mots.mots_config import config_inside, load_config
from tests.cocoapi_hq.tube_cases import H, W, annotation, rect, result, truth
from vmt.data.datasets.ytvis import load_ytvis_json
from vmt.data.degrade_file import degrade_file
from vmt.data.labels import resolve_label_space
from vmt.data.mask_files.json_list import read_json_list
from vmt.data.mask_files.polygons import has_shapes
from vmt.inference.sources import open_videos

SPELLINGS: dict[str, Callable[[str], bytes]] = {
    "bom": lambda text: b"\xef\xbb\xbf" + text.encode(),
    "utf-16": lambda text: text.encode("utf-16"),
    "utf-16-be without a mark": lambda text: text.encode("utf-16-be"),
    "utf-32": lambda text: text.encode("utf-32"),
    "gzip": lambda text: gzip.compress(text.encode()),
    "gzip of a bom": lambda text: gzip.compress(b"\xef\xbb\xbf" + text.encode()),
}
BOX = rect(10, 10, 30, 30)
GT = truth([annotation(1, 1, [BOX, None])], {1: 2})
GT["videos"][0]["file_names"] = ["ä/0.png", "ä/1.png"]  # noticed when decoded wrongly
RESULTS = [result(1, [BOX, None], 0.9)]
FRAMES = {
    "config": {"categories": [{"name": "cat"}]},
    "frames": [{"videoName": "v", "name": "f", "frameIndex": 0, "labels": []}],
}


@pytest.fixture(params=list(SPELLINGS))
def written(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Any, str], Path]:
    """Writes content in one spelling."""

    def write(content: Any, name: str) -> Path:
        path = tmp_path / (f"{name}.json.gz" if request.param == "gzip" else f"{name}.json")
        path.write_bytes(SPELLINGS[request.param](json.dumps(content, ensure_ascii=False)))
        return path

    return write


@pytest.mark.usefixtures("implementation")
def test_every_reader_of_the_scoring_package_reads_it(
    written: Callable[[Any, str], Path], tmp_path: Path
) -> None:
    gt, results = written(GT, "gt"), written(RESULTS, "results")
    scores = cocoapi_hq.evaluate(gt, results, ["tube_mask", "hota", "tracklet_quality"])
    assert scores.tubes["tube_mask"].stats["AP"] == pytest.approx(1.0)
    assert scores.others["hota"]["HOTA"] == 1.0
    assert scores.others["tracklet_quality"]["JF"] == 1.0
    assert not check_file(gt).defects
    assert not check_file(results, gt=gt).defects
    drawn = split.draw(gt, 1)
    assert split.cut(results, drawn)[1] == {"results": 1}
    frames = written(FRAMES, "frames")
    inside = config_inside(frames)
    assert inside is not None, "the classes inside a Scalabel file must not get lost"
    config = load_config(inside)
    assert config.classes == ("cat",)
    assert load_config(written(inside, "config")).classes == ("cat",)
    assert [f.name for f in scalabel_io.load_frames(frames, config, is_gt=True)] == ["f"]


def test_every_other_reader_reads_it(written: Callable[[Any, str], Path], tmp_path: Path) -> None:
    gt = written(GT, "gt")
    (record,) = load_ytvis_json(gt, tmp_path, "own")
    assert record.file_names == ("ä/0.png", "ä/1.png")
    assert record.annotations is not None
    assert [x.masks for x in record.annotations.load()] == [(BOX, None)]
    listed = read_json_list(gt)
    assert listed.element(0)["segmentations"] == [BOX, None]
    assert resolve_label_space(str(gt)).names == ("class 1", "class 2")
    counts = degrade_file(gt, tmp_path / "coarse.json", "halo", 0)
    assert counts["masks"] == 1
    assert has_shapes(written({"shapes": []}, "labelme"))
    (tmp_path / "ä").mkdir()
    for name in record.file_names:
        cv2.imencode(".png", np.zeros((H, W), np.uint8))[1].tofile(tmp_path / name)
    (source,) = [make() for make in open_videos(str(gt), tmp_path)]
    assert source.num_frames == 2


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "the file is empty"),
        (b" \n", "the file is empty"),
        (b'{"a": 1}\n{"b": 2}\n', r"one JSON value per line \(JSON lines\)"),
        (
            b'// made by hand\n{"videos": []}',
            "not valid JSON: it has a comment at line 1",
        ),
        (
            b'{"videos": [], // none yet\n "annotations": []}',
            "comment at line 1, column 16",
        ),
        (b'{"videos": [1, 2,]}', "not valid JSON: a comma too many before line 1, column 1[78]"),
        (b'{"annotations": [{"a"}]}', "Expecting ':' delimiter at line 1, column 22"),
        (b"{'videos': []}", "single quotes at line 1, column 2 make it Python text"),
        (b'{"videos": [1, 2', "it was cut off"),
        (b'{"videos": [tru]}', "is not valid JSON: Expecting value at line 1, column 13"),
        (b"<!DOCTYPE html><html></html>", "is HTML or XML, no JSON"),
        (b"PK\x03\x04....", "is a zip archive; unpack it first"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        (b'{"name": "\xe9"}', "byte 10 is not UTF-8"),
        (
            gzip.compress(b'{"videos": []}', mtime=0)[:-6],  # a name that stays the same
            "is compressed with gzip, and its end is missing",
        ),
    ],
)
@pytest.mark.usefixtures("implementation")
def test_what_is_no_json_is_named(content: bytes, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "odd.json"
    path.write_bytes(content)
    for read in (
        read_json,
        lambda p: cocoapi_hq.evaluate(p, RESULTS),
        lambda p: cocoapi_hq.evaluate(GT, p),
        read_json_list,
    ):
        with pytest.raises(ValueError, match=sentence) as caught:
            read(path)
        assert "odd.json" in str(caught.value)
        assert "damaged or no JSON" not in str(caught.value)


def test_a_name_that_says_gzip_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "gt.json.gz"
    write_json(path, GT)
    assert json.loads(gzip.decompress(path.read_bytes())) == GT
    assert read_json(path) == GT
    first = path.read_bytes()
    write_json(path, GT)
    assert path.read_bytes() == first  # no time of day in it


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ScoringError, match="cannot be read"):
        read_json(tmp_path)
