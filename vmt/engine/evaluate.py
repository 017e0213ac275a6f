"""A network over a whole data set: results per video or image on disk, joined, scored."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from fvcore.common.config import CfgNode

from cocoapi_hq.io.json_file import is_json_name
from vmt.data.catalog import (
    Located,
    has_boxes_only,
    is_registered,
    load_dataset,
    locate,
)
from vmt.data.datasets.coco import CocoImages
from vmt.data.labels import result_ids
from vmt.data.records import VideoDataset, VideoRecord
from vmt.engine.evaluate_images import write_image
from vmt.engine.mots_set import MotsSet
from vmt.engine.result_folder import ResultFolder, fingerprint
from vmt.evaluation.images import check_metrics, score_images
from vmt.evaluation.scoring import score
from vmt.inference.association.base import TrackSummary
from vmt.inference.images import ImageOptions, ImagePredictor
from vmt.inference.mots_results import MotsWriter
from vmt.inference.predictor import FrameResult, PredictorOptions, VideoPredictor
from vmt.inference.results import ResultsWriter
from vmt.inference.sources import YTVIS_FPS, FrameList, VideoSource
from vmt.modeling.video_model import Segmenter
from vmt.structures.labels import LabelSpace
from vmt.utils import comm
from vmt.utils.atomic import DiskReserve, make_folder, write_text
from vmt.utils.errors import ConfigError, VideoError

logger = logging.getLogger(__name__)

#: Seconds between lines of progress.
_NEWS = 30.0


@dataclass(frozen=True)
class SetResults:
    """What an evaluation of one data set gave.

    Args:
        path: results.json.
        numbers: by ``metric/number``, AP as fractions; empty without annotations.
        skipped: ids of videos that could not be read.
    """

    path: Path
    numbers: dict[str, float]
    skipped: tuple[int, ...]


def evaluate_set(
    cfg: CfgNode,
    model: Segmenter,
    name: str,
    folder: Path,
    stopping: Callable[[], bool] = lambda: False,
) -> SetResults | None:
    """Run a network over a data set and score it; every process of the run must call this.

    Videos are dealt to the processes one by one. Each is on disk when it is finished, and is not
    computed again when the same evaluation is started again. Images of a COCO file go the same way;
    networks for frames find their objects.

    Args:
        cfg: its ``TEST`` and ``INPUT`` sections say how.
        model: in evaluation mode, the same in every process.
        name: a name or reference as in ``DATASETS.TEST``.
        folder: for ``results.json`` and all else.
        stopping: asked behind every video; True ends the evaluation.

    Returns:
        Results, the same in every process; None when ``stopping`` ended it.

    Raises:
        VideoError: a frame cannot be read, and ``TEST.SKIP_BROKEN_VIDEOS`` is off.
        ConfigError: the set's classes are none of the network's, or a set of images meets a
            network for clips or a metric of videos.
    """
    place = located_for_test(cfg, name)
    data = _load(cfg, name)
    records = [data[k] for k in range(len(data))]
    space, match = model.label_space, cfg.DATASETS.CLASS_MATCH
    category_ids = result_ids(data.categories, space, source=name, match=match)
    store = ResultFolder(folder)
    if comm.is_main():
        if match != "any":
            _say_which_classes(folder.name, data.categories, space, category_ids)
        store.claim(fingerprint(cfg, model, records, category_ids))
    comm.barrier()
    mots = None
    if place is not None:
        mots = MotsSet.of(place, data, category_ids, cfg, model)
    if isinstance(data, CocoImages):
        images = ImagePredictor(model, ImageOptions.from_config(cfg))
        predict = partial(write_image, images, store=store, category_ids=category_ids)
    else:
        videos = VideoPredictor(model, PredictorOptions.from_config(cfg))
        predict = partial(_predict_video, videos, store=store, category_ids=category_ids, mots=mots)
    skipped = _predict(cfg, folder.name, records, store, predict, stopping)
    everything = comm.gather(skipped)
    if any(part is None for part in everything):
        return None
    broken = tuple(sorted(video for part in everything for video in part or ()))
    numbers: dict[str, float] = {}
    if comm.is_main():
        numbers = finish_set(cfg, folder.name, records, store, broken, mots)
    return SetResults(store.results, comm.gather(numbers)[0], broken)


def _load(cfg: CfgNode, name: str) -> VideoDataset:
    """All of a set, images without an object included; ConfigError if the metrics do not fit."""
    data = load_dataset(name, cfg.DATASETS.ROOT, cfg.DATASETS.MASK_KEY)
    check_metrics(cfg.TEST.METRICS, images=isinstance(data, CocoImages))
    return data.with_empty() if isinstance(data, CocoImages) else data


def located_for_test(cfg: CfgNode, name: str) -> Located | None:
    """Where a set lies that can be evaluated; before a training that ends with it, too.

    Args:
        cfg: ``DATASETS.ROOT`` and ``TEST.METRICS`` are read.
        name: as in ``DATASETS.TEST``.

    Returns:
        None for a set that somebody registered, whose function knows where it lies.

    Raises:
        ConfigError: it is not there, has no masks, or its kind and the metrics do not fit.
    """
    if has_boxes_only(name):
        raise ConfigError(f"{name}: has boxes and no masks to score; name another set to test.")
    if is_registered(name):
        return None
    place = locate(name, cfg.DATASETS.ROOT)
    check_metrics(cfg.TEST.METRICS, images=place.format == "coco")
    return place


def _say_which_classes(
    name: str,
    categories: Mapping[int, str],
    space: LabelSpace,
    category_ids: Sequence[int | None],
) -> None:
    """What network and file do not have in common."""
    lost = [word for word, key in zip(space.names, category_ids, strict=True) if key is None]
    if lost:
        logger.info("%s: lacks %d classes, without results: %s", name, len(lost), ", ".join(lost))
    unknown = [word for key, word in categories.items() if key not in category_ids]
    if unknown:
        logger.warning("%s: classes that the network cannot find: %s", name, ", ".join(unknown))


def _predict(
    cfg: CfgNode,
    name: str,
    records: Sequence[VideoRecord],
    store: ResultFolder,
    predict: Callable[[VideoRecord], None],
    stopping: Callable[[], bool],
) -> list[int] | None:
    """Make the missing files of this process's videos; ids of broken videos, None if stopped."""
    mine = comm.share(records)
    todo = [record for record in mine if not store.path(record.id).is_file()]
    if len(todo) < len(mine):
        logger.info("%s: %d of %d videos are done already", name, len(mine) - len(todo), len(mine))
    broken = []
    started = news = time.monotonic()
    for done, record in enumerate(todo, start=1):
        try:
            predict(record)
        except VideoError as error:
            if not cfg.TEST.SKIP_BROKEN_VIDEOS:
                raise
            logger.error("%s: video %d is left out: %s", name, record.id, error)
            broken.append(record.id)
        if stopping():
            return None
        now = time.monotonic()
        if now - news > _NEWS or done == len(todo):
            news = now
            rate = (now - started) / done
            logger.info(
                "%s: %d of %d videos, %.2f s each, eta %.0f s",
                name,
                done,
                len(todo),
                rate,
                rate * (len(todo) - done),
            )
    return broken


