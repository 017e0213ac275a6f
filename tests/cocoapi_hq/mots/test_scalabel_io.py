"""Scalabel JSON and bitmask PNG: what is read, what is refused, and with which words."""

from __future__ import annotations

import copy
import json
import math
import random
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from cocoapi_hq import ScoringError
from cocoapi_hq.io import rle, run_check
from cocoapi_hq.mots import bitmask_png, clear_mot, frame_masks, mots_config, scalabel_io
from cocoapi_hq.mots.frame_masks import FrameMasks
from cocoapi_hq.mots.mots_config import BDD100K_MOTS, MotsConfig
from tests.cocoapi_hq.mots.test_clear_mot import write_png
from tests.cocoapi_hq.reference_mots import box

A, B = box(0, 0, 8, 4), box(10, 0, 18, 4)


def label(mask: np.ndarray = A, **changes: object) -> dict:
    return {"id": "1", "category": "car", "rle": rle.encode(mask), **changes}


def frame(*labels: dict, index: int = 0, **changes: object) -> dict:
    name = f"v-{index}.jpg"
    return {
        "videoName": "v",
        "name": name,
        "frameIndex": index,
        "labels": list(labels),
        **changes,
    }


def read(content: object, *, is_gt: bool = True, config: MotsConfig = BDD100K_MOTS) -> list:
    return scalabel_io.load_frames(content, config, is_gt=is_gt)


def test_names_aliases_and_distractors() -> None:
    names = ["person", "van", "other vehicle", "trailer", "bike", "rider"]
    labels = [label(id=str(i), category=name) for i, name in enumerate(names)]
    found = read([frame(*labels)])[0]
    assert [BDD100K_MOTS.classes[i] for i in found.labels] == [
        "pedestrian", "car", "car", "truck", "bicycle", "rider",
    ]  # fmt: skip
    assert found.ignored == [False, False, True, True, False, False]


def test_flags() -> None:
    flags = [{"crowd": True}, {"ignored": True}, {"occluded": True}, {"crowd": False}, None]
    labels = [label(id=str(i), attributes=flag) for i, flag in enumerate(flags)]
    assert read([frame(*labels)])[0].ignored == [True, True, False, False, False]


def test_labels_without_a_mask_are_skipped_before_the_class_is_looked_at() -> None:
    odd = {"id": 3, "category": "never heard of", "box2d": {}}
    assert len(read([frame(odd, label())])[0].rles) == 1
    assert read([frame(labels=None)])[0].rles == []


def test_list_object_file_and_folder(tmp_path: Path) -> None:
    frames = [frame(label(), index=i) for i in range(3)]
    (tmp_path / "b.json").write_text(json.dumps({"frames": frames[2:], "config": None}))
    (tmp_path / "a.json").write_text(json.dumps(frames[:2]))
    want = [0, 1, 2]
    assert [f.index for f in read(frames)] == want
    assert [f.index for f in read({"frames": frames})] == want
    assert [f.index for f in read(tmp_path)] == want
    assert [f.index for f in read(str(tmp_path / "a.json"))] == want[:2]


def test_ids_of_ground_truth() -> None:
    found = read([frame(label(id="7"), label(B, id="10"))])[0]
    assert found.track_ids == [7, 10]
    found = read([frame(label(id="x"), label(B, id="10"))])[0]
    assert found.track_ids == [2, 1]  # sorted as text, numbered from 1
    assert read([frame(label(id="007"), index=0), frame(label(id=7), index=1)])[1].track_ids == [7]
    huge = read([frame(label(id="9" * 30), label(B, id="1"))])[0]
    assert sorted(huge.track_ids) == [1, 2]


def test_ids_of_results_are_integers() -> None:
    assert read([frame(label(id="-4"))], is_gt=False)[0].track_ids == [-4]
    for bad in ("a", "1.5", "", "9" * 30, 10**30):
        with pytest.raises(ScoringError, match=r"results: \[0\]\.labels\[0\]\.id is .*integers"):
            read([frame(label(id=bad))], is_gt=False)


def test_videos_are_sorted_and_frames_ordered() -> None:
    frames = [frame(index=2), frame(index=0), frame(index=1, videoName="a")]
    videos = frame_masks.group_by_video(read(frames))
    assert {name: [f.index for f in fs] for name, fs in videos.items()} == {"a": [1], "v": [0, 2]}
    assert list(videos) == ["a", "v"]
    with pytest.raises(ScoringError, match=r"frameIndex 0 appears twice in video 'v'"):
        frame_masks.group_by_video(read([frame(), frame()]))


