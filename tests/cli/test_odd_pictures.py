"""Odd pictures and videos give the same pixels in training, demo, refine, and check."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cocoapi_hq.io import rle
from vmt.apps.refine.frames import find_frames
from vmt.cli.main import main
from vmt.data.catalog import load_dataset
from vmt.data.mapper import ClipMapper
from vmt.data.mask_files.open import open_mask_file
from vmt.inference.sources import FrameList, open_videos

H, W = 16, 24


def write_pictures(folder: Path) -> list[np.ndarray]:
    """One picture per kind; what each must be read as, worked out from what was written."""
    folder.mkdir(parents=True)
    noise = np.random.default_rng(0)
    rgb = noise.integers(0, 256, (H, W, 3), dtype=np.uint8)
    grey = rgb[..., 0]
    deep = grey.astype(np.uint16) * 256 + rgb[..., 1]
    alpha = np.where(np.arange(W) < 8, 0, 255).astype(np.uint8) * np.ones((H, 1), np.uint8)
    over_black = np.where(alpha[..., None] > 0, rgb, 0)
    grey_over_black = np.where(alpha > 0, grey, 0)
    bits = grey > 127
    indices = (rgb[..., 2] % 4).astype(np.uint8)
    palette = np.array([(9, 8, 7), (250, 0, 0), (0, 250, 0), (1, 2, 3)], np.uint8)
    indexed = Image.fromarray(indices)
    indexed.putpalette(palette.ravel().tolist())
    turned = Image.Exif()
    turned[0x0112] = 6
    mirrored = Image.Exif()
    mirrored[0x0112] = 2
    kinds = [
        (Image.fromarray(grey), {}, three(grey)),
        (Image.fromarray(deep), {}, three(grey)),
        (Image.fromarray(np.dstack([rgb, alpha])), {}, over_black),
        (Image.fromarray(np.dstack([grey, alpha])), {}, three(grey_over_black)),
        (indexed, {"transparency": 3}, np.where(indices[..., None] == 3, 0, palette[indices])),
        (Image.fromarray(bits), {}, three(bits * np.uint8(255))),
        (Image.fromarray(np.rot90(rgb)), {"exif": turned}, rgb),
        (Image.fromarray(rgb[:, ::-1]), {"exif": mirrored}, rgb),
    ]
    expected = []
    for t, (picture, options, pixels) in enumerate(kinds):
        picture.save(folder / f"{t:05d}.png", **options)
        expected.append(pixels)
    return expected


def three(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, axis=2)


def write_json(path: Path, folder: str, count: int) -> Path:
    names = [f"{folder}/{t:05d}.png" for t in range(count)]
    mask = rle.encode(np.ones((H, W), dtype=bool))
    video = {"id": 1, "height": H, "width": W, "length": count, "file_names": names}
    row = {"id": 1, "video_id": 1, "category_id": 1, "iscrowd": 0, "segmentations": [mask] * count}
    row |= {"bboxes": [[0, 0, W, H]] * count, "areas": [H * W] * count}
    content = {
        "videos": [video],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [row],
    }
    path.write_text(json.dumps(content))
    return path


def assert_frames(frames: list[np.ndarray], expected: list[np.ndarray]) -> None:
    assert len(frames) == len(expected)
    for frame, pixels in zip(frames, expected, strict=True):
        np.testing.assert_array_equal(frame, pixels)


def test_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = write_pictures(tmp_path / "v")
    file = write_json(tmp_path / "a.json", "v", len(expected))

    mapper = ClipMapper(
        len(expected),
        sampler=lambda key, length, count, rng: list(range(length)),
        pseudo_clip=lambda *_: pytest.fail("not a still"),
        augmentation=lambda clip, rng: clip,
    )
    record = load_dataset(f"{file}@{tmp_path}")[0]
    sample = mapper(record, 0, {1: 0}, np.random.default_rng(0))
    assert_frames(list(sample["image"].permute(0, 2, 3, 1).numpy()), expected)

    for spec in (str(file), str(tmp_path / "v"), str(tmp_path / "v" / "*.png")):
        (opener,) = open_videos(spec, tmp_path)
        assert_frames(list(opener()), expected)
    validation = FrameList(record.name, record.frame_paths)
    assert_frames(list(validation), expected)

    masks = open_mask_file(file)
    assert_frames(list(find_frames(masks, masks.videos[0], tmp_path, None).open()), expected)

    assert main(["check-annotations", str(file), "--images", str(tmp_path)]) == 0
    assert f"images decoded {len(expected)} of {len(expected)}" in " ".join(
        capsys.readouterr().out.split()
    )


@pytest.mark.parametrize("kind", ["float", "animation", "cut"])
def test_pictures_without_a_rule(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    """Refused everywhere by one sentence."""
    count = len(write_pictures(tmp_path / "v"))
    path = tmp_path / "v" / "00002.png"
    if kind == "float":
        Image.new("F", (W, H)).save(path, format="TIFF")
        sentence = "its samples are floating-point numbers"
    elif kind == "animation":
        frames = [Image.new("RGB", (W, H), (k, 0, 0)) for k in range(3)]
        frames[0].save(path, save_all=True, append_images=frames[1:])
        sentence = "holds 3 pictures, and a frame is one"
    else:
        path.write_bytes(path.read_bytes()[:-200])
        sentence = "cannot be read as an image: it is cut off"
    file = write_json(tmp_path / "a.json", "v", count)
    record = load_dataset(f"{file}@{tmp_path}")[0]
    (opener,) = open_videos(str(file), tmp_path)
    masks = open_mask_file(file)
    for frames in (
        opener(),
        FrameList(record.name, record.frame_paths),
        find_frames(masks, masks.videos[0], tmp_path, None).open(),
    ):
        with pytest.raises(ValueError, match=f"00002.png: {sentence}"):
            list(frames)
    assert main(["check-annotations", str(file), "--images", str(tmp_path)]) == 1
    assert f"'v/00002.png': {sentence}" in capsys.readouterr().out


def test_masks_of_pictures_as_stored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Refine names EXIF where the size of the masks is that of the stored pictures."""
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "v").mkdir()
    for t in range(2):
        Image.new("RGB", (W, H), (9, 200, 9)).save(tmp_path / f"v/{t:05d}.png", exif=exif)
    file = write_json(tmp_path / "a.json", "v", 2)
    out = str(tmp_path / "out.json")
    status = main(["refine", "--masks", str(file), "--images", str(tmp_path), "--output", out])
    assert status == 2
    assert f"have {H}x{W}, turned upright as the file notes (EXIF or" in capsys.readouterr().err