def _predict_video(
    predictor: VideoPredictor,
    record: VideoRecord,
    store: ResultFolder,
    category_ids: Sequence[int | None],
    mots: MotsSet | None,
) -> None:
    source = frames_of(record)
    frames = mots.writer(record, store) if mots is not None else None
    write_video(predictor.stream(source, behind=True), source, store, category_ids, frames)


def frames_of(record: VideoRecord) -> FrameList:
    """The frames of a video of a data set, of which results list every one."""
    return FrameList(
        record.name, record.frame_paths, YTVIS_FPS, video_id=record.id, complete_length=True
    )


class Finished(Protocol):
    """The frames of a video as a network sees them, and what is known of its tracks then."""

    def __iter__(self) -> Iterator[FrameResult]:
        """Finished frames in order."""
        ...

    def finish(self) -> Sequence[TrackSummary]:
        """Tracks that no frame closed."""
        ...


def write_video(
    stream: Finished,
    source: VideoSource,
    store: ResultFolder,
    category_ids: Sequence[int | None],
    frames: MotsWriter | None = None,
) -> None:
    """Results of one video into their files; nothing is left behind when it fails.

    Args:
        stream: a ``TrackStream``, or what it gave.
        source: says name, id, size and length of the video.
        store: has the files.
        category_ids: one per label; labels without are left out.
        frames: writes its frames in the form of MOTS, too; closed here.

    Raises:
        VideoError: a frame cannot be read.
        OutputError: a file cannot be written.
    """
    scratch = make_folder(store.folder / f"process_{comm.rank()}")
    reserve = DiskReserve(scratch)
    writer = ResultsWriter(store.path(source.video_id), category_ids, reserve)
    try:
        writer.begin_video(source)
        for result in stream:
            writer.add(result)
            if frames is not None:
                frames.add(result, source.size)
        writer.close_tracks(stream.finish())
        writer.end_video()
        if frames is not None:
            frames.close()
        writer.close()  # last: a video is done when this file is there
    except BaseException:
        writer.discard()
        if frames is not None:
            frames.discard()
        raise
    finally:
        reserve.close()
        scratch.rmdir()


