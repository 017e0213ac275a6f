"""Each option of ``vmt degrade`` and ``vmt split`` changes what it says, through the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cocoapi_hq.io import rle
from vmt.cli.main import main

SIZE, T = (60, 80), 3


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Five videos; the first has a box that stays where it is."""
    mask = np.zeros(SIZE, bool)
    mask[20:40, 25:45] = True
    videos = [
        {"id": k, "height": SIZE[0], "width": SIZE[1], "length": T, "file_names": list("abc")}
        for k in range(1, 6)
    ]
    row = {"id": 1, "video_id": 1, "category_id": 1, "iscrowd": 0}
    row["segmentations"] = [rle.encode(mask)] * T
    path = tmp_path / "in.json"
    path.write_text(json.dumps({"videos": videos, "annotations": [row], "categories": []}))
    return path


def degraded(source: Path, *options: str) -> list[np.ndarray]:
    out = source.parent / "out.json"
    words = ["--annotations", str(source), "--output", str(out)]
    assert main(["degrade", *words, *options]) == 0
    (row,) = json.loads(out.read_text())["annotations"]
    return [rle.decode(mask) for mask in row["segmentations"]]


def box_of(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return rows[0], rows[-1], columns[0], columns[-1]


def test_kinds(source: Path) -> None:
    assert {box_of(m) for m in degraded(source, "--kind", "halo")} == {(15, 44, 20, 49)}
    (fine, *_), (coarse, *_) = (
        degraded(source, "--kind", "low_res", "--amount", stride) for stride in ("1", "16")
    )
    assert box_of(fine) == (20, 39, 25, 44)
    assert (fine != coarse).any()
    paper = degraded(source, "--kind", "paper")
    assert all(np.array_equal(*pair) for pair in zip(paper, degraded(source), strict=True))


def test_seeds(source: Path) -> None:
    first, again, other = (degraded(source, "--seed", seed) for seed in "112")
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_coherent_draws(source: Path) -> None:
    """The box stays where it is, and so do its coarse masks if draws are the same."""
    free, coherent = [], []
    for seed in "0123456":
        for found, more in ((free, ()), (coherent, ("--coherent",))):
            masks = degraded(source, "--seed", seed, *more)
            found.append(all(np.array_equal(masks[0], mask) for mask in masks))
    assert all(coherent)
    assert not all(free)


def test_a_split_says_what_it_is(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "s.json"
    words = ["split", "--draw", "2", "--from", str(source), "--output", str(out)]
    found = []
    for more in ((), ("--seed", "3"), ("--name", "mini", "--about", "Two of five.")):
        assert main([*words, *more]) == 0
        found.append(json.loads(out.read_text()))
    assert [(s["seed"], s["name"], s["about"]) for s in found] == [
        (0, "in-2", "2 of 5 videos, drawn with seed 0"),
        (3, "in-2", "2 of 5 videos, drawn with seed 3"),
        (0, "mini", "Two of five."),
    ]
    assert found[0]["video_ids"] == found[2]["video_ids"] != found[1]["video_ids"]
