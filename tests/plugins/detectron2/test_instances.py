"""``Instances`` in and out: nothing is lost on the way, and what cannot be told is refused."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch

from tests.inference.fake_model import BlobModel, blob_video
from tests.synthetic import shape_clip
from vmt.inference.predictor import PredictorOptions, VideoPredictor
from vmt.structures.masks import decode_masks
from vmt.utils.errors import AnnotationError
from vmt.visualization.colors import track_color

SIZE = (32, 48)


def sample(num_frames: int = 3, seed: int = 0) -> dict[str, Any]:
    """As our loader gives them: the second object absent from frame 0, a third one from all."""
    clip = shape_clip(num_frames, SIZE, seed)
    from vmt.data.mapper import clip_targets

    masks = torch.cat([clip["targets"].masks, torch.zeros(1, num_frames, *SIZE, dtype=torch.bool)])
    masks[1, 0] = False
    labels = torch.tensor([2, 0, 1])
    targets = clip_targets(masks, labels, video_id="v", clip_id="c", times=range(5, 5 + num_frames))
    image = clip["image"].to(torch.uint8)
    return {"image": image, "targets": targets, "video_id": "v", "clip_id": "c", "dataset": "d"}


def same_targets(a: Any, b: Any) -> None:
    for field in fields(a):
        one, other = getattr(a, field.name), getattr(b, field.name)
        if isinstance(one, torch.Tensor):
            assert torch.equal(one, other), field.name
        else:
            assert one == other, field.name


@pytest.mark.parametrize("bgr", [False, True])
@pytest.mark.parametrize("num_frames", [1, 3])
def test_a_clip_there_and_back(num_frames: int, bgr: bool) -> None:
    from vmt.plugins.detectron2.instances import clip_of, instances_of_clip

    ours = sample(num_frames)
    theirs = instances_of_clip(ours, bgr=bgr)
    assert len(theirs["image"]) == len(theirs["instances"]) == num_frames
    assert torch.equal(theirs["image"][0], ours["image"][0].flip(0) if bgr else ours["image"][0])
    assert theirs["instances"][0].gt_ids.tolist() == [0, -1, -1]
    assert (theirs["height"], theirs["width"]) == SIZE
    back = clip_of(theirs, bgr=bgr, num_classes=3)
    same_targets(back["targets"], ours["targets"])
    assert torch.equal(back["image"], ours["image"])
    assert (back["video_id"], back["clip_id"], back["dataset"]) == ("v", "c", "d")
    assert clip_of(ours, bgr=True, num_classes=3) == ours, "a sample of ours is RGB"


def instances(masks: Any, classes: list[int], ids: list[int] | None = None) -> Any:
    from detectron2.structures import BitMasks, Instances

    result = Instances(SIZE)
    result.gt_masks = BitMasks(torch.as_tensor(masks).reshape(-1, *SIZE))
    result.gt_classes = torch.tensor(classes, dtype=torch.int64)
    if ids is not None:
        result.gt_ids = torch.tensor(ids, dtype=torch.int64)
    return result


def block(x: int) -> Any:
    mask = torch.zeros(SIZE, dtype=torch.bool)
    mask[4:10, x : x + 6] = True
    return mask


def image() -> torch.Tensor:
    return torch.zeros(3, *SIZE)


def test_objects_in_another_order_are_joined_by_their_ids() -> None:
    from vmt.plugins.detectron2.instances import clip_of

    frames = [
        instances(torch.stack([block(0), block(10)]), [1, 0], [7, 3]),
        instances(torch.stack([block(11), block(20), block(1)]), [0, 2, 1], [3, 9, 7]),
    ]
    clip = clip_of({"image": [image(), image()], "instances": frames}, bgr=False, num_classes=3)
    targets = clip["targets"]
    assert targets.labels.tolist() == [1, 0, 2]
    assert targets.valid.tolist() == [[True, True], [True, True], [False, True]]
    assert torch.equal(targets.masks[0], torch.stack([block(0), block(1)]))
    assert torch.equal(targets.masks[1], torch.stack([block(10), block(11)]))


def test_as_many_objects_in_another_order() -> None:
    from vmt.plugins.detectron2.instances import clip_of

    frames = [
        instances(torch.stack([block(0), block(10)]), [1, 0], [7, 3]),
        instances(torch.stack([block(11), block(1)]), [0, 1], [3, 7]),
    ]
    clip = clip_of({"image": [image(), image()], "instances": frames}, bgr=False, num_classes=3)
    assert clip["targets"].labels.tolist() == [1, 0]
    assert torch.equal(clip["targets"].masks[0], torch.stack([block(0), block(1)]))


def test_absent_objects_of_other_projects() -> None:
    """They give an absent object the class after the last one."""
    from vmt.plugins.detectron2.instances import clip_of

    empty = torch.zeros(SIZE, dtype=torch.bool)
    frames = [
        instances(torch.stack([block(0), empty]), [1, 3], [0, -1]),
        instances(torch.stack([block(1), block(10)]), [1, 2], [0, 1]),
    ]
    clip = clip_of({"image": [image(), image()], "instances": frames}, bgr=False, num_classes=3)
    assert clip["targets"].labels.tolist() == [1, 2]
    assert clip["targets"].valid.tolist() == [[True, True], [False, True]]


def test_an_image_of_detectron2_is_a_clip_of_one_frame() -> None:
    from detectron2.structures import Instances, PolygonMasks

    from vmt.plugins.detectron2.instances import clip_of

    polygons = Instances(SIZE)
    polygons.gt_masks = PolygonMasks([[np.array([10.0, 4, 16, 4, 16, 10, 10, 10])]])
    polygons.gt_classes = torch.tensor([2])
    picture = torch.arange(3 * SIZE[0] * SIZE[1]).reshape(3, *SIZE).float() % 255
    clip = clip_of({"image": picture, "instances": polygons}, bgr=True, num_classes=3)
    assert torch.equal(clip["image"], picture.flip(0)[None])
    assert clip["targets"].labels.tolist() == [2]
    drawn = clip["targets"].masks[0, 0]
    assert (drawn & block(10)).sum() / (drawn | block(10)).sum() > 0.7
    nothing = clip_of(
        {"image": picture, "instances": Instances(SIZE, gt_classes=torch.zeros(0))},
        bgr=False,
        num_classes=3,
    )
    assert len(nothing["targets"]) == 0


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (lambda: [instances(block(0), [1]), instances(block(0), [1])], "without gt_ids"),
        (lambda: [instances(block(0), [1], [0])], "2 images, but 1 instances"),
        (
            lambda: [instances(block(0), [1], [0]), instances(block(0), [2], [0])],
            "class 1 in one frame and of 2",
        ),
        (
            lambda: [
                instances(block(0), [1], [0]),
                instances(torch.stack([block(0), block(9)]), [1, 1], [0, 0]),
            ],
            "frame 1 has two instances",
        ),
    ],
)
def test_clips_that_cannot_be_understood(frames: Any, message: str) -> None:
    from vmt.plugins.detectron2.instances import clip_of

    clip = {"image": [image(), image()], "instances": frames(), "video_id": 4}
    with pytest.raises(AnnotationError, match=f"4: .*{message}"):
        clip_of(clip, bgr=False, num_classes=3)


def test_objects_without_masks() -> None:
    from detectron2.structures import Boxes, Instances

    from vmt.plugins.detectron2.instances import clip_of

    boxes = Instances(SIZE, gt_classes=torch.tensor([1]), gt_boxes=Boxes(torch.ones(1, 4)))
    with pytest.raises(AnnotationError, match=r"a\.jpg: .*MODEL\.MASK_ON True"):
        clip_of(
            {"file_name": "a.jpg", "image": image(), "instances": boxes}, bgr=False, num_classes=3
        )
    with pytest.raises(AnnotationError, match="has no instances"):
        clip_of({"file_name": "a.jpg", "image": image()}, bgr=False, num_classes=3)


@pytest.fixture(scope="module")
def results() -> Any:
    video = [frame.numpy() for frame in blob_video(4, (72, 120), 2)]
    predictor = VideoPredictor(BlobModel(), PredictorOptions(window=3, min_size=72))
    return video, list(predictor.stream(video))


def test_finished_frames_as_instances(results: Any) -> None:
    from vmt.plugins.detectron2.instances import VideoInstances

    _, frames = results
    video = VideoInstances(frames, (72, 120))
    assert len(video) == 4
    for result, predicted in zip(frames, video, strict=True):
        masks = decode_masks([track.rle for track in result.tracks], (72, 120))
        assert torch.equal(predicted.pred_masks, torch.as_tensor(masks))
        assert predicted.track_ids.tolist() == [1, 2]
        assert predicted.scores.tolist() == pytest.approx([t.score for t in result.tracks])
        assert predicted.pred_classes.tolist() == [t.label for t in result.tracks]
        boxes = [list(map(float, t.box_xyxy_px)) for t in result.tracks]
        assert predicted.pred_boxes.tensor.tolist() == boxes
        assert len(predicted[predicted.scores > 2]) == 0
    assert torch.equal(video[1:3][0].pred_masks, video[1].pred_masks)
    assert torch.equal(video[-1].pred_masks, video[3].pred_masks)


def test_a_frame_without_tracks(results: Any) -> None:
    from dataclasses import replace

    from vmt.plugins.detectron2.instances import for_visualizer, frame_instances

    empty = for_visualizer(frame_instances(replace(results[1][0], tracks=()), (72, 120)))
    assert len(empty) == 0
    assert empty.pred_masks.shape == (0, 72, 120)
    assert empty.pred_boxes.tensor.shape == (0, 4)


def test_the_visualizer_paints_tracks_in_our_colours(results: Any) -> None:
    from detectron2.data import Metadata

    from vmt.plugins.detectron2.instances import VideoInstances, draw_video, for_visualizer

    video, frames = results
    predicted = VideoInstances(frames, (72, 120))
    shown = for_visualizer(predicted[0])
    assert shown.ID == [1, 2]
    assert shown.COLOR[1] == tuple(channel / 255 for channel in track_color(2))
    metadata = Metadata(name="blobs", thing_classes=["red", "green", "blue"])
    bgr = [np.ascontiguousarray(frame[:, :, ::-1]) for frame in video]
    drawn = list(draw_video(bgr, predicted, metadata))
    assert [d.shape for d in drawn] == [(72, 120, 3)] * 4
    mask = predicted[0].pred_masks[1].numpy()
    inside = drawn[0][mask].reshape(-1, 3)[:, ::-1]
    mixed = (np.array(track_color(2)) + video[0][mask]) / 2
    assert abs(np.median(inside - mixed, axis=0)).max() < 12
    plain = list(draw_video(bgr, predicted, metadata, min_score=1.0))
    outside = ~predicted[0].pred_masks.any(0).numpy()
    assert abs(plain[0][outside].astype(int) - bgr[0][outside]).max() <= 2
