"""Results of an evaluation on disk: one file per finished video, joined at the end.

BDD100K MOTS has two more forms: a file per video of Scalabel frames, joined likewise, and bitmasks.

What is finished stays finished: an evaluation that was killed goes on with the videos that have no
file yet. The files belong to one network, one data set and one way of running (a fingerprint); for
another, they are put aside, and come back when it is their turn again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import nn

from vmt.data.records import VideoRecord
from vmt.utils.atomic import AtomicFile, make_folder, write_text
from vmt.utils.errors import OutputError
from vmt.version import __version__

logger = logging.getLogger(__name__)

#: File of the fingerprint.
MARK = "fingerprint"
#: Settings that cannot change ``results.json``; and those whose content is in the fingerprint.
WITHOUT_EFFECT = (
    *("MODEL.WEIGHTS", "MODEL.NEW_PARAMETERS", "MODEL.DEVICE", "MODEL.LABEL_SPACE"),
    *(
        "TEST.FRAME_CHUNK",
        "TEST.GRAPH",
        "TEST.CONFIDENCE",
        "TEST.EVAL_PERIOD",
        "TEST.METRICS",
        "TEST.PROTOCOL",
    ),
    *("TEST.GRAPH", "TEST.BEST_METRIC", "TEST.ZIP", "TEST.SKIP_BROKEN_VIDEOS"),
    "TEST.EXPECTED_RESULTS",
)


class ResultFolder:
    """``videos/<id>.json`` of finished videos, ``results.json`` of all.

    Of BDD100K MOTS also ``frames/<id>.json``, ``results_scalabel.json`` and
    ``bitmasks/<video>/<frame>.png``, perhaps ``detections/<id>.json`` and
    ``detections_scalabel.json``; those of a video are there before ``videos/<id>.json`` is.

    Args:
        folder: made if need be.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.videos = folder / "videos"
        self.results = folder / "results.json"
        self.frames = folder / "frames"
        self.detections = folder / "detections"
        self.bitmasks = folder / "bitmasks"

    def claim(self, fingerprint: str) -> None:
        """Make the folder; what another network, data set or way of running left is put aside."""
        mark = make_folder(self.folder.parent) / self.folder.name / MARK
        before = mark.read_text(encoding="ascii") if mark.is_file() else fingerprint
        if before != fingerprint:
            aside, again = self._aside(before), self._aside(fingerprint)
            shutil.rmtree(aside, ignore_errors=True)
            self.folder.replace(aside)
            logger.warning(
                "%s: holds results of other weights, settings or data; %s, they are in %s now.",
                self.folder,
                f"going on with those of {again}" if again.is_dir() else "starting over",
                aside,
            )
            if again.is_dir():
                again.replace(self.folder)
        make_folder(self.videos)
        if not mark.is_file():
            write_text(mark, fingerprint)

    def _aside(self, fingerprint: str) -> Path:
        return self.folder.with_name(f"{self.folder.name}.{fingerprint[:8]}")

    def path(self, video_id: int) -> Path:
        """Where the results of a video are, once it is finished."""
        return self.videos / f"{video_id}.json"

    def scalabel(self, parts: Path | None = None) -> Path:
        """The joined file of a folder of Scalabel frames; None: of ``frames``."""
        kind = "results" if parts in (None, self.frames) else "detections"
        return self.folder / f"{kind}_scalabel.json"

    def join(self, video_ids: Iterable[int]) -> int:
        """Write ``results.json`` from the files of the videos; returns the number of entries."""
        return self._join(self.results, map(self.path, video_ids))

    def join_frames(self, parts: Path, video_ids: Iterable[int]) -> int:
        """The same for a folder of Scalabel frames; returns the number of frames."""
        return self._join(self.scalabel(parts), (parts / f"{key}.json" for key in video_ids))

    def _join(self, target: Path, parts: Iterable[Path]) -> int:
        entries = 0
        with AtomicFile(target) as file:
            file.write(b"[")
            for part in parts:
                for line in self._entries(part):
                    file.write((",\n" if entries else "\n").encode() + line)
                    entries += 1
            file.write(b"\n]\n")
        return entries

    @staticmethod
    def _entries(path: Path) -> Iterable[bytes]:
        """One entry per line, as ``ResultsWriter`` lays them out."""
        with path.open("rb") as file:
            for line in file:
                entry = line.strip().rstrip(b",")
                if entry not in (b"[", b"]", b""):
                    yield entry

    def zip(self) -> Path:
        """``results.zip`` with ``results.json`` alone in it, as evaluation servers take it."""
        return self._zip([self.results], self.folder)

    def zip_bitmasks(self) -> Path:
        """``results.zip`` with ``<video>/<frame>.png``, as the server of BDD100K MOTS takes it."""
        return self._zip(sorted(self.bitmasks.rglob("*.png")), self.bitmasks)

    def _zip(self, files: Iterable[Path], root: Path) -> Path:
        path = self.folder / "results.zip"
        with AtomicFile(path) as file:
            try:
                with zipfile.ZipFile(file.name, "w", zipfile.ZIP_DEFLATED) as archive:
                    for member in files:
                        archive.write(member, member.relative_to(root))
            except OSError as error:
                raise OutputError(f"{path}: cannot be written ({error}); free space.") from None
        return path


def fingerprint(
    cfg: CfgNode,
    model: nn.Module,
    records: Iterable[VideoRecord],
    category_ids: Sequence[int | None],
) -> str:
    """Changes with everything that ``results.json`` depends on.

    Those are the version of the code, the weights, all settings of ``MODEL``, ``INPUT`` and
    ``TEST`` but ``WITHOUT_EFFECT``, and what an evaluation reads of a data set: ids, sizes and
    frames of the videos, size and time of every first frame. Masks in the annotations have no part
    in it: a file whose masks were mended is scored anew, and not computed again.

    Args:
        cfg: of the evaluation.
        model: with its weights.
        records: all videos of the set.
        category_ids: under which ids classes leave.
    """
    digest = hashlib.sha256()
    ways: dict[str, Any] = {"version": __version__, "category_ids": list(category_ids)}
    for section in ("MODEL", "INPUT", "TEST"):
        for key, value in cfg[section].items():
            if f"{section}.{key}" not in WITHOUT_EFFECT:
                ways[f"{section}.{key}"] = value
    digest.update(json.dumps(ways, sort_keys=True).encode())
    for record in records:
        frames = [str(path.absolute()) for path in record.frame_paths]
        line = [record.id, record.name, record.height, record.width, _stamp(frames), frames]
        digest.update(json.dumps(line).encode())
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _stamp(frames: Sequence[str]) -> list[int]:
    """Size and time of the first frame; none where it is not there."""
    try:
        stat = Path(frames[0]).stat()
    except (OSError, IndexError):
        return []
    return [stat.st_size, stat.st_mtime_ns]
