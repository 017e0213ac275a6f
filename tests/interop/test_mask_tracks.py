"""Masks of other tools: every kind gives the same tracks; the blocks of the page run."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.docs.blocks import blocks_of
from tests.inference.fake_model import BlobModel, blob_video
from tests.synthetic import moving_shapes
from vmt.inference.predictor import PredictorOptions, VideoPredictor
from vmt.interop import mask_tracks, to_coco
from vmt.structures.masks import decode_masks
from vmt.utils.errors import AnnotationError

PAGE = "docs/howto/other_tools.md"
SIZE = (48, 64)
VIDEO = moving_shapes(3, SIZE, 4)
#: Objects 7 and 3 of the tool; the second is not in frame 0, the order changes in frame 2.
TRUTH = VIDEO.masks.copy()
TRUTH[1, 0] = False
FRAMES: list[tuple[list[int], Any]] = [
    ([7], TRUTH[:1, 0]),
    ([7, 3], TRUTH[:, 1]),
    ([3, 7], TRUTH[::-1, 2]),
]


@dataclass
class Detections:
    """As supervision has them."""

    mask: Any
    tracker_id: Any

    def __len__(self) -> int:
        return 0 if self.mask is None else len(self.mask)


@dataclass
class Boxes:
    """As Ultralytics has them."""

    id: Any
    count: int = 0

    def __len__(self) -> int:
        return self.count if self.id is None else len(self.id)


def ultralytics(ids: list[int] | None, masks: Any, shape: tuple[int, int] = SIZE) -> Any:
    data = None if masks is None else SimpleNamespace(data=torch.from_numpy(masks.copy()).float())
    boxes = Boxes(None if ids is None else torch.tensor(ids, dtype=torch.float32))
    return SimpleNamespace(orig_shape=shape, masks=data, boxes=boxes)


def logits(masks: Any) -> torch.Tensor:
    return torch.where(torch.from_numpy(masks.copy())[:, None], 4.0, -4.0)


KINDS: dict[str, Any] = {
    "pairs": [(ids, masks) for ids, masks in FRAMES],
    "supervision": [Detections(masks, np.array(ids)) for ids, masks in FRAMES],
    "sam 2": [(t, ids, logits(masks)) for t, (ids, masks) in enumerate(FRAMES)][::-1],
    "sam 2 segments": [dict(zip(ids, masks[:, None], strict=True)) for ids, masks in FRAMES],
    "sam 3": [
        {
            "frame_index": t,
            "outputs": {"out_obj_ids": np.array(ids), "out_binary_masks": masks},
        }
        for t, (ids, masks) in enumerate(FRAMES)
    ][::-1],
    "sam 3 outputs": [{"out_obj_ids": ids, "out_binary_masks": masks} for ids, masks in FRAMES],
    "ultralytics": [ultralytics(ids, masks) for ids, masks in FRAMES],
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_same(kind: str) -> None:
    tracks = mask_tracks(KINDS[kind])
    assert tracks.ids == (7, 3)
    assert tracks.masks.dtype == np.bool_
    assert np.array_equal(tracks.masks, TRUTH)


def test_frames_without_objects() -> None:
    nothing = ([], np.zeros((0, *SIZE), dtype=bool))
    tracks = mask_tracks([nothing, FRAMES[1], Detections(None, None), ultralytics(None, None)])
    assert tracks.masks.shape == (2, 4, *SIZE)
    assert not tracks.masks[:, [0, 2, 3]].any()
    late = mask_tracks([(2, [7], logits(TRUTH[:1, 2]))], num_frames=5)
    assert late.masks.any((2, 3)).tolist() == [[False, False, True, False, False]]


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ([([1], TRUTH[:, 1])], "frame 0: 1 ids with masks of shape"),
        ([([1, 1], TRUTH[:, 1])], "an id stands twice"),
        ([([1], TRUTH[:1, 1] * 0.7)], "compare them with the tool's threshold"),
        ([([1], TRUTH[:1, 0]), ([1], TRUTH[:1, 0, 1:])], r"64x48 \(frame 0\) and 64x47"),
        ([([], [])], "no frame has a mask"),
        ([], "no frame has a mask"),
        ([Detections(TRUTH[:, 1], None)], "without tracker_id"),
        ([ultralytics(None, TRUTH[:, 1])], r"call model\.track instead of predict"),
        ([ultralytics([1, 2], TRUTH[:, 1], (96, 128))], "retina_masks=True"),
        ([(1, [1], logits(TRUTH[:1, 0])), (1, [1], logits(TRUTH[:1, 0]))], "two results"),
        (
            [SimpleNamespace(orig_shape=SIZE, masks=None, boxes=Boxes(None, count=2))],
            "boxes without masks; take a -seg model",
        ),
        (["masks"], "a str holds no masks that are known here"),
    ],
)
def test_what_cannot_be_understood(results: Any, message: str) -> None:
    with pytest.raises(AnnotationError, match=message):
        mask_tracks(results)


def test_more_frames_than_the_video_has() -> None:
    with pytest.raises(AnnotationError, match="frame 2: the video has 2 frames"):
        mask_tracks(KINDS["pairs"], num_frames=2)


def blocks() -> list[str]:
    return [block.text for block in blocks_of(PAGE) if block.kind == "python"]


def test_the_examples_of_the_page() -> None:
    """With the real mask refiner, and with stand-ins of the tools."""
    supervision, sam2, sam3, yolo = blocks()[:4]
    world: dict[str, Any] = {
        "frames": list(VIDEO.frames),
        "detections": [Detections(masks, np.array(ids)) for ids, masks in FRAMES],
        "predictor": SimpleNamespace(propagate_in_video=lambda state: iter(KINDS["sam 2"])),
        "state": None,
        "session": "",
        "sam3": SimpleNamespace(handle_stream_request=lambda request: iter(KINDS["sam 3"])),
    }
    answers = iter(KINDS["ultralytics"])
    world["model"] = SimpleNamespace(track=lambda frame, **options: [next(answers)])
    found = []
    for text in (supervision, sam2, sam3, yolo):
        exec(compile(text, PAGE, "exec"), world)
        found.append(world["refined"].masks)
    assert found[0].shape == TRUTH.shape
    assert all(np.array_equal(found[0], other) for other in found)
    overlap = (found[0] & TRUTH).sum() / (found[0] | TRUTH).sum()
    assert overlap > 0.7, "still the same objects"
    assert not found[0][1, 0].any()
    assert np.array_equal(world["detections"][2].mask, found[0][::-1, 2])


def test_coco_results_of_a_clip() -> None:
    model = BlobModel()
    video = blob_video(3, (72, 120), 2)
    frames = torch.stack([frame.permute(2, 0, 1) for frame in video])
    entries = to_coco(model.segment_clip(frames), (72, 120), model.label_space.category_ids)
    assert {entry["category_id"] for entry in entries} == {10, 20}
    assert sorted({entry["image_id"] for entry in entries}) == [1, 2, 3]
    stream = VideoPredictor(model, PredictorOptions(window=3, min_size=72)).stream(
        [frame.numpy() for frame in video]
    )
    for image, result in enumerate(stream, start=1):
        mine = [e for e in entries if e["image_id"] == image]
        assert [e["segmentation"] for e in mine] == [track.rle for track in result.tracks]
        for entry, track in zip(mine, result.tracks, strict=True):
            x1, y1, x2, y2 = track.box_xyxy_px
            assert entry["bbox"] == [x1, y1, x2 - x1, y2 - y1]
            assert entry["score"] == pytest.approx(track.score)
    later = to_coco(model.segment_clip(frames), (72, 120), (1, 2, 3), first_image=8, min_score=0.99)
    assert later == []


def test_supervision_itself() -> None:
    supervision = pytest.importorskip("supervision", reason="pip install supervision")
    video = [frame.numpy() for frame in blob_video(3, (72, 120), 2)]
    stream = VideoPredictor(BlobModel(), PredictorOptions(window=3, min_size=72)).stream(video)
    results = list(stream)
    shown = [result.to_supervision() for result in results]
    assert all(isinstance(one, supervision.Detections) for one in shown)
    for one, result in zip(shown, results, strict=True):
        masks = decode_masks([track.rle for track in result.tracks], (72, 120)).numpy()
        assert np.array_equal(np.asarray(one.mask), masks)
        assert one.tracker_id.tolist() == [1, 2]
        assert one.class_id.tolist() == [track.label for track in result.tracks]
        assert one.xyxy.tolist() == [list(map(float, t.box_xyxy_px)) for t in result.tracks]
    tracks = mask_tracks(shown)
    assert tracks.ids == (1, 2)
    assert np.array_equal(tracks.masks[:, 1], np.asarray(shown[1].mask))
    assert mask_tracks([supervision.Detections.empty(), shown[0]]).masks.shape[1] == 2


def test_without_supervision(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from vmt.inference.predictor import FrameResult
    from vmt.utils.errors import ConfigError

    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ConfigError, match="pip install supervision"):
        FrameResult(0, ()).to_supervision()
