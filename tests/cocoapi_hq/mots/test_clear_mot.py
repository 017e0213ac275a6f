"""BDD100K MOTS: rules by hand, golden numbers, and a slow reference on random scenes."""

from __future__ import annotations

import copy
import itertools
import json
import logging
import math
import random
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from cocoapi_hq import ScoringError
from cocoapi_hq.io import rle
from cocoapi_hq.mots import clear_mot, frame_pairs
from cocoapi_hq.mots.mots_config import BDD100K_MOTS, MotsConfig
from tests.cocoapi_hq import reference_mots as ref
from tests.cocoapi_hq.reference_mots import Frame, Obj, box

GOLDEN = Path(__file__).resolve().parents[4] / "shared" / "data" / "metrics" / "mots"
CASES = sorted(GOLDEN.glob("*/golden.json"))
NAMES = {"MOTA": "MOTSA", "MOTP": "MOTSP"}
COUNTS = ("FP", "FN", "IDSw", "MT", "PT", "ML", "FM")

A, B = box(0, 0, 8, 4), box(10, 0, 18, 4)


def score(frames: list[Frame], **kwargs: bool) -> clear_mot.MotsResult:
    return score_videos({"v": frames}, **kwargs)


def score_videos(videos: dict[str, list[Frame]], **kwargs: bool) -> clear_mot.MotsResult:
    return clear_mot.evaluate_mots(
        ref.to_json(videos, "gt"), ref.to_json(videos, "preds"), **kwargs
    )


def car(identity: int, mask: np.ndarray, **kwargs: object) -> Obj:
    return Obj(identity, "car", mask, **kwargs)


def check_table(want: dict, result: clear_mot.MotsResult) -> None:
    rows = result.rows()
    summary = result.to_dict()
    for key, short in (("mMOTA", "mMOTSA"), ("mMOTP", "mMOTSP"), ("mIDF1", "mIDF1")):
        assert summary[short] == pytest.approx(want[key], abs=1e-6)
    for key in ("MOTA", "MOTP", "IDF1", *COUNTS):
        assert set(want[key]) == set(rows)
        for name, value in want[key].items():
            found = rows[name][NAMES.get(key, key)]
            if key in COUNTS:
                assert found == value
            else:
                assert found == pytest.approx(float(value), abs=1e-6, nan_ok=True), (key, name)


@pytest.mark.skipif(not CASES, reason="golden data are not there")
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.parent.name)
def test_golden(path: Path) -> None:
    golden = json.loads(path.read_text())
    inputs = {key: path.parent / name for key, name in golden["inputs"].items()}
    if golden.get("raises"):
        with pytest.raises(ScoringError, match=r"lacks frame 'a-0000003\.jpg'"):
            clear_mot.evaluate_mots(inputs["gt"], inputs["results"], inputs["config"])
        return
    check_table(
        golden["mots"], clear_mot.evaluate_mots(inputs["gt"], inputs["results"], inputs["config"])
    )
    if "mots_bitmask" in golden:
        check_table(
            golden["mots_bitmask"],
            clear_mot.evaluate_mots_bitmask(
                inputs["gt_png"], inputs["results_png"], inputs["config"]
            ),
        )


def test_perfect_result() -> None:
    frames = [Frame([car(1, A), car(2, B)], [car(5, A), car(6, B)])] * 3
    row = score(frames).rows()["car"]
    assert (row["MOTSA"], row["MOTSP"], row["IDF1"]) == (100, 100, 100)
    assert (row["MT"], row["PT"], row["ML"], row["FM"], row["IDSw"]) == (2, 0, 0, 0, 0)


def test_iou_of_exactly_half_matches() -> None:
    half = box(0, 0, 4, 4)
    assert score([Frame([car(1, A)], [car(1, half)])]).counts["car"].num_matches == 1
    less = half.copy()
    less[0, 0] = False
    result = score([Frame([car(1, A)], [car(1, less)])]).counts["car"]
    assert (result.num_matches, result.misses, result.false_positives) == (0, 1, 1)


