"""Dicts of a data set to clips: what detectron2's ``DatasetMapper`` is for images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from vmt.data.build import build_clip_mapper
from vmt.data.labels import label_table
from vmt.engine.evaluate import frames_of
from vmt.plugins.detectron2.config import vmt_config
from vmt.plugins.detectron2.datasets import label_space_of, record_of
from vmt.plugins.detectron2.instances import instances_of_clip


class ClipDatasetMapper:
    """One dict of a video (or of an image) to one clip, by the keys of ``INPUT``.

    For ``build_detection_train_loader`` and ``build_detection_test_loader``. The key frame and all
    else is drawn from NumPy's generator, which detectron2 seeds in every worker. ``Trainer`` does
    without: its loader draws the same clips whatever the number of workers, also after a resume.

    Args:
        cfg: a detectron2 config.
        is_train: give clips to learn from; otherwise whole videos, of which frames are read when
            the network asks for them.
    """

    def __init__(self, cfg: CfgNode, is_train: bool = True) -> None:
        config = vmt_config(cfg)
        self._mapper = build_clip_mapper(config) if is_train else None
        self._space = label_space_of(cfg)
        self._bgr = cfg.INPUT.FORMAT == "BGR"
        self._set = next(iter(cfg.DATASETS.TRAIN), "") if is_train else ""
        self._match, self._unknown = config.DATASETS.CLASS_MATCH, config.DATASETS.UNKNOWN_CLASSES
        self._tables: dict[str, dict[int, int]] = {}

    def __call__(self, dataset_dict: Mapping[str, Any]) -> dict[str, Any] | None:
        """A clip of the dict.

        Args:
            dataset_dict: as ``video_dicts`` gives them, or one of an image.

        Returns:
            In training ``image`` and ``instances``, T each, see
            ``vmt.plugins.detectron2.instances``; None where the clip shows no object, and
            detectron2 draws another dict. Otherwise ``frames``, which the network reads.

        Raises:
            AnnotationError: the dict or its masks break their format.
            VideoError: a frame cannot be read.
        """
        name = str(dataset_dict.get("dataset", self._set))
        if self._mapper is None:
            record = record_of({**dataset_dict, "annotations": None}, name, ())
            keys = ("file_names", "file_name", "height", "width", "video_id", "image_id")
            rest = {key: dataset_dict[key] for key in keys if key in dataset_dict}
            return rest | {"frames": frames_of(record), "length": len(record)}
        label_of = self._table(name)
        record = record_of(dataset_dict, name, range(len(self._names(name))))
        rng = np.random.default_rng(np.random.randint(2**31))
        sample = self._mapper(record, int(rng.integers(len(record))), label_of, rng)
        return instances_of_clip(sample, bgr=self._bgr) if sample is not None else None

    def _names(self, name: str) -> list[str]:
        names = MetadataCatalog.get(name).get("thing_classes") if name else None
        return list(names) if names else list(self._space.names)

    def _table(self, name: str) -> dict[int, int]:
        """Label in the dicts of a data set -> label of the network."""
        if name not in self._tables:
            self._tables[name] = label_table(
                dict(enumerate(self._names(name))),
                self._space,
                source=name,
                match=self._match,
                unknown=self._unknown,
            )
        return self._tables[name]
