"""The data sets that configs call by name: one row each, and where their files may lie.

Paths are relative to the root (``DATASETS.ROOT``, ``$DETECTRON2_DATASETS`` or ./datasets). Each row
lists every layout in the wild; the first that exists is taken. ``datasets/README.md`` shows trees.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class VideoSplit:
    """A split of a data set.

    Args:
        name: in ``DATASETS.TRAIN`` and ``DATASETS.TEST``.
        annotations: files or folders of annotations, the usual place first.
        images: folders that hold the frames, the usual place first.
        categories: label space of the data set.
        format: key of ``vmt.data.catalog.READERS``.
        mask_key: key of the masks in the JSON.
        evaluator: protocol of ``vmt eval``; empty: not scored here.
        annotated: False where the masks are kept by a server.
        num_videos: of the published split; 0: not known.
        source: where a person gets the files.
    """

    name: str
    annotations: tuple[str, ...]
    images: tuple[str, ...]
    categories: str
    format: str = "ytvis"
    mask_key: str = "segmentations"
    evaluator: str = "ytvis"
    annotated: bool = True
    num_videos: int = 0
    source: str = ""


#: Where ``datasets/prepare_hq_ytvis.py --cut`` puts train.json of YouTube-VIS 2019 in parts.
HQ_YTVIS_COARSE: Final = "hq_ytvis/coarse"

#: Videos of the published splits.
_NUM_VIDEOS: Final = {
    "hq_ytvis_train": 1678,
    "hq_ytvis_val": 280,
    "hq_ytvis_test": 280,
    "ytvis_2019_train": 2238,
    "ytvis_2019_valid": 302,
    "ytvis_2019_test": 343,
    "ytvis_2021_train": 2985,
    "ytvis_2021_valid": 421,
    "ytvis_2021_test": 453,
    "ovis_train": 607,
    "ovis_valid": 140,
    "ovis_test": 154,
    "bdd100k_mots_train": 154,
    "bdd100k_mots_val": 32,
    "bdd100k_mots_test": 37,
}


#: Forms of the labels of BDD100K MOTS, in the order in which they are looked for.
_BDD100K_FORMS: Final = ("bitmasks", "rles", "polygons")


def _youtube_vis(year: int, part: str) -> VideoSplit:
    """Layouts: detectron2 style, the archive as downloaded, and SeqFormer's."""
    folder = f"ytvis_{year}"
    return VideoSplit(
        name=f"{folder}_{part}",
        annotations=(
            f"{folder}/{part}.json",
            f"{folder}/{part}/instances.json",
            f"{folder}/annotations/instances_{part}_sub.json",
            f"{folder}/annotations/{part}.json",
        ),
        images=(f"{folder}/{part}/JPEGImages", f"{folder}/{part}_all_frames/JPEGImages"),
        categories=folder,
        annotated=part == "train",
        num_videos=_NUM_VIDEOS[f"{folder}_{part}"],
        source="https://youtube-vos.org/dataset/vis/",
    )


def _ovis(part: str) -> VideoSplit:
    return VideoSplit(
        name=f"ovis_{part}",
        annotations=(
            f"ovis/{part}.json",
            f"ovis/annotations_{part}.json",
            f"ovis/annotations/annotations_{part}.json",
        ),
        images=(f"ovis/{part}", f"ovis/{part}/JPEGImages"),
        categories="ovis",
        evaluator="ovis",
        annotated=part == "train",
        num_videos=_NUM_VIDEOS[f"ovis_{part}"],
        source="https://songbai.site/ovis",
    )


