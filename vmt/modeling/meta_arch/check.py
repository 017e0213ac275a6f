"""Values of ``MODEL`` with which no network can be built, named before one is tried."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fvcore.common.config import CfgNode

from vmt.layers.projection import NORM_GROUPS
from vmt.modeling.mask_refiner.pyramid import GROUPS
from vmt.utils.errors import ConfigError

#: Keys that count something, and the least that works.
_LEAST = {
    "SEQFORMER": {
        "FFN_DIM": 1, "ENCODER_LAYERS": 1, "DECODER_LAYERS": 1,
        "NUM_POINTS": 1, "NUM_QUERIES": 1, "NUM_HEADS": 1,
    },
    "REFINER": {"NUM_HEADS": 1, "FFN_DIM": 1},
}  # fmt: skip

#: Key, its value, whether it works, and what would.
_Rule = tuple[str, Any, bool, str]


def check_model(cfg: CfgNode) -> None:
    """Refuse values that fail deep inside a constructor.

    Raises:
        ConfigError: naming the key, its value and what works.
    """
    for key, value, works, what in _rules(cfg.MODEL):
        if not works:
            raise ConfigError(f"MODEL.{key} is {value!r}; give {what}.")


def _rules(model: CfgNode) -> Iterator[_Rule]:
    for group, least in _LEAST.items():
        for name, low in least.items():
            value = model[group][name]
            yield f"{group}.{name}", value, value >= low, f"at least {low}"
    for group in ("SEQFORMER", "REFINER"):
        value = model[group].DROPOUT
        yield f"{group}.DROPOUT", value, 0 <= value < 1, "a probability in [0, 1)"
    yield from _widths(model)


def _widths(model: CfgNode) -> Iterator[_Rule]:
    """Widths that heads and groups divide."""
    node = model.SEQFORMER
    width, heads = node.HIDDEN_DIM, node.NUM_HEADS
    works = width > 0 and width % NORM_GROUPS == 0 and width % heads == 0
    what = f"a multiple of {NORM_GROUPS} and of NUM_HEADS, {heads}"
    yield "SEQFORMER.HIDDEN_DIM", width, works, what
    if model.REFINER.NAME != "none":
        width, heads = model.REFINER.EMBED_DIM, model.REFINER.NUM_HEADS
        works = width > 0 and width % 4 == 0 and width % heads == 0
        yield "REFINER.EMBED_DIM", width, works, f"a multiple of 4 and of NUM_HEADS, {heads}"
        strides = model.MASKDINO.STRIDES
        yield "MASKDINO.STRIDES", strides, 8 in strides, "8 among them, which a refiner reads"
    if model.META_ARCHITECTURE == "MaskRefiner":
        sizes, width = model.MASK_REFINER.CROP_SIZES, model.MASK_REFINER.DIM
        works = len(sizes) == 2 and 0 < sizes[0] <= sizes[1]
        yield "MASK_REFINER.CROP_SIZES", sizes, works, "two sizes in pixels, the shorter one first"
        yield "MASK_REFINER.DIM", width, width > 0 and width % GROUPS == 0, (
            f"a multiple of {GROUPS}"
        )  # fmt: skip
