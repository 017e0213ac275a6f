"""Values with which no network can be built are one sentence about the key."""

from __future__ import annotations

from typing import Any

import pytest

from tests.config.keys.pairs import Pair, outline
from vmt.utils.errors import ConfigError

GIVEN = ("MODEL.META_ARCHITECTURE", "MaskRefiner", "MODEL.REFINER.NAME", "quadtree")


@pytest.mark.parametrize(
    ("key", "value", "said", "common"),
    [
        ("PIXEL_MEAN", [1.0, 2.0], "three numbers", ()),
        ("PIXEL_STD", [1.0], "three numbers", ()),
        ("PIXEL_STD", [1.0, 0.0, 1.0], "numbers above 0", ()),
        ("SEQFORMER.HIDDEN_DIM", 48, "multiple of 32 and of NUM_HEADS, 4", ()),
        ("SEQFORMER.NUM_HEADS", 5, "HIDDEN_DIM is 32; .* NUM_HEADS, 5", ()),
        ("SEQFORMER.NUM_HEADS", 0, "at least 1", ()),
        ("SEQFORMER.NUM_LEVELS", 2, "at least 3", ()),
        ("SEQFORMER.DECODER_LAYERS", 0, "at least 1", ()),
        ("SEQFORMER.ENCODER_LAYERS", -1, "at least 1", ()),
        ("SEQFORMER.NUM_QUERIES", 0, "at least 1", ()),
        ("SEQFORMER.NUM_POINTS", 0, "at least 1", ()),
        ("SEQFORMER.MASK_CHANNELS", 0, "at least 1", ()),
        ("SEQFORMER.FFN_DIM", 0, "at least 1", ()),
        ("SEQFORMER.DROPOUT", 1.5, "probability", ()),
        ("REFINER.DROPOUT", -0.1, "probability", ()),
        ("REFINER.EMBED_DIM", 18, "multiple of 4", ("MODEL.REFINER.NAME", "quadtree")),
        ("REFINER.NUM_HEADS", 3, "of NUM_HEADS, 3", ("MODEL.REFINER.NAME", "dense_band")),
        ("MATCHER.CLASS_COST", 0.0, "one of the three costs",
         ("MODEL.MATCHER.BOX_COST", "0.0", "MODEL.MATCHER.GIOU_COST", "0.0")),
        ("MASK_REFINER.CROP_SIZES", [64], "two sizes", GIVEN),
        ("MASK_REFINER.CROP_SIZES", [96, 64], "the shorter one first", GIVEN),
        ("MASK_REFINER.DIM", 20, "multiple of 8", GIVEN),
    ],
)  # fmt: skip
def test_impossible_values_are_named(key: str, value: Any, said: str, common: Any) -> None:
    _, changed = Pair(f"MODEL.{key}", value, common).configs()
    with pytest.raises(ConfigError, match=said) as caught:
        outline(changed)
    assert str(caught.value).startswith("MODEL.")
    assert "\n" not in str(caught.value)
