"""Class lists of the data sets, and which COCO categories stand in for which of their classes.

``LABEL_SPACES`` holds one row per data set; ``COCO_MAPS`` one map per joint training. Loaders and
result writers alone turn category ids into labels and back.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, TypeVar

from cocoapi_hq.io.fields import is_int
from vmt.structures.labels import PUBLISHED_ROWS, YTVIS_2019, LabelSpace
from vmt.utils.errors import ConfigError

_Row = TypeVar("_Row")

_YTVIS_2021: Final = (
    "airplane bear bird boat car cat cow deer dog duck earless_seal elephant fish flying_disc fox "
    "frog giant_panda giraffe horse leopard lizard monkey motorbike mouse parrot person rabbit "
    "shark skateboard snake snowboard squirrel surfboard tennis_racket tiger train truck turtle "
    "whale zebra"
)

_OVIS: Final = (
    "Person Bird Cat Dog Horse Sheep Cow Elephant Bear Zebra Giraffe Poultry Giant_panda Lizard "
    "Parrot Monkey Rabbit Tiger Fish Turtle Bicycle Motorcycle Airplane Boat Vehicle"
)

_BDD100K: Final = "pedestrian rider car truck bus train motorcycle bicycle"

# fmt: off
#: COCO's 80 classes by their own category ids, which leave gaps up to 90.
_COCO: Final = MappingProxyType({
    1: "person", 2: "bicycle", 3: "car", 4: "motorcycle", 5: "airplane", 6: "bus", 7: "train",
    8: "truck", 9: "boat", 10: "traffic_light", 11: "fire_hydrant", 13: "stop_sign",
    14: "parking_meter", 15: "bench", 16: "bird", 17: "cat", 18: "dog", 19: "horse", 20: "sheep",
    21: "cow", 22: "elephant", 23: "bear", 24: "zebra", 25: "giraffe", 27: "backpack",
    28: "umbrella", 31: "handbag", 32: "tie", 33: "suitcase", 34: "frisbee", 35: "skis",
    36: "snowboard", 37: "sports_ball", 38: "kite", 39: "baseball_bat", 40: "baseball_glove",
    41: "skateboard", 42: "surfboard", 43: "tennis_racket", 44: "bottle", 46: "wine_glass",
    47: "cup", 48: "fork", 49: "knife", 50: "spoon", 51: "bowl", 52: "banana", 53: "apple",
    54: "sandwich", 55: "orange", 56: "broccoli", 57: "carrot", 58: "hot_dog", 59: "pizza",
    60: "donut", 61: "cake", 62: "chair", 63: "couch", 64: "potted_plant", 65: "bed",
    67: "dining_table", 70: "toilet", 72: "tv", 73: "laptop", 74: "mouse", 75: "remote",
    76: "keyboard", 77: "cell_phone", 78: "microwave", 79: "oven", 80: "toaster", 81: "sink",
    82: "refrigerator", 84: "book", 85: "clock", 86: "vase", 87: "scissors", 88: "teddy_bear",
    89: "hair_drier", 90: "toothbrush",
})
# fmt: on


def _from_one(name: str, names: Iterable[str]) -> LabelSpace:
    """Category ids count from 1 in the order of the names."""
    names = tuple(names)
    return LabelSpace(name, names, tuple(range(1, len(names) + 1)))


_SPACES: Final = (
    _from_one("ytvis_2019", YTVIS_2019),
    # The head of the published VMT and SeqFormer files. Its unused rows can enter the ten best, and
    # count in exact parity.
    LabelSpace("ytvis_2019_release", PUBLISHED_ROWS, tuple(range(len(PUBLISHED_ROWS)))),
    _from_one("ytvis_2021", _YTVIS_2021.split()),
    _from_one("ovis", _OVIS.split()),
    LabelSpace("coco", tuple(_COCO.values()), tuple(_COCO)),
    _from_one("bdd100k_mots", _BDD100K.split()),
    _from_one("bdd100k_det", [*_BDD100K.split(), "traffic light", "traffic sign"]),
    _from_one("object", ["object"]),  # class-agnostic
    _from_one("families", ["person", "animal", "vehicle", "other thing"]),  # vmt.data.families
)

#: Every label space by its name in ``MODEL.LABEL_SPACE``.
LABEL_SPACES: Final[Mapping[str, LabelSpace]] = MappingProxyType(
    {space.name: space for space in _SPACES}
)


def label_space(name: str) -> LabelSpace:
    """The label space that a config names.

    Raises:
        ConfigError: there is none; the message suggests the nearest and lists all.
    """
    return _lookup(LABEL_SPACES, name, "label space")


# COCO category id -> category id of the target. A COCO category that a map lacks is dropped from
# joint training. Two pairs join different things and are kept as published: bicycle ->
# motorbike (2019, 2021) and skis -> snowboard (the later maps).
# fmt: off
_TO_YTVIS_2019: Final = {
    1: 1, 2: 21, 3: 6, 4: 21, 5: 28, 7: 17, 8: 29, 9: 34, 17: 14, 18: 8, 19: 18, 21: 15, 22: 32,
    23: 20, 24: 30, 25: 22, 36: 33, 41: 5, 42: 27, 43: 40,
}
_TO_YTVIS_2021: Final = {
    1: 26, 2: 23, 3: 5, 4: 23, 5: 1, 7: 36, 8: 37, 9: 4, 16: 3, 17: 6, 18: 9, 19: 19, 21: 7, 22: 12,
    23: 2, 24: 40, 25: 18, 36: 31, 41: 29, 42: 33, 43: 34,
}
_TO_OVIS: Final = {
    1: 1, 2: 21, 3: 25, 4: 22, 5: 23, 6: 25, 8: 25, 9: 24, 17: 3, 18: 4, 19: 5, 20: 6, 21: 7, 22: 8,
    23: 9, 24: 10, 25: 11,
}
# fmt: on

#: Category maps of joint training with COCO, by name: (COCO id -> target id).
#:
#: ``ytvis_2019`` and ``ytvis_2021``: SeqFormer's maps without 74, the computer mouse, which they
#: send to the fox (2019) and to the animal mouse (2021). ``ytvis_2019_release`` keeps 74 -> 24, as
#: the published files were trained. ``*_later``: as later VIS code has them, with skis (2019) and
#: with frisbee and skis (2021). ``ovis``: later VIS code.
COCO_MAPS: Final[Mapping[str, Mapping[int, int]]] = MappingProxyType(
    {
        "ytvis_2019": MappingProxyType(_TO_YTVIS_2019),
        "ytvis_2019_release": MappingProxyType(_TO_YTVIS_2019 | {74: 24}),
        "ytvis_2019_later": MappingProxyType(_TO_YTVIS_2019 | {35: 33}),
        "ytvis_2021": MappingProxyType(_TO_YTVIS_2021),
        "ytvis_2021_later": MappingProxyType(_TO_YTVIS_2021 | {34: 14, 35: 31}),
        "ovis": MappingProxyType(_TO_OVIS),
    }
)


def coco_map(name: str) -> Mapping[int, int]:
    """The COCO map that a config names, COCO category id to target category id.

    Raises:
        ConfigError: there is none; the message suggests the nearest and lists all.
    """
    return _lookup(COCO_MAPS, name, "COCO map")


def category_names(rows: Sequence[Any]) -> dict[int, str]:
    """Category id -> name, of the sound rows of ``categories`` in a file."""
    return {
        int(row["id"]): str(row.get("name", row["id"]))
        for row in rows
        if isinstance(row, dict) and is_int(row.get("id"))
    }


def _lookup(table: Mapping[str, _Row], name: str, kind: str) -> _Row:
    try:
        return table[name]
    except KeyError:
        close = difflib.get_close_matches(name, table, n=1, cutoff=0.4)
        hint = f"did you mean {close[0]}? " if close else ""
        raise ConfigError(f"unknown {kind} {name!r}; {hint}Known: {', '.join(table)}.") from None
