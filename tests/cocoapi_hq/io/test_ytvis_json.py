from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import pytest

import cocoapi_hq
from cocoapi_hq import ScoringError
from cocoapi_hq.io.ytvis_json import FileEntries, MemoryEntries, open_ground_truth, open_list
from tests.cocoapi_hq.tube_cases import annotation, random_set, rect, result, truth

BOX = rect(10, 10, 30, 30)


def case() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    gt = truth([annotation(1, 1, [BOX, None]), annotation(2, 2, [BOX, BOX], 2)], {1: 2, 2: 2})
    return gt, [result(1, [BOX, None], 0.5), result(2, [BOX, BOX], 0.4, 2)]


@pytest.mark.parametrize("indent", [None, 0, 3])
def test_scanner_finds_what_the_parser_finds(tmp_path: Path, indent: int | None) -> None:
    gt, results = random_set(0)
    gt["info"] = {"text": 'brackets ]}" \\ and "quotes"', "é": [1, [2, {}]], "n": None}
    results[0]["note"] = '"video_id": 99, \\" ]}'
    results[1] = {"nested": {"video_id": 98}, **results[1]}
    path = tmp_path / "file.json"
    path.write_text(json.dumps(results, indent=indent, ensure_ascii=indent != 3))
    opened = open_list(path, "results")
    assert opened.load() == results
    assert opened.video_ids() == [r["video_id"] for r in results]
    assert opened.subset([2, 0]).load() == [results[2], results[0]]
    path.write_text(json.dumps(gt, indent=indent))
    truth_file = open_ground_truth(path)
    assert truth_file.annotations.load() == gt["annotations"]
    assert list(truth_file.videos) == [v["id"] for v in gt["videos"]]


def test_files_are_indexed_with_the_kernel_and_parsed_without(
    tmp_path: Path, implementation: str
) -> None:
    path = tmp_path / "results.json"
    path.write_text("[]")
    expected = FileEntries if implementation == "kernel" else MemoryEntries
    assert isinstance(open_list(path, "results"), expected)
    assert len(open_list(path, "results")) == 0


def test_escaped_and_repeated_keys_read_as_json_does(tmp_path: Path, implementation: str) -> None:
    gt, results = case()
    text = json.dumps(results)
    path = tmp_path / "results.json"
    expected = cocoapi_hq.evaluate(gt, results).to_dict()
    for old, new in (
        ('"video_id"', '"video\\u005fid"'),
        ('"video_id": 1', '"video_id": 77, "video_id": 1'),
        (text[:20], "\ufeff" + text[:20]),
    ):
        path.write_text(text.replace(old, new))
        assert cocoapi_hq.evaluate(gt, path).to_dict() == expected


BROKEN = [
    "", " ", "[", "{", "]", "[1,]", "[1 2]", '[{"a":1},]', '[{"a":1,}]', '[{"a" 1}]', '[{"a":}]',
    "[]x", "[] []", '{"a": [1}', '["open', "nul", '[{"video_id": 1}', '[{"video_id": }]', "[,]",
    '[{"video_id": 1]]', '[{"video_id": 1, "x": [}]}]', "\x00\x01", '"text"', "3", "null", "{}",
]  # fmt: skip


@pytest.mark.parametrize("text", BROKEN)
def test_broken_json_is_refused(tmp_path: Path, text: str, implementation: str) -> None:
    gt, _ = case()
    path = tmp_path / "broken.json"
    path.write_text(text)
    with pytest.raises(ScoringError, match=r"broken\.json"):
        cocoapi_hq.evaluate(gt, path)
    with pytest.raises(ScoringError, match=r"broken\.json"):
        cocoapi_hq.evaluate(path, [])


@pytest.mark.parametrize(
    "extra", ['"info": {"a" 1}', '"annotations": [{"a"}]', '"x": [1,]', '"y": nul']
)
def test_damage_in_what_is_not_read_is_refused(
    tmp_path: Path, extra: str, implementation: str
) -> None:
    gt, results = case()
    path = tmp_path / "gt.json"
    path.write_text("{" + extra + ", " + json.dumps(gt)[1:])
    with pytest.raises(ScoringError, match="not valid JSON"):
        cocoapi_hq.evaluate(path, results)


