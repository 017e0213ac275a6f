"""One reading of ``file_names`` for refine, demo, check, training and reports; faults are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cocoapi_hq.io import rle
from vmt.cli.main import main
from vmt.data.datasets.ytvis import load_ytvis_json
from vmt.data.frame_names import frame_path, why_missing
from vmt.data.images import read_frame
from vmt.inference.sources import open_videos
from vmt.utils.errors import VmtError

H, W, T = 24, 32, 2


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """``v 1/a_0.png`` and ``v 1/a_1.png``, whose grey is 50 and 51."""
    (tmp_path / "frames" / "v 1").mkdir(parents=True)
    for t in range(T):
        picture = Image.fromarray(np.full((H, W, 3), 50 + t, np.uint8))
        picture.save(tmp_path / f"frames/v 1/a_{t}.png")
    return tmp_path / "frames"


def annotations(folder: Path, names: list[str]) -> Path:
    mask = np.zeros((H, W), bool)
    mask[5:15, 5:15] = True
    row = {"id": 1, "video_id": 1, "category_id": 1, "iscrowd": 0, "areas": [100] * T}
    row["segmentations"] = [rle.encode(mask)] * T
    video = {"id": 1, "height": H, "width": W, "length": T, "file_names": names}
    categories = [{"id": 1, "name": "dog"}]
    content: dict[str, Any] = {"videos": [video], "annotations": [row], "categories": categories}
    path = folder / "a.json"
    path.write_text(json.dumps(content))
    return path


READABLE = ["v 1/a_{}.png", "./v 1/a_{}.png", "v 1\\a_{}.png", "v%201/a_{}.png", "v%201\\a_{}.png"]


@pytest.mark.parametrize("spelling", READABLE)
def test_what_names_stand_for(tmp_path: Path, images: Path, spelling: str) -> None:
    file = annotations(tmp_path, [spelling.format(t) for t in range(T)])
    (record,) = load_ytvis_json(file, images, "x")
    assert [int(read_frame(path)[0, 0, 0]) for path in record.frame_paths] == [50, 51]
    (opened,) = open_videos(str(file), images)
    assert [int(frame[0, 0, 0]) for frame in opened()] == [50, 51]
    assert main(["check-annotations", str(file), "--images", str(images)]) == 0


def test_a_file_that_is_called_so_comes_first(images: Path) -> None:
    (images / "v%201").mkdir()
    (images / "v%201" / "a_0.png").touch()
    assert frame_path(images, "v%201/a_0.png") == images / "v%201" / "a_0.png"
    assert frame_path(images, "v%201/a_1.png") == images / "v 1" / "a_1.png"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("https://example.org/v 1/a_{}.png", "is a web address: download the images"),
        ("/data/upload/3/ab12-a_{}.png", "is one of Label Studio's own: export the images, too"),
        ("/data/local-files/?d=v/a_{}.png", "is one of Label Studio's own"),
        ("/home/me/project/v 1/a_{}.png", "another computer: cut '/home/me/project/' off"),
        ("D:\\project\\v 1\\a_{}.png", "another computer: cut 'D:\\\\project\\\\' off the"),
        ("/home/me/b_{}.png", "is a path of another computer; names must be relative to"),
        ("w\\a_{}.png", "has the backslashes of Windows, and with slashes it is not there"),
        ("w%20/a_{}.png", "is coded as in an address (%20), and plain it is not there"),
    ],
)
def test_names_that_lead_nowhere(
    tmp_path: Path, images: Path, name: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = annotations(tmp_path, [name.format(t) for t in range(T)])
    assert main(["check-annotations", str(file), "--images", str(images)]) == 1
    assert said in capsys.readouterr().out.replace(". Fix: ", "; ")
    words = ["--masks", str(file), "--images", str(images), "--output", str(tmp_path / "o.json")]
    assert main(["refine", *words]) == 2
    assert said in capsys.readouterr().err
    with pytest.raises(VmtError) as error:
        open_videos(str(file), images)
    assert said in str(error.value)


def test_plain_names_need_no_explanation(images: Path) -> None:
    assert why_missing("v1/a.png", images) == ""
    assert why_missing("100%/a.png", images) == ""
