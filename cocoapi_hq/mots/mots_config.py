"""Classes of a MOTS data set, Scalabel configurations, and how values are refused.

Source of the formats: Scalabel 071d073.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

from cocoapi_hq.exceptions import ScoringError
from cocoapi_hq.io import rle
from cocoapi_hq.io.fields import short
from cocoapi_hq.io.json_file import parse_json, read_bytes, read_json

JsonSource: TypeAlias = str | os.PathLike[str] | Sequence[Any] | Mapping[str, Any]


@dataclass(frozen=True)
class MotsConfig:
    """Classes of a MOTS data set and what the other names in its files mean.

    Attributes:
        classes: leaf classes in the order of the tree; a bitmask stores the position plus 1.
        super_classes: super-category -> its leaf classes. Numbers of a super-category come from
            pooled counts.
        aliases: name in the file -> name to use, applied before anything else.
        distractors: name in the file -> class for which such a label is an ignored region.
        image_size: (h, w) in pixels at which polygons are drawn, or None.
    """

    classes: tuple[str, ...]
    super_classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    distractors: Mapping[str, str] = field(default_factory=dict)
    image_size: tuple[int, int] | None = None

    def resolve(self, name: str) -> tuple[int, bool] | None:
        """Class position and "is an ignored label" of a name; None if the name is unknown."""
        name = self.aliases.get(name, name)
        leaf = self.distractors.get(name, name)
        if leaf not in self.classes:
            return None
        return self.classes.index(leaf), name in self.distractors


BDD100K_MOTS = MotsConfig(
    classes=("pedestrian", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"),
    super_classes={
        "human": ("pedestrian", "rider"),
        "vehicle": ("car", "truck", "bus", "train"),
        "bike": ("motorcycle", "bicycle"),
    },
    aliases={
        "bike": "bicycle",
        "caravan": "car",
        "motor": "motorcycle",
        "person": "pedestrian",
        "van": "car",
    },
    distractors={"other person": "pedestrian", "other vehicle": "car", "trailer": "truck"},
    image_size=(720, 1280),
)


def load_config(config: MotsConfig | JsonSource | None = None) -> MotsConfig:
    """Class tree, aliases and distractor names.

    Args:
        config: None for BDD100K MOTS, a ``MotsConfig``, the path of a Scalabel configuration in
            JSON, or its content: ``categories`` (a list of ``{"name", "subcategories"}``),
            ``name_mapping``, ``ignored_mapping``, ``imageSize`` (``{"height", "width"}``). A given
            configuration is complete: without ``name_mapping`` there are no aliases.

    Raises:
        ScoringError: the file cannot be read, or a key is missing or of the wrong type.
    """
    if config is None:
        return BDD100K_MOTS
    if isinstance(config, MotsConfig):
        return config
    where = "config"
    content: Any = config
    if isinstance(config, (str, os.PathLike)):
        where = str(config)
        content = read_json(Path(config))
    if isinstance(content, Mapping) and isinstance(content.get("config"), Mapping):
        content = content["config"]
        where += ": config"
    if not isinstance(content, Mapping):
        raise ScoringError(
            f"{where}: the configuration is a {type(content).__name__}; "
            'give an object {"categories": [...], ...}.'
        )
    classes: list[str] = []
    supers: dict[str, tuple[str, ...]] = {}
    _flatten_categories(content.get("categories"), f"{where}: categories", classes, supers)
    repeated = sorted({name for name in classes if classes.count(name) > 1})
    if repeated:
        raise ScoringError(f"{where}: categories lists {repeated} twice; name each class once.")
    distractors = _string_map(content.get("ignored_mapping"), f"{where}: ignored_mapping")
    for name, leaf in distractors.items():
        if leaf not in classes:
            raise ScoringError(
                f"{where}: ignored_mapping[{name!r}] is {leaf!r}, which is not one of the classes "
                f"{classes}; name a class of the tree."
            )
    return MotsConfig(
        classes=tuple(classes),
        super_classes=supers,
        aliases=_string_map(content.get("name_mapping"), f"{where}: name_mapping"),
        distractors=distractors,
        image_size=_image_size(content.get("imageSize"), f"{where}: imageSize"),
    )


def config_inside(source: JsonSource) -> Mapping[str, Any] | None:
    """The ``config`` object that a Scalabel data-set file may carry, or None."""
    content: Any = source
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        if not path.is_file():
            return None
        text = read_bytes(path)
        if not text.lstrip().startswith(b"{"):
            return None  # a list of frames; spare the time to parse it twice
        content = parse_json(text, str(path))
    if not isinstance(content, Mapping):
        return None
    config = content.get("config")
    return config if isinstance(config, Mapping) and config.get("categories") else None


def fail(where: str, value: Any, fix: str) -> NoReturn:
    """Raise ScoringError: what is wrong where, and what to do."""
    raise ScoringError(f"{where} is {short(value, 80)}; {fix}.")


def _flatten_categories(
    nodes: Any, where: str, classes: list[str], supers: dict[str, tuple[str, ...]]
) -> None:
    """Append leaf names to ``classes`` and inner nodes with their leaves to ``supers``."""
    if not isinstance(nodes, list) or not nodes:
        fail(where, nodes, 'give a list like [{"name": "car"}, ...]')
    for i, node in enumerate(nodes):
        name = node.get("name") if isinstance(node, Mapping) else None
        if not isinstance(name, str):
            fail(f"{where}[{i}].name", name, "give the class name as text")
        if node.get("subcategories"):
            before = len(classes)
            _flatten_categories(
                node["subcategories"], f"{where}[{i}].subcategories", classes, supers
            )
            supers[name] = tuple(classes[before:])
        else:
            classes.append(name)


def _string_map(value: Any, where: str) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(
        isinstance(key, str) and isinstance(name, str) for key, name in value.items()
    ):
        fail(where, value, 'give an object of names, like {"person": "pedestrian"}')
    return dict(value)


def _image_size(value: Any, where: str) -> tuple[int, int] | None:
    if value is None:
        return None
    sides = (value.get("height"), value.get("width")) if isinstance(value, Mapping) else ()
    return rle.check_size(sides, where)
