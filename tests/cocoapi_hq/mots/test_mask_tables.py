"""Overlap tables: the kernel and pycocotools count what dense masks count."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

from cocoapi_hq import ScoringError
from cocoapi_hq.io import native, rle, run_check
from cocoapi_hq.mots import clear_mot, mask_tables, scalabel_io
from cocoapi_hq.mots.frame_masks import FrameMasks
from cocoapi_hq.mots.mots_config import BDD100K_MOTS
from tests.cocoapi_hq import reference_mots as ref
from tests.cocoapi_hq.mots.test_clear_mot import random_scene
from tests.cocoapi_hq.mots.test_scalabel_io import frame, label


@pytest.fixture(params=["kernel", "codec"])
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "codec":
        monkeypatch.setenv(native.DISABLE_VARIABLE, "1")
    elif native.kernel() is None:
        pytest.skip("the kernel was not built")
    return request.param


def random_frame(rng: np.random.Generator, disjoint: bool) -> tuple[FrameMasks, list]:
    frame = FrameMasks("v", "n", 0)
    masks, taken = [], np.zeros((9, 14), dtype=bool)
    for i in range(int(rng.integers(0, 5))):
        h = 9 if rng.random() < 0.9 else 10
        mask = rng.random((h, 14)) < rng.choice([0.0, 0.1, 0.6])
        if disjoint and h == 9:
            mask &= ~taken
            taken |= mask
        masks.append(mask)
        frame.append(rle.encode(mask), 0, track_id=i)
    return frame, masks


def shared(a: np.ndarray, b: np.ndarray) -> int:
    return int((a & b).sum()) if a.shape == b.shape else 0


def test_tables_equal_dense_counts(implementation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mask_tables, "_FRAMES_PER_CHUNK", 7)
    rng = np.random.default_rng(0)
    pairs = [(random_frame(rng, False), random_frame(rng, k % 2 == 0)) for k in range(60)]
    tables = list(
        mask_tables.mask_tables([gt[0] for gt, _ in pairs], [pred[0] for _, pred in pairs])
    )
    assert len(tables) == 60
    for ((_, gt), (_, preds)), table in zip(pairs, tables, strict=True):
        assert table.gt_areas.tolist() == [m.sum() for m in gt]
        assert table.pred_areas.tolist() == [m.sum() for m in preds]
        assert table.inter.tolist() == [[shared(g, p) for p in preds] for g in gt]
        among = list(itertools.combinations(preds, 2))
        assert table.overlapping == any(shared(a, b) for a, b in among)
        met = [*itertools.product(gt, preds), *among]
        assert table.sizes_differ == any(a.shape != b.shape for a, b in met)
        want = [[ref.iou(g, p) if g.shape == p.shape else 0 for p in preds] for g in gt]
        assert table.iou().tolist() == want
        share = [[shared(g, p) / max(int(p.sum()), 1) for p in preds] for g in gt]
        assert table.share_of_prediction().tolist() == share


def test_both_ways_give_the_same_score(monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(20):
        videos = random_scene(seed)
        gt, preds = ref.to_json(videos, "gt"), ref.to_json(videos, "preds")
        monkeypatch.delenv(native.DISABLE_VARIABLE, raising=False)
        want = clear_mot.evaluate_mots(gt, preds)
        monkeypatch.setenv(native.DISABLE_VARIABLE, "1")
        found = clear_mot.evaluate_mots(gt, preds)
        assert json.dumps(found.to_dict()) == json.dumps(want.to_dict())


def test_corrupt_counts_are_refused_either_way(implementation: str) -> None:
    bad = label()
    bad["rle"]["counts"] = bad["rle"]["counts"][:-1]
    content = [frame(label(), index=0), frame(label(), bad, index=1)]
    with pytest.raises(ScoringError, match=r"\[1\]\.labels\[1\]\.rle\.counts"):
        scalabel_io.load_frames(content, BDD100K_MOTS, is_gt=True)


def test_chunks_are_checked_either_way(
    implementation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_check, "_CHECK_CHUNK", 16)
    text = rle.encode(ref.box(0, 0, 8, 4))["counts"]
    assert run_check.find_corrupt_counts([text] * 9, [200] * 9) is None
    for bad in range(9):
        pixels = [200] * 9
        pixels[bad] = 199
        found = run_check.find_corrupt_counts([text] * 9, pixels)
        assert found == (bad, "the runs cover 200 pixels instead of 199")