def test_unreadable_files_are_refused(tmp_path: Path, implementation: str) -> None:
    gt, _ = case()
    (tmp_path / "bytes.json").write_bytes(b'[{"video_id": 1, "x": "\xff"}]')
    (tmp_path / "deep.json").write_text("[" * 100000)
    (tmp_path / "digits.json").write_text('[{"video_id": 1, "score": ' + "9" * 5000 + "}]")
    for name in ("bytes.json", "deep.json", "digits.json", "missing.json", "."):
        with pytest.raises(ScoringError):
            cocoapi_hq.evaluate(gt, tmp_path / name)
        with pytest.raises(ScoringError):
            cocoapi_hq.evaluate(tmp_path / name, [])


def change(path: str, value: Any) -> Any:
    """(gt, results) with one place changed; DELETE removes it."""
    gt, results = copy.deepcopy(case())
    data: Any = {"gt": gt, "results": results}
    keys = [int(k) if k.isdigit() else k for k in path.split(".")]
    at = data
    for key in keys[:-1]:
        at = at[key]
    if value == "DELETE":
        del at[keys[-1]]
    else:
        at[keys[-1]] = value
    return data["gt"], data["results"]


NAN = float("nan")
DEFECTS = [
    ("gt.videos", "DELETE", "'videos'"),
    ("gt.videos", None, "videos is None"),
    ("gt.annotations", None, "null"),
    ("gt.annotations", "DELETE", "'annotations'"),
    ("gt.categories", {}, "categories"),
    ("gt.videos.0", 3, r"videos\[0\] is 3"),
    ("gt.videos.0.id", "DELETE", r"videos\[0\] has no 'id'"),
    ("gt.videos.0.id", True, r"videos\[0\].id is True"),
    ("gt.videos.0.id", "1", r"videos\[0\].id"),
    ("gt.videos.0.id", 2, "appears twice"),
    ("gt.videos.0.length", 3, "says length 3 but lists 2"),
    ("gt.videos.0.length", -1, "length is -1"),
    ("gt.videos.0.length", True, "length is True"),
    ("gt.videos.0.height", 1.5, "height is 1.5"),
    ("gt.videos.0.file_names", [1, 2], "file_names"),
    ("gt.categories.0.id", None, r"categories\[0\].id"),
    ("gt.categories.0.id", 2, "appears twice"),
    ("gt.annotations.0", [], r"annotation 0"),
    ("gt.annotations.0.id", False, "id is False"),
    ("gt.annotations.0.id", 2**70, "beyond 64 bits"),
    ("gt.annotations.0.video_id", "DELETE", "video_id"),
    ("gt.annotations.0.video_id", 9, "video_id 9 is not among the 2 videos"),
    ("gt.annotations.0.category_id", "DELETE", "category_id"),
    ("gt.annotations.0.category_id", True, "category_id is True"),
    ("gt.annotations.0.iscrowd", 2, "iscrowd is 2"),
    ("gt.annotations.0.iscrowd", NAN, "iscrowd is nan"),
    ("gt.annotations.0.areas", [400], "areas has 1 entries"),
    ("gt.annotations.0.areas.0", NAN, r"areas\[0\] is nan"),
    ("gt.annotations.0.areas.0", -4, r"areas\[0\] is -4"),
    ("gt.annotations.0.areas.0", "400", r"areas\[0\]"),
    ("gt.annotations.0.areas.0", True, r"areas\[0\] is True"),
    ("gt.annotations.0.segmentations", "DELETE", "segmentations"),
    ("gt.annotations.0.segmentations", None, "segmentations is None"),
    ("gt.annotations.0.segmentations", [BOX], "1 entries.*2 frames"),
    ("gt.annotations.0.segmentations.0", 5, r"segmentations\[0\]: 5 is no mask"),
    ("gt.annotations.0.segmentations.0.counts", "d0", r"segmentations\[0\].*cover"),
    ("gt.annotations.0.segmentations.0.size", [60, 41], r"segmentations\[0\].*cover"),
    ("gt.annotations.0.segmentations.0", [[1, 2, 3]], r"segmentations\[0\]"),
    ("results.0", 3, "result 0"),
    ("results.0", None, "result 0"),
    ("results.0.video_id", "DELETE", "video_id"),
    ("results.0.video_id", None, "video_id"),
    ("results.0.video_id", True, "video_id is True"),
    ("results.0.video_id", 1.0, "video_id is 1.0"),
    ("results.0.video_id", 5, "video_id 5 is not among"),
    ("results.0.video_id", [], "video_id"),
    ("results.0.category_id", "DELETE", "category_id"),
    ("results.0.category_id", "1", "category_id"),
    ("results.0.score", "DELETE", "'score'"),
    ("results.0.score", NAN, "score is nan"),
    ("results.0.score", float("inf"), "score is inf"),
    ("results.0.score", None, "score is None"),
    ("results.0.score", "0.5", "score"),
    ("results.0.score", True, "score is True"),
    ("results.0.score", 10**400, "score"),
    ("results.0.segmentations", "DELETE", "segmentations"),
    ("results.0.segmentations", {}, "segmentations is {}"),
    ("results.0.segmentations", [BOX] * 3, "3 entries.*2 frames"),
    ("results.0.segmentations.0", [[1, 1, 5, 1, 5, 5]], "polygon"),
    ("results.0.segmentations.0", "text", r"segmentations\[0\]: 'text' is no mask"),
    ("results.0.segmentations.0.size", "DELETE", "'size'"),
    ("results.0.segmentations.0.counts", "DELETE", "'counts'"),
    ("results.0.segmentations.0.counts", "ß中", "outside the code"),
    ("results.0.segmentations.0.counts", "\u00e9", "outside the code"),
]


