"""Commands as real users run them: pipes, names in use, tiny objects, second attempts."""

from __future__ import annotations

import ast
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.real_inputs.conftest import CASES, Vmt
from tests.real_inputs.disk import assert_on_its_frame, decode, disk, iou, read_json

PADDED = {f"{t:05d}.png": t for t in range(6)}


def test_every_case_is_a_test_and_small() -> None:
    """A folder per case beside ``common``, and a function of its name in this folder."""
    folders = {path.name for path in CASES.iterdir()} - {"common"}
    names = {
        node.name.removeprefix("test_")
        for path in Path(__file__).parent.glob("test_*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }
    assert folders <= names
    assert len(folders) == 40
    files = [path for path in CASES.rglob("*") if path.is_file() and not path.is_symlink()]
    assert sum(path.stat().st_size for path in files) < 750_000


def test_63_cli_conventions(vmt: Vmt, monkeypatch: pytest.MonkeyPatch) -> None:
    (row,) = read_json("a.json")["annotations"]
    row.pop("iscrowd")
    rows = [{**row, "id": k + 1} for k in range(400)]
    Path("bad.json").write_text(json.dumps({**read_json("a.json"), "annotations": rows}))
    for words in (("check-annotations", "bad.json", "--fix", "fixed.json"), ("zoo",)):
        reader, writer = os.pipe()
        os.close(reader)
        with monkeypatch.context() as patch, os.fdopen(writer, "w", buffering=1) as closed:
            patch.setattr(sys, "stdout", closed)
            assert vmt(*words).err == ""
    assert {row["iscrowd"] for row in read_json("fixed.json")["annotations"]} == {0}

    images = ("--images", "frames", "--output")
    before = Path("masks/00000.png").read_bytes()
    over = "would overwrite the input; give another name."
    assert over in vmt("refine", "--masks", "masks", *images, "masks").sentence
    videos = ("--images", "framesv", "--output")
    assert over in vmt("refine", "--masks", "a.json", *videos, "a.json").sentence
    assert over in vmt("degrade", "--annotations", "a.json", "--output", "a.json").sentence
    assert Path("masks/00000.png").read_bytes() == before
    Path("old").mkdir()
    Path("old/mine.txt").write_text("keep")
    refused = vmt("refine", "--masks", "masks", *images, "old").sentence
    assert "old: exists and is not empty; delete it or give another name." in refused
    assert [path.name for path in Path("old").iterdir()] == ["mine.txt"]

    for option, value, said in (
        ("--accept", "1.5", "--accept 1.5: give a confidence from 0.5 to below 1."),
        ("--steady", "-1", "--steady was removed: "),
    ):
        refused = vmt("refine", "--masks", "masks", *images, "x", option, value).sentence
        assert said in refused
    for words in (("refine", "--masks", "masks", "--output", "x"), ("nonsense",), ()):
        with pytest.raises(SystemExit) as leaving:
            vmt(*words)
        assert leaving.value.code == 2
    refused = vmt("refine", "--masks", "a.json", *videos, "bad.json/x.json").sentence
    assert "bad.json: cannot be written" in refused
    assert not Path("x").exists()


def test_75_refine_extreme_objects(vmt: Vmt) -> None:
    """Nothing vanishes: one pixel, a line, the whole frame, specks, frames of 1 x 1 and 3 x 2."""
    noise = np.random.default_rng(0).integers(0, 255, (300, 1500, 3), np.uint8)
    Path("frames/s4").mkdir(exist_ok=True)
    Image.fromarray(noise).save("frames/s4/0.png")
    files = ("--masks", "a.json", "--images", "frames", "--output", "o.json")
    assert "10 masks refined" in vmt("refine", *files, "--report", "r.html").said
    assert "<html" in Path("r.html").read_text(encoding="utf-8")
    given = read_json("a.json")["annotations"]
    for before, after in zip(given, read_json("o.json")["annotations"], strict=True):
        old, new = decode(before["segmentations"][0]), decode(after["segmentations"][0])
        assert new.any(), before["note"]
        assert iou(old, new) >= 0.5, before["note"]
        assert after["areas"] == [new.sum()]
        ys, xs = np.nonzero(new)
        box = [xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1]
        assert after["bboxes"] == [box]
        if before["note"] in ("one pixel", "line", "whole frame", "1x1", "3x2"):
            assert (old == new).all(), before["note"]


def test_81_resume_then_skip_bad(vmt: Vmt) -> None:
    kept = "1 video of 2 could not be refined (see above): v2. The others are kept in"
    for masks, images, out in (
        ("a.json", "frames", "o.json"),
        ("a.json", "short", "s.json"),
        ("masks", "frames", "m"),
    ):
        files = ("refine", "--masks", masks, "--images", images, "--output", out)
        refused = vmt(*files)
        assert f"{kept} {out}.part" in refused.sentence
        assert "add --skip-bad to leave their masks as they are" in refused.sentence
        assert not Path(out).exists()
        assert "6 masks refined in an earlier run" in vmt(*files, "--skip-bad").said
        assert not Path(f"{out}.part").exists()
    given = {row["video_id"]: row["segmentations"] for row in read_json("a.json")["annotations"]}
    for out in ("o.json", "s.json"):
        refined = {row["video_id"]: row["segmentations"] for row in read_json(out)["annotations"]}
        assert refined[2] == given[2]
        assert all(iou(decode(mask), disk(t)) > 0.9 for t, mask in enumerate(refined[1]))
    assert_on_its_frame("m/v1", PADDED)
    for name in PADDED:
        left = np.array(Image.open(f"m/v2/{name}"))
        assert (left == np.array(Image.open(f"masks/v2/{name}"))).all()

    # Mended in place of skipped: what was refined stays, the rest follows.
    files = ("refine", "--masks", "a.json", "--images", "frames", "--output", "mended.json")
    assert f"{kept} mended.json.part" in vmt(*files).sentence
    shutil.copyfile("frames/v2/00001.jpg", "frames/v2/00002.jpg")
    assert "12 masks refined, 6 of them now," in vmt(*files).said
    assert all(
        iou(decode(mask), disk(t)) > 0.9
        for row in read_json("mended.json")["annotations"]
        for t, mask in enumerate(row["segmentations"])
        if (row["video_id"], t) != (2, 2)
    )
