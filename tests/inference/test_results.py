"""Result files: right content, valid at any end, no memory, and a full disk loses nothing."""

import csv
import errno
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from cocoapi_hq.io import rle
from tests.inference.fake_model import LABELS
from vmt.inference.association.base import ClassScore, TrackSummary
from vmt.inference.predictor import FrameResult, TrackMask
from vmt.inference.results import LabelMapWriter, ResultsWriter, TrackTable
from vmt.utils import atomic
from vmt.utils.atomic import AtomicFile, DiskReserve
from vmt.utils.errors import OutputError

SIZE = (6, 8)


def source(**changes: object) -> SimpleNamespace:
    values = {"name": "clip", "video_id": 5, "size": SIZE, "num_frames": 4}
    return SimpleNamespace(**{**values, "complete_length": False, **changes})


def mask(x: int) -> np.ndarray:
    dense = np.zeros(SIZE, dtype=np.bool_)
    dense[1:4, x : x + 2] = True
    return dense


def track(track_id: int, x: int, score: float = 0.9, label: int = 0) -> TrackMask:
    coded = rle.encode(mask(x))
    return TrackMask(track_id, label, score, coded, (x, 1, x + 2, 4), 6)


def summary(track_id: int, *pairs: tuple[int, float]) -> TrackSummary:
    return TrackSummary(track_id, tuple(ClassScore(*pair) for pair in pairs))


@pytest.fixture
def reserve(tmp_path: Path) -> DiskReserve:
    return DiskReserve(tmp_path, 0)


def test_results_json(tmp_path: Path, reserve: DiskReserve) -> None:
    writer = ResultsWriter(tmp_path / "results.json", LABELS.category_ids, reserve)
    writer.begin_video(source())
    writer.add(FrameResult(0, (track(1, 0), track(2, 3))))
    writer.add(FrameResult(1, ()))
    writer.add(FrameResult(2, (track(2, 4),), closed=(summary(1, (0, 0.9)),)))
    writer.add(FrameResult(3, (), closed=(summary(2, (1, 0.8), (2, 0.2)),)))
    writer.end_video()
    writer.begin_video(source(name="second", video_id=6))
    writer.add(FrameResult(0, (track(1, 1),), closed=(summary(1, (2, 0.5)), summary(7, (0, 0.4)))))
    writer.end_video()
    writer.close()
    reserve.close()
    entries = json.loads((tmp_path / "results.json").read_text())
    assert [(e["video_id"], e["video_name"], e["score"], e["category_id"]) for e in entries] == [
        (5, "clip", 0.9, 10),
        (5, "clip", 0.8, 20),
        (5, "clip", 0.2, 30),
        (6, "second", 0.5, 30),
        (6, "second", 0.4, 10),
    ]
    masks = [e["segmentations"] for e in entries]
    assert masks[0] == [rle.encode(mask(0)), None, None, None]
    assert masks[1] == masks[2] == [rle.encode(mask(3)), None, rle.encode(mask(4)), None]
    assert masks[3] == [rle.encode(mask(1))]
    assert masks[4] == [None]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["results.json"]


def test_scores_below_a_thousandth_list_no_mask(tmp_path: Path, reserve: DiskReserve) -> None:
    writer = ResultsWriter(tmp_path / "results.json", LABELS.category_ids, reserve)
    writer.begin_video(source())
    closed = (summary(1, (0, 0.5), (1, 0.0009)),)
    writer.add(FrameResult(0, (track(1, 0),), closed=closed))
    writer.end_video()
    writer.close()
    kept, emptied = json.loads((tmp_path / "results.json").read_text())
    assert kept["segmentations"][0] is not None
    assert emptied["segmentations"] == [None]


def test_annotated_videos_keep_their_length(tmp_path: Path, reserve: DiskReserve) -> None:
    writer = ResultsWriter(tmp_path / "results.json", LABELS.category_ids, reserve)
    writer.begin_video(source(complete_length=True))
    writer.add(FrameResult(0, (track(1, 0),)))
    writer.close_tracks([summary(1, (0, 0.5))])
    writer.end_video()
    writer.close()
    (entry,) = json.loads((tmp_path / "results.json").read_text())
    assert [m is None for m in entry["segmentations"]] == [False, True, True, True]


def test_no_video_no_track_is_valid_too(tmp_path: Path, reserve: DiskReserve) -> None:
    writer = ResultsWriter(tmp_path / "results.json", LABELS.category_ids, reserve)
    writer.end_video()
    writer.close()
    assert json.loads((tmp_path / "results.json").read_text()) == []


def test_an_earlier_file_stays_until_the_end(tmp_path: Path, reserve: DiskReserve) -> None:
    (tmp_path / "results.json").write_text("earlier")
    writer = ResultsWriter(tmp_path / "results.json", LABELS.category_ids, reserve)
    assert (tmp_path / "results.json").read_text() == "earlier"
    writer.close()
    writer.close()
    assert json.loads((tmp_path / "results.json").read_text()) == []