def test_carry_over_beats_a_better_iou() -> None:
    # Both halves reach exactly 0.5 with the object; without memory either could be taken.
    halves = box(0, 0, 4, 4), box(4, 0, 8, 4)
    for first in (0, 1):
        frames = [
            Frame([car(1, A)], [car(7 + first, A)]),
            Frame([car(1, A)], [car(7, halves[0]), car(8, halves[1])]),
        ]
        assert score(frames).counts["car"].switches == 0


def test_carry_over_in_overlapping_ground_truth() -> None:
    # Prediction 7 followed object 1; now it fits object 2 perfectly and object 1 at 0.5.
    small = box(0, 0, 4, 4)
    frames = [
        Frame([car(1, A)], [car(7, A)]),
        Frame([car(1, A), car(2, small)], [car(7, small)]),
    ]
    result = score(frames).counts["car"]
    assert (result.switches, result.misses) == (0, 1)
    assert result.iou_sum == pytest.approx(1.5)  # object 1 kept it, at 0.5


def test_switch_after_any_gap() -> None:
    frames = [Frame([car(1, A)], [car(7, A)]), *[Frame()] * 5, Frame([car(1, A)], [car(8, A)])]
    assert score(frames).counts["car"].switches == 1


def test_no_switch_when_the_prediction_changes_object() -> None:
    frames = [Frame([car(1, A)], [car(7, A)]), Frame([car(2, B)], [car(7, B)])]
    result = score(frames).counts["car"]
    assert result.switches == 0
    assert result.id_true_positives == 1  # one identity serves one object only


def test_class_change_is_a_miss_and_a_false_positive() -> None:
    frames = [
        Frame([car(1, A)], [car(7, A)]),
        Frame([car(1, A)], [Obj(7, "truck", A)]),
    ]
    rows = score(frames).rows()
    assert (rows["car"]["FN"], rows["truck"]["FP"], rows["OVERALL"]["IDSw"]) == (1, 1, 0)
    assert rows["truck"]["MOTSA"] == -math.inf
    assert rows["vehicle"]["MOTSA"] == 0  # pooled: two errors on two objects


def test_identity_count_uses_allowed_pairs() -> None:
    # IDs 7 (3 frames) and 8 (1 frame) on object 1: IDTP is 3, IDF1 = 2 * 3 / (4 + 4).
    frames = [Frame([car(1, A)], [car(7 if t != 1 else 8, A)]) for t in range(4)]
    row = score(frames).rows()["car"]
    assert row["IDF1"] == pytest.approx(75)
    assert row["IDSw"] == 2


def test_tracked_lost_and_fragments() -> None:
    def track(hits: str) -> clear_mot.MotsCounts:
        return score(
            [Frame([car(1, A)], [car(1, A)] if hit == "1" else []) for hit in hits]
        ).counts["car"]

    assert track("1111011111").mostly_tracked == 1
    assert track("11110").mostly_tracked == 1  # exactly 0.8
    assert track("10000").partially_tracked == 1  # exactly 0.2
    assert track("100000").mostly_lost == 1
    assert track("1101").fragments == 1
    assert track("110100").fragments == 1  # nothing after the last match counts
    assert track("0010101").fragments == 2
    assert track("0000").fragments == 0


def test_fragments_skip_frames_without_the_object() -> None:
    frames = [Frame([car(1, A)], [car(1, A)]), Frame(), Frame([car(1, A)], [car(1, A)])]
    assert score(frames).counts["car"].fragments == 0


def test_ignored_region_hides_predictions_of_every_class() -> None:
    region = Obj(9, "pedestrian", box(10, 0, 20, 10), ignored=True)
    frame = Frame([car(1, A), region], [car(1, A), Obj(2, "bus", B)])
    result = score([frame])
    assert result.rows()["OVERALL"]["FP"] == 0
    assert result.counts["pedestrian"].num_gt == 0


