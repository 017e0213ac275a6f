"""What an evaluation does for BDD100K MOTS beside ``results.json``: its files and its numbers."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cocoapi_hq.mots.mots_config import MotsConfig
from vmt.data.catalog import Located
from vmt.data.datasets.mots import frame_indices
from vmt.data.records import VideoDataset, VideoRecord
from vmt.engine.result_folder import ResultFolder
from vmt.inference.mots_results import MotsWriter
from vmt.utils.atomic import make_folder
from vmt.utils.errors import ConfigError

logger = logging.getLogger(__name__)

#: Metrics that read Scalabel frames.
METRICS = ("bdd_mots", "hota", "frame_ap")
#: Those of the tables.
PUBLISHED = ("bdd_mots", "frame_ap")


@dataclass(frozen=True)
class MotsSet:
    """A data set in one of the forms of BDD100K MOTS.

    Args:
        truth: file or folder of its annotations; None where the server has them.
        config: its classes.
        labels: class position of each label of the network; None: the set lacks it.
    """

    truth: Path | None
    config: MotsConfig
    labels: tuple[int | None, ...]

    @classmethod
    def of(
        cls, place: Located, data: VideoDataset, category_ids: Sequence[int | None], match: str
    ) -> MotsSet | None:
        """The set, or None for one in another form.

        Args:
            place: where it lies.
            data: what is in it.
            category_ids: under which each label of the network leaves.
            match: ``DATASETS.CLASS_MATCH``.

        Raises:
            ConfigError: classes shall not count; MOTS is scored class by class.
        """
        if place.format != "mots":
            return None
        if match == "any":
            raise ConfigError(
                f"{place.name}: BDD100K MOTS is scored class by class, but DATASETS.CLASS_MATCH is "
                "'any'; choose name or id."
            )
        positions = {key: position for position, key in enumerate(data.categories)}
        labels = tuple(None if key is None else positions[key] for key in category_ids)
        annotated = any(data[k].annotations is not None for k in range(len(data)))
        config = MotsConfig(tuple(data.categories.values()))
        return cls(place.annotations if annotated else None, config, labels)

    def writer(self, record: VideoRecord, store: ResultFolder) -> MotsWriter:
        """For the frames of one video."""
        make_folder(store.frames)
        names = [Path(name).name for name in record.file_names]
        return MotsWriter(
            store.frames_path(record.id),
            store.bitmasks,
            list(zip(names, frame_indices(record), strict=True)),
            record.name,
            self.config,
            self.labels,
        )

    def finish(self, store: ResultFolder, done: Iterable[int]) -> None:
        """Join the frames of the videos."""
        frames = store.join_frames(done)
        logger.info("%d frames in %s and %s", frames, store.scalabel, store.bitmasks)

    @staticmethod
    def metrics(asked: Sequence[str]) -> tuple[str, ...]:
        """Of ``TEST.METRICS`` those that read frames; if there are none, those of the tables."""
        return tuple(name for name in asked if name in METRICS) or PUBLISHED
