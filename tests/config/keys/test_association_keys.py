"""Keys of how frames become tracks, on a network that finds coloured blobs in frames."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from fvcore.common.config import CfgNode

from tests.config.keys.pairs import Pair, shows, shows_each
from tests.inference.fake_model import (
    BlobFrameModel,
    BlobRefiningModel,
    FullColourRefiner,
    blob_video,
)
from vmt.inference.predictor import FrameResult, PredictorOptions, VideoPredictor

#: Frames as they are.
PLAIN = ("INPUT.MIN_SIZE_TEST", "48", "INPUT.MAX_SIZE_TEST", "0")


def results(cfg: CfgNode, frames: list[np.ndarray]) -> list[FrameResult]:
    predictor = VideoPredictor(BlobFrameModel(), PredictorOptions.from_config(cfg))
    return list(predictor.stream(frames))


def options(cfg: CfgNode) -> Any:
    return PredictorOptions.from_config(cfg).bisoftmax


def quasi_dense(cfg: CfgNode) -> Any:
    return PredictorOptions.from_config(cfg).quasi_dense


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
        "TEST.BISOFTMAX.SCORE": ("max", lambda o: o.tracks.best_score, [False, True]),
    },
    "value,both",
)
def test_what_the_association_is_told(pair: Pair, value: Any, both: list[Any]) -> None:
    """What each option does: tests/inference/association/test_bisoftmax.py."""
    assert [value(options(cfg)) for cfg in pair] == both


@shows_each(
    {
        "TEST.QUASI_DENSE.INIT_SCORE": (0.9, lambda o: o.init_score, [0.7, 0.9]),
        "TEST.QUASI_DENSE.OBJECT_SCORE": (0.4, lambda o: o.object_score, [0.3, 0.4]),
        "TEST.QUASI_DENSE.MATCH_SCORE": (0.6, lambda o: o.match_score, [0.5, 0.6]),
        "TEST.QUASI_DENSE.MEMORY_FRAMES": (3, lambda o: o.memory_frames, [10, 3]),
        "TEST.QUASI_DENSE.BACKDROP_FRAMES": (2, lambda o: o.backdrop_frames, [1, 2]),
        "TEST.QUASI_DENSE.MOMENTUM": (0.5, lambda o: o.momentum, [0.8, 0.5]),
        "TEST.QUASI_DENSE.SURE_SCORE": (0.6, lambda o: o.sure_score, [0.5, 0.6]),
        "TEST.QUASI_DENSE.BACKDROP_IOU": (0.4, lambda o: o.backdrop_iou, [0.3, 0.4]),
        "TEST.QUASI_DENSE.DUPLICATE_IOU": (0.6, lambda o: o.duplicate_iou, [0.7, 0.6]),
        "TEST.QUASI_DENSE.SAME_CLASS": (False, lambda o: o.same_class, [True, False]),
        "TEST.QUASI_DENSE.DETECTIONS": (True, lambda o: o.detections, [False, True]),
        "TEST.QUASI_DENSE.METRIC": ("cosine", lambda o: o.metric, ["bisoftmax", "cosine"]),
    },
    "value,both",
)
def test_what_quasi_dense_is_told(pair: Pair, value: Any, both: list[Any]) -> None:
    """What each option does: tests/inference/association/test_quasi_dense.py."""
    assert [value(quasi_dense(cfg)) for cfg in pair] == both


@shows("TEST.REFINE_WINDOW", 2, *PLAIN)
def test_frames_that_are_refined_together(pair: Pair) -> None:
    seen = []
    for cfg in pair:
        model = BlobFrameModel()
        model.refiner = FullColourRefiner()
        predictor = VideoPredictor(model, PredictorOptions.from_config(cfg))
        list(predictor.stream([f.numpy() for f in blob_video(4, (48, 80), 1)]))
        seen.append([w.mask_logits.shape[1] for w in model.refiner.windows])
    assert seen == [[1, 2, 3, 4], [1, 2, 2, 2]]


@shows_each(
    {
        "TEST.REFINEVIS.MODE": ("offline", [1] * 7, [4, 3]),
        "TEST.REFINEVIS.WINDOW": (3, [4, 3], [3, 3, 1]),
    },
    "before,after",
    *PLAIN,
)
def test_frames_that_go_in_together(pair: Pair, before: list[int], after: list[int]) -> None:
    clip = [f.numpy() for f in blob_video(7, (48, 80))]
    extra = () if pair.key.endswith("MODE") else ("TEST.REFINEVIS.MODE", "offline")
    calls = []
    for cfg in pair.configs(*extra):
        predictor = VideoPredictor(BlobRefiningModel(4), PredictorOptions.from_config(cfg))
        list(predictor.stream(clip))
        calls.append(predictor.model.calls)
    assert calls == [before, after]


@shows_each(
    {
        # a missed frame of an untrained network has a probability of 0.018
        "TEST.REFINEVIS.RECOVER_SCORE": (0.01, [2, 1, 2], [2, 2, 2]),
        "TEST.REFINEVIS.SCORE_FRAMES": ("alive", [0.88, 0.88], [0.88, 0.59]),
    },
    "before,after",
    *PLAIN,
)
def test_missed_frames(pair: Pair, before: list[float], after: list[float]) -> None:
    """Which of them show a track, and what they do to its score."""
    one, two = ([f.numpy() for f in blob_video(1, (48, 80), count)] for count in (1, 2))
    found = []
    for cfg in pair:
        model, options = BlobRefiningModel(4), PredictorOptions.from_config(cfg)
        tracks = options.association(model)
        for t, image in enumerate([*two, *one, *two]):
            frame = model.segment_frames(torch.from_numpy(image).permute(2, 0, 1)[None])
            tracks.add(t, frame)
        if pair.key.endswith("RECOVER_SCORE"):
            found.append([len(r.track_ids) for r in tracks.pop_frames(3)])
        else:
            closed = tracks.pop_closed(everything=True)
            found.append([round(track.classes[0].score, 2) for track in closed])
    assert found == [before, after]