def test_ignored_share_must_exceed_half_of_one_region() -> None:
    left, right = box(10, 0, 14, 4), box(14, 0, 18, 4)
    half = Frame([Obj(9, "car", left, ignored=True)], [car(2, B)])
    assert score([half]).counts["car"].false_positives == 1
    both = Frame(
        [Obj(9, "car", left, ignored=True), Obj(8, "car", right, ignored=True)], [car(2, B)]
    )
    assert score([both]).counts["car"].false_positives == 1  # regions are not united
    more = Frame([Obj(9, "car", box(9, 0, 15, 4), ignored=True)], [car(2, B)])
    assert score([more]).counts["car"].false_positives == 0


def test_matched_prediction_in_an_ignored_region_stays() -> None:
    region = Obj(9, "car", box(0, 0, 20, 10), ignored=True)
    assert score([Frame([car(1, A), region], [car(1, A)])]).counts["car"].num_matches == 1


def test_flagged_predictions_are_dropped() -> None:
    frame = Frame([car(1, A)], [car(1, A), car(2, B, ignored=True)])
    result = score([frame]).counts["car"]
    assert (result.num_pred, result.false_positives) == (1, 0)


def test_overlap_empties_the_frame_and_warns(caplog: pytest.LogCaptureFixture) -> None:
    touching = box(7, 0, 12, 4)  # shares column 7 with A; another class, flagged
    frame = Frame([car(1, A)], [car(1, A), Obj(2, "bus", touching, ignored=True)])
    with caplog.at_level(logging.WARNING):
        result = score([frame, Frame([car(1, A)], [car(1, A)])])
    assert (result.counts["car"].misses, result.counts["car"].false_positives) == (1, 0)
    assert result.num_overlapping == 1
    assert "overlap in 1 frames" in caplog.text


def test_ground_truth_may_overlap() -> None:
    frame = Frame([car(1, A), car(2, box(4, 0, 12, 4))], [car(1, A)])
    assert score([frame]).num_overlapping == 0


def test_average_counts_absent_classes_as_zero() -> None:
    summary = score([Frame([car(1, A)], [car(1, A)])]).to_dict()
    assert summary["mMOTSA"] == pytest.approx(100 / 8)
    assert summary["mMOTSP"] == pytest.approx(100 / 8)
    assert summary["mIDF1"] == pytest.approx(100 / 8)
    assert summary["per_class"]["OVERALL"]["MOTSA"] == 100
    assert math.isnan(summary["per_class"]["bus"]["MOTSA"])
    assert math.isnan(summary["per_class"]["bus"]["MOTSP"])
    assert math.isnan(summary["per_class"]["bus"]["IDF1"])


def test_summary_keys() -> None:
    summary = score([Frame([car(1, A)], [])]).to_dict()
    assert list(summary) == [
        "mMOTSA", "mMOTSP", "mIDF1", "IDSw", "FP", "FN", "MT", "PT", "ML", "FM", "per_class",
    ]  # fmt: skip
    assert list(summary["per_class"]) == [
        *BDD100K_MOTS.classes, "human", "vehicle", "bike", "AVERAGE", "OVERALL",
    ]  # fmt: skip


def test_no_predictions_at_all() -> None:
    gt = ref.to_json({"v": [Frame([car(1, A)])]}, "gt")
    row = clear_mot.evaluate_mots(gt, []).rows()["car"]
    assert (row["MOTSA"], row["FN"], row["ML"]) == (0, 1, 1)


def test_absent_video_is_empty_and_extra_video_is_refused() -> None:
    videos = {"a": [Frame([car(1, A)], [car(1, A)])], "b": [Frame([car(1, A)], [car(1, A)])]}
    gt, preds = ref.to_json(videos, "gt"), ref.to_json(videos, "preds")
    assert clear_mot.evaluate_mots(gt, preds[:1]).counts["car"].misses == 1
    with pytest.raises(ScoringError, match=r"video 'b'.*not in the ground truth"):
        clear_mot.evaluate_mots(gt[:1], preds)
    renamed = [{**preds[0], "videoName": "c"}, preds[1]]
    with pytest.raises(ScoringError, match="video 'c'"):
        clear_mot.evaluate_mots(gt, renamed)