def finish_set(
    cfg: CfgNode,
    name: str,
    records: Sequence[VideoRecord],
    store: ResultFolder,
    broken: Sequence[int] = (),
    mots: MotsSet | None = None,
    truth: Path | None = None,
) -> dict[str, float]:
    """Join the results of all videos and score them.

    Args:
        cfg: its ``TEST`` section says how.
        name: of the set, for messages.
        records: its videos.
        store: holds a file of each but the broken ones.
        broken: ids of videos that could not be read.
        mots: of a set in the form of MOTS.
        truth: annotations; None: the file that the records come from.

    Returns:
        Numbers by ``metric/number``; empty without annotations.
    """
    done = [record.id for record in records if record.id not in broken]
    entries = store.join(done)
    logger.info("%s: %d entries in %s", name, entries, store.results)
    if mots is not None:
        mots.finish(store, done)
    if cfg.TEST.ZIP:
        logger.info("%s: %s", name, store.zip_bitmasks() if mots is not None else store.zip())
    if truth is None:
        truth = mots.truth if mots is not None else annotation_file(records)
    if not cfg.TEST.METRICS or truth is None:
        if cfg.TEST.METRICS:
            logger.warning("%s has no annotations here: nothing to score with", name)
        return {}
    agnostic = cfg.DATASETS.CLASS_MATCH == "any"
    if mots is not None:
        numbers, table = mots.score(store, cfg.TEST.METRICS)
    elif records[0].still:
        numbers, table = score_images(
            truth, store.results, cfg.TEST.METRICS, class_agnostic=agnostic
        )
    else:
        numbers, table = score(
            truth, store.results, cfg.TEST.METRICS, cfg.TEST.PROTOCOL, class_agnostic=agnostic
        )
    logger.info("%s\n%s", name, table)
    if broken:
        logger.warning(
            "%s: %d of %d videos could not be read and count as empty: %s",
            name,
            len(broken),
            len(records),
            list(broken),
        )
    finite = {key: value if math.isfinite(value) else None for key, value in numbers.items()}
    content = {"data": name, "skipped": list(broken), **finite}
    write_text(store.folder / "metrics.json", json.dumps(content))
    return numbers


def annotation_file(records: Sequence[VideoRecord]) -> Path | None:
    """The YouTube-VIS file that the records come from; None where they have no annotations."""
    for record in records:
        path = getattr(record.annotations, "path", None)
        if isinstance(path, Path) and is_json_name(path):
            return path
    return None


def set_titles(names: Sequence[str]) -> dict[str, str]:
    """Folder name of every data set: its own name, or the stem of its file; never twice."""
    titles: dict[str, str] = {}
    for name in names:
        title = unique = Path(name.rpartition("@")[0]).stem if "@" in name else name
        count = 1
        while unique in titles.values():
            count += 1
            unique = f"{title}_{count}"
        titles[name] = unique
    return titles
