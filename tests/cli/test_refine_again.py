"""``vmt refine`` run again: after a fault, after it was mended, after all was done."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cocoapi_hq.io import rle
from tests.cli.test_refine import (
    H,
    Shave,
    W,
    box,
    expected,
    one_line,
    polygon_file,
    run,
    save_map,
    write_frames,
    write_maps,
    write_ytvis,
)

pytestmark = pytest.mark.usefixtures("refiner")
BAD = "images/v2/00003.png"


def segmentations(path: Path, row: int) -> list:
    return json.loads(path.read_text())["annotations"][row]["segmentations"]


@pytest.mark.parametrize("fault", ["missing", "damaged"])
@pytest.mark.parametrize("report", [False, True])
def test_the_advised_second_run_writes(tmp_path: Path, fault: str, report: bool, capsys) -> None:
    path, before = write_ytvis(tmp_path)
    images, out = tmp_path / "images", tmp_path / "o.json"
    if fault == "missing":
        (tmp_path / BAD).unlink()
    else:
        (tmp_path / BAD).write_bytes(b"no image")
    more = ("--report", str(tmp_path / "r.html")) if report else ()
    assert run(path, images, out, *more) == 2
    assert not out.exists()
    capsys.readouterr()
    # Nothing is left to do but to write.
    assert run(path, images, out, "--skip-bad", *more) == 0
    said = capsys.readouterr().out
    assert "1 video of an earlier run kept" in said
    assert "10 masks refined in an earlier run: " in said
    after = json.loads(out.read_text())["annotations"]
    old = before["annotations"]
    assert after[0]["segmentations"] == expected(old[0]["segmentations"])
    assert after[2:] == old[2:]
    assert (tmp_path / "r.html").exists() == report
    assert not out.with_name("o.json.part").exists()
    # And once more, all of it.
    assert run(path, images, out, "--skip-bad", *more) == 0
    assert json.loads(out.read_text())["annotations"] == after


def test_label_maps_with_a_bad_video(tmp_path: Path, refiner: Shave, capsys) -> None:
    masks = tmp_path / "masks"
    for name in ("v1", "v2"):
        write_maps(masks / name)
        write_frames(tmp_path / "images" / name)
    (tmp_path / BAD).unlink()
    assert run(masks, tmp_path / "images", tmp_path / "out") == 2
    assert run(masks, tmp_path / "images", tmp_path / "out", "--skip-bad") == 0
    v2 = sorted((tmp_path / "out" / "v2").iterdir())
    assert [p.read_bytes() for p in v2] == [(masks / "v2" / p.name).read_bytes() for p in v2]
    assert len(v2) == 6
    assert len(refiner.videos) == 1
    capsys.readouterr()
    assert run(masks, tmp_path / "images", tmp_path / "out", "--skip-bad") == 2
    assert "exists and is not empty" in one_line(capsys)


@pytest.mark.parametrize("what", ["frame", "mask"])
def test_what_was_mended_is_read_again(tmp_path: Path, refiner: Shave, what: str) -> None:
    """A file of the same name, size and, for masks, time of change."""
    masks = tmp_path / "masks"
    for name in ("v1", "v2"):
        write_maps(masks / name)
        write_frames(tmp_path / "images" / name)
    bad = tmp_path / BAD
    good = bad.read_bytes()
    bad.write_bytes(b"no image")
    assert run(masks, tmp_path / "images", tmp_path / "out") == 2
    bad.write_bytes(good)
    changed = tmp_path / "images/v1/00000.png"
    if what == "mask":
        changed = masks / "v1" / "00000.png"
        status = changed.stat()
        labels = np.zeros((H, W), np.uint8)
        labels[box(4, 5)] = 2  # object 1 becomes object 2; 4 and void as they are
        labels[box(18, 8)] = 4
        labels[30:] = 255
        save_map(changed, labels)
        assert changed.stat().st_size == status.st_size, "the case needs files of one size"
        os.utime(changed, ns=(status.st_atime_ns, status.st_mtime_ns))
    else:
        status = changed.stat()
        os.utime(changed, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert run(masks, tmp_path / "images", tmp_path / "out") == 0
    # v1, v2 until it broke; v1 again, v2.
    assert len(refiner.videos) == 4
    if what == "mask":
        assert 2 in np.array(Image.open(tmp_path / "out/v1/00000.png"))


def test_masks_of_one_video_that_change_leave_the_others_done(
    tmp_path: Path, refiner: Shave
) -> None:
    path, content = write_ytvis(tmp_path)
    (tmp_path / BAD).unlink()
    assert run(path, tmp_path / "images", tmp_path / "o.json") == 2
    write_frames(tmp_path / "new" / "v2")
    shutil.move(tmp_path / "new/v2/00003.png", tmp_path / BAD)
    content["annotations"][2]["segmentations"][0] = rle.encode(box(10, 30))
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False))
    assert run(path, tmp_path / "images", tmp_path / "o.json") == 0
    assert len(refiner.videos) == 2
    assert segmentations(tmp_path / "o.json", 2)[0] == expected([rle.encode(box(10, 30))])[0]


@pytest.mark.parametrize("option", ["--report", "--log"])
@pytest.mark.parametrize("kind", ["json", "maps"])
def test_masks_outlive_a_report_that_cannot_be_written(
    tmp_path: Path,
    refiner: Shave,
    monkeypatch: pytest.MonkeyPatch,
    option: str,
    kind: str,
    capsys,
) -> None:
    out = tmp_path / "out"
    if kind == "json":
        masks, _ = write_ytvis(tmp_path, videos=1)
        images = tmp_path / "images"
    else:
        masks, images = write_maps(tmp_path / "masks"), tmp_path / "images"
        write_frames(images)
    place = tmp_path / "gone" / "file"
    stream = refiner.stream

    def unplug(*args, **kwargs):
        shutil.rmtree(place.parent)  # the disk of the report goes while masks are refined
        yield from stream(*args, **kwargs)

    monkeypatch.setattr(refiner, "stream", unplug)
    assert run(masks, images, out, option, str(place)) == 2
    captured = capsys.readouterr()
    assert f"{place}: cannot be written (No such file or directory)" in captured.err
    assert f"The masks are complete, in {out}" in captured.err
    assert captured.err.count("vmt refine: ") == 1
    assert f"written: {out}\n" in captured.out
    if kind == "json":
        old = json.loads(masks.read_text())["annotations"][0]["segmentations"]
        assert segmentations(out, 0) == expected(old)
    else:
        shutil.move(out, tmp_path / "elsewhere")
    # Nothing is refined twice.
    monkeypatch.setattr(refiner, "stream", None)
    assert run(masks, images, out, option, str(tmp_path / "there")) == 0
    assert (tmp_path / "there").stat().st_size > 0


def test_places_of_report_and_log_are_looked_at_first(
    tmp_path: Path,
    refiner: Shave,
    capsys,
) -> None:
    path, _ = write_ytvis(tmp_path, videos=1)
    (tmp_path / "file").write_text("mine")
    cases = [
        ("--report", tmp_path, "is a folder; name a file"),
        ("--log", tmp_path / "o.json", "is the file of --output; give another name"),
        ("--report", path, "is the file of --masks; give another name"),
        ("--report", tmp_path / "o.json.changes.json", "is the file of --log; give another name"),
        ("--report", tmp_path / "file" / "r.html", "cannot be written"),
    ]
    for option, place, said in cases:
        assert run(path, tmp_path / "images", tmp_path / "o.json", option, str(place)) == 2
        assert said in one_line(capsys)
    assert refiner.videos == []
    assert (tmp_path / "file").read_text() == "mine"


def test_what_is_counted_and_what_to_do_about_rejected_results(tmp_path: Path, capsys) -> None:
    write_frames(tmp_path / "images")
    masks = tmp_path / "masks"
    masks.mkdir()
    polygon_file(masks / "00001.json", ("dog", 4, 5))
    thin = {"label": "line", "points": [[0, 0], [9, 0], [9, 1], [0, 1]]}
    (masks / "00004.json").write_text(json.dumps({"shapes": [thin]}))
    report = tmp_path / "r.html"
    assert run(masks, tmp_path / "images", tmp_path / "out", "--report", str(report)) == 0
    said = capsys.readouterr().out
    # Frames between those with masks are read, and count for nothing.
    seconds, each = said.split("2 masks refined in ")[1].split(" s per mask)")[0].split(" s (")
    assert abs(float(seconds) / 2 - float(each)) < 0.06
    assert "rejected: masks 00004. A result that is empty, or shares too little" in said
    assert "must be drawn closer to the object first" in report.read_text()
