"""HOTA: small values by hand, invariances, and a slow reference on random scenes."""

from __future__ import annotations

import copy
import math
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cocoapi_hq import ScoringError
from cocoapi_hq.io import rle
from cocoapi_hq.mots import frame_pairs, hota
from cocoapi_hq.mots.mots_config import BDD100K_MOTS
from tests.cocoapi_hq import reference_mots as ref
from tests.cocoapi_hq.mots.test_clear_mot import random_scene, write_png
from tests.cocoapi_hq.reference_mots import Frame, Obj, box

A, B = box(0, 0, 8, 4), box(10, 0, 18, 4)
HALF = box(0, 0, 4, 4)


def car(identity: int, mask: np.ndarray, **kwargs: object) -> Obj:
    return Obj(identity, "car", mask, **kwargs)


def score(videos: dict[str, list[Frame]]) -> hota.HotaResult:
    return hota.evaluate_hota(ref.to_json(videos, "gt"), ref.to_json(videos, "preds"))


def car_row(frames: list[Frame]) -> dict[str, float]:
    return score({"v": frames}).rows()["car"]


def test_perfect_result_is_one() -> None:
    row = car_row([Frame([car(1, A), car(2, B)], [car(5, A), car(6, B)])] * 3)
    assert set(row.values()) == {1.0}


def test_identity_split_in_half() -> None:
    row = car_row([Frame([car(1, A)], [car(7 if t < 2 else 8, A)]) for t in range(4)])
    assert row["DetA"] == 1
    assert row["AssA"] == pytest.approx(0.5)  # TPA 2 of 4 + 2 - 2
    assert row["HOTA"] == pytest.approx(math.sqrt(0.5))
    assert (row["AssRe"], row["AssPr"]) == (0.5, 1)


def test_missed_half_of_the_frames() -> None:
    row = car_row([Frame([car(1, A)], [car(7, A)] if t < 2 else []) for t in range(4)])
    assert (row["DetA"], row["AssA"], row["HOTA"]) == pytest.approx((0.5, 0.5, 0.5))
    assert (row["DetRe"], row["DetPr"]) == (0.5, 1)


def test_false_track() -> None:
    row = car_row([Frame([car(1, A)], [car(7, A), car(8, B)])] * 2)
    assert (row["DetA"], row["AssA"]) == (0.5, 1)


def test_iou_of_exactly_half_counts_up_to_alpha_half() -> None:
    row = car_row([Frame([car(1, A)], [car(1, HALF)])])
    assert row["DetA"] == pytest.approx(10 / 19)
    assert row["HOTA"] == pytest.approx(10 / 19)
    assert row["LocA"] == 0.5


def test_every_alpha_is_inclusive() -> None:
    wide = box(0, 0, 20, 1)
    for k in range(1, 20):
        counts = score({"v": [Frame([car(1, wide)], [car(1, box(0, 0, k, 1))])]}).counts["car"]
        assert counts.true_positives.sum() == k


def test_matching_prefers_the_track_that_overlaps_over_time() -> None:
    # In the last frame prediction 8 fits object 1 better, but 7 is its track.
    frames = [Frame([car(1, A)], [car(7, A)])] * 5
    frames.append(Frame([car(1, A)], [car(7, box(0, 0, 3, 4)), car(8, box(3, 0, 8, 4))]))
    counts = score({"v": frames}).counts["car"]
    assert counts.true_positives[0] == 6
    assert counts.association[0] == pytest.approx(6.0)  # all six frames are one pair


def test_rows_of_absent_and_unpredicted_classes() -> None:
    rows = score({"v": [Frame([car(1, A)], [Obj(1, "bus", A)])]}).rows()
    assert math.isnan(rows["train"]["HOTA"])
    assert (rows["car"]["HOTA"], rows["bus"]["HOTA"]) == (0, 0)
    assert math.isnan(rows["car"]["LocA"])
    assert rows["AVERAGE"]["HOTA"] == 0


def test_average_and_overall() -> None:
    frames = [Frame([car(1, A), Obj(2, "bus", B)], [car(1, A)])] * 3
    rows = score({"v": frames}).rows()
    assert rows["AVERAGE"]["HOTA"] == 0.5  # car 1, bus 0; classes without objects are left out
    assert rows["OVERALL"]["DetA"] == 0.5
    assert rows["OVERALL"]["AssA"] == 1


def test_ignored_regions_and_overlaps_follow_the_mots_rules() -> None:
    region = Obj(9, "car", box(10, 0, 20, 10), ignored=True)
    assert car_row([Frame([car(1, A), region], [car(1, A), car(2, B)])])["HOTA"] == 1
    result = score({"v": [Frame([car(1, A)], [car(1, A), car(2, A)])]})
    assert result.num_overlapping == 1
    assert result.rows()["car"]["HOTA"] == 0


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10**6))
def test_equals_the_slow_reference(seed: int) -> None:
    videos = random_scene(seed)
    rows = {name: score({name: frames}).rows() for name, frames in videos.items()}
    for name, frames in videos.items():
        for category in ("car", "bus"):
            try:
                want = ref.hota(frames, category)
            except ref.AmbiguousError:
                assume(False)
            found = rows[name][category]
            if math.isnan(found["HOTA"]):
                assert want["DetA"] == 0
                continue
            for key, value in want.items():
                assert found[key] == pytest.approx(value, abs=1e-9), (name, category, key)


