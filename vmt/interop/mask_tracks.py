"""Boolean masks with ids per frame, from whatever tool, as ``vmt.MaskRefiner`` takes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vmt.utils.errors import AnnotationError

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class MaskTracks:
    """Masks of N objects in T frames.

    Args:
        ids: N, as the tool counts, in order of appearance.
        masks: (N, T, H, W) bool, False throughout where an object is absent.
    """

    ids: tuple[int, ...]
    masks: BoolArray


def mask_tracks(results: Iterable[Any], num_frames: int = 0) -> MaskTracks:
    """Join the results of the frames of a video.

    Args:
        results: one per frame, in order, of one of these kinds. *supervision*: ``Detections`` with
            ``mask`` and ``tracker_id``. *SAM 2*: what ``propagate_in_video`` yields,
            ``(frame, ids, mask logits)``, or dicts id -> mask. *SAM 3*: responses with
            ``frame_index`` and ``outputs``, or the outputs. *Ultralytics*: ``Results`` of
            ``model.track(..., retina_masks=True)``. Anything else: pairs (ids, masks). Results
            that say their frame may come in any order, and frames may be missing.
        num_frames: T; 0: as many as there are results, or the last frame that one names.

    Raises:
        AnnotationError: masks without ids, of another size than those before, or of no known kind.
    """
    frames: dict[int, tuple[list[int], BoolArray]] = {}
    for place, result in enumerate(results):
        frame, content = _frame_of(result, place)
        if frame in frames:
            raise AnnotationError(f"frame {frame}: there are two results of it.")
        frames[frame] = _read(content, frame)
    length = num_frames or max(frames, default=-1) + 1
    if frames and max(frames) >= length:
        raise AnnotationError(f"frame {max(frames)}: the video has {length} frames.")
    sizes = {masks.shape[1:]: frame for frame, (_, masks) in sorted(frames.items()) if len(masks)}
    if len(sizes) != 1:
        what = " and ".join(f"{w}x{h} (frame {t})" for (h, w), t in sizes.items())
        raise AnnotationError(
            f"masks of one video have one size, not {what}." if sizes else "no frame has a mask."
        )
    ids = list(dict.fromkeys(key for _, (keys, _) in sorted(frames.items()) for key in keys))
    row = {key: n for n, key in enumerate(ids)}
    (size,) = sizes
    joined = np.zeros((len(ids), length, *size), dtype=np.bool_)
    for frame, (keys, masks) in frames.items():
        for key, mask in zip(keys, masks, strict=True):
            joined[row[key], frame] = mask
    return MaskTracks(tuple(ids), joined)


def _frame_of(result: Any, place: int) -> tuple[int, Any]:
    """Which frame a result is of, and what it says about it."""
    if isinstance(result, tuple) and len(result) == 3:  # SAM 2
        frame, ids, logits = result
        return int(frame), (ids, _array(logits) > 0)
    if isinstance(result, Mapping) and "outputs" in result:  # SAM 3
        return int(result.get("frame_index", place)), result["outputs"]
    return place, result


def _content(result: Any, frame: int) -> tuple[Any, Any]:
    """Ids and masks as the tool has them."""
    if isinstance(result, Mapping):
        if "out_obj_ids" in result:  # SAM 3
            return result["out_obj_ids"], result["out_binary_masks"]
        return list(result), list(result.values())
    if hasattr(result, "tracker_id"):
        return _of_supervision(result, frame)
    if hasattr(result, "orig_shape"):
        return _of_ultralytics(result, frame)
    if isinstance(result, tuple) and len(result) == 2:
        return result[0], result[1]
    raise AnnotationError(
        f"frame {frame}: a {type(result).__name__} holds no masks that are known here; give (ids, "
        "masks)."
    )


def _read(result: Any, frame: int) -> tuple[list[int], BoolArray]:
    """Ids and masks (N, H, W) of one frame."""
    ids, masks = _content(result, frame)
    keys = [int(key) for key in ids]
    if not keys:
        return [], np.zeros((0, 0, 0), dtype=np.bool_)
    dense = np.stack([_array(mask) for mask in masks]) if len(masks) else np.zeros((0, 0, 0))
    if dense.ndim == 4 and dense.shape[1] == 1:
        dense = dense[:, 0]
    if dense.ndim != 3 or len(dense) != len(keys):
        raise AnnotationError(
            f"frame {frame}: {len(keys)} ids with masks of shape {dense.shape}; give one mask "
            "(H, W) per id."
        )
    if len(set(keys)) < len(keys):
        raise AnnotationError(f"frame {frame}: an id stands twice among {keys}.")
    if dense.dtype != np.bool_ and not np.isin(dense, (0, 1)).all():
        raise AnnotationError(
            f"frame {frame}: masks of {dense.dtype} that are not 0 and 1; compare them with the "
            "tool's threshold first."
        )
    return keys, dense.astype(np.bool_)


def _of_supervision(result: Any, frame: int) -> tuple[Any, Any]:
    if not len(result):
        return [], []
    if result.mask is None or result.tracker_id is None:
        lacking = "mask" if result.mask is None else "tracker_id"
        raise AnnotationError(
            f"frame {frame}: detections without {lacking}; a segmentation and a tracker "
            "(sv.ByteTrack().update_with_detections) give both."
        )
    return result.tracker_id, result.mask


def _of_ultralytics(result: Any, frame: int) -> tuple[Any, Any]:
    if result.masks is None:
        if result.boxes is not None and len(result.boxes):
            raise AnnotationError(f"frame {frame}: boxes without masks; take a -seg model.")
        return [], []
    if result.boxes.id is None:
        raise AnnotationError(f"frame {frame}: no ids; call model.track instead of predict.")
    masks = _array(result.masks.data)
    if masks.shape[1:] != tuple(result.orig_shape):
        raise AnnotationError(
            f"frame {frame}: masks of {masks.shape[2]}x{masks.shape[1]} pixels for a picture of "
            f"{result.orig_shape[1]}x{result.orig_shape[0]}; call model.track with "
            "retina_masks=True."
        )
    return _array(result.boxes.id), masks


def _array(value: Any) -> npt.NDArray[Any]:
    """A tensor of any device, or anything like an array."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    return np.asarray(value)
