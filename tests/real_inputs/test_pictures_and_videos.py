"""Pictures and videos of real users: display matrices, edit lists, EXIF, modes, cut files."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.engine.runs import REPO, TINY
from tests.real_inputs.conftest import Vmt
from tests.real_inputs.disk import assert_on_its_frame, disk
from vmt.data.images import read_frame
from vmt.inference.sources import open_videos, read_image
from vmt.utils.errors import VideoError

TRAIN = ("train", "--config-file", REPO / "configs/quick/seqformer_tiny.yaml")
QUICKLY = [word for pair in TINY.items() for word in pair] + ["SOLVER.MAX_STEPS", "1"]


def read_video(path: str) -> list[np.ndarray]:
    (opener,) = open_videos(path)
    return list(opener())


def centre(frame: np.ndarray) -> tuple[float, int]:
    """Of the disk of warm colour: x, and its number of pixels."""
    _, x = np.nonzero((frame[..., 0] > 150) & (frame[..., 2] < 110))
    return float(x.mean()), len(x)


def test_40_rotated_phone_videos(vmt: Vmt) -> None:
    """Coded picture: red, green over blue, yellow; each file turns or mirrors it."""
    colors = np.array([(230, 30, 30), (30, 230, 30), (30, 30, 230), (230, 230, 30)])
    coded = np.kron([[0, 1], [2, 3]], np.ones((32, 48), int))
    upright = {
        "r0": coded,
        "r90": np.rot90(coded, -1),
        "r180": np.rot90(coded, 2),
        "r270": np.rot90(coded, 1),
        "hflip": coded[:, ::-1],
        "vflip": coded[::-1],
    }
    for name, want in upright.items():
        frames = read_video(f"{name}.mp4")
        assert len(frames) == 3
        for frame in frames:
            nearest = ((frame[:, :, None].astype(int) - colors) ** 2).sum(-1).argmin(-1)
            assert nearest.shape == want.shape, name
            assert (nearest == want).mean() > 0.97, name


def test_44_alpha_gif_odd_4k_interlaced(vmt: Vmt) -> None:
    sizes = {"odd.mkv": (63, 95)}
    for name in ("alpha.webm", "odd.mkv", "one.mp4", "interlaced.mpg", "xvid.avi"):
        frames = read_video(name)
        assert len(frames) == (1 if name == "one.mp4" else 6)
        assert {frame.shape[:2] for frame in frames} == {sizes.get(name, (64, 96))}
        last = 20.0 if name == "one.mp4" else 76.0
        x, area = centre(frames[-1])
        assert abs(x - last) < 2, name
        assert abs(area - disk(5).sum()) < 60, name
    # What each frame adds stays (disposal 1), goes (2), or what was before comes back (3).
    warm = [centre(read_video(f"disp{k}.gif")[-1])[1] for k in (1, 2, 3)]
    assert warm == [1596, 336, 252]
    for name in ("cut.mp4", "cut.mkv"):
        with pytest.raises(VideoError, match=f"{name}.*cut short"):
            read_video(name)


def test_51_exif_rotated_jpeg(vmt: Vmt) -> None:
    """a.json has the upright sizes, b.json those of the stored pixels: all agree on a."""
    said = vmt("check-annotations", "a.json", "--images", "frames").said
    assert "0 defects" in said
    files = ("--images", "frames", "--output")
    vmt("refine", "--masks", "a.json", *files, "a out.json")
    assert Path("a out.json").is_file()
    with Image.open("frames/v1/00000.jpg") as image:
        assert image.size == (96, 64)
        assert image.getexif()[0x0112] == 6
        assert (read_frame(Path("frames/v1/00000.jpg")).shape) == (96, 64, 3)
    data = ("--train-images", "frames", "--num-gpus", 0, "--output")
    assert vmt(*TRAIN, "--train", "a.json", *data, "ta", *QUICKLY).status == 0

    checked = vmt("check-annotations", "b.json", "--images", "frames")
    assert checked.status == 1
    assert "its EXIF orientation (6) turns it, here as in viewers and in training" in checked.out
    refused = vmt("refine", "--masks", "b.json", *files, "b out.json").sentence
    assert "says that v1 has frames of 96x64 pixels, but those of frames/v1 have 64x96" in refused
    refused = vmt(*TRAIN, "--train", "b.json", *data, "tb", *QUICKLY).sentence
    assert "is 64x96 pixels (turned upright by its EXIF orientation)" in refused

    checked = vmt("check-annotations", "c.json", "--images", "frames3")
    assert "are turned or mirrored by EXIF (orientation 3), which their sizes do not" in checked.out


def test_52_image_modes_train_vs_demo(vmt: Vmt) -> None:
    for path in sorted(Path("img").iterdir()):
        train, inference = read_frame(path), read_image(path)
        assert (train == inference).all(), path
        assert train.shape == (64, 96, 3)
        assert train.dtype == np.uint8
        assert train.std() > 5, f"{path}: a picture, not one colour"
    with Image.open("img/grey16.png") as image:
        deep = np.array(image).astype(int)
    assert np.abs(read_frame(Path("img/grey16.png"))[..., 0] - deep / 257).max() < 1.01
    with Image.open("img/rgba.png") as image:
        pixels = np.array(image).astype(float)
    over_black = pixels[..., :3] * pixels[..., 3:] / 255
    assert np.abs(read_frame(Path("img/rgba.png")) - over_black).max() < 1.01


def test_53_train_mixed_sizes(vmt: Vmt) -> None:
    checked = vmt("check-annotations", "a.json", "--images", "frames")
    assert checked.status == 1
    for sentence in (
        "videos[0].file_names[3] = [96, 64]: the video says [64, 96].",
        "videos[1].file_names[3] = [128, 192]: the video says [64, 96].",
        "videos[2].file_names[4] = 'v3/00004.jpg': no such file.",
        "videos[3].file_names[2] = 'v4/00002.jpg': cannot be read as an image: it is cut off",
        "ground truth, 4 defects",
    ):
        assert sentence in checked.out
    refused = vmt("refine", "--masks", "a.json", "--images", "frames", "--output", "o.json")
    assert "4 videos of 4 could not be refined (see above)" in refused.sentence
    assert "v2/00003.jpg: is 192x128 pixels, but 00000.jpg is 96x64" in refused.err
    assert "v4/00002.jpg: cannot be read as an image: it is cut off" in refused.err
    assert not Path("o.json").exists()


def test_92_trimmed_mp4_edit_list(vmt: Vmt) -> None:
    """Twelve coded frames, of which players show the last seven, or the first seven."""
    for name, first in (("", 5), ("_gop", 5), ("_gop3", 5), ("_end", 0)):
        path = f"trimmed{name}.mp4"
        (opener,) = open_videos(path)
        video = opener()
        frames = list(video)
        assert video.num_frames == len(frames) == 7
        for t, frame in enumerate(frames):
            assert abs(centre(frame)[0] - (20 + (first + t) * 56 / 11)) < 1, (path, t)
    for masks, number in (("masks", 0), ("masks_from_1", 1)):
        vmt("refine", "--masks", masks, "--video", "trimmed.mp4", "--output", "out")
        named = {f"{t + number:05d}.png": t + 5 for t in range(7)}
        assert_on_its_frame("out", named, frames=12)
        shutil.rmtree("out")
        Path("out.changes.json").unlink()
