"""What an evaluation does for BDD100K MOTS beside ``results.json``: its files and its numbers."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fvcore.common.config import CfgNode

from cocoapi_hq.mots.mots_config import MotsConfig
from vmt.data.catalog import Located
from vmt.data.datasets.mots import frame_indices
from vmt.data.records import VideoDataset, VideoRecord
from vmt.engine.result_folder import ResultFolder
from vmt.evaluation.scoring import score
from vmt.inference.mots_results import MotsVideo, MotsWriter
from vmt.modeling.video_model import FrameModel, Segmenter
from vmt.utils.atomic import make_folder
from vmt.utils.errors import ConfigError

logger = logging.getLogger(__name__)

#: Metrics that read Scalabel frames.
METRICS = ("bdd_mots", "hota", "frame_ap")
#: Those of the tables.
PUBLISHED = ("bdd_mots", "frame_ap")
#: What the frame AP of detections is called, beside that of tracks.
DETECTION_AP = "detection_ap"


@dataclass(frozen=True)
class MotsSet:
    """A data set in one of the forms of BDD100K MOTS.

    Args:
        truth: file or folder of its annotations; None where the server has them.
        config: its classes.
        labels: class position of each label of the network; None: the set lacks it.
        detections: also write and score what is in no track.
    """

    truth: Path | None
    config: MotsConfig
    labels: tuple[int | None, ...]
    detections: bool = False

    @classmethod
    def of(
        cls,
        place: Located,
        data: VideoDataset,
        category_ids: Sequence[int | None],
        cfg: CfgNode,
        network: Segmenter | type[Segmenter],
    ) -> MotsSet | None:
        """The set, or None for one in another form.

        Args:
            place: where it lies.
            data: what is in it.
            category_ids: under which each label of the network leaves.
            cfg: of the evaluation.
            network: the network, or its class.

        Raises:
            ConfigError: classes shall not count, or an association shall give detections that has
                none.
        """
        if place.format != "mots":
            return None
        if cfg.DATASETS.CLASS_MATCH == "any":
            raise ConfigError(
                f"{place.name}: BDD100K MOTS is scored class by class, but DATASETS.CLASS_MATCH is "
                "'any'; choose name or id."
            )
        detections = cfg.TEST.QUASI_DENSE.DETECTIONS
        used = _association(cfg, network)
        if detections and used != "quasi_dense":
            raise ConfigError(
                f"TEST.QUASI_DENSE.DETECTIONS is for TEST.ASSOCIATION quasi_dense; {used} gives "
                "tracks alone."
            )
        positions = {key: position for position, key in enumerate(data.categories)}
        labels = tuple(None if key is None else positions[key] for key in category_ids)
        annotated = any(data[k].annotations is not None for k in range(len(data)))
        config = MotsConfig(tuple(data.categories.values()))
        return cls(place.annotations if annotated else None, config, labels, detections)

    def writer(self, record: VideoRecord, store: ResultFolder) -> MotsWriter:
        """For the frames of one video."""
        names = [Path(name).name for name in record.file_names]
        frames = list(zip(names, frame_indices(record), strict=True))
        folders = [make_folder(store.frames)]
        if self.detections:
            folders.append(make_folder(store.detections))
        paths = [folder / f"{record.id}.json" for folder in folders]
        video = MotsVideo(record.name, frames, self.config, self.labels)
        return MotsWriter(paths[0], store.bitmasks, video, *paths[1:])

    def finish(self, store: ResultFolder, done: Sequence[int]) -> None:
        """Join the frames of the videos."""
        frames = store.join_frames(store.frames, done)
        logger.info("%d frames in %s and %s", frames, store.scalabel(), store.bitmasks)
        if self.detections:
            store.join_frames(store.detections, done)

    def score(self, store: ResultFolder, asked: Sequence[str]) -> tuple[dict[str, float], str]:
        """Numbers and a table, as ``evaluation.scoring.score``; detections by COCO's rule."""
        assert self.truth is not None, "there are annotations"
        numbers, table = score(self.truth, store.scalabel(), self.metrics(asked))
        if self.detections:
            path = store.scalabel(store.detections)
            own, more = score(self.truth, path, ["frame_ap"], allow_overlap=True)
            numbers |= {key.replace("frame_ap", DETECTION_AP): own[key] for key in own}
            table += f"\n\n{more.replace('frame_ap', DETECTION_AP, 1)}"
        return numbers, table

    @staticmethod
    def metrics(asked: Sequence[str]) -> tuple[str, ...]:
        """Of ``TEST.METRICS`` those that read frames; if there are none, those of the tables."""
        return tuple(name for name in asked if name in METRICS) or PUBLISHED


def _association(cfg: CfgNode, network: Segmenter | type[Segmenter]) -> str:
    """Name of what makes tracks."""
    kind = network if isinstance(network, type) else type(network)
    if not issubclass(kind, FrameModel):
        return "the association of windows"
    own = getattr(network, "association", kind.association)
    return str(own if cfg.TEST.ASSOCIATION == "auto" else cfg.TEST.ASSOCIATION)
