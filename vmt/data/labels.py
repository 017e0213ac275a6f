"""Category ids of a file to labels of the network; class lists of one's own files."""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cocoapi_hq.io.fields import is_int, short
from cocoapi_hq.io.json_file import is_json_name, read_json
from cocoapi_hq.io.ytvis_json import open_ground_truth
from vmt.data.datasets.categories import label_space
from vmt.structures.labels import LabelSpace, normalise_name
from vmt.utils.errors import AnnotationError, ConfigError, scoring_errors

MATCHES = ("name", "id", "any")


def label_table(
    categories: Mapping[int, str],
    space: LabelSpace,
    *,
    source: str,
    category_map: Mapping[int, int] | None = None,
    match: str = "name",
    unknown: str = "fail",
) -> dict[int, int]:
    """Which label each category of a file has.

    Args:
        categories: category id -> name, of the file.
        space: classes of the network.
        source: named in messages.
        category_map: COCO's id -> id in ``space``; what it lacks is dropped.
        match: how to find the class without a map: ``name``, ``id``, or ``any`` (label 0).
        unknown: what to do with a category that has no class: ``fail`` or ``drop``.

    Returns:
        category id -> label; categories to leave out are missing.

    Raises:
        ConfigError: unknown choice, a category without a class under ``fail``, or a map for a file
            whose categories are not COCO's.
    """
    if unknown not in ("fail", "drop"):
        raise ConfigError(f"DATASETS.UNKNOWN_CLASSES is {unknown!r}; choose fail or drop.")
    if category_map is not None:
        _check_coco(categories, category_map, source)
        return _by_map(space, category_map, source)
    table = _matched(categories, space, match)
    missing = [f"{key} {categories[key]!r}" for key in categories if key not in table]
    if missing and (unknown == "fail" or not table):
        raise ConfigError(
            f"{source}: {len(missing)} of {len(categories)} categories have no class in label "
            f"space {space.name!r} ({short(', '.join(missing), 120)}). Set MODEL.LABEL_SPACE to "
            "the data's, name a map in DATASETS.CATEGORY_MAPS, or set "
            "DATASETS.UNKNOWN_CLASSES drop to train on the others."
        )
    return table


def _check_coco(
    categories: Mapping[int, str], category_map: Mapping[int, int], source: str
) -> None:
    """The maps are of COCO's ids; on those of another set they would give wrong classes."""
    coco = label_space("coco")
    for key, name in zip(coco.category_ids, coco.names, strict=True):
        if key in category_map and normalise_name(categories.get(key, name)) != name:
            raise ConfigError(
                f"{source}: its category {key} is {categories[key]!r}, COCO's is {name!r}; "
                "DATASETS.CATEGORY_MAPS are for COCO's ids: give '' for this set."
            )


def _matched(categories: Mapping[int, str], space: LabelSpace, match: str) -> dict[int, int]:
    """Category id -> label, of the categories that have one."""
    if match not in MATCHES:
        raise ConfigError(f"DATASETS.CLASS_MATCH is {match!r}; choose {', '.join(MATCHES)}.")
    if match == "any":
        return dict.fromkeys(categories, 0)
    if match == "id":
        known = {key: label for label, key in enumerate(space.category_ids)}
        return {key: known[key] for key in categories if key in known}
    by_name = {normalise_name(name): label for label, name in enumerate(space.names)}
    names = {key: normalise_name(name) for key, name in categories.items()}
    return {key: by_name[name] for key, name in names.items() if name in by_name}