def test_uncompressed_run_lengths() -> None:
    raw = {"size": [2, 3], "counts": [1, 2, 3]}
    found = read([frame(label(rle=raw))])[0].rles[0]
    assert coco_mask.decode(found).T.reshape(-1).tolist() == [0, 1, 1, 0, 0, 0]


def test_polygons_are_drawn() -> None:
    config = MotsConfig(classes=("car",), image_size=(20, 30))
    square = {"vertices": [[5, 5], [15, 5], [15, 10], [5, 10]], "types": "LLLL", "closed": True}
    other = {"vertices": [[20, 0], [30, 0], [30, 4]], "types": "LLL", "closed": True}
    entry = {"id": "1", "category": "car", "poly2d": [square, other]}
    mask = coco_mask.decode(read([frame(entry)], config=config)[0].rles[0])
    assert mask.shape == (20, 30)
    assert mask[5:10, 5:15].all()
    assert mask[:, :5].sum() == 0
    assert mask[:4, 20:].sum() == pytest.approx(20, abs=5)


def test_curves_bulge() -> None:
    # A cubic with both control points 16 px above a 20 px chord rises to 3/4 of that: 12 px.
    shape = {"vertices": [[5, 18], [5, 2], [25, 2], [25, 18]], "types": "LCCC", "closed": True}
    drawn = scalabel_io.polygons_to_rle([shape], (20, 30), "here")
    rows = np.flatnonzero(coco_mask.decode(drawn).any(axis=1))
    assert rows.min() == pytest.approx(6, abs=1)


def test_config_file(tmp_path: Path) -> None:
    content = {
        "imageSize": {"height": 7, "width": 9},
        "categories": [{"name": "thing", "subcategories": [{"name": "x"}, {"name": "y"}]}],
        "name_mapping": {"ex": "x"},
        "ignored_mapping": {"why": "y"},
    }
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"config": content}))
    for source in (path, str(path), content):
        config = mots_config.load_config(source)
        assert config.classes == ("x", "y")
        assert config.super_classes == {"thing": ("x", "y")}
        assert config.image_size == (7, 9)
        assert config.resolve("ex") == (0, False)
        assert config.resolve("why") == (1, True)
        assert config.resolve("z") is None
    assert mots_config.load_config(None) is BDD100K_MOTS


def test_config_inside_the_ground_truth(tmp_path: Path) -> None:
    content = {
        "frames": [frame(label(category="x"))],
        "config": {"categories": [{"name": "x"}]},
    }
    assert list(clear_mot.evaluate_mots(content, content["frames"]).counts) == ["x"]
    path = tmp_path / "gt.json"
    path.write_text(json.dumps(content))
    assert list(clear_mot.evaluate_mots(path, path).counts) == ["x"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "is a list"),
        ({}, r"categories is None"),
        ({"categories": [{"nam": "x"}]}, r"categories\[0\]\.name is None"),
        ({"categories": [{"name": "x"}, {"name": "x"}]}, "twice"),
        ({"categories": [{"name": "x"}], "name_mapping": [1]}, "name_mapping"),
        ({"categories": [{"name": "x"}], "ignored_mapping": {"a": "b"}}, "'b'"),
        ({"categories": [{"name": "x"}], "imageSize": {"height": 0, "width": 2}}, "imageSize"),
    ],
)
def test_malformed_config(content: object, message: str) -> None:
    with pytest.raises(ScoringError, match=message):
        mots_config.load_config(content)


