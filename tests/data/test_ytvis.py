"""YouTube-VIS files: what is read, and one message per way to break one."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cocoapi_hq.io import rle
from tests.synthetic import moving_shapes
from vmt.data.datasets.ytvis import load_ytvis_json
from vmt.data.mapper import decode_masks
from vmt.data.records import PackedList
from vmt.utils.errors import AnnotationError


def edit(path: Path, change: Any) -> Path:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return path


def load(path: Path, **kwargs: Any) -> Any:
    return load_ytvis_json(path, path.parent / "JPEGImages", "own", **kwargs)


def load_all(path: Path) -> None:
    for record in (data := load(path))._records:
        decode_masks(record.tracklets(), len(record), record.size)
    assert len(data)


def test_records_and_masks_are_those_of_the_drawn_videos(two_videos: Path) -> None:
    data = load(two_videos)
    assert (len(data), list(data.num_frames())) == (2, [4, 4])
    assert data.categories == {1: "circle", 2: "square", 3: "triangle"}
    for k in range(2):
        record, truth = data[k], moving_shapes(4, (32, 48), seed=5 + k)
        assert (record.id, record.name, record.size) == (k + 1, f"shapes_{k:03d}", (32, 48))
        assert all(path.is_file() for path in record.frame_paths)
        assert not record.still
        tracklets = record.tracklets()
        assert [x.category_id for x in tracklets] == list(truth.category_ids)
        np.testing.assert_array_equal(decode_masks(tracklets, 4, record.size), truth.masks)


def test_only_the_asked_frames_come_in_the_asked_order(two_videos: Path) -> None:
    truth = moving_shapes(4, (32, 48), seed=5)
    tracklets = load(two_videos)[0].tracklets([3, 0, 0])
    np.testing.assert_array_equal(decode_masks(tracklets, 3, (32, 48)), truth.masks[:, [3, 0, 0]])


def test_a_damaged_entry_of_another_video_does_not_matter(two_videos: Path) -> None:
    """Entries are parsed when their video is drawn, not when the file is opened."""
    edit(two_videos, lambda c: c["annotations"][-1].update(segmentations=7))
    data = load(two_videos)
    assert data[0].tracklets()
    with pytest.raises(AnnotationError):
        data[1].tracklets()


def test_refined_masks_are_taken_and_fall_back(two_videos: Path) -> None:
    refined = rle.encode(np.ones((32, 48), dtype=np.uint8))

    def change(content: Any) -> None:
        content["annotations"][0]["segmentations_refined"] = [refined] * 4

    edit(two_videos, change)
    first, second = load(two_videos)[0].tracklets()
    assert first.masks == (refined,) * 4
    assert second.masks != (refined,) * 4
    plain = load(two_videos, mask_key="segmentations")[0].tracklets()
    assert plain[0].masks != (refined,) * 4


def test_every_spelling_of_a_mask_is_read(two_videos: Path) -> None:
    truth = moving_shapes(4, (32, 48), seed=5)
    runs = rle.counts_to_runs(rle.encode(truth.masks[0, 0])["counts"]).tolist()

    def change(content: Any) -> None:
        masks = content["annotations"][0]["segmentations"]
        masks[0] = {"size": [32, 48], "counts": runs}
        masks[1] = [[8, 8, 20, 8, 20, 24, 8, 24]]
        masks[2] = []

    edit(two_videos, change)
    masks = decode_masks(load(two_videos)[0].tracklets()[:1], 4, (32, 48))[0]
    np.testing.assert_array_equal(masks[0], truth.masks[0, 0])
    assert masks[1].sum() == 12 * 16
    assert not masks[2].any()


def test_crowds_are_left_out(two_videos: Path) -> None:
    edit(two_videos, lambda c: c["annotations"][0].update(iscrowd=1))
    assert len(load(two_videos)[0].tracklets()) == 1


@pytest.mark.parametrize("value", [None, []])
def test_a_file_for_a_server_gives_videos_without_annotations(two_videos: Path, value: Any) -> None:
    edit(two_videos, lambda c: c.update(annotations=value))
    record = load(two_videos)[0]
    assert record.annotations is None
    assert record.tracklets() == []


def test_a_file_that_cannot_be_scanned_is_packed(
    two_videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [x.masks for x in load(two_videos)[1].tracklets()]
    monkeypatch.setattr("cocoapi_hq.io.native.kernel", lambda: None)
    record = load(two_videos)[1]
    assert isinstance(record.annotations.entries, PackedList)
    assert [x.masks for x in record.tracklets()] == expected


def test_records_are_small_to_send(two_videos: Path) -> None:
    """Workers get places in the file, not masks."""
    assert len(pickle.dumps(load(two_videos)[0])) < 2000


def drop(kind: str, key: str) -> Any:
    return lambda c: c[kind][0].pop(key)


def put(kind: str, **values: Any) -> Any:
    return lambda c: c[kind][0].update(values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("videos"), r"annotations.json: the file has no 'videos'"),
        (lambda c: c.update(videos=[]), r"video_id 1 is not among the 0 videos"),
        (lambda c: c.update(videos=[], annotations=[]), r"videos is empty; there is nothing"),
        (lambda c: c.pop("categories"), r"the file has no 'categories'"),
        (drop("videos", "id"), r"videos\[0\] has no 'id'"),
        (put("videos", id=2), r"videos\[1\].id 2 appears twice"),
        (drop("videos", "file_names"), r"video id=1 has no file_names; list its frames"),
        (drop("videos", "height"), r"video id=1 has no height or width; give both in pixels"),
        (put("videos", length=9), r"videos\[0\] \(id=1\) says length 9 but lists 4 file_names"),
        (drop("annotations", "video_id"), r"annotation 0 has no 'video_id'"),
        (put("annotations", video_id=77), r"annotation 0.video_id 77 is not among the 2 videos"),
        (put("annotations", category_id="x"), r"annotations\[0\].category_id is 'x'; give an id"),
        (drop("annotations", "segmentations"), r"annotations\[0\].segmentations is None; give a"),
        (
            put("annotations", segmentations=[None]),
            r"annotations\[0\].segmentations \(id=1\) has 1 entries, but video_id=1 lists 4 file",
        ),
        (
            put("annotations", segmentations=[{"size": [32, 48], "counts": "~"}] * 4),
            r"annotations\[0\].segmentations: counts '~' hold characters outside the code",
        ),
        (
            put("annotations", segmentations=[{"size": [2, 2], "counts": "04"}] * 4),
            r"a mask has size \[2, 2\], but the frames are \[32, 48\] \(h, w\)",
        ),
        (
            put("annotations", segmentations=[{"size": [32, 48], "counts": "04"}] * 4),
            r"the runs cover 4 pixels, but size \[32, 48\] has 1536",
        ),
        (put("annotations", segmentations=["no"] * 4), r"'no' is no mask"),
    ],
)
def test_messages(two_videos: Path, change: Any, message: str) -> None:
    edit(two_videos, change)
    with pytest.raises(AnnotationError, match=message) as caught:
        load_all(two_videos)
    assert str(two_videos) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "the top of an annotation file is an object"),
        ('{"videos": [', "ends at line 1, column 13"),
        ("", "the file is empty"),
    ],
)
def test_messages_about_whole_files(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(AnnotationError, match=message):
        load(path)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match=r"none.json: cannot be read"):
        load(tmp_path / "none.json")


def test_packed_list() -> None:
    values = [{"a": [1, None]}, "ü", [], 3.5]
    packed = pickle.loads(pickle.dumps(PackedList(values)))
    assert [packed[k] for k in range(len(packed))] == values
    assert len(PackedList([])) == 0
    for k in (-1, 4):
        with pytest.raises(IndexError):
            packed[k]
