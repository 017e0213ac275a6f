"""CVAT exports become training files: tracks, images, masks, zips; faults are named."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from cocoapi_hq.io import rle
from tests.data.formats.conftest import H, W, box, corners, tubes
from vmt.cli.main import main


def points(x: float, y: float, w: float, h: float) -> str:
    return ";".join(f"{a},{b}" for a, b in corners(x, y, w, h))


def polygon(frame: int, place: tuple[float, ...], outside: int = 0) -> str:
    text = points(*place)
    return f'<polygon frame="{frame}" outside="{outside}" keyframe="1" points="{text}"/>'


def meta(**more: str) -> str:
    words = "".join(f"<{key}>{value}</{key}>" for key, value in more.items())
    return (
        f"<meta><task><name>v1</name>{words}<labels><label><name>dog</name></label>"
        "<label><name>cat</name></label></labels></task>"
        f"<original_size><width>{W}</width><height>{H}</height></original_size></meta>"
    )


#: A dog in frames 0 and 2, hidden in frame 1 and outside from frame 3 on; a cat as a mask.
TRACKS = (
    '<track id="0" label="dog">'
    + polygon(0, (1, 1, 4, 3))
    + polygon(2, (3, 1, 4, 3))
    + polygon(3, (3, 1, 4, 3), outside=1)
    + '</track><track id="7" label="dog">'
    + polygon(2, (10, 9, 5, 3))
    + polygon(4, (10, 9, 5, 2))
    # 2 x 3 pixels from (6, 5), row by row: .# ## #.
    + '</track><track id="3" label="cat"><mask frame="5" outside="0" rle="1,4,1" left="6" top="5" '
    'width="2" height="3"/></track>'
    '<track id="4" label="cat"><box frame="1" outside="0" xtl="1" ytl="1" xbr="5" ybr="5"/></track>'
    '<track id="5" label="ignore">' + polygon(1, (1, 1, 4, 3)) + "</track>"
)


def write(path: Path, body: str, head: str = "") -> Path:
    path.write_text(f"<annotations><version>1.1</version>{head or meta()}{body}</annotations>")
    return path


@pytest.mark.parametrize("packed", [False, True])
def test_tracks(tmp_path: Path, images: Path, convert, packed: bool, capsys) -> None:
    source = write(tmp_path / "annotations.xml", TRACKS)
    if packed:
        with zipfile.ZipFile(tmp_path / "task.zip", "w") as archive:
            archive.write(source, "annotations.xml")
        source = tmp_path / "task.zip"
    status, content = convert(source, images)
    assert status == 0
    (video,) = content["videos"]
    assert video["file_names"] == [f"v1/f_{t}.png" for t in range(1, 7)]
    assert [row["name"] for row in content["categories"]] == ["dog", "cat"]
    assert tubes(content) == [
        (1, "dog", [12, None, 12, None, None, None]),
        (1, "dog", [None, None, 15, None, 10, None]),
        (1, "cat", [None, None, None, None, None, 4]),
    ]
    expected = box(7, 5, 1, 2) | box(6, 6, 1, 2)
    assert (rle.decode(content["annotations"][2]["segmentations"][5]) == expected).all()
    said = capsys.readouterr().out
    assert "shapes that are no masks are left out: 1 box." in said
    assert "shapes whose label means no object are left out: 1 ignore." in said
    assert main(["check-annotations", str(tmp_path / "out.json"), "--images", str(images)]) == 0


def test_tasks_that_take_every_second_frame(tmp_path: Path, images: Path, convert, capsys) -> None:
    head = meta(start_frame="1", stop_frame="5", frame_filter="step=2")
    body = '<track id="0" label="dog">' + polygon(1, (1, 1, 4, 3)) + polygon(5, (1, 1, 4, 2))
    source = write(tmp_path / "a.xml", body + "</track>", head)
    # All frames of the video, of which the task has numbers 1, 3 and 5 ...
    _, content = convert(source, images)
    assert content["videos"][0]["file_names"] == ["v1/f_2.png", "v1/f_4.png", "v1/f_6.png"]
    assert tubes(content) == [(1, "dog", [12, None, 8])]
    assert "3 of 6 frames are not annotated" in capsys.readouterr().out
    # ... or those of the task.
    for t in (1, 3, 5):
        (images / "v1" / f"f_{t}.png").unlink()
    _, again = convert(source, images)
    assert again == content
    (images / "v1" / "f_6.png").unlink()
    assert convert(source, images)[0] == 2
    assert "is of 3 frames (1 to 5), but" in capsys.readouterr().err


def test_images(tmp_path: Path, images: Path, convert, capsys) -> None:
    def image(name: str, *shapes: str) -> str:
        return f'<image id="0" name="{name}" width="{W}" height="{H}">{"".join(shapes)}</image>'

    def shape(label: str, place: tuple[float, ...], more: str = "") -> str:
        return f'<polygon label="{label}" points="{points(*place)}" {more}/>'

    body = (
        image("v1/f_3.png", shape("dog", (1, 1, 4, 3)), shape("dog", (9, 1, 4, 2)))
        + image("v1/f_1.png", shape("dog", (2, 1, 4, 3)))
        + image("v1/f_2.png")
        + image(
            "v2/f_1.png",
            shape("cat", (1, 1, 3, 3), 'group_id="4"'),
            shape("cat", (9, 1, 2, 2), 'group_id="4"'),
        )
    )
    status, content = convert(write(tmp_path / "a.xml", body), images)
    assert status == 0
    assert [video["file_names"] for video in content["videos"]] == [
        ["v1/f_1.png", "v1/f_3.png"],
        ["v2/f_1.png"],
    ]
    assert tubes(content) == [(1, "dog", [12, 12]), (1, "dog", [None, 8]), (2, "cat", [13])]
    assert "the k-th of a frame is taken for the same object" in capsys.readouterr().out


def test_shapes_in_place_of_tracks_are_noticed(tmp_path: Path, images: Path, convert, capsys):
    body = "".join(
        f'<track id="{t}" label="dog">{polygon(t, (1, 1, 4, 3))}</track>' for t in range(3)
    )
    assert convert(write(tmp_path / "a.xml", body), images)[0] == 0
    said = capsys.readouterr().out
    assert "3 of 3 objects are there in one frame only; in CVAT, draw tracks" in said


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("<track", "cannot be read as CVAT XML"),
        ("", "holds neither tracks nor images"),
        (
            f'<track id="0" label="dog">{polygon(9, (1, 1, 4, 3))}</track>',
            "track 0 (dog): is in frame '9', but",
        ),
        ('<track id="0" label="dog"><polygon frame="0" points="1,x"/></track>', "has points '1,x'"),
        (
            '<track id="0" label="dog"><mask frame="0" rle="1,4" left="0" top="0" width="2" '
            'height="3"/></track>',
            "frame 0: is a mask whose rle, left, top, width and height do not fit one another",
        ),
        ('<image name="v1/x.png" width="30" height="20"/>', "image v1/x.png: no frame of that"),
        ('<image name="v1/f_1.png" width="60" height="40"/>', "is 60x40 pixels, but the frames of"),
        (
            '<track id="0" label="dog"><box frame="0" xtl="1" ytl="1" xbr="5" ybr="5"/></track>',
            "holds no object with a mask. shapes that are no masks are left out: 1 box.",
        ),
    ],
)
def test_messages(tmp_path: Path, images: Path, convert, body: str, said: str, capsys) -> None:
    status, content = convert(write(tmp_path / "a.xml", body), images)
    assert (status, content) == (2, {})
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_other_sizes_and_other_files(tmp_path: Path, images: Path, convert, capsys) -> None:
    head = meta().replace(f"<width>{W}", "<width>60")
    assert convert(write(tmp_path / "a.xml", TRACKS, head), images)[0] == 2
    assert "was drawn on 60x20 pixels, but the frames of" in capsys.readouterr().err
    (tmp_path / "b.xml").write_text("<opencv_storage/>")
    assert convert(tmp_path / "b.xml", images)[0] == 2
    assert "is XML of <opencv_storage>, not CVAT's <annotations>" in capsys.readouterr().err
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as archive:
        archive.writestr("annotations/instances_default.json", "{}")
    assert convert(tmp_path / "c.zip", images)[0] == 2
    assert "holds 0 XML files; give an export of CVAT as" in capsys.readouterr().err
    words = ["--masks", str(tmp_path / "a.xml"), "--images", str(images)]
    assert main(["refine", *words, "--output", str(tmp_path / "o.json")]) == 2
    assert "of a CVAT export, vmt convert-annotations makes a file" in capsys.readouterr().err
