"""BDD100K's forms of results, frame by frame: Scalabel JSON of run lengths, and bitmask PNG."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

from cocoapi_hq.mots.bitmask_png import bitmask_of
from cocoapi_hq.mots.frame_masks import FrameMasks, resolve_overlaps
from cocoapi_hq.mots.mots_config import MotsConfig
from cocoapi_hq.mots.scalabel_io import frames_to_scalabel
from vmt.inference.predictor import FrameResult
from vmt.inference.video_writer import write_png
from vmt.utils.atomic import AtomicFile, make_folder
from vmt.utils.errors import OutputError, scoring_errors

logger = logging.getLogger(__name__)

#: Masks of one bitmask beyond which the BDD100K toolkit stops.
TOOLKIT_LIMIT = 100


class MotsWriter:
    """One video: a JSON list with a line per frame, and a folder with a PNG per frame.

    Where masks overlap, the one with the higher score in that frame has the pixel.

    Args:
        path: of the JSON.
        bitmasks: of all videos; this one gets a sub-folder of its name.
        frames: (name, index) of every frame, as the annotations have them.
        video: its name.
        config: the classes.
        labels: class position of each label of the network; None: its tracks are left out.
    """

    def __init__(
        self,
        path: Path,
        bitmasks: Path,
        frames: Sequence[tuple[str, int]],
        video: str,
        config: MotsConfig,
        labels: Sequence[int | None],
    ) -> None:
        self._frames = frames
        self._video = video
        self._config = config
        self._labels = tuple(labels)
        self._count = 0
        self._crowded = 0
        self._folder = make_folder(bitmasks / video)
        self._file = AtomicFile(path)
        self._file.write(b"[")

    def add(self, result: FrameResult, size: tuple[int, int]) -> None:
        """Take in a frame; frames come in order, and all of them.

        Args:
            result: the frame.
            size: (h, w) of the video in pixels.
        """
        assert result.index == self._count, "frames come one after the other"
        name, index = self._frames[result.index]
        frame = FrameMasks(self._video, name, index, where=str(self._file.name))
        for track in result.tracks:
            if (label := self._labels[track.label]) is not None:
                frame.append(track.rle, label, track_id=track.track_id, score=track.score)
        with scoring_errors(OutputError):
            frame = resolve_overlaps(frame)
            write_png(self._folder / f"{Path(name).stem}.png", bitmask_of(frame, size))
        self._crowded += len(frame.rles) > TOOLKIT_LIMIT
        (content,) = frames_to_scalabel([frame], self._config)
        line = json.dumps(content, separators=(",", ":")).encode()
        self._file.write((b",\n" if self._count else b"\n") + line)
        self._count += 1

    def close(self) -> None:
        """Finish the JSON and give it its name."""
        if self._crowded:
            logger.warning(
                "%s: %d frames have more than %d masks; the BDD100K toolkit takes no such bitmask.",
                self._video,
                self._crowded,
                TOOLKIT_LIMIT,
            )
        self._file.write(b"\n]\n")
        self._file.commit()

    def discard(self) -> None:
        """Remove everything."""
        self._file.discard()
        shutil.rmtree(self._folder, ignore_errors=True)