def result_ids(
    categories: Mapping[int, str], space: LabelSpace, *, source: str, match: str = "name"
) -> tuple[int | None, ...]:
    """Under which category id of a file each class of the network leaves, as ``label_table``.

    Args:
        categories: category id -> name, of the file that results are scored against; none: the
            file says nothing, and the network's own ids are right.
        space: classes of the network.
        source: named in messages.
        match: ``DATASETS.CLASS_MATCH``. Under "any" classes mean nothing, and all leave as the
            first category.

    Returns:
        One id per label; None for a class that the file lacks.

    Raises:
        ConfigError: the file has none of the network's classes, or one of them twice.
    """
    if not categories:
        return space.category_ids
    if match == "any":
        return (next(iter(categories)),) * len(space)
    ids: list[int | None] = [None] * len(space)
    for key, label in _matched(categories, space, match).items():
        before = ids[label]
        if before is not None:
            raise ConfigError(
                f"{source}: categories {before} {categories[before]!r} and {key} "
                f"{categories[key]!r} are one class, {space.names[label]!r}, for the network; "
                "join them in the file."
            )
        ids[label] = key
    if all(key is None for key in ids):
        raise ConfigError(
            f"{source}: its classes ({', '.join(categories.values())[:120]}) are none of "
            f"the network's ({', '.join(space.names)[:120]}); name a file with the same "
            "classes, or set DATASETS.CLASS_MATCH id where equal ids mean the same."
        )
    return tuple(ids)


def _by_map(space: LabelSpace, category_map: Mapping[int, int], source: str) -> dict[int, int]:
    table = {}
    for key, target in category_map.items():
        try:
            table[key] = space.label_of(target)
        except KeyError:
            raise ConfigError(
                f"{source}: its category map sends {key} to {target}, which label space "
                f"{space.name!r} lacks; DATASETS.CATEGORY_MAPS and MODEL.LABEL_SPACE must be "
                "of the same data set."
            ) from None
    return table


def lists_frames(path: Path) -> bool:
    """True for a file that says "file_names", as YouTube-VIS JSON alone does; nothing is parsed.

    A set of hundreds of megabytes is told from others this way without reading it twice.
    """
    if not path.is_file() or not path.stat().st_size:
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(b'"file_names"') >= 0


def label_space_from_json(path: str | Path, name: str = "") -> LabelSpace:
    """The classes of one's own annotation file, in the order of its ``categories``.

    Args:
        path: YouTube-VIS or COCO JSON.
        name: of the label space; the file's stem if empty.

    Returns:
        Label k is the k-th category.

    Raises:
        AnnotationError: unreadable, no ``categories``, or one without an integer id, or twice.
    """
    path = Path(path)
    with scoring_errors(path=path):
        if lists_frames(path):  # only what is small is parsed
            known = open_ground_truth(path).categories
            rows: Any = [{"id": key, "name": word} for key, word in known.items()]
        else:
            content: Any = read_json(path)
            rows = content.get("categories") if isinstance(content, dict) else None
    if not isinstance(rows, list) or not rows:
        raise AnnotationError(
            f"{path}: categories is {short(rows)}; give a list like "
            '[{"id": 1, "name": "person"}, ...].'
        )
    found: dict[int, str] = {}
    for k, row in enumerate(rows):
        key = row.get("id") if isinstance(row, dict) else None
        if not isinstance(row, dict) or not is_int(key):
            raise AnnotationError(f"{path}: categories[{k}] is {short(row)}; give id and name.")
        if key in found:
            raise AnnotationError(f"{path}: categories[{k}].id {key} stands twice.")
        found[int(key)] = str(row.get("name") or f"category_{key}")
    return LabelSpace(name or path.stem, tuple(found.values()), tuple(found))


def resolve_label_space(name: str, beside: Path | None = None) -> LabelSpace:
    """``MODEL.LABEL_SPACE``: a known name, or a JSON file with ``categories``.

    Args:
        name: of the label space or file.
        beside: folder in which a file of that name is looked for when there is none where it says;
            the config of a finished training names the file that lies beside it.

    Raises:
        ConfigError: an unknown name.
        AnnotationError: the file holds no categories.
    """
    path = Path(name)
    if not is_json_name(path):
        return label_space(name)
    if not path.is_file() and beside is not None and (beside / path).is_file():
        path = beside / path
    return label_space_from_json(path)