def test_tracks_csv(tmp_path: Path, reserve: DiskReserve) -> None:
    table = TrackTable(tmp_path / "tracks.csv", LABELS, 0.3, reserve)
    table.add(FrameResult(0, (track(1, 2, 0.87654, 1), track(2, 0, 0.2))))
    rows = (tmp_path / "tracks.csv.part").read_text().splitlines()
    assert rows == ["frame,track,label,score,x,y,w,h,area", "0,1,green,0.8765,2,1,2,3,6"]
    table.add(FrameResult(1, ()))
    table.close()
    with (tmp_path / "tracks.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 1


def test_label_maps(tmp_path: Path) -> None:
    writer = LabelMapWriter(tmp_path / "masks", SIZE, 0.3, [7] * 768)
    writer.add(FrameResult(3, (track(1, 2, 0.9), track(2, 3, 0.5), track(3, 6, 0.1))))
    with Image.open(tmp_path / "masks" / "00003.png") as image:
        assert image.mode == "P"
        ids = np.asarray(image)
    expected = np.where(mask(2), 1, np.where(mask(3), 2, 0))
    np.testing.assert_array_equal(ids, expected)
    writer.add(FrameResult(4, (track(300, 2),)))
    with Image.open(tmp_path / "masks" / "00004.png") as image:
        np.testing.assert_array_equal(np.asarray(image), 300 * mask(2))


# A full disk ------------------------------------------------------------------------------------


class Disk:
    """Room for so many bytes in files of AtomicFile; the reserve lies on it as well."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
        self.room = room
        write = AtomicFile.write
        disk = self

        class Limited:
            def __init__(self, file: object) -> None:
                self.file = file

            def write(self, data: memoryview) -> int:
                fits = min(len(data), disk.room)
                if not fits:
                    raise OSError(errno.ENOSPC, "No space left on device")
                disk.room -= fits
                return self.file.write(data[:fits])

            def __getattr__(self, name: str) -> object:
                return getattr(self.file, name)

        def limited_write(self: AtomicFile, data: bytes) -> int:
            if not isinstance(self._file, Limited):
                self._file = Limited(self._file)
            return write(self, data)

        def allocate(file: object, offset: int, size: int) -> None:
            if size > disk.room:
                raise OSError(errno.ENOSPC, "No space left on device")
            disk.room -= size

        remove = DiskReserve._remove

        def give_back(self: DiskReserve) -> None:
            disk.room += self._size
            remove(self)

        monkeypatch.setattr(AtomicFile, "write", limited_write)
        monkeypatch.setattr(atomic, "_allocate", allocate)
        monkeypatch.setattr(DiskReserve, "_remove", give_back)
        monkeypatch.setattr(DiskReserve, "STEP", 4096)


@pytest.mark.parametrize("room", [7000, 9000, 20000, 50000])
def test_what_was_finished_stays_valid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    Disk(monkeypatch, room)
    reserve = DiskReserve(tmp_path, 1)
    writer = ResultsWriter(tmp_path / "results.json", LABELS.category_ids, reserve)
    table = TrackTable(tmp_path / "tracks.csv", LABELS, 0.3, reserve)
    writer.begin_video(source())
    frames = 0
    while not reserve.released:
        result = FrameResult(frames, (track(1, frames % 7), track(2, 1)))
        writer.add(result)
        table.add(result)
        frames += 1
    assert frames > 5
    table.close()
    writer.close_tracks([summary(1, (0, 0.9)), summary(2, (1, 0.8))])
    writer.end_video()
    writer.close()
    reserve.close()
    entries = json.loads((tmp_path / "results.json").read_text())
    assert [len(e["segmentations"]) for e in entries] == [frames, frames]
    assert entries[0]["segmentations"][frames - 1] == rle.encode(mask((frames - 1) % 7))
    rows = (tmp_path / "tracks.csv").read_text().splitlines()
    assert len(rows) == 1 + 2 * frames


def test_without_a_reserve_whole_entries_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch, 10**9)
    reserve = DiskReserve(tmp_path, 0)
    writer = ResultsWriter(tmp_path / "results.json", LABELS.category_ids, reserve)
    table = TrackTable(tmp_path / "tracks.csv", LABELS, 0.3, reserve)
    writer.begin_video(source())
    writer.add(FrameResult(0, (track(1, 0), track(2, 1))))
    writer.close_tracks([summary(1, (0, 0.9)), summary(2, (1, 0.8))])
    reserve.release()
    disk.room = 200
    with pytest.raises(OutputError, match=r"results\.json: .*the disk is full\); free some space"):
        writer.end_video()
    disk.room = 0
    with pytest.raises(OutputError, match=r"tracks\.csv: .*the disk is full"):
        table.add(FrameResult(0, (track(1, 0),)))
    disk.room = 10  # what the cut-off entry gave back
    writer.close()
    table.close()
    (entry,) = json.loads((tmp_path / "results.json").read_text())
    assert entry["score"] == 0.9
    assert len((tmp_path / "tracks.csv").read_text().splitlines()) == 1