def test_missing_frame_is_refused_or_filled(caplog: pytest.LogCaptureFixture) -> None:
    frames = [Frame([car(1, A)], [car(1, A)])] * 3
    gt, preds = ref.to_json({"v": frames}, "gt"), ref.to_json({"v": frames}, "preds")
    with pytest.raises(ScoringError, match=r"video 'v' lacks frame 'v-0001\.jpg' \(frameIndex 1\)"):
        clear_mot.evaluate_mots(gt, [preds[0], preds[2]])
    with caplog.at_level(logging.WARNING):
        result = clear_mot.evaluate_mots(gt, [preds[0], preds[2]], fill_missing_frames=True)
    assert (result.num_filled, result.counts["car"].misses) == (1, 1)
    assert "1 missing frames" in caplog.text
    with pytest.raises(ScoringError, match=r"frameIndex 2.*does not have; remove it"):
        clear_mot.evaluate_mots(gt[:2], preds, fill_missing_frames=True)


def test_masks_of_different_size_never_match(caplog: pytest.LogCaptureFixture) -> None:
    frame = Frame([car(1, A)], [car(1, box(0, 0, 8, 4, h=12))])
    with caplog.at_level(logging.WARNING):
        result = score([frame]).counts["car"]
    assert (result.num_matches, result.misses, result.false_positives) == (0, 1, 1)
    assert "differ in size" in caplog.text


def test_repeated_predicted_id_costs_idf1(caplog: pytest.LogCaptureFixture) -> None:
    frame = Frame([car(1, A), car(2, B)], [car(7, A), car(7, B)])
    with caplog.at_level(logging.WARNING):
        row = score([frame]).rows()["car"]
    assert (row["MOTSA"], row["IDF1"]) == (100, 50)
    assert "same id" in caplog.text


def test_own_classes_without_super_categories() -> None:
    config = MotsConfig(classes=("car",))
    gt = ref.to_json({"v": [Frame([car(1, A)], [car(1, A)])]}, "gt")
    assert list(clear_mot.evaluate_mots(gt, gt, config).rows()) == ["car", "AVERAGE", "OVERALL"]


def random_scene(seed: int) -> dict[str, list[Frame]]:
    """Small videos: moving objects, ignored regions, gaps, swaps, splits at exactly half."""
    rng = random.Random(seed)
    videos = {}
    for name in ("a", "b")[: rng.randint(1, 2)]:
        tracks = {
            i: (
                rng.choice(["car", "car", "bus", "pedestrian"]),
                rng.randint(0, 12),
                rng.randint(0, 6),
            )
            for i in range(1, rng.randint(2, 5))
        }
        ids = {i: i + 50 for i in tracks}
        frames = []
        for t in range(rng.randint(1, 6)):
            frame = Frame()
            painted = np.zeros((10, 20), dtype=bool)
            if rng.random() < 0.15:
                a, b = rng.choice(list(ids)), rng.choice(list(ids))
                ids[a], ids[b] = ids[b], ids[a]
            for i, (category, x, y) in tracks.items():
                if rng.random() < 0.15:
                    continue
                mask = box(x + t % 3, y, x + t % 3 + 6, y + 4)
                ignored = rng.random() < 0.12
                frame.gt.append(Obj(i, category, mask, ignored=ignored))
                part = box(x + t % 3 + rng.choice([0, 0, 1, 3]), y, x + t % 3 + 6, y + 4)
                label = category if rng.random() < 0.9 else "truck"
                flagged = rng.random() < 0.05
                if rng.random() < 0.2:
                    part &= ~painted if rng.random() < 0.5 else np.ones_like(painted)
                else:
                    part &= ~painted
                if part.any() and rng.random() < 0.85:
                    frame.preds.append(Obj(ids[i], label, part, ignored=flagged))
                    painted |= part
                rest = mask & ~painted
                if rest.any() and rng.random() < 0.3:
                    frame.preds.append(Obj(80 + i, category, rest))
                    painted |= rest
            frames.append(frame)
        videos[name] = frames
    return videos


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**6))
def test_equals_the_slow_reference(seed: int) -> None:
    videos = random_scene(seed)
    try:
        want = ref.mots(videos)
    except ref.AmbiguousError:
        assume(False)
    rows = score_videos(videos).rows()
    for name, row in want.items():
        for key, value in row.items():
            assert rows[name][key] == pytest.approx(value, abs=1e-9, nan_ok=True), (name, key)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
