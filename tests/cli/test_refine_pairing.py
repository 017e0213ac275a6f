"""``vmt refine`` puts masks on their frames: containers, numbers in names, folders of both."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from tests.cli.test_refine import H, Shave, T, W, label_map, one_line, run, save_map, shaved_map
from vmt.apps.refine import job

pytestmark = pytest.mark.usefixtures("refiner")


def write_clip(path: Path, count: int = T) -> Path:
    """Frames that are ten times their index, in a container that may not count them."""
    codec = {".mkv": "ffv1", ".avi": "mpeg4", ".gif": "gif", ".mp4": "mpeg4"}[path.suffix]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.height, stream.width = H, W
        stream.pix_fmt = {"gif": "rgb8"}.get(codec, "yuv420p")
        for t in range(count):
            frame = av.VideoFrame.from_ndarray(np.full((H, W, 3), 10 * t, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_masks(folder: Path, names: dict[str, int]) -> Path:
    """Label maps by name, each of the frame given."""
    folder.mkdir(parents=True)
    for name, t in names.items():
        save_map(folder / f"{name}.png", label_map(t))
    return folder


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".gif", ".avi"])
def test_every_container_pairs_alike(tmp_path: Path, refiner: Shave, suffix: str, capsys) -> None:
    clip = write_clip(tmp_path / f"clip{suffix}")
    named = {
        "from 0": {f"{t}": t for t in range(T)},
        "from 1": {f"{t + 1:05d}": t for t in range(T)},
        "some of them, from 1": {"f3": 2, f"f{T}": T - 1},
    }
    for kind, names in named.items():
        masks = write_masks(tmp_path / kind, names)
        assert run(masks, clip, tmp_path / f"{kind} out") == 0
        for name, t in names.items():
            refined = np.array(Image.open(tmp_path / f"{kind} out" / f"{name}.png"))
            assert (refined == shaved_map(t)).all()
    # Which frame a mask went with: those between the masks are read, too.
    assert [len(video) for video in refiner.videos] == [T, T, T]

    masks = write_masks(tmp_path / "uncertain", {f"{t + 1:05d}": t for t in range(T - 1)})
    assert run(masks, clip, tmp_path / "out") == 2
    assert "say which: --first-number 0 or --first-number 1." in one_line(capsys)
    masks = write_masks(tmp_path / "too far", {"0": 0, str(T): 5})
    assert run(masks, clip, tmp_path / "out") == 2
    assert f"{T}.png: is for frame {T}, but clip has frames 0 to {T - 1}" in one_line(capsys)
    assert len(refiner.videos) == 3, "refused before any frame is refined"


@pytest.mark.parametrize("first", ["0", "1"])
def test_masks_go_with_the_frames_that_the_first_number_says(
    tmp_path: Path, monkeypatch, first: str
) -> None:
    seen: dict[int, list[int]] = {}

    class Look(Shave):
        """Notes what the frames with masks look like."""

        def stream(self, frames, masks, *, accept, window):
            def noted():
                for frame, mask in zip(frames, masks, strict=False):
                    if mask.any():
                        seen[len(seen)] = [round(frame.mean() / 10)]
                    yield frame, mask

            pairs = list(noted())
            return super().stream(
                iter([f for f, _ in pairs]), iter([m for _, m in pairs]), accept=accept, window=1
            )

    monkeypatch.setattr(job, "load_refiner", lambda options: Look())
    masks = write_masks(tmp_path / "masks", {"2": 0, "4": 0})
    clip = write_clip(tmp_path / "clip.mp4")
    assert run(masks, clip, tmp_path / "out", "--first-number", first) == 0
    assert list(seen.values()) == ([[2], [4]] if first == "0" else [[1], [3]])


def test_a_first_number_without_a_video(tmp_path: Path, capsys) -> None:
    masks = write_masks(tmp_path / "masks", {"2": 0})
    assert run(masks, tmp_path, tmp_path / "out", "--first-number", "0") == 2
    assert "--first-number 0: give a number from 0 on, for masks of a --video" in one_line(capsys)


def test_frames_and_masks_in_one_folder(tmp_path: Path, refiner: Shave) -> None:
    both = write_masks(tmp_path / "both", {f"{t:05d}": t for t in range(T)})
    for t in range(T):
        Image.fromarray(np.full((H, W, 3), 10 * t, np.uint8)).save(both / f"{t:05d}.jpg")
    assert run(both, both, tmp_path / "out") == 0
    assert [round(value / 10) for value in refiner.videos[0]] == list(range(T))
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == [f"{t:05d}.png" for t in range(T)]
    assert (np.array(Image.open(tmp_path / "out/00003.png")) == shaved_map(3)).all()


@pytest.mark.parametrize("where", ["--video", "--images"])
def test_a_folder_per_object(tmp_path: Path, where: str) -> None:
    """As tools around SAM 2 write them: v/000/00000.png, v/001/00000.png, 0 and 255."""
    for name, value in (("000", 1), ("001", 4)):
        folder = tmp_path / "masks" / name
        folder.mkdir(parents=True)
        for t in range(T):
            mask = np.where(label_map(t) == value, 255, 0).astype(np.uint8)
            Image.fromarray(mask).save(folder / f"{t:05d}.png")
    frames = write_clip(tmp_path / "clip.mp4")
    if where == "--images":
        frames = tmp_path / "frames"
        frames.mkdir()
        for t in range(T):
            Image.fromarray(np.full((H, W, 3), 10 * t, np.uint8)).save(frames / f"{t:05d}.jpg")
    assert run(tmp_path / "masks", frames, tmp_path / "out") == 0
    for name, value in (("000", 1), ("001", 4)):
        refined = np.array(Image.open(tmp_path / f"out/{name}/00002.png"))
        assert (refined == np.where(shaved_map(2) == value, 255, 0)).all()