def corrupt(counts: object) -> Callable[[dict], None]:
    def change(entry: dict) -> None:
        entry["rle"]["counts"] = counts

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: e.pop("category"), r"labels\[0\]\.category is None"),
        (lambda e: e.update(category="cat"), r"labels\[0\]\.category is 'cat'; use one of"),
        (lambda e: e.pop("id"), r"labels\[0\]\.id is None"),
        (lambda e: e.update(id=1.0), r"labels\[0\]\.id is 1\.0"),
        (lambda e: e.update(id=True), r"labels\[0\]\.id is True"),
        (lambda e: e.update(score=math.nan), r"labels\[0\]\.score is nan; give a finite number"),
        (lambda e: e.update(score="high"), r"labels\[0\]\.score is 'high'"),
        (lambda e: e.update(score=10**400), r"labels\[0\]\.score"),
        (lambda e: e.update(attributes=[1]), r"labels\[0\]\.attributes is \[1\]"),
        (lambda e: e.update(attributes={"crowd": "no"}), r"attributes\.crowd is 'no'"),
        (lambda e: e.update(rle=[1, 2]), r"labels\[0\]\.rle is \[1, 2\]"),
        (lambda e: e["rle"].pop("size"), r"labels\[0\]\.rle.*size is None"),
        (lambda e: e["rle"].update(size=[10, 0]), r"labels\[0\]\.rle.*size is \[10, 0\]"),
        (lambda e: e["rle"].update(size=[10, 2.0]), r"labels\[0\]\.rle.*size is"),
        (lambda e: e["rle"].update(size=[20, 20]), r"counts is .*200 pixels instead of 400"),
        (corrupt(None), r"rle\.counts is None"),
        (corrupt(""), r"rle\.counts is ''; the text is empty"),
        (corrupt("é"), r"rle\.counts is 'é'"),
        (corrupt("0 8"), r"rle\.counts is '0 8'; character ' '"),
        (corrupt("0o"), r"rle\.counts is '0o'; the text ends inside a number"),
        (corrupt("oooooooooo0"), r"rle\.counts is .*a number is too long"),
        (corrupt("N"), r"rle\.counts is 'N'; run 0 has the length -2"),
        (corrupt([1, 2]), r"rle\.counts.*the runs cover 3 pixels"),
        (corrupt([-1, 201]), r"rle\.counts"),
        (corrupt([1.5, 198.5]), r"rle\.counts"),
    ],
)
@pytest.mark.parametrize("is_gt", [True, False])
def test_malformed_labels(
    tmp_path: Path, is_gt: bool, change: Callable[[dict], None], message: str
) -> None:
    entry = copy.deepcopy(label())
    change(entry)
    path = tmp_path / "file.json"
    path.write_text(json.dumps([frame(), frame(label(B, id="2"), index=1), frame(entry, index=2)]))
    with pytest.raises(ScoringError, match=r"file\.json: \[2\]\..*" + message):
        read(path, is_gt=is_gt)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (7, r"\[0\] is 7; give a frame object"),
        (frame(name=None), r"\[0\]\.name is None"),
        (frame(videoName=3), r"\[0\]\.videoName is 3"),
        (frame(frameIndex=None), r"\[0\]\.frameIndex is None"),
        (frame(frameIndex="0"), r"\[0\]\.frameIndex is '0'"),
        (frame(frameIndex=True), r"\[0\]\.frameIndex is True"),
        (frame(labels={}), r"\[0\]\.labels is \{\}"),
        (frame(5), r"\[0\]\.labels\[0\] is 5"),
        (frame(label(), label(B)), r"\[0\]\.labels\[1\]\.id is 1; class 'car' has this id twice"),
    ],
)
def test_malformed_frames(entry: object, message: str) -> None:
    with pytest.raises(ScoringError, match=message):
        read([entry])


@pytest.mark.parametrize(
    ("polygons", "message"),
    [
        ("abc", "poly2d is 'abc'"),
        ([5], r"poly2d\[0\] is 5"),
        ([{"vertices": [[1, 2], [3, 4]], "types": "LL"}], "at least 3 vertices"),
        ([{"vertices": [[1, 2], [3, 4], [5]], "types": "LLL"}], "vertices"),
        ([{"vertices": [[1, 2], [3, 4], [5, math.inf]], "types": "LLL"}], "finite"),
        ([{"vertices": [[1, 2], [3, 4], [5, 6]], "types": "LCC"}], "threes"),
        ([{"vertices": [[1, 2], [3, 4], [5, 6]], "types": "LXL"}], "types"),
        ([{"vertices": [[1, 2], [3, 4], [5, 1e9]], "types": "LLL"}], "pixels"),
    ],
)
def test_malformed_polygons(polygons: object, message: str) -> None:
    entry = {"id": "1", "category": "car", "poly2d": polygons}
    with pytest.raises(ScoringError, match=message):
        read([frame(entry)])


def test_polygons_need_a_size_and_are_refused_in_results() -> None:
    square = {"vertices": [[5, 5], [15, 5], [15, 10]], "types": "LLL"}
    entry = {"id": "1", "category": "car", "poly2d": [square]}
    with pytest.raises(ScoringError, match="imageSize"):
        read([frame(entry)], config=MotsConfig(classes=("car",)))
    with pytest.raises(ScoringError, match="results need run lengths"):
        read([frame(entry)], is_gt=False)


