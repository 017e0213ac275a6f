"""DAVIS-style label maps and BDD100K MOTS: the same records as the JSON gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from cocoapi_hq.io import rle
from tests.synthetic import moving_shapes
from vmt.data.datasets.folders import load_png_folders
from vmt.data.datasets.mots import frame_indices, load_mots
from vmt.data.mapper import decode_masks
from vmt.utils.errors import AnnotationError, VideoError

SIZE, T = (32, 48), 4


def truth(k: int) -> npt.NDArray[np.bool_]:
    return moving_shapes(T, SIZE, seed=k).masks


@pytest.fixture
def davis(tmp_path: Path) -> Path:
    """Two videos: palette PNGs with 255 around the first object of frame 0."""
    for k in range(2):
        masks, images = tmp_path / f"masks/v{k}", tmp_path / f"images/v{k}"
        masks.mkdir(parents=True)
        images.mkdir(parents=True)
        for t in range(T):
            labels = np.zeros(SIZE, dtype=np.uint8)
            labels[0, :5] = 255 if t == 0 else 0
            for g, mask in enumerate(truth(k)[:, t]):
                labels[mask] = 3 * g + 1
            image = Image.fromarray(labels, mode="P")
            image.putpalette(list(range(256)) * 3)
            image.save(masks / f"{t:05d}.png")
            frame = moving_shapes(T, SIZE, seed=k).frames[t]
            cv2.imwrite(str(images / f"{t:05d}.jpg"), frame)
    return tmp_path


def load_davis(root: Path, **kwargs: Any) -> Any:
    return load_png_folders(root / "masks", root / "images", "davis", **kwargs)


def test_label_maps(davis: Path) -> None:
    data = load_davis(davis)
    assert (len(data), list(data.num_frames())) == (2, [T, T])
    assert data.categories == {1: "object"}
    for k in range(2):
        record = data[k]
        assert (record.id, record.name, record.size) == (k + 1, f"v{k}", SIZE)
        tracklets = record.tracklets()
        assert [x.id for x in tracklets] == [1, 4]
        masks = decode_masks(tracklets, T, SIZE)
        expected = truth(k).copy()
        expected[:, 0, 0, :5] = False  # not annotated there
        np.testing.assert_array_equal(masks, expected)
        some = decode_masks(record.tracklets([2, 2]), 2, SIZE)
        np.testing.assert_array_equal(some, expected[:, [2, 2]])


def test_classes_of_youtube_vos(davis: Path) -> None:
    objects = {"1": {"category": "dog"}, "4": {"category": "ape"}}
    meta = {"videos": {"v0": {"objects": objects}, "v1": {"objects": {"1": {"category": "dog"}}}}}
    (davis / "meta.json").write_text(json.dumps(meta))
    data = load_davis(davis)
    assert data.categories == {1: "ape", 2: "dog"}
    assert [x.category_id for x in data[0].tracklets()] == [2, 1]
    (davis / "meta.json").write_text('{"videos": 3}')
    with pytest.raises(AnnotationError, match=r"meta.json: is not as YouTube-VOS writes it"):
        load_davis(davis)


def test_frames_and_maps_must_pair(davis: Path) -> None:
    (davis / "masks/v1/00002.png").unlink()
    with pytest.raises(AnnotationError, match=r"v1: 1 frames have no label map .first: 00002"):
        load_davis(davis)
    record = load_davis(davis, strict=False)[1]
    assert [Path(name).stem for name in record.file_names] == ["00000", "00001", "00003"]
    np.testing.assert_array_equal(decode_masks(record.tracklets([2]), 1, SIZE), truth(1)[:, [3]])
    (davis / "images/v1/00001.jpg").unlink()
    with pytest.raises(AnnotationError, match=r"00001.png: no frame of that name .*1 of 3"):
        load_davis(davis, strict=False)


def test_messages_about_folders(davis: Path) -> None:
    with pytest.raises(AnnotationError, match=r"nowhere: no such folder of label maps"):
        load_png_folders(davis / "nowhere", davis / "images", "x")
    with pytest.raises(AnnotationError, match=r"v0/00000.jpg: JPEG changes the values of"):
        load_png_folders(davis / "images", davis / "images", "x")
    with pytest.raises(VideoError, match=r"v0: no such folder of frames"):
        load_png_folders(davis / "masks", davis, "x")
    record = load_davis(davis)[0]
    cv2.imwrite(str(davis / "masks/v0/00000.png"), np.zeros((4, 4), np.uint8))
    with pytest.raises(AnnotationError, match=r"00000.png: is 4x4 pixels, but its frame is 48x32"):
        record.tracklets([0])
    (davis / "masks/v0/00000.png").write_bytes(b"no")
    with pytest.raises(VideoError, match=r"00000.png: cannot be read as an image"):
        record.tracklets([0])


# --- BDD100K MOTS -------------------------------------------------------------------------------


def write_frames(root: Path) -> None:
    for k in range(2):
        (root / f"images/v{k}").mkdir(parents=True)
        for t, frame in enumerate(moving_shapes(T, SIZE, seed=k).frames):
            cv2.imwrite(str(root / f"images/v{k}/f-{t:03d}.jpg"), frame)


@pytest.fixture
def scalabel(tmp_path: Path) -> Path:
    write_frames(tmp_path)
    frames = []
    for k in range(2):
        for t in range(T):
            labels = [
                {"id": f"{k}{g}", "category": name, "rle": dict(rle.encode(mask))}
                for g, (mask, name) in enumerate(zip(truth(k)[:, t], ("car", "rider"), strict=True))
                if mask.any()
            ]
            labels.append(
                {
                    "id": "99",
                    "category": "car",
                    "attributes": {"ignored": True},
                    "rle": dict(rle.encode(np.ones(SIZE, np.uint8))),
                }
            )
            frames.append(
                {"videoName": f"v{k}", "name": f"f-{t:03d}.jpg", "frameIndex": t, "labels": labels}
            )
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(frames))
    return path


def test_scalabel(scalabel: Path) -> None:
    data = load_mots(scalabel, scalabel.parent / "images", "bdd")
    assert data.categories[3] == "car"
    assert (len(data), list(data.num_frames())) == (2, [T, T])
    for k in range(2):
        record = data[k]
        assert (record.name, record.size) == (f"v{k}", SIZE)
        assert all(path.is_file() for path in record.frame_paths)
        tracklets = record.tracklets()
        assert [x.category_id for x in tracklets] == [3, 2]  # ignored region left out
        np.testing.assert_array_equal(decode_masks(tracklets, T, SIZE), truth(k))


def test_bitmasks(tmp_path: Path) -> None:
    write_frames(tmp_path)
    for k in range(2):
        (tmp_path / f"bitmasks/v{k}").mkdir(parents=True)
        for t in range(T):
            rgba = np.zeros((*SIZE, 4), dtype=np.uint8)
            for g, mask in enumerate(truth(k)[:, t]):
                rgba[mask] = [g + 2, 0, 1, 40 + g]  # class, flags, instance 256 + 40 + g
            rgba[0, 0] = [3, 1, 0, 9]  # ignored
            Image.fromarray(rgba, mode="RGBA").save(tmp_path / f"bitmasks/v{k}/f-{t:03d}.png")
    data = load_mots(tmp_path / "bitmasks", tmp_path / "images", "bdd")
    for k in range(2):
        tracklets = data[k].tracklets()
        assert [(x.id, x.category_id) for x in tracklets] == [(296, 2), (297, 3)]
        expected = truth(k).copy()
        expected[:, :, 0, 0] = False
        np.testing.assert_array_equal(decode_masks(tracklets, T, SIZE), expected)
    (tmp_path / "images/v0/f-000.jpg").unlink()
    with pytest.raises(AnnotationError, match=r"f-000.png: no frame of that name"):
        load_mots(tmp_path / "bitmasks", tmp_path / "images", "bdd")


def test_frames_without_labels(tmp_path: Path) -> None:
    """Of test; the second folder has its number of frames."""
    write_frames(tmp_path)
    data = load_mots(tmp_path / "images", tmp_path / "images", "bdd")
    assert [(data[k].id, data[k].name, data[k].size) for k in range(2)] == [
        (1, "v0", SIZE),
        (2, "v1", SIZE),
    ]
    assert [p.name for p in data[0].frame_paths] == [f"f-{t:03d}.jpg" for t in range(T)]
    assert data[0].annotations is None
    assert data[0].tracklets() == []
    assert frame_indices(data[0]) == tuple(range(T))
    (tmp_path / "none").mkdir()
    with pytest.raises(AnnotationError, match="holds no folder of frames"):
        load_mots(tmp_path / "none", tmp_path / "none", "bdd")


def test_frames_keep_the_numbers_of_their_file(scalabel: Path) -> None:
    content = json.loads(scalabel.read_text())
    for frame in content:
        frame["frameIndex"] = 3 * frame["frameIndex"] + 5
    scalabel.write_text(json.dumps(content[::-1]))
    data = load_mots(scalabel, scalabel.parent / "images", "bdd")
    assert frame_indices(data[1]) == tuple(3 * t + 5 for t in range(T))
    assert [p.name for p in data[1].frame_paths] == [f"f-{t:03d}.jpg" for t in range(T)]


def test_a_bitmask_of_another_size(tmp_path: Path) -> None:
    write_frames(tmp_path)
    for t in range(T):
        path = tmp_path / f"bitmasks/v0/f-{t:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        rgba = np.zeros((SIZE[0], SIZE[1] + (t == 1), 4), dtype=np.uint8)
        rgba[:2] = [3, 0, 0, 1]
        Image.fromarray(rgba, mode="RGBA").save(path)
    record = load_mots(tmp_path / "bitmasks", tmp_path / "images", "bdd")[0]
    with pytest.raises(AnnotationError, match=r"f-001\.png: is .* but the frames of its video are"):
        decode_masks(record.tracklets(), T, SIZE)


def test_messages_of_scalabel(scalabel: Path) -> None:
    content = json.loads(scalabel.read_text())
    content[0]["labels"][0]["category"] = "ufo"
    scalabel.write_text(json.dumps(content))
    with pytest.raises(AnnotationError, match="ufo"):
        load_mots(scalabel, scalabel.parent / "images", "bdd")
