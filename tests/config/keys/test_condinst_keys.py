"""Keys of CondInst and of IDOL."""

from __future__ import annotations

from typing import Any

import pytest

from tests.config.keys.pairs import Pair, dropouts, network, outline, shows, shows_each

TINY = (
    "MODEL.META_ARCHITECTURE", "IDOL", "MODEL.CONDINST.DIM", 32,
    "MODEL.CONDINST.NUM_HEADS", 4, "MODEL.CONDINST.NUM_POINTS", 2,
    "MODEL.CONDINST.ENCODER_LAYERS", 1, "MODEL.CONDINST.DECODER_LAYERS", 1,
    "MODEL.CONDINST.FFN_DIM", 32, "MODEL.CONDINST.NUM_QUERIES", 6,
    "MODEL.CONDINST.DROPOUT", 0.0,
)  # fmt: skip


def _attention(net: Any) -> Any:
    return net.decoder.layers[0].cross_attn


@shows_each(
    {
        "MODEL.CONDINST.DIM": (64, lambda net: net.heads["cls"][0].in_features, [32, 64]),
        "MODEL.CONDINST.NUM_HEADS": (8, lambda net: _attention(net).num_heads, [4, 8]),
        "MODEL.CONDINST.NUM_POINTS": (3, lambda net: _attention(net).num_points, [2, 3]),
        "MODEL.CONDINST.NUM_LEVELS": (5, lambda net: len(net.neck), [4, 5]),
        "MODEL.CONDINST.ENCODER_LAYERS": (2, lambda net: len(net.encoder.layers), [1, 2]),
        "MODEL.CONDINST.DECODER_LAYERS": (2, lambda net: len(net.heads["box"]), [1, 2]),
        "MODEL.CONDINST.FFN_DIM": (
            48,
            lambda net: [
                part.layers[0].linear1.out_features for part in (net.encoder, net.decoder)
            ],
            [[32, 32], [48, 48]],
        ),
        "MODEL.CONDINST.NUM_QUERIES": (7, lambda net: len(net.decoder.query_pos), [6, 7]),
        "MODEL.CONDINST.MASK_CHANNELS": (4, lambda net: net.masks.widths[0], [10, 6]),
        "MODEL.IDOL.CONTRASTIVE_WEIGHT": (1.0, lambda n: n.criterion.weight("loss_reid"), [2, 1]),
        "MODEL.IDOL.COSINE_WEIGHT": (0.0, lambda n: n.criterion.weight("loss_reid_aux"), [3, 0]),
    },
    "read,values",
    *TINY,
)
def test_sizes(pair: Pair, read: Any, values: list[Any]) -> None:
    assert [read(outline(cfg)) for cfg in pair] == values


@shows("MODEL.CONDINST.DROPOUT", 0.3, *TINY)
def test_dropout(pair: Pair) -> None:
    parts = [(net.encoder, net.decoder) for net in map(network, pair)]
    assert [[dropouts(part) for part in both] for both in parts] == [[{0.0}] * 2, [{0.3}] * 2]
    assert parts[1][1].layers[0].self_attn.dropout == pytest.approx(0.3)