def test_unreadable_sources(tmp_path: Path) -> None:
    with pytest.raises(ScoringError, match="nowhere"):
        read(tmp_path / "nowhere.json")
    (tmp_path / "bad.json").write_text("[{")
    with pytest.raises(ScoringError, match=r"bad\.json"):
        read(tmp_path / "bad.json")
    (tmp_path / "latin.json").write_bytes(b'["\xff"]')
    with pytest.raises(ScoringError, match=r"latin\.json"):
        read(tmp_path / "latin.json")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(ScoringError, match=r"deep\.json"):
        read(tmp_path / "deep.json")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ScoringError, match="holds no JSON file"):
        read(tmp_path / "empty")
    with pytest.raises(ScoringError, match="give a list of frames"):
        read({"videos": []})


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**6))
def test_corrupt_counts_are_found_exactly(seed: int) -> None:
    """The batched check accepts and refuses exactly what the one-mask codec does."""
    rng = random.Random(seed)
    texts, sizes = [], []
    for _ in range(rng.randint(1, 6)):
        h, w = rng.randint(1, 40), rng.randint(1, 40)
        mask = np.random.default_rng(rng.randint(0, 10**6)).random((h, w)) < rng.random()
        text = rle.encode(mask)["counts"]
        if rng.random() < 0.3 and len(text) > 1:
            at = rng.randrange(len(text))
            text = text[:at] + chr(rng.randint(40, 115)) + text[at + 1 :]
        if rng.random() < 0.1:
            text = text[:-1]
        texts.append(text)
        sizes.append((h, w))
    first = None
    for i, (text, (h, w)) in enumerate(zip(texts, sizes, strict=True)):
        try:
            rle.validate({"size": [h, w], "counts": text})
        except ScoringError:
            first = i
            break
    found = run_check.find_corrupt_counts(texts, [h * w for h, w in sizes])
    assert (found is None) == (first is None)
    for i, (text, (h, w)) in enumerate(zip(texts, sizes, strict=True)):
        alone = run_check.find_corrupt_counts([text], [h * w])
        if i == first:
            assert alone is not None


def test_usual_and_unusual_spellings_read_alike() -> None:
    usual = [label(score=0.5), label(B, id="2", score=0.25, attributes={"crowd": False})]
    odd = copy.deepcopy(usual)
    odd[0].update(score=0.5, attributes=None, id=1)
    odd[1]["rle"]["counts"] = odd[1]["rle"]["counts"].encode()
    frames = [frame(*usual, index=0), frame(*usual, index=1), frame(*odd, index=2)]
    first, second, third = read(frames, is_gt=False)
    for other in (second, third):
        for name in ("rles", "labels", "track_ids", "ignored", "scores"):
            assert getattr(other, name) == getattr(first, name)


def test_defects_are_found_behind_sound_labels() -> None:
    """Labels after the first of a kind take a short cut, which must not let anything through."""
    changes = [
        {"score": math.nan}, {"score": "x"}, {"attributes": {"crowd": "no"}}, {"attributes": 3},
        {"id": None}, {"id": 1.5}, {"category": 4}, {"category": "cat"},
        {"rle": {"size": [10.0, 20], "counts": "0"}}, {"rle": {"size": [True, 20], "counts": "0"}},
        {"rle": {"size": [10, 20], "counts": "é"}}, {"rle": {"size": [10], "counts": "0"}},
        {"rle": {"size": [10, 20], "counts": "字"}},
    ]  # fmt: skip
    for change in changes:
        content = [frame(label(score=0.5)), frame(label(**{"score": 0.5, **change}), index=1)]
        with pytest.raises(ScoringError, match=r"\[1\]\.labels\[0\]"):
            read(content, is_gt=False)
    flagged = label(score=0.5, attributes={"ignored": True})
    assert read([frame(label(score=0.5)), frame(flagged, index=1)])[1].ignored == [True]


