"""``vmt check-annotations --images`` sees every image as training and inference do."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cocoapi_hq.io import rle
from vmt.cli.main import main

H, W = 24, 40


def write_images(folder: Path, sizes: list[tuple[int, int]], orientation: int = 1) -> list[str]:
    """JPEGs stored with these (h, w); their names."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    folder.mkdir(parents=True)
    noise = np.random.default_rng(0)
    for t, size in enumerate(sizes):
        picture = Image.fromarray(noise.integers(0, 255, (*size, 3), dtype=np.uint8))
        picture.save(folder / f"{t:05d}.jpg", exif=exif)
    return [f"{folder.name}/{t:05d}.jpg" for t in range(len(sizes))]


def write_json(path: Path, names: list[str], size: tuple[int, int]) -> Path:
    video = {
        "id": 1,
        "height": size[0],
        "width": size[1],
        "length": len(names),
        "file_names": names,
    }
    path.write_text(json.dumps({"videos": [video], "categories": [], "annotations": []}))
    return path


def check(capsys: pytest.CaptureFixture[str], file: Path, *more: object) -> tuple[int, list[str]]:
    status = main(["check-annotations", str(file), *map(str, more)])
    return status, capsys.readouterr().out.splitlines()


def test_every_image_is_decoded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first image is sound; the cut-off, the odd-sized and the missing one come later."""
    names = write_images(tmp_path / "v", [(H, W), (H, W), (W, H), (H, W), (H, W)])
    cut = (tmp_path / names[1]).read_bytes()
    (tmp_path / names[1]).write_bytes(cut[:-20])
    (tmp_path / names[4]).unlink()
    file = write_json(tmp_path / "a.json", names, (H, W))
    status, lines = check(capsys, file, "--images", tmp_path)
    assert status == 1
    starts = [
        "a.json: videos[0].file_names[1] = 'v/00001.jpg': cannot be read as an image: it is cut",
        f"a.json: videos[0].file_names[2] = [{W}, {H}]: the video says [{H}, {W}].",
        "a.json: videos[0].file_names[4] = 'v/00004.jpg': no such file.",
    ]
    assert [line[: len(start)] for line, start in zip(lines, starts, strict=False)] == starts
    assert ["images", "decoded", "3", "of", "5"] in [line.split() for line in lines]


def test_without_images_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_json(tmp_path / "a.json", ["v/0.jpg"], (H, W))
    status, lines = check(capsys, file)
    assert status == 0
    assert any(line.split() == ["images", "not", "opened;", "give", "--images"] for line in lines)


def test_sizes_are_those_of_upright_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A phone's portrait clip: stored 24 x 40, shown 40 x 24."""
    names = write_images(tmp_path / "v", [(H, W)] * 3, orientation=6)
    upright = write_json(tmp_path / "upright.json", names, (W, H))
    assert check(capsys, upright, "--images", tmp_path)[0] == 0
    stored = write_json(tmp_path / "stored.json", names, (H, W))
    status, lines = check(capsys, stored, "--images", tmp_path)
    assert status == 1
    assert "all 3 images" in lines[0]
    assert "its EXIF orientation (6) turns it" in lines[0]
    assert "exiftool -Orientation=" in lines[0]


def test_upside_down_images_are_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = write_images(tmp_path / "v", [(H, W)] * 2, orientation=3)
    file = write_json(tmp_path / "a.json", names, (H, W))
    status, lines = check(capsys, file, "--images", tmp_path)
    assert status == 0
    assert lines[0].startswith("a.json: 2 images (first: v/00000.jpg) are turned or mirrored by")


def mask_of_20_px() -> rle.Rle:
    mask = np.zeros((H, W), np.bool_)
    mask[2:6, 10:15] = True
    return rle.encode(mask)


def test_results_are_checked_against_gt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Class 9 is none of the ground truth's, with its images or without."""
    names = write_images(tmp_path / "v", [(H, W)])
    gt = write_json(tmp_path / "gt.json", names, (H, W))
    content = json.loads(gt.read_text()) | {"categories": [{"id": 1, "name": "cat"}]}
    gt.write_text(json.dumps(content))
    file = tmp_path / "results.json"
    row = {"video_id": 1, "category_id": 9, "score": 0.5, "segmentations": [mask_of_20_px()]}
    file.write_text(json.dumps([row]))
    assert check(capsys, file)[0] == 0
    assert check(capsys, file, "--images", tmp_path)[0] == 0
    for more in ((), ("--images", tmp_path)):
        status, lines = check(capsys, file, "--gt", gt, *more)
        assert status == 1
        assert lines[0].startswith("results.json: results[0].category_id = 9")


def test_quiet_prints_no_defect_and_fix_mends_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An area of 20 pixels is given as 3; the file stays as it is, its copy is right."""
    file = write_json(tmp_path / "a.json", ["v/0.jpg"], (H, W))
    row = {"id": 1, "video_id": 1, "category_id": 1, "iscrowd": 0}
    row |= {"segmentations": [mask_of_20_px()], "areas": [3]}
    content = json.loads(file.read_text()) | {"annotations": [row]}
    content["categories"] = [{"id": 1, "name": "cat"}]
    file.write_text(json.dumps(content))
    status, loud = check(capsys, file)
    assert status == 1
    assert loud[0].startswith("a.json: annotations[0].areas[0] = 3")
    status, quiet = check(capsys, file, "--quiet")
    assert status == 1
    count = next(k for k, line in enumerate(loud) if not line)
    assert quiet == loud[count:]
    out = tmp_path / "fixed.json"
    status, lines = check(capsys, file, "--fix", out)
    assert status == 1
    assert lines[-1] == f"written: {out}"
    assert json.loads(out.read_text())["annotations"][0]["areas"] == [20]
    assert json.loads(file.read_text()) == content
    assert check(capsys, out)[0] == 0
