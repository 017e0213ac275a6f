"""Data sets both ways: ours in ``DatasetCatalog``, registered ones for our loaders.

Ours have one dict per video there, as detectron2 projects for videos have them: ``file_names``,
``height``, ``width``, ``length``, ``video_id`` and ``annotations``, one list of objects per frame
with ``id``, ``category_id``, ``segmentation``, ``bbox``.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from cocoapi_hq.io import rle
from cocoapi_hq.io.fields import is_int, short
from cocoapi_hq.io.json_file import is_json_name, read_json
from vmt.config.defaults import default_config
from vmt.data.catalog import data_root, load_dataset, locate_split, register_dataset
from vmt.data.convert import load_coco_video, sort_by_time
from vmt.data.datasets.categories import label_space
from vmt.data.datasets.splits import SPLITS, VideoSplit
from vmt.data.formats.drawn import MemoryAnnotations
from vmt.data.labels import resolve_label_space
from vmt.data.mask_files.base import checked_mask
from vmt.data.records import Tracklet, VideoDataset, VideoList, VideoRecord
from vmt.plugins.detectron2.config import NODE
from vmt.structures.labels import LabelSpace
from vmt.utils.errors import AnnotationError, ConfigError, scoring_errors

logger = logging.getLogger(__name__)

#: Keys by which projects tell the objects of images of one video apart.
TRACK_KEYS = ("track_id", "instance_id", "object_id")
#: Name in ``DatasetCatalog`` -> row of ours.
_OURS: dict[str, VideoSplit] = {}


# --- ours, for detectron2 -----------------------------------------------------------------------


def register_datasets() -> None:
    """Put our data sets into both catalogs; a name that somebody has registered stays theirs.

    Every row of ``vmt/data/datasets/splits.py`` by its name, those of ``..._valid`` also as
    ``..._val``. Nothing is read before a set is asked for. detectron2's own COCO sets stay in its
    catalog, and our loaders read the same files.
    """
    for split in SPLITS:
        names = [split.name]
        if split.name.endswith("_valid"):
            names.append(split.name.removesuffix("id"))
        for name in names:
            taken = name in DatasetCatalog
            if taken and split.format != "coco":
                logger.info("%s is in DatasetCatalog already and stays as it is.", name)
                continue
            _OURS[name] = split
            if name != split.name:
                register_dataset(name, partial(_load_split, split))
            if not taken:
                DatasetCatalog.register(name, partial(video_dicts, name))
                _describe(name, split)


def _describe(name: str, split: VideoSplit) -> None:
    space = label_space(split.categories)
    MetadataCatalog.get(name).set(
        thing_classes=list(space.names),
        thing_dataset_id_to_contiguous_id={k: i for i, k in enumerate(space.category_ids)},
        json_file=str(data_root() / split.annotations[0]),
        image_root=str(data_root() / split.images[0]),
        evaluator_type="ytvis",
    )


def _load_split(split: VideoSplit, root: str, mask_key: str) -> VideoDataset:
    return locate_split(split, root).load(mask_key)


def video_dicts(name: str, *, annotated: bool = True) -> list[dict[str, Any]]:
    """A data set of ours, or ``annotations@images``, as dicts.

    Args:
        name: as in ``DATASETS.TRAIN``.
        annotated: with the annotations, if there are any.

    Returns:
        One dict per video, see the head of this file; ``category_id`` counts from 0 in the order
        of the file's categories.
    """
    data = load_dataset(name)
    label_of = {key: label for label, key in enumerate(data.categories)}
    metadata = MetadataCatalog.get(name)
    if metadata.get("thing_classes") is None:
        metadata.set(
            thing_classes=list(data.categories.values()),
            thing_dataset_id_to_contiguous_id=label_of,
        )
    return [dict_of_record(data[k], label_of if annotated else None) for k in range(len(data))]


def dict_of_record(
    record: VideoRecord, label_of: Mapping[int, int] | None = None
) -> dict[str, Any]:
    """A video as a dict; with ``label_of`` (category id -> label) with its annotations."""
    content: dict[str, Any] = {
        "file_names": [str(path) for path in record.frame_paths],
        "height": record.height,
        "width": record.width,
        "length": len(record),
        "video_id": record.id,
        "video_name": record.name,
        "dataset": record.dataset,
    }
    if label_of is None or record.annotations is None:
        return content
    frames: list[list[dict[str, Any]]] = [[] for _ in range(len(record))]
    for tracklet in record.tracklets():
        for t, mask in enumerate(tracklet.masks):
            if mask is not None:
                coded = checked_mask(mask, tracklet.where, record.size)
                entry = {"id": tracklet.id, "category_id": label_of[tracklet.category_id]}
                box = {"bbox": list(rle.to_box(coded)), "bbox_mode": BoxMode.XYWH_ABS}
                frames[t].append(entry | box | {"segmentation": coded, "iscrowd": 0})
    return content | {"annotations": frames}


# --- registered ones, for us --------------------------------------------------------------------


def prepare(names: Iterable[str]) -> None:
    """Let our loaders find the data sets of ``DatasetCatalog`` that a config names."""
    for name in names:
        if name in DatasetCatalog and name not in _OURS:
            register_dataset(name, partial(_load_registered, name))


def split_of(name: str) -> VideoSplit | None:
    """The row of a data set of ours."""
    return _OURS.get(name)


def label_space_of(cfg: CfgNode) -> LabelSpace:
    """Classes of the network.

    ``VMT.MODEL.LABEL_SPACE`` is a name of ours, a JSON, or the name of a data set; "" stands for
    the first of ``DATASETS.TRAIN`` and ``TEST``, and for YouTube-VIS 2019 where there is none.

    Raises:
        ConfigError: no such classes.
    """
    name = cfg[NODE].MODEL.LABEL_SPACE if NODE in cfg else ""
    if not name:
        name = next(iter((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)), "")
        if not name:
            return label_space(default_config().MODEL.LABEL_SPACE)
    if name in _OURS:
        return label_space(_OURS[name].categories)
    if name in DatasetCatalog or "@" in name:
        prepare([name])
        categories = load_dataset(name).categories
        return LabelSpace(name, tuple(categories.values()), tuple(categories))
    return resolve_label_space(name)


def _load_registered(name: str, root: str, mask_key: str) -> VideoDataset:
    del root, mask_key  # what was registered has its own files and one kind of masks
    dicts = DatasetCatalog.get(name)
    if not isinstance(dicts, Sequence) or not dicts:
        raise AnnotationError(f"data set {name}: DatasetCatalog gives {short(dicts)}; give dicts.")
    metadata = MetadataCatalog.get(name)
    if not {"file_names", "video_id"} & set(dicts[0]):
        videos = _videos_of_file(name, metadata, len(dicts))
        if videos is not None:
            return videos
    categories = _categories(name, metadata)
    ids = list(categories)
    if "file_names" not in dicts[0] and "video_id" in dicts[0]:
        records = _records_of_frames(dicts, name, ids)
    else:
        records = [record_of(entry, name, ids) for entry in dicts]
    return VideoList(name, categories, records)


def _categories(name: str, metadata: Any) -> dict[int, str]:
    """Category id -> name, in the order of the labels that dicts of detectron2 have."""
    names = metadata.get("thing_classes")
    if not names:
        raise ConfigError(
            f"data set {name}: MetadataCatalog knows no classes; set "
            f"MetadataCatalog.get({name!r}).thing_classes to their names."
        )
    labels = metadata.get("thing_dataset_id_to_contiguous_id") or {}
    ids = {label: key for key, label in labels.items()}
    return {ids.get(label, label): word for label, word in enumerate(names)}


def _videos_of_file(name: str, metadata: Any, images: int) -> VideoDataset | None:
    """What ``register_coco_instances`` leaves out of its dicts: the videos of the images.

    None where the file has none, so that its images are stills.
    """
    path = Path(str(metadata.get("json_file", "")))
    if not is_json_name(path) or not path.is_file():
        return None
    with scoring_errors():
        content = read_json(path)
    rows = content.get("images") if isinstance(content, dict) else None
    if not isinstance(rows, list):
        return None
    if not any(isinstance(row, dict) and "video_id" in row for row in rows):
        return None
    if len(rows) != images:
        raise ConfigError(
            f"data set {name}: DatasetCatalog gives {images} images without video_id, and "
            f"{path} has {len(rows)}; put video_id (and a track_id per object) into the dicts."
        )
    source = load_coco_video(path, Path(str(metadata.get("image_root", ""))))
    for note in source.notes:
        logger.info("%s: %s", name, note)
    data = source.data
    return VideoList(name, data.categories, [data[k] for k in range(len(data))])


def record_of(entry: Mapping[str, Any], name: str, category_ids: Sequence[int]) -> VideoRecord:
    """A dict of a video (``file_names``) or of an image (``file_name``) as a record.

    Args:
        entry: the dict.
        name: of the data set.
        category_ids: by the labels that the dict has.

    Raises:
        AnnotationError: an entry is missing.
    """
    still = "file_names" not in entry
    files = [entry["file_name"]] if still else list(entry["file_names"])
    where = f"data set {name}: {short(files[0] if files else entry)}"
    key = entry.get("image_id") if still else entry.get("video_id")
    if not is_int(entry.get("height")) or not is_int(entry.get("width")):
        raise AnnotationError(f"{where}: has no height and width in pixels.")
    objects = entry.get("annotations")
    per_frame: Any = [objects] if still else objects
    if per_frame is not None and len(per_frame) != len(files):
        raise AnnotationError(
            f"{where}: annotations have {len(per_frame)} lists for {len(files)} frames; give one "
            "list of objects per frame."
        )
    annotations = None
    if objects is not None:
        keys = () if still else ("id",)
        annotations = _annotations(per_frame, keys, where, category_ids)
    return VideoRecord(
        id=int(key) if is_int(key) else 1,
        name=str(entry.get("video_name", Path(files[0]).stem if still else key)),
        image_root=Path(),
        file_names=tuple(map(str, files)),
        height=int(entry["height"]),
        width=int(entry["width"]),
        annotations=annotations,
        dataset=name,
        still=still,
    )


def _records_of_frames(
    dicts: Sequence[Mapping[str, Any]], name: str, category_ids: Sequence[int]
) -> list[VideoRecord]:
    """One dict per image with ``video_id``: frames in order of time, objects by their track."""
    videos: dict[Any, list[dict[str, Any]]] = {}
    for entry in dicts:
        if entry.get("video_id") is None:
            raise AnnotationError(
                f"data set {name}: {short(entry.get('file_name'))} has no video_id, which others "
                "have; give it to all images or to none."
            )
        videos.setdefault(entry["video_id"], []).append(dict(entry))
    records = []
    for number, (key, rows) in enumerate(videos.items(), start=1):
        where = f"data set {name}: video {key!r}"
        sort_by_time(rows, where)
        objects = [row.get("annotations") for row in rows]
        annotations = None
        if any(frame is not None for frame in objects):
            per_frame = [frame or [] for frame in objects]
            annotations = _annotations(per_frame, TRACK_KEYS, where, category_ids)
        records.append(
            VideoRecord(
                id=int(key) if is_int(key) else number,
                name=str(key),
                image_root=Path(),
                file_names=tuple(str(row["file_name"]) for row in rows),
                height=int(rows[0]["height"]),
                width=int(rows[0]["width"]),
                annotations=annotations,
                dataset=name,
            )
        )
    return records


def _annotations(
    per_frame: Sequence[Sequence[Mapping[str, Any]]],
    keys: Sequence[str],
    where: str,
    category_ids: Sequence[int],
) -> MemoryAnnotations:
    """Objects of frames as tracklets, without crowds; ``keys`` of the track, () for a still."""
    masks: dict[tuple[Any, int], dict[int, Any]] = {}
    for t, objects in enumerate(per_frame):
        for place, entry in enumerate(objects):
            if entry.get("iscrowd"):
                continue
            track = next((entry[k] for k in keys if k in entry), None) if keys else place
            if track is None:
                raise AnnotationError(
                    f"{where}: an object of frame {t} has none of {', '.join(keys)}, which says "
                    "which objects of other frames it is."
                )
            if rle.is_absent(entry.get("segmentation")):
                continue
            frames = masks.setdefault((track, int(entry["category_id"])), {})
            if t in frames:
                raise AnnotationError(f"{where}: frame {t} has two objects of track {track!r}.")
            frames[t] = entry["segmentation"]
    return MemoryAnnotations(
        tuple(
            Tracklet(
                id=k,
                category_id=category_ids[label],
                masks=tuple(frames.get(t) for t in range(len(per_frame))),
                where=f"{where}, track {track!r}",
            )
            for k, ((track, label), frames) in enumerate(masks.items(), start=1)
        )
    )