def test_resolve_overlaps_paints_by_score() -> None:
    masks = FrameMasks("v", "n", 0)
    low, high, hidden = box(0, 0, 8, 4), box(4, 0, 12, 4), box(5, 1, 7, 3)
    for mask, score in ((low, 0.2), (high, 0.9), (hidden, 0.1)):
        masks.append(rle.encode(mask), 2, track_id=int(10 * score), score=score)
    found = frame_masks.resolve_overlaps(masks)
    assert found.track_ids == [2, 9]  # the hidden mask is gone, the order of the file is kept
    assert (rle.decode(found.rles[0]) == box(0, 0, 4, 4)).all()
    assert (rle.decode(found.rles[1]) == high).all()
    masks.scores = [0.5, 0.5, math.nan]  # equal scores: the later one is on top
    found = frame_masks.resolve_overlaps(masks)
    assert (rle.decode(found.rles[1]) == high).all()
    masks.append(rle.encode(box(0, 0, 1, 1, h=11)), 2)
    with pytest.raises(ScoringError, match="one size per frame"):
        frame_masks.resolve_overlaps(masks)


def test_written_results_are_read_back(tmp_path: Path) -> None:
    masks = FrameMasks("v", "n.jpg", 0)
    masks.append(rle.encode(A), 2, track_id=5, score=0.25)
    masks.append(rle.encode(box(4, 0, 12, 4)), 4, track_id=6, score=0.75, ignored=True)
    path = tmp_path / "results.json"
    scalabel_io.write_results(path, [masks, FrameMasks("v", "m.jpg", 1)])
    first, second = read(path, is_gt=False)
    assert (first.labels, first.track_ids) == ([2, 4], [5, 6])
    assert (first.scores, first.ignored) == ([0.25, 0.75], [False, True])
    assert (coco_mask.decode(first.rles[0]) == box(0, 0, 4, 4)).all()
    assert second.rles == []
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]
    scalabel_io.write_results(path, [masks], without_overlaps=False)
    assert (coco_mask.decode(read(path, is_gt=False)[0].rles[0]) == A).all()


def test_bitmask_colours(tmp_path: Path) -> None:
    path = tmp_path / "0.png"
    write_png(path, [(300, 3, 2, A), (7, 8, 12, B)], (10, 20))
    found = bitmask_png.read_bitmask(path, BDD100K_MOTS)
    assert found.track_ids.tolist() == [7, 300]
    assert found.labels.tolist() == [7, 2]
    assert found.ignored.tolist() == [False, True]
    assert found.areas.tolist() == [32, 32]
    assert ((found.instance_map == 2) == A).all()


def test_bitmasks_become_frames_with_their_flags(tmp_path: Path) -> None:
    layers = [(1, 3, 1, A), (2, 1, 0, B), (3, 0, 0, box(0, 8, 2, 9))]
    write_png(tmp_path / "v" / "v-1.png", layers, (10, 20))
    (found,) = bitmask_png.bitmasks_to_frames(tmp_path, is_gt=True)
    assert (found.video, found.name, found.index) == ("v", "v-1.jpg", 0)
    assert (found.track_ids, found.labels) == ([1, 2], [2, 0])  # class 0 is left out
    assert found.ignored == [True, False]
    assert (coco_mask.decode(found.rles[0]) == A).all()


def test_bitmasks_of_the_wrong_kind(tmp_path: Path) -> None:
    path = tmp_path / "0.png"

    def refuse(message: str) -> None:
        with pytest.raises(ScoringError, match=message) as error:
            bitmask_png.read_bitmask(path, BDD100K_MOTS)
        assert str(path) in str(error.value)

    refuse("cannot be read")
    path.write_bytes(b"hello")
    refuse("not a PNG file")
    cv2.imwrite(str(path), np.zeros((4, 5, 3), dtype=np.uint8))
    refuse("bit depth 8 and colour type 2")
    cv2.imwrite(str(path), np.zeros((4, 5, 4), dtype=np.uint16))
    refuse("bit depth 16")
    cv2.imwrite(str(path), np.zeros((4, 5), dtype=np.uint8))
    refuse("colour type 0")
    write_png(path, [(1, 3, 0, A), (2, 9, 0, B)], (10, 20))
    refuse("instance 2 has class 9")
    write_png(path, [(1, 3, 0, A), (1, 4, 0, B)], (10, 20))
    refuse("instance 1 differ in class or flags")
    write_png(path, [(1, 3, 0, A), (1, 3, 1, B)], (10, 20))
    refuse("instance 1 differ in class or flags")
    write_png(path, [(1, 3, 0, A)], (10, 20))
    path.write_bytes(path.read_bytes()[:45])
    refuse("damaged")


def test_bitmask_folder_without_videos(tmp_path: Path) -> None:
    with pytest.raises(ScoringError, match="no sub-folder with PNG"):
        bitmask_png.list_bitmasks(tmp_path, "ground truth")
    assert bitmask_png.list_bitmasks(tmp_path, "results") == {}
