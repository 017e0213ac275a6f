"""Keys of MaskDINO."""

from __future__ import annotations

from typing import Any

import pytest

from tests.config.keys.pairs import Pair, dropouts, network, outline, shows, shows_each

TINY = (
    "MODEL.META_ARCHITECTURE", "MaskDINO", "MODEL.MASKDINO.DIM", 32,
    "MODEL.MASKDINO.NUM_HEADS", 4, "MODEL.MASKDINO.NUM_POINTS", 2,
    "MODEL.MASKDINO.ENCODER_LAYERS", 1, "MODEL.MASKDINO.DECODER_LAYERS", 1,
    "MODEL.MASKDINO.ENCODER_FFN_DIM", 32, "MODEL.MASKDINO.DECODER_FFN_DIM", 32,
    "MODEL.MASKDINO.MASK_DIM", 32, "MODEL.MASKDINO.NUM_QUERIES", 6,
)  # fmt: skip


def _attention(net: Any) -> Any:
    return net.decoder.layers[0].cross_attn


@shows_each(
    {
        "MODEL.MASKDINO.DIM": (64, lambda net: net.heads.cls.in_features, [32, 64]),
        "MODEL.MASKDINO.NUM_HEADS": (8, lambda net: _attention(net).num_heads, [4, 8]),
        "MODEL.MASKDINO.NUM_POINTS": (3, lambda net: _attention(net).num_points, [2, 3]),
        "MODEL.MASKDINO.ENCODER_LAYERS": (2, lambda net: len(net.encoder.layers), [1, 2]),
        "MODEL.MASKDINO.DECODER_LAYERS": (2, lambda net: len(net.decoder.layers), [1, 2]),
        "MODEL.MASKDINO.ENCODER_FFN_DIM": (
            48, lambda net: net.encoder.layers[0].linear1.out_features, [32, 48],
        ),
        "MODEL.MASKDINO.DECODER_FFN_DIM": (
            48, lambda net: net.decoder.layers[0].linear1.out_features, [32, 48],
        ),
        "MODEL.MASKDINO.MASK_DIM": (48, lambda net: net.pixel_map.features.out_channels, [32, 48]),
        "MODEL.MASKDINO.NUM_QUERIES": (7, lambda net: net.selection.num_queries, [6, 7]),
        "MODEL.MASKDINO.STRIDES": ([4, 8, 16, 32], lambda net: _attention(net).num_levels, [4, 5]),
        "MODEL.MASKDINO.EXTRA_LEVELS": (0, lambda net: len(net.neck), [4, 3]),
        "MODEL.MASKDINO.LEVEL_ORDER": (
            "high2low", lambda net: net.neck.strides, [(8, 16, 32), (32, 16, 8)],
        ),
        "MODEL.MASKDINO.BOX_INIT": (
            "regressed", lambda net: net.box_init, ["mask", "regressed"],
        ),
        "MODEL.MASKDINO.DN_QUERIES": (7, lambda net: net.noise.num_queries, [100, 7]),
        "MODEL.MASKDINO.DN_KIND": (
            "contrastive", lambda net: net.noise.kind, ["positive", "contrastive"],
        ),
        "MODEL.MASKDINO.MATCHER": ("ota", lambda net: net.criterion.one_to_many, [False, True]),
        "MODEL.MASKDINO.DN_NOISE": (0.2, lambda net: net.noise.scale, [0.4, 0.2]),
    },
    "read,values",
    *TINY,
)  # fmt: skip
def test_sizes(pair: Pair, read: Any, values: list[Any]) -> None:
    assert [read(outline(cfg)) for cfg in pair] == values


@shows("MODEL.MASKDINO.DROPOUT", 0.3, *TINY)
def test_dropout(pair: Pair) -> None:
    parts = [(net.encoder, net.decoder) for net in map(network, pair)]
    assert [[dropouts(part) for part in both] for both in parts] == [[{0.0}] * 2, [{0.3}] * 2]
    assert parts[1][1].layers[0].self_attn.dropout == pytest.approx(0.3)
