"""The metrics of ``cocoapi_hq`` as a ``DatasetEvaluator``: tube mask, tube boundary, MOTS."""

from __future__ import annotations

import logging
import math
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from cocoapi_hq.names import TUBE_METRICS
from vmt.data.catalog import load_dataset, locate_split
from vmt.data.convert import write_ytvis_json
from vmt.data.labels import result_ids
from vmt.data.records import VideoRecord
from vmt.engine.evaluate import annotation_file, finish_set, frames_of, write_video
from vmt.engine.mots_set import MotsSet
from vmt.engine.result_folder import ResultFolder
from vmt.inference.association.base import TrackSummary
from vmt.inference.predictor import FrameResult
from vmt.modeling.meta_arch.build import architecture
from vmt.modeling.video_model import Segmenter
from vmt.plugins.detectron2.config import vmt_config
from vmt.plugins.detectron2.datasets import label_space_of, prepare, split_of
from vmt.utils.errors import ConfigError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Replay:
    """What a network gave for a video, as ``write_video`` asks for it."""

    frames: Sequence[FrameResult]
    tracks: Sequence[TrackSummary]

    def __iter__(self) -> Iterator[FrameResult]:
        return iter(self.frames)

    def finish(self) -> Sequence[TrackSummary]:
        return self.tracks


class VideoEvaluator(DatasetEvaluator):
    """Writes ``results.json`` as ``vmt`` does, and scores it with ``VMT.TEST.METRICS``.

    The truth is the set's own YouTube-VIS file; of registered dicts and COCO with video ids one is
    written beside the results. Sets in the form of MOTS get bitmasks and Scalabel frames too, and
    are scored on those.

    Args:
        dataset_name: of ``DatasetCatalog``, or ``annotations@images``.
        cfg: a detectron2 config.
        output_dir: for results; default: ``inference/<data set>`` of ``OUTPUT_DIR``.

    Raises:
        ConfigError: no such data set, none of its classes is the network's, or it has images.
    """

    def __init__(self, dataset_name: str, cfg: CfgNode, output_dir: str | None = None) -> None:
        prepare([dataset_name])
        self._name = dataset_name
        self._cfg = vmt_config(cfg)
        node = self._cfg.DATASETS
        data = load_dataset(dataset_name, node.ROOT, node.MASK_KEY)
        self._data = data
        self._records: list[VideoRecord] = [data[k] for k in range(len(data))]
        self._ids = result_ids(
            data.categories, label_space_of(cfg), source=dataset_name, match=node.CLASS_MATCH
        )
        if self._records and self._records[0].still:
            raise ConfigError(
                f"{dataset_name}: has images; detectron2's COCOEvaluator scores what a network of "
                "VMT finds in them."
            )
        split = split_of(dataset_name)
        self._mots = None
        if split is not None and split.format == "mots":
            place = locate_split(split, node.ROOT)
            network = architecture(self._cfg)
            assert issubclass(network, Segmenter), "it finds objects in videos"
            self._mots = MotsSet.of(place, data, self._ids, self._cfg, network)
        title = Path(dataset_name.rpartition("@")[0] or dataset_name).stem
        self._store = ResultFolder(Path(output_dir or Path(cfg.OUTPUT_DIR) / "inference" / title))

    def reset(self) -> None:
        """Forget the results of before."""
        if comm.is_main_process():
            self._store.videos.mkdir(parents=True, exist_ok=True)
            for path in self._store.videos.glob("*.json"):
                path.unlink()
        comm.synchronize()

    def process(
        self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]
    ) -> None:
        """Write the results of videos, one file each.

        Args:
            inputs: of ``ClipDatasetMapper``: ``video_id`` says which video.
            outputs: of ``VideoNetwork``.
        """
        known = {record.id: record for record in self._records}
        for video, output in zip(inputs, outputs, strict=True):
            key = video.get("video_id", video.get("image_id"))
            record, replay = known[key], _Replay(output["frames"], output["tracks"])
            frames = self._mots.writer(record, self._store) if self._mots is not None else None
            write_video(replay, frames_of(record), self._store, self._ids, frames)

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """Join and score.

        Returns:
            Metric -> number -> value: AP and AR in percent as detectron2 has them (NaN where
            undefined), others as ``cocoapi_hq`` does; empty without annotations. None in processes
            other than the first.
        """
        comm.synchronize()
        if not comm.is_main_process():
            return None
        truth = self._truth() if self._mots is None else None
        numbers = finish_set(
            self._cfg, self._name, self._records, self._store, mots=self._mots, truth=truth
        )
        results: OrderedDict[str, dict[str, float]] = OrderedDict()
        for key, value in numbers.items():
            metric, _, number = key.partition("/")
            fraction = metric in TUBE_METRICS
            shown = math.nan if fraction and value < 0 else value * (100 if fraction else 1)
            results.setdefault(metric, {})[number] = shown
        return results

    def _truth(self) -> Path | None:
        """YouTube-VIS annotations of the set; None where it has none."""
        path = annotation_file(self._records)
        if path is not None or all(record.annotations is None for record in self._records):
            return path
        path = self._store.folder / "truth.json"
        write_ytvis_json(self._data, path)
        return path
