"""VIA polygons become training files; JSON of other tools is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.data.formats.conftest import corners, tubes
from vmt.cli.main import main


def region(place: tuple[float, ...], **attributes: Any) -> dict[str, Any]:
    x, y = zip(*corners(*place), strict=True)
    shape = {"name": "polygon", "all_points_x": list(x), "all_points_y": list(y)}
    return {"shape_attributes": shape, "region_attributes": attributes}


def write(path: Path, images: dict[str, list[Any]], *, project: bool = False) -> Path:
    rows: dict[str, Any] = {
        f"{name}123": {"filename": name, "size": 123, "regions": regions, "file_attributes": {}}
        for name, regions in images.items()
    }
    content = {"_via_settings": {}, "_via_img_metadata": rows} if project else rows
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("project", [True, False])
def test_regions(tmp_path: Path, images: Path, convert, project: bool, capsys) -> None:
    rectangle = {"shape_attributes": {"name": "rect"}, "region_attributes": {"type": "dog"}}
    source = write(
        tmp_path / "via.json",
        {
            "v1/f_1.png": [region((1, 1, 4, 3), type="dog", id="a"), rectangle],
            "v1/f_3.png": [
                region((9, 1, 4, 2), type={"cat": True, "dog": False}),
                region((2, 1, 4, 2), type="dog", id="a"),
            ],
            "v1/f_2.png": [],
        },
        project=project,
    )
    status, content = convert(source, images)
    assert status == 0
    assert content["videos"][0]["file_names"] == ["v1/f_1.png", "v1/f_3.png"]
    assert tubes(content) == [(1, "dog", [12, 8]), (1, "cat", [None, 8])]
    said = capsys.readouterr().out
    assert "4 of 6 frames are not annotated" in said
    assert "shapes that are no masks are left out: 1 rect." in said


@pytest.mark.parametrize("attribute", ["id", "track_id", "group_id"])
def test_identities_hold_whatever_the_order(
    tmp_path: Path, images: Path, convert, attribute: str
) -> None:
    """Two dogs of 12 and 8 pixels, which the second frame lists the other way round."""
    first = region((1, 1, 4, 3), type="dog", **{attribute: "a"})
    second = region((9, 1, 4, 2), type="dog", **{attribute: "b"})
    source = write(
        tmp_path / "via.json", {"v1/f_1.png": [first, second], "v1/f_2.png": [second, first]}
    )
    status, content = convert(source, images)
    assert status == 0
    assert tubes(content) == [(1, "dog", [12, 12]), (1, "dog", [8, 8])]


@pytest.mark.parametrize(
    ("regions", "said"),
    [
        ([region((1, 1, 4, 3), a="1", b="2")], "have the attributes a, b, none of which is known"),
        ([region((1, 1, 4, 3), label="")], "regions[0]: its label is ''; say what it is"),
        (
            [{"shape_attributes": {"name": "polygon", "all_points_x": [1]}}],
            "all_points_x and all_points_y do not fit together",
        ),
    ],
)
def test_messages(tmp_path: Path, images: Path, convert, regions: Any, said: str, capsys) -> None:
    assert convert(write(tmp_path / "a.json", {"v1/f_1.png": regions}), images) == (2, {})
    assert said in capsys.readouterr().err


OTHERS = {
    "Label Studio": [{"id": 1, "data": {"image": "/data/upload/1/a.png"}, "annotations": []}],
    "VGG Image Annotator": {"a.png1": {"filename": "a.png", "size": 1, "regions": []}},
    "VIA 3": {"project": {}, "file": {}, "view": {}, "metadata": {}},
    "Supervisely": {"objects": [], "framesCount": 3},
    "Labelbox": [{"data_row": {"id": "x"}, "projects": {}}],
}


@pytest.mark.parametrize("tool", OTHERS)
@pytest.mark.parametrize("command", ["refine", "train"])
def test_other_tools_are_named(
    tmp_path: Path, images: Path, tool: str, command: str, capsys
) -> None:
    source = tmp_path / "a.json"
    source.write_text(json.dumps(OTHERS[tool]))
    if command == "refine":
        words = ["--masks", str(source), "--images", str(images), "--output", f"{source}.new"]
    else:
        words = ["--config-file", "configs/quick/seqformer_tiny.yaml", "--eval-only"]
        words += ["DATASETS.TEST", f"['{source}@{images}']"]
    assert main([command, *words]) == 2
    assert tool in capsys.readouterr().err
