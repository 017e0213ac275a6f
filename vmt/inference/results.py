"""The only writer of result files: results.json, tracks.csv, PNG label maps.

Every file has a temporary name until it is complete. Masks wait on disk, not in memory, until the
scores of their tracks are known; an interrupted or failed run still assembles what was finished.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vmt.inference.association.base import ClassScore, TrackSummary
from vmt.inference.predictor import FrameResult, TrackMask
from vmt.inference.sources import VideoSource
from vmt.inference.video_writer import write_png
from vmt.structures.labels import LabelSpace
from vmt.structures.masks import decode_crop
from vmt.utils.atomic import AtomicFile, DiskReserve, make_folder

#: Entries of a lower score list no mask in any frame
#: (docs/reference/released_code.md#low-scores).
NULL_BELOW = 0.001
_BUFFER = 1 << 16
#: Bytes that the end of a run takes per frame: an mp4's table of contents (generously), and the
#: null of every listed track that the frame lacks.
_MP4_TABLE = 64
_NULL = len("null, ")

CSV_COLUMNS = ("frame", "track", "label", "score", "x", "y", "w", "h", "area")


class MaskSpool:
    """Masks on disk, chained per track: written frame by frame, read track by track.

    A record is one line ``[offset of the track's previous record, frame, counts]``; a closed track
    is one line ``[offset of the previous closed track, offset of its last mask, id, classes]``.
    Memory holds one offset per open track.

    Args:
        path: of the spool, which never gets a final name.
        reserve: grows with what assembling will take.
    """

    def __init__(self, path: Path, reserve: DiskReserve) -> None:
        self._reserve = reserve
        self._file = AtomicFile(path, durable=False, on_full=reserve.release)
        self._reader = self._file.reopen()
        self._end = 0
        self._last_mask: dict[int, int] = {}
        self._last_closed = -1

    def add(self, frame: int, tracks: Iterable[TrackMask]) -> None:
        """Append the masks of one frame, all or none; OutputError when the disk is full."""
        lines: list[bytes] = []
        places: dict[int, int] = {}
        end = self._end
        for track in tracks:
            before = self._last_mask.get(track.track_id, -1)
            lines.append(_line([before, frame, track.rle["counts"]]))
            places[track.track_id] = end
            end += len(lines[-1])
        self._append(b"".join(lines))
        self._last_mask.update(places)

    def close_track(self, summary: TrackSummary) -> None:
        """Note the final scores of a track."""
        last = self._last_mask.get(summary.track_id, -1)
        classes = [[c.label, c.score] for c in summary.classes]
        place = self._end
        self._append(_line([self._last_closed, last, summary.track_id, classes]))
        self._last_closed = place
        self._last_mask.pop(summary.track_id, None)

    def closed_tracks(self) -> Iterator[tuple[int, tuple[ClassScore, ...]]]:
        """(offset of the last mask, classes) of the closed tracks, by ascending id."""
        places: list[tuple[int, int]] = []
        at = self._last_closed
        while at >= 0:
            before, _, track_id, _ = self._read(at)
            places.append((track_id, at))
            at = before
        for _, at in sorted(places):
            _, last, _, classes = self._read(at)
            yield last, tuple(ClassScore(label, score) for label, score in classes)

    def masks(self, last: int) -> Iterator[tuple[int, str]]:
        """(frame, counts) of one track in the order of the frames."""
        places: list[int] = []
        while last >= 0:
            places.append(last)
            last = self._read(last)[0]
        for at in reversed(places):
            _, frame, counts = self._read(at)
            yield frame, counts

    def discard(self) -> None:
        """Remove the spool."""
        self._reader.close()
        self._file.discard()

    def _append(self, data: bytes) -> None:
        self._file.seek(self._end)
        self._file.write(data)
        self._end += len(data)
        # A track may be listed under two classes.
        self._reserve.grow(2 * len(data))

    def _read(self, offset: int) -> Any:
        self._reader.seek(offset)
        return json.loads(self._reader.readline())


def _line(record: list[Any]) -> bytes:
    return json.dumps(record, separators=(",", ":")).encode() + b"\n"


class ResultsWriter:
    """``results.json``: the YouTube-VIS result list, one entry per line, videos one by one.

    Args:
        path: of the finished file.
        category_ids: one per label; tracks of a label without one are left out.
        reserve: room to finish the file on a full disk.
    """

    def __init__(
        self, path: Path, category_ids: Sequence[int | None], reserve: DiskReserve
    ) -> None:
        self.path = path
        self.entries = 0
        self._category_ids = tuple(category_ids)
        self._reserve = reserve
        self._file = AtomicFile(path, on_full=reserve.release)
        self._file.write(b"[")
        self._spool: MaskSpool | None = None

    def begin_video(self, source: VideoSource) -> None:
        """Start a video; the one before must have ended."""
        assert self._spool is None, "end_video comes before the next begin_video"
        self._source = source
        self._frames = 0
        self._closed_pairs = 0
        self._spool = MaskSpool(self.path.with_name(f"{self.path.stem}.spool"), self._reserve)

    def add(self, result: FrameResult) -> None:
        """Take in a frame; frames come in order."""
        assert self._spool is not None, "begin_video comes first"
        self._spool.add(result.index, result.tracks)
        self._frames = result.index + 1
        self.close_tracks(result.closed)
        self._reserve.grow(_MP4_TABLE + _NULL * self._closed_pairs)

    def close_tracks(self, summaries: Iterable[TrackSummary]) -> None:
        """Take in the final scores of tracks."""
        assert self._spool is not None, "begin_video comes first"
        for summary in summaries:
            self._spool.close_track(summary)
            self._closed_pairs += len(summary.classes)
            self._reserve.grow(_NULL * self._frames * len(summary.classes))

    def end_video(self) -> None:
        """Write the entries of the video: one per kept (track, class) pair.

        Raises:
            OutputError: the disk is full; the entries written before stay.
        """
        if self._spool is None:
            return
        spool, self._spool = self._spool, None
        frames = self._frames
        if self._source.complete_length and self._source.num_frames is not None:
            frames = self._source.num_frames
        try:
            for last, classes in spool.closed_tracks():
                for pair in classes:
                    if self._category_ids[pair.label] is not None:
                        self._write_entry(spool, last, pair, frames)
        finally:
            spool.discard()

    def _write_entry(self, spool: MaskSpool, last: int, pair: ClassScore, frames: int) -> None:
        start = self._file.tell()
        try:
            buffer = io.StringIO()
            buffer.write(",\n" if self.entries else "\n")
            for part in self._entry(spool, last, pair, frames):
                buffer.write(part)
                if buffer.tell() >= _BUFFER:
                    self._file.write(buffer.getvalue().encode())
                    buffer = io.StringIO()
            self._file.write(buffer.getvalue().encode())
        except BaseException:
            self._file.truncate(start)
            raise
        self.entries += 1

    def _entry(self, spool: MaskSpool, last: int, pair: ClassScore, frames: int) -> Iterator[str]:
        head = {
            "video_id": self._source.video_id,
            "video_name": self._source.name,
            "score": pair.score,
            "category_id": self._category_ids[pair.label],
        }
        yield json.dumps(head)[:-1] + ', "segmentations": ['
        size = f'{{"size": [{self._source.size[0]}, {self._source.size[1]}], "counts": '
        written = 0
        for frame, counts in spool.masks(last) if pair.score >= NULL_BELOW else ():
            yield "null, " * (frame - written) + size + json.dumps(counts) + "}"
            written = frame + 1
            yield ", " if written < frames else ""
        rest = frames - written
        yield "null, " * (rest - 1) + ("null" if rest else "") + "]}"

    def close(self) -> None:
        """Finish the file and give it its name; a video under way is left out."""
        if self._spool is not None:
            self._spool.discard()
            self._spool = None
        if self._file.closed:
            return
        self._file.write(b"\n]\n")
        self._file.commit()

    def discard(self) -> None:
        """Remove everything unfinished; for failures before the first frame."""
        if self._spool is not None:
            self._spool.discard()
        self._file.discard()


class TrackTable:
    """``tracks.csv``: one row per frame and track, on disk as soon as the frame is finished.

    Args:
        path: of the finished file; rows stand in ``NAME.part`` until ``close``.
        labels: gives the class names.
        confidence: rows of a lower score are left out.
        reserve: room to finish the file on a full disk.
    """

    def __init__(
        self, path: Path, labels: LabelSpace, confidence: float, reserve: DiskReserve
    ) -> None:
        self.rows = 0
        self._labels = labels
        self._confidence = confidence
        self._file = AtomicFile(path, on_full=reserve.release)
        self._end = self._file.write((",".join(CSV_COLUMNS) + "\n").encode())

    def add(self, result: FrameResult) -> None:
        """Append the rows of one frame, all or none; OutputError when the disk is full."""
        buffer = io.StringIO()
        rows = csv.writer(buffer, lineterminator="\n")
        for track in result.tracks:
            if track.score < self._confidence:
                continue
            x1, y1, x2, y2 = track.box_xyxy_px
            name, score = self._labels.names[track.label], f"{track.score:.4f}"
            box = (x1, y1, x2 - x1, y2 - y1)
            rows.writerow((result.index, track.track_id, name, score, *box, track.area))
            self.rows += 1
        try:
            self._end += self._file.write(buffer.getvalue().encode())
        except BaseException:
            self._file.truncate(self._end)
            raise

    def close(self) -> None:
        """Give the file its name."""
        self._file.commit()


class LabelMapWriter:
    """PNG label maps, one per frame: 0 is background, every other value a track id.

    Up to id 255 a file holds 8 bits and a palette, beyond it 16 bits of grey. Where masks overlap,
    the higher score is on top.

    Args:
        folder: created if need be; files are called ``00000.png`` and so on.
        size: (h, w) of the video in pixels.
        confidence: tracks of a lower score are left out.
        palette: 768 numbers, the RGB colours of ids 0 to 255.
    """

    def __init__(
        self, folder: Path, size: tuple[int, int], confidence: float, palette: Sequence[int]
    ) -> None:
        self._folder = make_folder(folder)
        self._size = size
        self._confidence = confidence
        self._palette = palette

    def add(self, result: FrameResult) -> None:
        """Write the map of one frame."""
        tracks = [t for t in result.tracks if t.score >= self._confidence]
        ids = np.zeros(self._size, dtype=np.uint16)
        for track in sorted(tracks, key=lambda t: t.score):
            crop = decode_crop(track.rle)
            h, w = crop.bits.shape
            ids[crop.y : crop.y + h, crop.x : crop.x + w][crop.bits] = min(track.track_id, 65535)
        path = self._folder / f"{result.index:05d}.png"
        if ids.max() <= 255:
            write_png(path, ids.astype(np.uint8), self._palette)
        else:
            write_png(path, ids)
