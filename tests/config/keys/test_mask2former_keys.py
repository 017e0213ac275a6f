"""Keys of Mask2Former."""

from __future__ import annotations

from typing import Any

import pytest

from tests.config.keys.pairs import Pair, dropouts, network, outline, shows, shows_each
from vmt.utils.errors import ConfigError

TINY = (
    "MODEL.META_ARCHITECTURE", "MinVIS", "MODEL.MASK2FORMER.DIM", 32,
    "MODEL.MASK2FORMER.NUM_HEADS", 4, "MODEL.MASK2FORMER.NUM_POINTS", 2,
    "MODEL.MASK2FORMER.ENCODER_LAYERS", 1, "MODEL.MASK2FORMER.DECODER_LAYERS", 1,
    "MODEL.MASK2FORMER.ENCODER_FFN_DIM", 32, "MODEL.MASK2FORMER.DECODER_FFN_DIM", 32,
    "MODEL.MASK2FORMER.MASK_DIM", 32, "MODEL.MASK2FORMER.NUM_QUERIES", 6,
)  # fmt: skip


@shows_each(
    {
        "MODEL.MASK2FORMER.DIM": (64, lambda net: net.heads.cls.in_features, [32, 64]),
        "MODEL.MASK2FORMER.NUM_HEADS": (
            8, lambda net: net.decoder.layers[0].cross_attn.num_heads, [4, 8],
        ),
        "MODEL.MASK2FORMER.NUM_POINTS": (
            3, lambda net: net.encoder.layers[0].attn.num_points, [2, 3],
        ),
        "MODEL.MASK2FORMER.ENCODER_LAYERS": (2, lambda net: len(net.encoder.layers), [1, 2]),
        "MODEL.MASK2FORMER.DECODER_LAYERS": (2, lambda net: len(net.decoder.layers), [1, 2]),
        "MODEL.MASK2FORMER.ENCODER_FFN_DIM": (
            48, lambda net: net.encoder.layers[0].linear1.out_features, [32, 48],
        ),
        "MODEL.MASK2FORMER.DECODER_FFN_DIM": (
            48, lambda net: net.decoder.layers[0].linear1.out_features, [32, 48],
        ),
        "MODEL.MASK2FORMER.MASK_DIM": (
            48, lambda net: net.pixel_map.features.out_channels, [32, 48],
        ),
        "MODEL.MASK2FORMER.NUM_QUERIES": (
            7, lambda net: net.decoder.content.num_embeddings, [6, 7],
        ),
        "MODEL.MASK2FORMER.NO_OBJECT_WEIGHT": (
            0.2, lambda net: net.criterion.no_object_weight, [0.1, 0.2],
        ),
    },
    "read,values",
    *TINY,
)  # fmt: skip
def test_sizes(pair: Pair, read: Any, values: list[Any]) -> None:
    assert [read(outline(cfg)) for cfg in pair] == values


@shows("MODEL.MASK2FORMER.DROPOUT", 0.3, *TINY)
def test_dropout(pair: Pair) -> None:
    parts = [(net.encoder, net.decoder) for net in map(network, pair)]
    assert [[dropouts(part) for part in both] for both in parts] == [[{0.0}] * 2, [{0.3}] * 2]
    layer = parts[1][1].layers[0]
    assert layer.self_attn.dropout == pytest.approx(0.3)
    assert layer.cross_attn.dropout == pytest.approx(0.3)


@shows("MODEL.LOSS.MASK_POINTS", 100, *TINY)
def test_places_of_masks(pair: Pair) -> None:
    for name in ("MinVIS", "MaskDINO"):
        configs = [cfg.clone() for cfg in pair]
        for cfg in configs:
            cfg.defrost()
            cfg.MODEL.META_ARCHITECTURE = name
        samplers = [outline(cfg).criterion.sampler for cfg in configs]
        assert [sampler.num_points for sampler in samplers] == [12544, 100]
    with pytest.raises(ConfigError, match="MASK_POINTS is 0; give at least 1"):
        outline(pair.to(0)[1])