@example(1143)
def test_order_of_labels_and_frames_matters_only_where_the_rules_say_so(seed: int) -> None:
    """Of two objects whose last partner is the same prediction, the first in the file keeps it."""
    videos = random_scene(seed)
    rng = random.Random(seed)
    for frame in itertools.chain(*videos.values()):
        rng.shuffle(frame.gt)
        rng.shuffle(frame.preds)
    try:
        want = ref.mots(videos)["AVERAGE"]
    except ref.AmbiguousError:
        assume(False)
    gt, preds = ref.to_json(videos, "gt"), ref.to_json(videos, "preds")
    rng.shuffle(gt)
    rng.shuffle(preds)
    found = clear_mot.evaluate_mots(gt, preds).rows()["AVERAGE"]
    for key in ("MOTSA", "MOTSP", "IDF1", *COUNTS):
        assert found[key] == pytest.approx(want[key], nan_ok=True)


def write_png(
    path: Path, masks: list[tuple[int, int, int, np.ndarray]], size: tuple[int, int]
) -> None:
    """Masks as (instance id, R, G, mask)."""
    image = np.zeros((*size, 4), dtype=np.uint8)
    for identity, red, green, mask in masks:
        image[mask] = (identity // 256, green, red, identity % 256)  # OpenCV stores B, G, R, A
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image)


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10**6))
def test_bitmasks_equal_run_lengths(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    root = tmp_path_factory.mktemp("bitmask")
    videos = random_scene(seed)
    seen: dict[str, list[Frame]] = {}
    for name, frames in videos.items():
        seen[name] = []
        for t, frame in enumerate(frames):
            visible = Frame()
            for side in ("gt", "preds"):
                layers, top = [], np.zeros((10, 20), dtype=bool)
                used: set[int] = set()
                for obj in getattr(frame, side):
                    mask = obj.mask & ~top
                    if not mask.any() or obj.id in used:
                        continue
                    used.add(obj.id)
                    top |= mask
                    red = ref.CLASSES.index(obj.category) + 1
                    layers.append((obj.id + 250, red, 2 if obj.ignored else 8, mask))
                    getattr(visible, side).append(
                        Obj(obj.id, obj.category, mask, ignored=obj.ignored)
                    )
                write_png(root / side / name / f"{t:04d}.png", layers, (10, 20))
            seen[name].append(visible)
    try:
        ref.mots(seen)
    except ref.AmbiguousError:
        assume(False)
    want = score_videos(seen).to_dict()
    found = clear_mot.evaluate_mots_bitmask(root / "gt", root / "preds").to_dict()
    for key in ("mMOTSA", "mMOTSP", "mIDF1", *COUNTS):
        assert found[key] == pytest.approx(want[key], nan_ok=True)


def test_more_than_a_hundred_instances_and_class_zero(tmp_path: Path) -> None:
    columns = [(i + 1, 3, 0, box(i, 0, i + 1, 10, w=150)) for i in range(150)]
    for side in ("gt", "preds"):
        write_png(tmp_path / side / "v" / "0.png", columns, (10, 150))
    result = clear_mot.evaluate_mots_bitmask(tmp_path / "gt", tmp_path / "preds")
    assert result.counts["car"].num_matches == 150
    write_png(tmp_path / "preds" / "v" / "0.png", [(1, 0, 0, columns[0][3])], (10, 150))
    result = clear_mot.evaluate_mots_bitmask(tmp_path / "gt", tmp_path / "preds")
    assert result.rows()["OVERALL"]["FP"] == 0


def test_bitmask_folders_are_checked(tmp_path: Path) -> None:
    good = [(1, 3, 0, A)]
    for name in ("0.png", "1.png"):
        write_png(tmp_path / "gt" / "v" / name, good, (10, 20))
    preds = tmp_path / "preds" / "v"
    with pytest.raises(ScoringError, match="does not exist"):
        clear_mot.evaluate_mots_bitmask(tmp_path / "gt", tmp_path / "nowhere")
    write_png(preds / "0.png", good, (10, 20))
    with pytest.raises(ScoringError, match=r"video 'v' lacks frame '1.png'"):
        clear_mot.evaluate_mots_bitmask(tmp_path / "gt", tmp_path / "preds")
    write_png(preds / "1.png", good, (10, 20))
    write_png(preds / "2.png", good, (10, 20))
    with pytest.raises(ScoringError, match=r"has frame '2.png'"):
        clear_mot.evaluate_mots_bitmask(tmp_path / "gt", tmp_path / "preds")
    (preds / "2.png").unlink()
    write_png(preds / "1.png", [(1, 3, 0, box(0, 0, 8, 4, h=11))], (11, 20))
    with pytest.raises(ScoringError, match="size of the ground truth"):
        clear_mot.evaluate_mots_bitmask(tmp_path / "gt", tmp_path / "preds")
    write_png(tmp_path / "preds" / "w" / "0.png", good, (10, 20))
    with pytest.raises(ScoringError, match="video 'w'"):
        clear_mot.evaluate_mots_bitmask(tmp_path / "gt", tmp_path / "preds")


def test_assign_takes_most_pairs_first() -> None:
    cost = np.array([[0.0, 0.4], [0.1, 0.0]])
    allowed = np.array([[True, True], [True, False]])
    rows, cols = frame_pairs.assign(cost, allowed)
    assert sorted(zip(rows.tolist(), cols.tolist(), strict=True)) == [(0, 1), (1, 0)]


def test_codec_round_trip_of_builders() -> None:
    assert (rle.decode(rle.encode(A)) == A).all()


ODD = [None, True, -1, 2.5, math.nan, 1e308, "", "x", "é", "字", [], {}, [1], 10**30, "1" * 5000]


def places(node: object) -> list[tuple]:
    """Every (container, key) of a JSON tree."""
    keys = node.keys() if isinstance(node, dict) else range(len(node))
    found = [(node, key) for key in keys]
    for key in keys:
        if isinstance(node[key], (dict, list)):
            found += places(node[key])
    return found


def mutate(tree: object, rng: random.Random) -> None:
    node, key = rng.choice(places(tree))
    kind = rng.random()
    if kind < 0.5:
        node[key] = copy.deepcopy(rng.choice(ODD))
    elif kind < 0.65:
        del node[key]
    elif isinstance(node[key], str) and node[key]:
        at = rng.randrange(len(node[key]))
        node[key] = node[key][:at] + chr(rng.randint(30, 130)) + node[key][at + 1 :]
    elif isinstance(node, list):
        node.append(copy.deepcopy(node[key]))


def test_mutated_files_are_scored_or_refused() -> None:
    """Never another exception, a hang or a crash of compiled code; 500 files, fixed seed."""
    rng = random.Random(0)
    refused = 0
    scenes = [random_scene(seed) for seed in range(10)]
    for _ in range(500):
        videos = rng.choice(scenes)
        gt, preds = ref.to_json(videos, "gt"), ref.to_json(videos, "preds")
        mutate(gt if rng.random() < 0.5 else preds, rng)
        try:
            clear_mot.evaluate_mots(gt, preds).to_dict()
        except ScoringError:
            refused += 1
    assert 100 < refused < 500
