"""BDD100K's forms of results, frame by frame: Scalabel JSON of run lengths, and bitmask PNG."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cocoapi_hq.mots.bitmask_png import bitmask_of
from cocoapi_hq.mots.frame_masks import FrameMasks, resolve_overlaps
from cocoapi_hq.mots.mots_config import MotsConfig
from cocoapi_hq.mots.scalabel_io import frames_to_scalabel
from vmt.inference.predictor import FrameResult, TrackMask
from vmt.inference.video_writer import write_png
from vmt.utils.atomic import AtomicFile, make_folder
from vmt.utils.errors import OutputError, scoring_errors

logger = logging.getLogger(__name__)

#: Masks of one bitmask beyond which the BDD100K toolkit stops.
TOOLKIT_LIMIT = 100


@dataclass(frozen=True)
class MotsVideo:
    """A video as the annotations call it.

    Args:
        name: of the video.
        frames: (name, index) of every frame.
        config: the classes.
        labels: class position of each label of the network; None: its objects are left out.
    """

    name: str
    frames: Sequence[tuple[str, int]]
    config: MotsConfig
    labels: Sequence[int | None]

    def masks(self, index: int, tracks: Iterable[TrackMask], where: str) -> FrameMasks:
        """The objects of a frame that have a class."""
        name, number = self.frames[index]
        frame = FrameMasks(self.name, name, number, where=where)
        for track in tracks:
            if (label := self.labels[track.label]) is not None:
                frame.append(track.rle, label, track_id=track.track_id, score=track.score)
        return frame


class ScalabelFrames:
    """A JSON list with a line per frame.

    Args:
        path: of the finished file.
        config: the classes.
    """

    def __init__(self, path: Path, config: MotsConfig) -> None:
        self.name = str(path)
        self._config = config
        self._file = AtomicFile(path)
        self._start = b"[\n"

    def add(self, frame: FrameMasks) -> None:
        """Append a frame."""
        (content,) = frames_to_scalabel([frame], self._config)
        self._file.write(self._start + json.dumps(content, separators=(",", ":")).encode())
        self._start = b",\n"

    def close(self) -> None:
        """Finish the file and give it its name."""
        self._file.write((b"[" if self._start == b"[\n" else b"") + b"\n]\n")
        self._file.commit()

    def discard(self) -> None:
        """Remove it."""
        self._file.discard()


class MotsWriter:
    """One video: Scalabel frames, a folder with a PNG per frame, and perhaps all detections.

    Where masks of tracks overlap, the one with the higher score in that frame has the pixel.
    Detections stay as they are.

    Args:
        path: of the JSON.
        bitmasks: of all videos; this one gets a sub-folder of its name.
        video: its names.
        detections: of a JSON of tracks and of what is in no track; None: none is written.
    """

    def __init__(
        self, path: Path, bitmasks: Path, video: MotsVideo, detections: Path | None = None
    ) -> None:
        self._video = video
        self._count = 0
        self._crowded = 0
        self._folder = make_folder(bitmasks / video.name)
        self._tracks = ScalabelFrames(path, video.config)
        self._all = None if detections is None else ScalabelFrames(detections, video.config)

    def add(self, result: FrameResult, size: tuple[int, int]) -> None:
        """Take in a frame; frames come in order, and all of them.

        Args:
            result: the frame.
            size: (h, w) of the video in pixels.
        """
        assert result.index == self._count, "frames come one after the other"
        frame = self._video.masks(result.index, result.tracks, self._tracks.name)
        with scoring_errors(OutputError):
            frame = resolve_overlaps(frame)
            write_png(self._folder / f"{Path(frame.name).stem}.png", bitmask_of(frame, size))
        self._crowded += len(frame.rles) > TOOLKIT_LIMIT
        self._tracks.add(frame)
        if self._all is not None:
            objects = (*result.tracks, *result.detections)
            self._all.add(self._video.masks(result.index, objects, self._all.name))
        self._count += 1

    def close(self) -> None:
        """Finish the JSON files and give them their names."""
        if self._crowded:
            logger.warning(
                "%s: %d frames have more than %d masks; the BDD100K toolkit takes no such bitmask.",
                self._video.name,
                self._crowded,
                TOOLKIT_LIMIT,
            )
        if self._all is not None:
            self._all.close()
        self._tracks.close()

    def discard(self) -> None:
        """Remove everything."""
        self._tracks.discard()
        if self._all is not None:
            self._all.discard()
        shutil.rmtree(self._folder, ignore_errors=True)
