"""``vmt demo`` from the command line to the files, with a network that finds coloured blobs."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cocoapi_hq.io import rle
from tests.cli.test_refine import Shave, shaved
from tests.inference.fake_model import BlobFrameModel, BlobModel, blob_video
from vmt.apps import segment
from vmt.cli.main import main
from vmt.inference.video_file import VideoFile
from vmt.inference.video_writer import VideoWriter

SIZE = (72, 120)
CONFIG = "configs/quick/vmt_tiny_released.yaml"


@pytest.fixture(autouse=True)
def blobs(monkeypatch: pytest.MonkeyPatch, repo: Path) -> None:
    monkeypatch.setattr(segment, "load_segmenter", lambda *args: BlobModel())
    monkeypatch.chdir(repo)


def video(path: Path, frames: int = 12, size: tuple[int, int] = SIZE) -> Path:
    with VideoWriter(path, 10.0, size) as writer:
        for frame in blob_video(frames, size):
            writer.write(frame.numpy())
    return path


def run(spec: Path | str, output: Path, *more: str) -> int:
    argv = ["demo", "--config-file", CONFIG, "--input", str(spec), "--output", str(output)]
    return main([*argv, *more, "INPUT.MIN_SIZE_TEST", "72"])


def results(output: Path) -> list[dict]:
    return json.loads((output / "results.json").read_text())


def rows(path: Path) -> list[dict]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("association", ["bisoftmax", "embedding_hungarian"])
def test_a_network_for_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, association: str
) -> None:
    """No windows are spoken of, and the tracks are those of the two colours."""
    monkeypatch.setattr(segment, "load_segmenter", lambda *args: BlobFrameModel(association))
    spec, out = video(tmp_path / "a.mp4", frames=60), tmp_path / "out"
    assert run(spec, out, "--save-masks") == 0
    assert "in windows" not in capsys.readouterr().out
    entries = [e for e in results(out) if e["score"] > 0.5]
    assert sorted(e["category_id"] for e in entries) == [10, 20]
    assert all(len(e["segmentations"]) == 60 and all(e["segmentations"]) for e in entries)
    assert len({row["track"] for row in rows(out / "tracks.csv")}) == 2


@pytest.mark.parametrize("window", ["5", "all"])
def test_masks_of_any_network_are_sharpened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: str
) -> None:
    """By a refiner that takes the outermost pixels off and looks ahead; all else stays."""
    refiner = Shave()
    monkeypatch.setattr(segment.MaskRefiner, "from_pretrained", lambda *args: refiner)
    spec, out = video(tmp_path / "a.mp4"), tmp_path / "out"
    assert run(spec, out / "plain", "--window", window) == 0
    assert not refiner.videos
    assert run(spec, out / "sharp", "--window", window, "--refiner", "any") == 0
    assert [len(frames) for frames in refiner.videos] == [12]
    plain, sharp = results(out / "plain"), results(out / "sharp")
    assert len(plain) == len(sharp) > 1
    for before, after in zip(plain, sharp, strict=True):
        assert {**before, "segmentations": 0} == {**after, "segmentations": 0}
        for old, new in zip(before["segmentations"], after["segmentations"], strict=True):
            small = shaved(rle.decode(old))
            assert np.array_equal(rle.decode(new), small if small.any() else rle.decode(old))


@pytest.mark.parametrize("window", ["5", "all"])
def test_every_file_of_a_run(tmp_path: Path, window: str) -> None:
    spec, out = video(tmp_path / "a.mp4"), tmp_path / "out"
    assert run(spec, out, "--window", window, "--save-masks", "--save-frames") == 0
    assert sorted(p.name for p in out.iterdir()) == [
        "frames",
        "masks",
        "overlay.mp4",
        "results.json",
        "tracks.csv",
    ]
    best = [e for e in results(out) if e["score"] > 0.5]
    assert [(e["video_name"], e["category_id"]) for e in best] == [("a", 10), ("a", 20)]
    assert [len(e["segmentations"]) for e in best] == [12, 12]
    table = rows(out / "tracks.csv")
    assert len(table) == 24
    for row in table:
        segment = best[int(row["track"]) - 1]["segmentations"][int(row["frame"])]
        assert rle.area(segment) == int(row["area"])
        assert rle.to_box(segment) == tuple(int(row[k]) for k in "xywh")
    overlay = list(VideoFile(out / "overlay.mp4"))
    assert len(overlay) == 12
    drawn = np.asarray(Image.open(out / "frames" / "00007.png")).astype(int)
    assert np.abs(overlay[7].astype(int) - drawn).mean() < 6
    ids = np.asarray(Image.open(out / "masks" / "00007.png"))
    assert (ids == 1).sum() == int(table[14]["area"])


def test_low_confidence_shows_what_results_keep(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    spec, out = video(tmp_path / "a.mp4"), tmp_path / "out"
    assert run(spec, out, "--confidence", "0.95", "--no-overlay") == 0
    assert rows(out / "tracks.csv") == []
    assert len(results(out)) == 2
    assert not (out / "overlay.mp4").exists()
    assert run(spec, out, "--confidence", "0.95") == 0
    assert "no track reaches 0.95" in capsys.readouterr().out


def test_many_videos_of_a_json(tmp_path: Path) -> None:
    videos = []
    for k, name in enumerate(("aaa", "bbb")):
        (tmp_path / name).mkdir()
        for t, frame in enumerate(blob_video(4 + k, SIZE)):
            Image.fromarray(frame.numpy()).save(tmp_path / name / f"{t:05d}.png")
        files = [f"{name}/{t:05d}.png" for t in range(4 + k)]
        videos.append({"id": k + 1, "file_names": files})
    spec, out = tmp_path / "valid.json", tmp_path / "out"
    spec.write_text(json.dumps({"videos": videos}))
    assert run(spec, out, "--images", str(tmp_path), "--window", "3") == 0
    assert [(e["video_id"], len(e["segmentations"])) for e in results(out)] == [
        (1, 4),
        (1, 4),
        (2, 5),
        (2, 5),
    ]
    assert (out / "aaa" / "overlay.mp4").exists()
    assert len(rows(out / "bbb" / "tracks.csv")) == 10

    broken = tmp_path / "aaa" / "00002.png"
    broken.write_bytes(broken.read_bytes()[:300])
    assert run(spec, out, "--images", str(tmp_path), "--window", "3") == 2
    entries = results(out)
    assert [(e["video_id"], len(e["segmentations"])) for e in entries][2:] == [(2, 5), (2, 5)]
    assert [m is None for m in entries[0]["segmentations"]] == [False, False, True, True]


def test_results_of_a_json_have_its_category_ids(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """The blob is red; the network calls it 10, the files 3, 0, nothing, and nothing they know."""
    names = [f"v/{t:05d}.png" for t in range(3)]
    (tmp_path / "v").mkdir()
    for name, frame in zip(names, blob_video(3, SIZE, blobs=1), strict=True):
        Image.fromarray(frame.numpy()).save(tmp_path / name)
    size = {"height": SIZE[0], "width": SIZE[1]}
    spec = tmp_path / "valid.json"
    content = {"videos": [{"id": 4, "length": 3, "file_names": names, **size}]}
    for classes, expected in (
        ({"blue": 10, "Red": 3}, {3}),
        ({"blue": 10, "Red": 0}, {0}),
        ({"blue": 10}, set()),
        ({"cup": 10}, {10}),
    ):
        content["categories"] = [{"id": key, "name": name} for name, key in classes.items()]
        spec.write_text(json.dumps(content | {"annotations": []}))
        assert run(spec, tmp_path / "out", "--images", str(tmp_path), "--no-overlay") == 0
        found = results(tmp_path / "out")
        assert {row["category_id"] for row in found if row["score"] > 0.5} == expected
    said = capsys.readouterr().out
    assert "lacks 1 of 3 classes; results.json is without them" in said
    assert "lacks 2 of 3 classes" in said
    assert "results.json has the network's own category ids" in said
    assert "(cup) are none of the network's (red, green, blue)" in said


def test_a_truncated_video_keeps_its_frames(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    spec, out = video(tmp_path / "a.mp4", 40), tmp_path / "out"
    data = spec.read_bytes()
    spec.write_bytes(data[: int(len(data) * 0.8)])
    assert run(spec, out, "--window", "5") == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "a.mp4: only" in error
    assert "the file is cut short: copy or export it again" in error
    done = len(list(VideoFile(out / "overlay.mp4")))
    assert 5 < done < 40
    assert {len(e["segmentations"]) for e in results(out)} == {done}
    assert rows(out / "tracks.csv")[-1]["frame"] == str(done - 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: (p / "a.mp4").touch() or p / "a.mp4", "is empty (0 bytes)"),
        (lambda p: p / "gone.mp4", "no such file or folder"),
        (lambda p: (p / "a.txt").touch() or p / "a.txt", "not a kind of video"),
        (lambda p: p, "has no images"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture, make: object, message: str
) -> None:
    spec = make(tmp_path)
    assert run(spec, tmp_path / "out") == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1
    assert message in error[0]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--window", "none"), "--window none: give a number"),
        (("--window", "4", "--stride", "4"), "share no frame"),
        (("--confidence", "7"), "--confidence 7.0 is outside"),
        (("--max-frames", "0"), "at least 1 frame"),
    ],
)
def test_bad_options(
    tmp_path: Path, capsys: pytest.CaptureFixture, more: tuple[str, ...], message: str
) -> None:
    assert run(video(tmp_path / "a.mp4"), tmp_path / "out", *more) == 2
    assert message in capsys.readouterr().err


def test_an_output_that_is_a_file(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "out").touch()
    assert run(video(tmp_path / "a.mp4"), tmp_path / "out") == 2
    assert "out: cannot be written" in capsys.readouterr().err


def test_one_pixel_and_odd_sizes(tmp_path: Path) -> None:
    for k, size in enumerate(((1, 1), (3, 5), (71, 33))):
        folder = tmp_path / str(k)
        folder.mkdir()
        for t in range(3):
            Image.new("RGB", size[::-1], (255, 0, 0)).save(folder / f"{t}.png")
        assert run(folder, tmp_path / f"out{k}", "--window", "2", "--save-masks") == 0
        assert [e["segmentations"][0]["size"] for e in results(tmp_path / f"out{k}")] == [
            list(size)
        ]


def test_long_videos_go_in_windows_by_themselves(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    spec = video(tmp_path / "a.mp4", 45, (24, 32))
    assert run(spec, tmp_path / "out", "TEST.WINDOW", "0") == 0
    assert "in windows of 10" in capsys.readouterr().out
    assert run(spec, tmp_path / "out", "--max-frames", "9", "TEST.WINDOW", "0") == 0
    assert "in windows" not in capsys.readouterr().out
    assert {len(e["segmentations"]) for e in results(tmp_path / "out")} == {9}


SLOW_RUN = """
import sys, time
from tests.inference.fake_model import BlobModel
from vmt.apps import segment
from vmt.cli.main import main

