"""Results of an evaluation on disk: one file per finished video, joined at the end.

What is finished stays finished: an evaluation that was killed goes on with the videos that have no
file yet. The files belong to one network and one way of running it (a fingerprint); for another,
they are removed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import zipfile
from collections.abc import Iterable
from pathlib import Path

from fvcore.common.config import CfgNode
from torch import nn

from vmt.inference.atomic import AtomicFile, make_folder
from vmt.utils.errors import OutputError

logger = logging.getLogger(__name__)


class ResultFolder:
    """``videos/<id>.json`` of finished videos, ``results.json`` of all.

    Args:
        folder: made if need be.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.videos = folder / "videos"
        self.results = folder / "results.json"

    def claim(self, fingerprint: str) -> None:
        """Make the folder; what another network or way of running left in it is removed."""
        mark = make_folder(self.folder) / "fingerprint"
        if mark.is_file() and mark.read_text(encoding="ascii") != fingerprint:
            logger.warning("%s: holds results of other weights or settings; starting over.", mark)
            shutil.rmtree(self.videos, ignore_errors=True)
            self.results.unlink(missing_ok=True)
            mark.unlink()
        make_folder(self.videos)
        if not mark.is_file():
            with AtomicFile(mark) as file:
                file.write(fingerprint.encode())

    def path(self, video_id: int) -> Path:
        """Where the results of a video are, once it is finished."""
        return self.videos / f"{video_id}.json"

    def join(self, video_ids: Iterable[int]) -> int:
        """Write ``results.json`` from the files of the videos; returns the number of entries."""
        entries = 0
        with AtomicFile(self.results) as file:
            file.write(b"[")
            for video_id in video_ids:
                for line in self._entries(self.path(video_id)):
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
        path = self.folder / "results.zip"
        with AtomicFile(path) as file:
            try:
                with zipfile.ZipFile(file.name, "w", zipfile.ZIP_DEFLATED) as archive:
                    archive.write(self.results, "results.json")
            except OSError as error:
                raise OutputError(f"{path}: cannot be written ({error}); free space.") from None
        return path


def fingerprint(cfg: CfgNode, model: nn.Module) -> str:
    """Changes with the weights and with every setting that results depend on."""
    digest = hashlib.sha256()
    ways = {
        "WINDOW": cfg.TEST.WINDOW,
        "STRIDE": cfg.TEST.STRIDE,
        "TOP_K": cfg.TEST.TOP_K,
        "CROP_TO_INPUT": cfg.TEST.CROP_TO_INPUT,
        "PRECISION": cfg.TEST.PRECISION,
        "MIN_SIZE_TEST": cfg.INPUT.MIN_SIZE_TEST,
        "MAX_SIZE_TEST": cfg.INPUT.MAX_SIZE_TEST,
        "REFINER": dict(cfg.MODEL.REFINER),
    }
    digest.update(json.dumps(ways, sort_keys=True).encode())
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
