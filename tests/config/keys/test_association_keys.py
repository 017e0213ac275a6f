"""Keys of how frames become tracks, on a network that finds coloured blobs in frames."""

from __future__ import annotations

from typing import Any

import numpy as np
from fvcore.common.config import CfgNode

from tests.config.keys.pairs import Pair, shows, shows_each
from tests.inference.fake_model import BlobFrameModel, blob_video
from vmt.inference.predictor import FrameResult, PredictorOptions, VideoPredictor

#: Frames as they are.
PLAIN = ("INPUT.MIN_SIZE_TEST", "48", "INPUT.MAX_SIZE_TEST", "0")


def results(cfg: CfgNode, frames: list[np.ndarray]) -> list[FrameResult]:
    predictor = VideoPredictor(BlobFrameModel(), PredictorOptions.from_config(cfg))
    return list(predictor.stream(frames))


def options(cfg: CfgNode) -> Any:
    return PredictorOptions.from_config(cfg).bisoftmax


@shows("TEST.ASSOCIATION", "embedding_hungarian")
def test_association(pair: Pair) -> None:
    chosen = [PredictorOptions.from_config(cfg).association(BlobFrameModel()) for cfg in pair]
    assert [type(a).__name__ for a in chosen] == [
        "BisoftmaxAssociation",
        "EmbeddingHungarianAssociation",
    ]


@shows_each(
    {
        # blobs have a score of 0.88: none is good enough for more than the best query
        "TEST.BISOFTMAX.SELECT_SCORE": (0.9, [2, 2], [1, 1]),
        # the second comes when there is a track already
        "TEST.BISOFTMAX.BIRTH_SCORE": (0.9, [1, 2], [1, 1]),
    },
    "before,after",
    *PLAIN,
)
def test_scores(pair: Pair, before: list[int], after: list[int]) -> None:
    one, two = ([f.numpy() for f in blob_video(1, (48, 80), count)] for count in (1, 2))
    clip = [*(one if before[0] == 1 else two), *two]
    found = [[len(r.tracks) for r in results(cfg, clip)] for cfg in pair]
    assert found == [before, after]


@shows_each(
    {
        "TEST.BISOFTMAX.MASK_IOU": (0.3, lambda o: o.selection.mask_iou, [0.5, 0.3]),
        "TEST.BISOFTMAX.MATCHING": ("hungarian", lambda o: o.memory.optimal, [False, True]),
        "TEST.BISOFTMAX.SCORE": ("max", lambda o: o.best_score, [False, True]),
    },
    "value,both",
)
def test_what_the_association_is_told(pair: Pair, value: Any, both: list[Any]) -> None:
    """What each option does: tests/inference/association/test_bisoftmax.py."""
    assert [value(options(cfg)) for cfg in pair] == both
