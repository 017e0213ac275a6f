"""``Instances`` in and out: training clips from them, finished frames to them, colours for drawing.

A clip for detectron2 is a dict with ``image``, T tensors (3, H, W), and ``instances``, T
``Instances`` of the same objects in the same order: ``gt_ids`` (-1 where an object is absent),
``gt_classes``, ``gt_masks`` and ``gt_boxes``, as detectron2 projects for videos have them. One
tensor with one ``Instances`` is a clip of one frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import torch
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from detectron2.utils.video_visualizer import VideoVisualizer
from torch import Tensor

from vmt.data.mapper import clip_targets
from vmt.inference.predictor import FrameResult
from vmt.structures.boxes import masks_to_boxes
from vmt.structures.masks import decode_crop
from vmt.utils.errors import AnnotationError
from vmt.visualization.colors import track_color

Frame = npt.NDArray[np.uint8]


# --- in -----------------------------------------------------------------------------------------


def clip_of(sample: Mapping[str, Any], *, bgr: bool, num_classes: int | None) -> dict[str, Any]:
    """A sample as our networks take it; one that is such a sample already stays as it is.

    Args:
        sample: see the head of this file; ``coarse`` and texts are passed on.
        bgr: the order of its colours.
        num_classes: of the network; objects of others count as background. None: classes mean
            nothing, and all objects have label 0.

    Raises:
        AnnotationError: objects without masks, or frames whose objects cannot be told to be the
            same.
    """
    if "targets" in sample:
        return dict(sample)
    name = str(sample.get("file_name", sample.get("video_id", "clip")))
    frames = frames_of_sample(sample, bgr=bgr)
    if "instances" not in sample:
        raise AnnotationError(f"{name}: has no instances; a clip without cannot be learnt from.")
    given = sample["instances"]
    per_frame = [given] if isinstance(given, Instances) else list(given)
    if len(per_frame) != len(frames):
        raise AnnotationError(f"{name}: {len(frames)} images, but {len(per_frame)} instances.")
    if num_classes is None:
        labels, masks = _joined(per_frame, name, lambda _: 0, 1)
    else:
        labels, masks = _joined(per_frame, name, lambda label: label, num_classes)
    video, clip = str(sample.get("video_id", name)), str(sample.get("clip_id", ""))
    rest = {key: sample[key] for key in ("coarse", "dataset") if key in sample}
    if "coarse" in rest and len(rest["coarse"]) != len(labels):
        raise AnnotationError(
            f"{name}: {len(rest['coarse'])} coarse masks for {len(labels)} objects of classes that "
            "the network knows."
        )
    times = tuple(sample.get("times", ()))
    targets = clip_targets(masks, labels, video_id=video, clip_id=clip, times=times)
    return rest | {"image": frames, "targets": targets, "video_id": video, "clip_id": clip}


def frames_of_sample(sample: Mapping[str, Any], *, bgr: bool) -> Tensor:
    """(T, 3, H, W) RGB of ``image``."""
    image = sample["image"]
    frames = image if isinstance(image, Tensor) else torch.stack(list(image))
    frames = frames[None] if frames.ndim == 3 else frames
    return frames.flip(1) if bgr else frames


def _joined(
    per_frame: Sequence[Instances], name: str, label_of: Callable[[int], int], num_classes: int
) -> tuple[Tensor, Tensor]:
    """Labels (G,) and masks (G, T, H, W) of the objects of a clip."""
    ids = _ids(per_frame, name)
    rows = list(dict.fromkeys(key for keys in ids for key in keys if key is not None))
    place = {key: k for k, key in enumerate(rows)}
    height, width = per_frame[0].image_size
    masks = torch.zeros(len(rows), len(per_frame), height, width, dtype=torch.bool)
    labels = torch.full((len(rows),), num_classes, dtype=torch.int64)
    for t, (keys, instances) in enumerate(zip(ids, per_frame, strict=True)):
        dense = _dense_masks(instances, name)
        for k, key in enumerate(keys):
            if key is None:
                continue
            masks[place[key], t] = dense[k]
            label, before = label_of(int(instances.gt_classes[k])), int(labels[place[key]])
            if label >= num_classes:  # what projects write for an absent object
                continue
            if before not in (label, num_classes):
                raise AnnotationError(
                    f"{name}: an object is of class {before} in one frame and of {label} in "
                    "another; an object of a clip has one class."
                )
            labels[place[key]] = label
    known = labels < num_classes
    return labels[known], masks[known]


def _ids(per_frame: Sequence[Instances], name: str) -> list[list[Any]]:
    """Per frame and instance what the object is called, None for one to leave out.

    Objects in the same order in every frame are called by their place, so that one that no frame
    shows stays an object.
    """
    lengths = {len(instances) for instances in per_frame}
    if any(not instances.has("gt_ids") for instances in per_frame):
        if len(per_frame) > 1:
            raise AnnotationError(
                f"{name}: a clip of {len(per_frame)} frames without gt_ids; they say which objects "
                "of its frames are the same."
            )
        return [list(range(len(per_frame[0])))]
    ids = [[int(key) for key in instances.gt_ids] for instances in per_frame]
    if len(lengths) == 1:
        columns = [{key for key in column if key >= 0} for column in zip(*ids, strict=True)]
        if all(len(column) <= 1 for column in columns):
            return [list(range(len(columns)))] * len(per_frame)
    for t, keys in enumerate(ids):
        seen = [key for key in keys if key >= 0]
        if len(set(seen)) < len(seen):
            raise AnnotationError(f"{name}: frame {t} has two instances of one of its gt_ids.")
    return [[key if key >= 0 else None for key in keys] for keys in ids]


def _dense_masks(instances: Instances, name: str) -> Tensor:
    """(N, H, W) bool."""
    if not len(instances):
        return torch.zeros(0, *instances.image_size, dtype=torch.bool)
    if not instances.has("gt_masks"):
        raise AnnotationError(
            f"{name}: instances without gt_masks; VMT learns from masks: set MODEL.MASK_ON True, "
            "and give the annotations a segmentation."
        )
    masks = instances.gt_masks
    if isinstance(masks, PolygonMasks):
        masks = BitMasks.from_polygon_masks(masks, *instances.image_size)
    dense: Tensor = masks.tensor if isinstance(masks, BitMasks) else torch.as_tensor(masks)
    return dense.bool()


def instances_of_clip(sample: Mapping[str, Any], *, bgr: bool) -> dict[str, Any]:
    """A sample of our loader as detectron2 has clips; ``clip_of`` takes it back, to the bit."""
    targets, frames = sample["targets"], sample["image"]
    rest = {key: value for key, value in sample.items() if key not in ("image", "targets")}
    per_frame = []
    for t in range(targets.num_frames):
        instances = Instances(targets.input_size)
        keys = torch.arange(len(targets))
        instances.gt_ids = torch.where(targets.valid[:, t], keys, -1)
        instances.gt_classes = targets.labels
        instances.gt_boxes = Boxes(masks_to_boxes(targets.masks[:, t]).float())
        instances.gt_masks = BitMasks(targets.masks[:, t])
        per_frame.append(instances)
    frames = frames.flip(1) if bgr else frames
    height, width = targets.input_size
    return rest | {
        "times": targets.times,
        "image": list(frames),
        "instances": per_frame,
        "height": height,
        "width": width,
    }


# --- out ----------------------------------------------------------------------------------------


def frame_instances(result: FrameResult, size: tuple[int, int]) -> Instances:
    """A finished frame.

    Args:
        result: of a ``TrackStream``.
        size: (h, w) of the video in pixels.

    Returns:
        Fields of detectron2's detectors on the CPU: ``pred_masks`` (N, h, w) bool, ``pred_boxes``,
        ``scores``, ``pred_classes``; and ``track_ids`` (N,), from 1, the same through a video.
    """
    masks = torch.zeros(len(result.tracks), *size, dtype=torch.bool)
    for mask, track in zip(masks, result.tracks, strict=True):
        crop = decode_crop(track.rle)
        h, w = crop.bits.shape
        mask[crop.y : crop.y + h, crop.x : crop.x + w] = torch.from_numpy(crop.bits)
    instances = Instances(size)
    boxes = [track.box_xyxy_px for track in result.tracks]
    instances.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    instances.scores = torch.tensor([track.score for track in result.tracks])
    instances.pred_classes = torch.tensor([x.label for x in result.tracks], dtype=torch.int64)
    instances.pred_masks = masks
    instances.track_ids = torch.tensor([x.track_id for x in result.tracks], dtype=torch.int64)
    return instances


class VideoInstances(Sequence[Instances]):
    """``Instances`` of every frame of a video; masks become dense when a frame is asked for.

    Args:
        frames: finished frames in order.
        size: (h, w) of the video in pixels.
    """

    def __init__(self, frames: Sequence[FrameResult], size: tuple[int, int]) -> None:
        self._frames = frames
        self._size = size

    def __len__(self) -> int:
        return len(self._frames)

    @overload
    def __getitem__(self, index: int) -> Instances: ...

    @overload
    def __getitem__(self, index: slice) -> VideoInstances: ...

    def __getitem__(self, index: int | slice) -> Instances | VideoInstances:
        if isinstance(index, slice):
            return VideoInstances(self._frames[index], self._size)
        return frame_instances(self._frames[index], self._size)


# --- drawing ------------------------------------------------------------------------------------


def for_visualizer(instances: Instances) -> Instances:
    """The same on the CPU, with the fields by which ``VideoVisualizer`` gives tracks colours.

    ``COLOR`` is that of our own overlays, the same in every frame and run; ``ID`` is what
    ``detectron2.tracking`` calls a track.
    """
    drawn = instances.to("cpu")
    ids = drawn.track_ids.tolist()
    drawn.ID = ids
    drawn.COLOR = [tuple(channel / 255 for channel in track_color(key)) for key in ids]
    return drawn


def draw_video(
    frames: Iterable[Frame], predictions: Iterable[Instances], metadata: Any, min_score: float = 0.3
) -> Iterator[Frame]:
    """Frames with their tracks, by detectron2's ``VideoVisualizer``.

    Args:
        frames: (H, W, 3) uint8 BGR.
        predictions: one per frame.
        metadata: of a data set; its ``thing_classes`` name the classes.
        min_score: tracks below are not drawn, in [0, 1].

    Yields:
        (H, W, 3) uint8 BGR.
    """
    visualizer = VideoVisualizer(metadata)
    for frame, instances in zip(frames, predictions, strict=True):
        shown = for_visualizer(instances[instances.scores >= min_score])
        drawing = visualizer.draw_instance_predictions(frame[:, :, ::-1], shown)
        yield np.ascontiguousarray(drawing.get_image()[:, :, ::-1])
