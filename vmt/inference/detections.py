"""What a network found, as other tools hold it: supervision's detections, COCO's results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vmt.inference.postprocess import masks_at_video_size
from vmt.structures.masks import decode_masks, encode_crop
from vmt.structures.predictions import ClipTracklets
from vmt.utils.errors import ConfigError

if TYPE_CHECKING:
    from vmt.inference.predictor import FrameResult


def to_supervision(result: FrameResult) -> Any:
    """A finished frame as ``supervision.Detections``.

    Args:
        result: of a ``TrackStream``.

    Returns:
        ``xyxy`` in pixels with the far edge exclusive, ``mask`` (N, H, W) bool, ``confidence``,
        ``class_id`` (our label) and ``tracker_id``.

    Raises:
        ConfigError: supervision is not installed.
    """
    try:
        import supervision
    except ImportError as error:
        raise ConfigError(
            f"to_supervision needs the package supervision, which cannot be imported ({error}); "
            "pip install supervision."
        ) from None
    tracks = result.tracks
    if not tracks:
        return supervision.Detections.empty()
    height, width = tracks[0].rle["size"]
    masks = decode_masks([track.rle for track in tracks], (height, width)).numpy()
    return supervision.Detections(
        xyxy=np.array([track.box_xyxy_px for track in tracks], dtype=np.float32),
        mask=masks,
        confidence=np.array([track.score for track in tracks], dtype=np.float32),
        class_id=np.array([track.label for track in tracks]),
        tracker_id=np.array([track.track_id for track in tracks]),
    )


def to_coco(
    tracklets: ClipTracklets,
    size: tuple[int, int],
    category_ids: Sequence[int],
    *,
    first_image: int = 1,
    min_score: float = 0.05,
) -> list[dict[str, Any]]:
    """A clip as COCO's result list: one entry per frame, tracklet and class.

    Args:
        tracklets: of ``ClipModel.segment_clip``.
        size: (h, w) of the masks in pixels, usually that of the video.
        category_ids: one per label, for instance ``model.label_space.category_ids``.
        first_image: ``image_id`` of the first frame; the next ones count on.
        min_score: classes below are left out, in [0, 1].

    Returns:
        Entries with ``image_id``, ``category_id``, ``score``, ``segmentation`` (run lengths),
        ``bbox`` (x, y, w, h) in pixels, and ``track_id``, the tracklet's place in the clip from 1.
        Frames in which a tracklet has no pixel have no entry.
    """
    entries: list[dict[str, Any]] = []
    probs = tracklets.class_probs.float().cpu()
    for t in range(tracklets.num_frames):
        crops = masks_at_video_size(
            tracklets.mask_logits[:, t], tracklets.mask_stride, tracklets.input_size, size
        )
        for k, crop in enumerate(crops):
            if not crop.area:
                continue
            x1, y1, x2, y2 = crop.box_xyxy_px()
            mask = {"segmentation": encode_crop(crop, size), "bbox": [x1, y1, x2 - x1, y2 - y1]}
            for label in (probs[k] >= min_score).nonzero().flatten().tolist():
                place = {"image_id": first_image + t, "track_id": k + 1}
                named = {"category_id": category_ids[label], "score": float(probs[k, label])}
                entries.append(place | named | mask)
    return entries
