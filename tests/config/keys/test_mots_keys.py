"""Keys of QDTrack's network."""

from __future__ import annotations

from typing import Any

import pytest

from tests.config.keys.pairs import Pair, network, outline, shows, shows_each
from vmt.utils.errors import ConfigError

TINY = (
    "MODEL.META_ARCHITECTURE", "QDTrack", "MODEL.MOTS.DIM", 32, "MODEL.MOTS.FC_DIM", 32,
    "MODEL.MOTS.HEAD_CONVS", 1, "MODEL.MOTS.EMBED_DIM", 16,
)  # fmt: skip


@shows_each(
    {
        "MODEL.MOTS.DIM": (64, lambda net: net.rpn.head.cls_logits.in_channels, [32, 64]),
        "MODEL.MOTS.FC_DIM": (
            48,
            lambda net: [net.roi_heads.box_head.fc7.out_features, net.embedding[-1].in_features],
            [[32, 32], [48, 48]],
        ),
        "MODEL.MOTS.HEAD_CONVS": (
            3, lambda net: [len(net.roi_heads.mask_head), len(net.embedding)], [[1, 7], [3, 13]],
        ),
        "MODEL.MOTS.EMBED_DIM": (24, lambda net: net.embedding[-1].out_features, [16, 24]),
        "MODEL.MOTS.ANCHOR_SCALE": (
            4.0, lambda net: [size for size, in net.rpn.anchor_generator.sizes],
            [[32, 64, 128, 256, 512], [16, 32, 64, 128, 256]],
        ),
        "MODEL.MOTS.STRIDES": (
            [8, 16, 32],
            lambda net: [len(net.neck.inner_blocks), len(net.rpn.anchor_generator.sizes)],
            [[4, 5], [3, 4]],
        ),
        "MODEL.MOTS.PROPOSALS": (
            50,
            lambda net: [net.train(mode).rpn.post_nms_top_n() for mode in (True, False)],
            [[1000, 1000], [50, 50]],
        ),
        "MODEL.MOTS.RPN_SAMPLES": (
            64, lambda net: net.rpn.fg_bg_sampler.batch_size_per_image, [256, 64],
        ),
        "MODEL.MOTS.BOX_SAMPLES": (
            64, lambda net: net.roi_heads.fg_bg_sampler.batch_size_per_image, [512, 64],
        ),
        "MODEL.MOTS.SCORE": (0.2, lambda net: net.roi_heads.score_thresh, [0.05, 0.2]),
        "MODEL.MOTS.NMS_IOU": (0.7, lambda net: net.roi_heads.nms_thresh, [0.5, 0.7]),
        "MODEL.MOTS.DETECTIONS": (7, lambda net: net.roi_heads.detections_per_img, [100, 7]),
        "MODEL.MOTS.KEY_REGIONS": (9, lambda net: net.regions.key, [128, 9]),
        "MODEL.MOTS.REFERENCE_REGIONS": (9, lambda net: net.regions.reference, [256, 9]),
        "MODEL.MOTS.POSITIVE_IOU": (0.6, lambda net: net.regions.positive_iou, [0.7, 0.6]),
        "MODEL.MOTS.NEGATIVE_IOU": (0.2, lambda net: net.regions.negative_iou, [0.3, 0.2]),
        "MODEL.MOTS.CONTRASTIVE_WEIGHT": (
            0.5, lambda net: net.criterion.contrastive_weight, [0.25, 0.5],
        ),
        "MODEL.MOTS.AUXILIARY_WEIGHT": (
            0.0, lambda net: net.criterion.auxiliary_weight, [1.0, 0.0],
        ),
        "MODEL.MOTS.AUXILIARY": ("released", lambda net: net.criterion.released, [False, True]),
        "MODEL.MOTS.ALL_FRAMES": (True, lambda net: net.all_frames, [False, True]),
    },
    "read,values",
    *TINY,
)  # fmt: skip
def test_sizes(pair: Pair, read: Any, values: list[Any]) -> None:
    build = network if pair.key.endswith("ANCHOR_SCALE") else outline
    assert [read(build(cfg)) for cfg in pair] == values


@shows("MODEL.MOTS.AUXILIARY", "published", *TINY)
def test_unknown_words(pair: Pair) -> None:
    with pytest.raises(ConfigError, match=r"AUXILIARY is 'published'; choose paper or released"):
        outline(pair.configs()[1])
