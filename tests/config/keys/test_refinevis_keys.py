"""Keys of RefineVIS: what is built, and what the built network is told.

What each switch changes in the losses stands in tests/modeling/temporal/test_refinement.py and
tests/modeling/test_refinevis.py.
"""

from __future__ import annotations

from typing import Any

from tests.config.keys.pairs import Pair, outline, shows, shows_each
from tests.config.keys.test_maskdino_keys import TINY

COMMON = (
    *TINY[2:], "MODEL.META_ARCHITECTURE", "RefineVIS", "MODEL.MASKDINO.DN_KIND", "contrastive",
    "MODEL.REFINEVIS.NUM_HEADS", 4, "MODEL.REFINEVIS.FFN_DIM", 32,
)  # fmt: skip


@shows("MODEL.REFINEVIS.FRAME_MODEL", "IDOL", *COMMON, "MODEL.CONDINST.DIM", 32)
def test_frame_model(pair: Pair) -> None:
    names = [type(outline(cfg).frame_model).__name__ for cfg in pair]
    assert names == ["MaskDINO", "IDOL"]


@shows_each(
    {
        "MODEL.REFINEVIS.WINDOW": (7, lambda net: (net.window, net.tar.options.window),
                                   [(10, 10), (7, 7)]),
        "MODEL.REFINEVIS.NUM_HEADS": (2, lambda net: net.tar.self_attn.num_heads, [4, 2]),
        "MODEL.REFINEVIS.FFN_DIM": (48, lambda net: net.tar.linear1.out_features, [32, 48]),
        "MODEL.REFINEVIS.NORM": ("post", lambda net: net.tar.options.norm, ["pre", "post"]),
        "MODEL.REFINEVIS.POSITION": (
            "query_key", lambda net: net.tar.options.position, ["input", "query_key"],
        ),
        "MODEL.REFINEVIS.TRAIN_PASS": ("joint", lambda net: net.learning.recurrent, [True, False]),
        "MODEL.REFINEVIS.TRAIN_TRACKLETS": (
            "gt", lambda net: net.learning.tracklets.kind, ["tracker", "gt"],
        ),
        "MODEL.REFINEVIS.TRAIN_IOU": (
            0.5, lambda net: net.learning.tracklets.min_iou, [0.3, 0.5],
        ),
        "MODEL.REFINEVIS.TRAIN_SCORE": (
            0.1, lambda net: net.learning.tracklets.min_score, [0.05, 0.1],
        ),
        "MODEL.REFINEVIS.TRAIN_GAPS": (0.3, lambda net: net.learning.gaps, [0.0, 0.3]),
        "MODEL.REFINEVIS.NEGATIVE_TRACKLETS": (
            3, lambda net: net.learning.tracklets.num_negatives, [20, 3],
        ),
        "MODEL.REFINEVIS.ABSENT_CLASS": (
            "object", lambda net: net.learning.absent_class, [False, True],
        ),
        "MODEL.REFINEVIS.ASSOCIATION_CDN": (
            False, lambda net: net.learning.association_denoising, [True, False],
        ),
        "MODEL.REFINEVIS.TEMPORAL_CDN": (
            False, lambda net: net.learning.temporal_denoising, [True, False],
        ),
        "MODEL.REFINEVIS.CONTRASTIVE_WEIGHT": (
            2.0, lambda net: net.learning.contrastive_weight, [1.0, 2.0],
        ),
        "MODEL.REFINEVIS.COSINE_WEIGHT": (
            3.0, lambda net: net.learning.cosine_weight, [0.0, 3.0],
        ),
    },
    "read,values",
    *COMMON,
)  # fmt: skip
def test_what_is_built(pair: Pair, read: Any, values: list[Any]) -> None:
    assert [read(outline(cfg)) for cfg in pair] == values