@pytest.mark.parametrize(("path", "value", "words"), DEFECTS)
def test_every_defect_is_named(path: str, value: Any, words: str, implementation: str) -> None:
    gt, results = change(path, value)
    with pytest.raises(ScoringError, match=words):
        cocoapi_hq.evaluate(gt, results, protocol="ytvis_2019")


def test_uncompressed_results_and_polygon_truth_are_accepted() -> None:
    runs = [10 * 40 + 10] + [20, 20] * 19 + [20, 60 * 40 - 29 * 40 - 30]
    ring = [[9.5, 9.5, 29.5, 9.5, 29.5, 29.5, 9.5, 29.5]]
    gt = truth([annotation(1, 1, [ring], areas=[400])], {1: 1})
    dt = [result(1, [{"size": [40, 60], "counts": runs}], 0.5)]
    assert cocoapi_hq.evaluate(gt, dt).to_dict()["tube_mask"]["AP"] > 0.8
    gt = truth([annotation(1, 1, [BOX])], {1: 1})
    assert cocoapi_hq.evaluate(gt, dt).to_dict()["tube_mask"]["AP"] == pytest.approx(1.0)


def test_videos_without_length_need_tubes_that_agree() -> None:
    gt, results = case()
    for video in gt["videos"]:
        del video["length"], video["file_names"]
    assert cocoapi_hq.evaluate(gt, results).to_dict()["tube_mask"]["AP"] == pytest.approx(1.0)
    results[0]["segmentations"].append(None)
    with pytest.raises(ScoringError, match=r"\[2, 3\] entries"):
        cocoapi_hq.evaluate(gt, results)


def test_memory_stays_flat(tmp_path: Path) -> None:
    """A worker gets offsets: what is pickled for a video does not depend on its masks."""
    import pickle

    _, results = random_set(3, videos=6, frames=30)
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results))
    entries = open_list(path, "results")
    if isinstance(entries, MemoryEntries):
        pytest.skip("the kernel was not built")
    assert len(pickle.dumps(entries.subset(range(len(results))))) < 200 * len(results) + 1000
    assert random.Random(0).random() == 0.8444218515250481  # vmt split relies on it