def test_videos_pool_by_true_positives() -> None:
    good = [Frame([car(1, A)], [car(1, A)])] * 3
    split = [Frame([car(1, A)], [car(7, A)]), Frame([car(1, A)], [car(8, A)])]
    row = score({"a": good, "b": split}).rows()["car"]
    assert row["AssA"] == pytest.approx((3 * 1 + 2 * 0.5) / 5)


def test_numbering_of_ids_and_order_do_not_matter() -> None:
    videos = random_scene(5)
    want = score(videos).to_dict()["per_class"]
    gt, preds = ref.to_json(videos, "gt"), ref.to_json(videos, "preds")
    for frame in preds:
        for label in frame["labels"]:
            label["id"] = 1000 - int(label["id"])
        frame["labels"].reverse()
    random.Random(0).shuffle(preds)
    found = hota.evaluate_hota(gt[::-1], preds).to_dict()["per_class"]
    for name, row in want.items():
        assert found[name] == pytest.approx(row, nan_ok=True)


def test_bitmask_pairs_can_be_scored(tmp_path: Path) -> None:
    for side, second in (("gt", 1), ("preds", 2)):
        for t in range(2):
            write_png(tmp_path / side / "v" / f"{t}.png", [((1, second)[t], 3, 0, A)], (10, 20))
    pairs = frame_pairs.pair_bitmasks(tmp_path / "gt", tmp_path / "preds", BDD100K_MOTS)
    row = hota.evaluate_pairs(pairs, BDD100K_MOTS.classes).rows()["car"]
    assert (row["DetA"], row["AssA"]) == (1, 0.5)  # one frame each: 1 / (2 + 1 - 1)


def tubes(gt: list, preds: list, crowd: tuple[int, ...] = ()) -> tuple[dict, list]:
    """YTVIS JSON of one 10x20 video; tubes are lists of masks or None."""

    def coded(tube: list) -> list:
        return [None if mask is None else rle.encode(mask) for mask in tube]

    truth = {
        "videos": [{"id": 4, "height": 10, "width": 20, "length": len(gt[0])}],
        "categories": [{"id": 3, "name": "dog"}],
        "annotations": [
            {
                "id": i + 1,
                "video_id": 4,
                "category_id": 3,
                "iscrowd": int(i in crowd),
                "segmentations": coded(tube),
            }
            for i, tube in enumerate(gt)
        ],
    }
    results = [
        {"video_id": 4, "category_id": 3, "score": 0.9 - i / 10, "segmentations": coded(tube)}
        for i, tube in enumerate(preds)
    ]
    return truth, results


def test_tubes() -> None:
    truth, results = tubes([[A, A, A, A]], [[A, A, None, None], [None, None, A, A]])
    row = hota.evaluate_hota_tubes(truth, results).rows()["dog"]
    assert row["HOTA"] == pytest.approx(math.sqrt(0.5))
    row = hota.evaluate_hota_tubes(truth, results, min_score=0.85).rows()["dog"]
    assert row["HOTA"] == pytest.approx(0.5)


def test_tubes_may_overlap() -> None:
    truth, results = tubes([[A, A]], [[A, A], [A, A]])
    row = hota.evaluate_hota_tubes(truth, results).rows()["dog"]
    assert (row["DetA"], row["AssA"]) == (0.5, 1)


def test_crowd_tubes_are_ignored_regions() -> None:
    truth, results = tubes([[A, A], [B, B]], [[A, A], [B, B]], crowd=(1,))
    assert hota.evaluate_hota_tubes(truth, results).rows()["dog"]["HOTA"] == 1


def test_tubes_equal_frames() -> None:
    frames = [
        Frame([car(1, A), car(2, B)], [car(1, HALF), car(2, B)]),
        Frame([car(1, A)], [car(2, A)]),
        Frame([car(2, B)], []),
    ]
    truth, results = tubes([[A, A, None], [B, None, B]], [[HALF, None, None], [B, A, None]])
    want = car_row(frames)
    assert hota.evaluate_hota_tubes(truth, results).rows()["dog"] == pytest.approx(want)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda gt, res: res[0].pop("segmentations"), r"results\[0\]"),
        (lambda gt, res: res[0]["segmentations"].pop(), r"results\[0\]\.segmentations.*1 entries"),
        (lambda gt, res: res[0].update(video_id=5), "video_id 5"),
        (lambda gt, res: res[0].update(category_id="3"), "category_id"),
        (lambda gt, res: res[0].update(score=math.nan), "score is nan"),
        (lambda gt, res: res[0]["segmentations"][0].update(counts="0"), r"segmentations\[0\]"),
        (lambda gt, res: gt["annotations"].append(gt["annotations"][0]), "second time"),
        (lambda gt, res: gt.update(annotations=None), "annotations are null"),
    ],
)
def test_malformed_tubes(change: object, message: str) -> None:
    truth, results = copy.deepcopy(tubes([[A, A]], [[A, A]]))
    change(truth, results)
    with pytest.raises(ScoringError, match=message):
        hota.evaluate_hota_tubes(truth, results, min_score=0.1)