def _hq_ytvis(part: str) -> VideoSplit:
    """All three splits divide the training videos of YouTube-VIS 2019: frames lie in train/."""
    file = f"ytvis_hq-{part}.json"
    return VideoSplit(
        name=f"hq_ytvis_{part}",
        annotations=(
            f"hq_ytvis/{file}",
            f"hq_ytvis/annotations/{file}",
            f"ytvis_2019/annotations/{file}",
            f"ytvis_2019/{file}",
        ),
        images=(
            "ytvis_2019/train/JPEGImages",
            "hq_ytvis/train/JPEGImages",
            "hq_ytvis/JPEGImages",
        ),
        categories="ytvis_2019",
        mask_key="segmentations_refined",
        evaluator="hq_ytvis",
        num_videos=_NUM_VIDEOS[f"hq_ytvis_{part}"],
        source="https://github.com/SysCV/vmt (HQ-YTVIS annotations), frames of YouTube-VIS 2019",
    )


def _hq_ytvis_coarse(part: str) -> VideoSplit:
    """The same videos with the masks that YouTube-VIS 2019 has for them."""
    return VideoSplit(
        name=f"hq_ytvis_{part}_coarse",
        annotations=(f"{HQ_YTVIS_COARSE}/train-{part}.json",),
        images=("ytvis_2019/train/JPEGImages",),
        categories="ytvis_2019",
        num_videos=_NUM_VIDEOS[f"hq_ytvis_{part}"],
        source="datasets/prepare_hq_ytvis.py --cut ytvis_2019/train.json",
    )


def _coco(part: str) -> VideoSplit:
    return VideoSplit(
        name=f"coco_2017_{part}",
        annotations=(
            f"coco/annotations/instances_{part}2017.json",
            f"coco/instances_{part}2017.json",
        ),
        images=(f"coco/{part}2017", f"coco/images/{part}2017"),
        categories="coco",
        format="coco",
        mask_key="segmentation_refined",
        evaluator="",
        source="https://cocodataset.org",
    )


def _bdd100k(part: str) -> VideoSplit:
    """The server has the labels of test; its frames alone stand for it."""
    images = f"bdd100k/images/seg_track_20/{part}"
    labels = [f"bdd100k/labels/seg_track_20/{form}/{part}" for form in _BDD100K_FORMS]
    return VideoSplit(
        name=f"bdd100k_mots_{part}",
        annotations=(images,) if part == "test" else tuple(labels),
        images=(images,),
        categories="bdd100k_mots",
        format="mots",
        evaluator="bdd100k_mots",
        annotated=part != "test",
        num_videos=_NUM_VIDEOS[f"bdd100k_mots_{part}"],
        source="https://www.bdd100k.com (MOTS 2020 images and labels)",
    )


def _bdd100k_det(part: str) -> VideoSplit:
    """Boxes of single images, to pre-train detectors: the B of "I, B" in tables."""
    return VideoSplit(
        name=f"bdd100k_det_{part}",
        annotations=(f"bdd100k/labels/det_20/det_{part}.json",),
        images=(f"bdd100k/images/100k/{part}",),
        categories="bdd100k_det",
        format="boxes",
        evaluator="",
        source="https://www.bdd100k.com (100K images, Detection 2020 labels)",
    )


SPLITS: Final[tuple[VideoSplit, ...]] = (
    *(_hq_ytvis(part) for part in ("train", "val", "test")),
    *(_hq_ytvis_coarse(part) for part in ("train", "val", "test")),
    *(_youtube_vis(year, part) for year in (2019, 2021) for part in ("train", "valid", "test")),
    *(_ovis(part) for part in ("train", "valid", "test")),
    *(_coco(part) for part in ("train", "val")),
    *(_bdd100k(part) for part in ("train", "val", "test")),
    *(_bdd100k_det(part) for part in ("train", "val")),
    VideoSplit(
        name="davis_2017",
        annotations=("DAVIS/Annotations/480p", "davis/Annotations/480p"),
        images=("DAVIS/JPEGImages/480p", "davis/JPEGImages/480p"),
        categories="object",
        format="png",
        evaluator="",
        source="https://davischallenge.org (DAVIS 2017, 480p)",
    ),
)