class Slow(BlobModel):
    def segment_clip(self, frames):
        time.sleep(0.1)
        return super().segment_clip(frames)

segment.load_segmenter = lambda *args: Slow()
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_finishes_the_files(tmp_path: Path, repo: Path, number: signal.Signals) -> None:
    spec, out = video(tmp_path / "a.mp4", 300), tmp_path / "out"
    argv = ["demo", "--config-file", CONFIG, "--input", str(spec), "--output", str(out)]
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_RUN, *argv, "--window", "3", "INPUT.MIN_SIZE_TEST", "72"],
        cwd=repo,
        env={**os.environ, "PYTHONPATH": str(repo), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    rows_so_far = out / "tracks.csv.part"
    deadline = time.monotonic() + 120
    while not (rows_so_far.exists() and rows_so_far.read_bytes().count(b"\n") > 10):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert "interrupted" in error
    assert sorted(p.name for p in out.iterdir()) == ["overlay.mp4", "results.json", "tracks.csv"]
    done = len(list(VideoFile(out / "overlay.mp4")))
    assert 4 < done < 300
    assert [len(e["segmentations"]) for e in results(out)] == [done, done]
    assert rows(out / "tracks.csv")[-1]["frame"] == str(done - 1)


def test_a_full_disk_ends_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """The reserve is refused after a few frames, as on a disk that fills up."""
    grow = segment.DiskReserve.grow
    calls = []

    def limited(self: segment.DiskReserve, size: int) -> None:
        calls.append(size)
        grow(self, size)
        if len(calls) == 20:
            self.release()

    monkeypatch.setattr(segment.DiskReserve, "grow", limited)
    spec, out = video(tmp_path / "a.mp4", 30), tmp_path / "out"
    assert run(spec, out, "--window", "5") == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "the disk is full after" in error
    done = len(list(VideoFile(out / "overlay.mp4")))
    assert 0 < done < 30
    assert f"after {done} frames" in error
    assert {len(e["segmentations"]) for e in results(out)} == {done}
    assert len(rows(out / "tracks.csv")) == 2 * done


def test_help_closes_with_an_example(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        main(["demo", "--help"])
    text = capsys.readouterr().out
    assert "vmt demo --config-file" in text
    assert "--confidence" in text


def test_a_camera_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A source that cannot be read again, cut to a length at which the video goes in one piece."""

    class FakeCamera:
        name, fps, size, num_frames, video_id = "camera0", 10.0, SIZE, None, 1
        complete_length = rereadable = False
        starts = 0

        def __iter__(self) -> Iterator[np.ndarray]:
            self.starts += 1
            return (frame.numpy() for frame in blob_video(100, SIZE))

    camera = FakeCamera()
    monkeypatch.setattr(segment, "open_videos", lambda *_: [lambda: camera])
    assert run("0", tmp_path / "out", "--max-frames", "6", "TEST.WINDOW", "0") == 0
    assert camera.starts == 1
    assert len(list(VideoFile(tmp_path / "out" / "overlay.mp4"))) == 6
    assert run("0", tmp_path / "out", "--window", "all") == 2
