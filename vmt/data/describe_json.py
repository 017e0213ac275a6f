"""What a JSON file of annotations or results is: its kind, what it holds, who takes it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cocoapi_hq import split
from cocoapi_hq.io.fields import short
from cocoapi_hq.io.json_file import read_json
from vmt.utils.errors import scoring_errors

Json = Any
Lines = list[tuple[str, str]]

#: Keys that an annotation of YouTube-VIS has by its documentation.
_DOCUMENTED = ("id", "video_id", "category_id", "iscrowd", "segmentations")
#: Keys of its videos.
_OF_VIDEOS = ("id", "height", "width", "length", "file_names")


def describe_json(path: Path) -> Lines:
    """Name and text of every finding, for people.

    Args:
        path: a JSON file, gzip'd or not.

    Raises:
        AnnotationError: it cannot be read, or is no JSON.
    """
    with scoring_errors():
        content = read_json(path)
    if isinstance(content, list):
        return _list(content, path)
    if not isinstance(content, dict):
        return [("kind", f"JSON, a single {type(content).__name__}; nothing here reads it")]
    if "videos" in content:
        return _ytvis(content, path)
    if "images" in content:
        return _coco(content, path)
    if "frames" in content:
        return _scalabel(_rows(content, "frames"), path)
    if isinstance(content.get("shapes"), list):
        return _labelme(content["shapes"], path)
    if content.get("format") == split.FORMAT:
        ids = _rows(content, "video_ids")
        return [
            ("kind", f"a split: {len(ids)} videos of {short(content.get('source'))}"),
            ("take it with", f"vmt split {path} --cut FILE --output DIR"),
        ]
    keys = ", ".join(sorted(map(str, content))[:10]) or "none"
    return [("kind", f"JSON of another kind, with the keys {keys}; nothing here reads it")]


def _rows(content: dict[str, Json], key: str) -> list[Json]:
    value = content.get(key)
    return value if isinstance(value, list) else []


def _objects(rows: Sequence[Json]) -> list[dict[str, Json]]:
    return [row for row in rows if isinstance(row, dict)]


def _classes(content: dict[str, Json]) -> tuple[str, str]:
    rows = _objects(_rows(content, "categories"))
    named = ", ".join(f"{row.get('id')} {row.get('name', '?')}" for row in rows[:8])
    more = f" and {len(rows) - 8} more" if len(rows) > 8 else ""
    return "classes", f"{len(rows)}: {named}{more}" if rows else "none listed"


def _absent(rows: Sequence[dict[str, Json]], keys: Sequence[str]) -> str:
    """Which keys are absent from how many rows."""
    found = {key: sum(row.get(key) is None for row in rows) for key in keys}
    return ", ".join(f"{key} ({n} of {len(rows)})" for key, n in found.items() if n)


def _ytvis(content: dict[str, Json], path: Path) -> Lines:
    videos = _objects(_rows(content, "videos"))
    rows = _objects(_rows(content, "annotations"))
    frames = sum(len(_rows(video, "file_names")) or video.get("length") or 0 for video in videos)
    lists = Counter(key for row in rows for key in row if key.startswith("segmentation"))
    masks = ", ".join(f"{key} in {n}" for key, n in lists.items()) or "none"
    missing = [_absent(videos, _OF_VIDEOS), _absent(rows, _DOCUMENTED)]
    names = ("videos", "annotations")
    gaps = [f"{text} of {name}" for text, name in zip(missing, names, strict=True) if text]
    crowds = sum(bool(row.get("iscrowd")) for row in rows)
    lines = [
        ("kind", "YouTube-VIS annotations" if rows else "YouTube-VIS videos without annotations"),
        ("videos", f"{len(videos)}, {frames} frames"),
        _classes(content),
        ("tracks", f"{len(rows)}, {crowds} of them crowds"),
        ("masks", masks),
        ("missing", "; ".join(gaps) or "nothing"),
    ]
    if not rows:
        return [*lines, ("take it with", f"vmt demo --input {path} --images DIR ...")]
    return [
        *lines,
        ("take it with", f"vmt check-annotations {path} --images DIR"),
        ("", f"vmt train --train {path} --train-images DIR ..."),
        ("", f"vmt eval --gt {path} --results results.json"),
        ("", f"vmt refine --masks {path} --images DIR --output sharp.json"),
    ]


def _coco(content: dict[str, Json], path: Path) -> Lines:
    images = _objects(_rows(content, "images"))
    rows = _objects(_rows(content, "annotations"))
    videos = {row.get("video_id") for row in images} - {None}
    kind = f"COCO with {len(videos)} video ids" if videos else "COCO images"
    way = f"vmt convert-annotations {path} --images DIR --output ytvis.json"
    return [
        ("kind", f"{kind} annotations"),
        ("images", str(len(images))),
        _classes(content),
        ("masks", f"{len(rows)}, {sum(bool(row.get('iscrowd')) for row in rows)} of them crowds"),
        ("take it with", way if videos else f"DATASETS.TRAIN \"['{path}@DIR']\""),
        ("", f"vmt refine --masks {path} --images DIR --output sharp.json"),
    ]


def _list(content: list[Json], path: Path) -> Lines:
    rows = _objects(content)
    if not rows:
        return [("kind", "an empty list: results of a network that found nothing, perhaps")]
    if any("labels" in row or "videoName" in row for row in rows):
        return _scalabel(content, path)
    for key, name in (("video_id", "YouTube-VIS"), ("image_id", "COCO")):
        if any(key in row for row in rows):
            return _results(rows, path, key, name)
    keys = ", ".join(sorted(map(str, rows[0]))[:10])
    return [("kind", f"a list of {len(rows)} objects with {keys}; nothing here reads it")]


def _results(rows: list[dict[str, Json]], path: Path, key: str, name: str) -> Lines:
    numbers = [row["score"] for row in rows if isinstance(row.get("score"), (int, float))]
    scores = f"{min(numbers):.3f} to {max(numbers):.3f}" if numbers else "none"
    masks = "segmentations" if key == "video_id" else "segmentation"
    classes = sorted({str(row.get("category_id")) for row in rows})
    members = {str(row.get(key)) for row in rows}
    lines = [
        ("kind", f"{name} results"),
        ("entries", f"{len(rows)} of {len(members)} {key.removesuffix('_id')}s"),
        ("scores", scores),
        ("category ids", ", ".join(classes[:12]) + (", ..." if len(classes) > 12 else "")),
        ("missing", _absent(rows, (key, "category_id", "score", masks)) or "nothing"),
    ]
    if key == "image_id":
        way = f"vmt refine --masks {path} --annotations GT --images DIR --output sharp.json"
        return [*lines, ("take it with", way)]
    return [
        *lines,
        ("take it with", f"vmt eval --gt GT.json --results {path}"),
        ("", f"vmt check-annotations {path} --gt GT.json"),
        ("", f"vmt refine --masks {path} --annotations GT.json --images DIR --output sharp.json"),
    ]


def _scalabel(content: list[Json], path: Path) -> Lines:
    rows = _objects(content)
    videos = {row.get("videoName") for row in rows}
    labels = [x for row in rows for x in _objects(row.get("labels") or [])]
    classes = sorted({str(label.get("category")) for label in labels})
    scored = sum(label.get("score") is not None for label in labels)
    return [
        ("kind", "Scalabel frames (BDD100K MOTS)"),
        ("videos", f"{len(videos)}, {len(rows)} frames"),
        ("classes", ", ".join(classes) or "none"),
        ("labels", f"{len(labels)}, {scored} of them with a score"),
        ("take it with", f"vmt eval --gt {path} --results FILE --metric bdd_mots hota"),
        ("", f"vmt convert-annotations {path} --images DIR --output ytvis.json"),
    ]


def _labelme(shapes: list[Json], path: Path) -> Lines:
    labels = Counter(str(shape.get("label")) for shape in _objects(shapes))
    named = ", ".join(f"{label} ({count})" for label, count in labels.most_common(8))
    return [
        ("kind", "polygons of one frame, as labelme writes them"),
        ("shapes", f"{len(shapes)}: {named}"),
        ("take it with", f"vmt refine --masks {path.parent} --images DIR --output DIR"),
        ("", f"vmt convert-annotations {path.parent} --images DIR --output ytvis.json"),
    ]
