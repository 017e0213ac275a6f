"""A record and a key frame to what the network is trained on: one clip and its targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision import tv_tensors

from cocoapi_hq.io import rle
from vmt.data.clip_sampler import Sampler, draw_times
from vmt.data.degrade import degrade_tube
from vmt.data.images import read_frame
from vmt.data.pseudo_clip import PseudoClip
from vmt.data.records import Tracklet, VideoRecord
from vmt.data.transforms import Clip, Compose
from vmt.structures.boxes import masks_to_boxes, xyxy_to_cxcywh
from vmt.structures.clip import ClipTargets
from vmt.utils.errors import AnnotationError, scoring_errors

#: Least value of a box coordinate in targets [SeqFormer code].
_MIN_COORDINATE = 1e-6
#: In ``INPUT.DEGRADE``: the mask as it is.
CLEAN = "clean"


def decode_masks(
    tracklets: Sequence[Tracklet], num_frames: int, size: tuple[int, int]
) -> npt.NDArray[np.bool_]:
    """Dense masks of tracklets.

    Args:
        tracklets: G of them with ``num_frames`` entries each.
        num_frames: T.
        size: (h, w) of the frames in pixels.

    Returns:
        (G, T, h, w) bool; False where a tracklet is absent.

    Raises:
        AnnotationError: a mask is corrupt or of another size, named by file and place.
    """
    dense = np.zeros((len(tracklets), num_frames, *size), dtype=np.bool_)
    for g, tracklet in enumerate(tracklets):
        for t, mask in enumerate(tracklet.masks):
            if mask is None:
                continue
            with scoring_errors():
                checked = rle.validate(mask, tracklet.where, size)
                if tuple(checked["size"]) != size:
                    raise AnnotationError(
                        f"{tracklet.where}: a mask has size {checked['size']}, but the frames are "
                        f"{list(size)} (h, w); vmt check-annotations lists every such entry."
                    )
                dense[g, t] = rle.decode(checked)
    return dense


def clip_targets(
    masks: Tensor,
    labels: Tensor,
    *,
    video_id: str = "",
    clip_id: str = "",
    times: Sequence[int] = (),
    boxes_only: bool = False,
) -> ClipTargets:
    """Targets whose boxes and visibility are measured on the masks.

    Args:
        masks: (G, T, H, W) bool.
        labels: (G,) int64.
        video_id: for messages.
        clip_id: for messages.
        times: T frame indices in the video; (): 0, 1, 2, ...
        boxes_only: the masks are filled boxes.

    Returns:
        Targets; boxes of absent tracklets are 1e-6 throughout.
    """
    height, width = masks.shape[-2:]
    scale = torch.tensor([width, height, width, height], dtype=torch.float32)
    boxes_px = masks_to_boxes(masks)  # (G, T, 4) xyxy
    return ClipTargets(
        labels=labels,
        boxes_cxcywh=xyxy_to_cxcywh(boxes_px / scale).clamp(min=_MIN_COORDINATE),
        masks=masks,
        valid=boxes_px[..., 2] > 0,
        video_id=video_id,
        clip_id=clip_id,
        times=tuple(times),
        boxes_only=boxes_only,
    )


@dataclass(frozen=True)
class ClipMapper:
    """Draws, reads, augments: everything between a key frame and a training sample.

    Args:
        num_frames: T.
        sampler: which frames join the key frame.
        pseudo_clip: how a still image becomes a clip.
        augmentation: applied last.
        max_image_objects: stills with more objects give no sample; 0: no limit.
        keep_invisible: tracklets that no frame shows stay targets, unless a crop cut them off.
        degrade: kinds of ``vmt.data.degrade``, one drawn per tracklet, and "clean"; samples then
            have coarse masks too.
        time_range: the views of an image are at most so many frames apart; see ``draw_times``.
    """

    num_frames: int
    sampler: Sampler
    pseudo_clip: PseudoClip
    augmentation: Compose
    max_image_objects: int = 25
    keep_invisible: bool = False
    degrade: tuple[str, ...] = ()
    time_range: int = 10

    def __call__(
        self,
        record: VideoRecord,
        key_frame: int,
        label_of: Mapping[int, int],
        rng: np.random.Generator,
    ) -> dict[str, Any] | None:
        """Make one sample.

        Args:
            record: the video or image.
            key_frame: index of the key frame.
            label_of: category id -> label; tracklets of other categories are left out.
            rng: the only source of chance.

        Returns:
            ``image`` (T, 3, H, W) uint8 RGB, ``targets`` (``ClipTargets`` with G >= 1), and the
            strings ``video_id``, ``clip_id``, ``dataset``; with ``degrade`` also ``coarse``
            (G, T, H, W) bool; or None when nothing is visible.

        Raises:
            VideoError: a frame is missing, damaged, or of another size than the annotations.
            AnnotationError: masks or entries break their format.
        """
        frames = [0]
        if not record.still:
            frames = self.sampler(key_frame, len(record), self.num_frames, rng)
        tracklets = [x for x in record.tracklets(frames) if x.category_id in label_of]
        shown = [x for x in tracklets if any(mask is not None for mask in x.masks)]
        if not shown:
            return None
        if not self.keep_invisible or record.still:
            tracklets = shown
        if record.still and 0 < self.max_image_objects < len(tracklets):
            return None
        clip = self.augmentation(self._read(record, frames, tracklets, rng), rng)
        masks = torch.as_tensor(clip.masks).as_subclass(Tensor)
        labels = torch.tensor([label_of[x.category_id] for x in tracklets], dtype=torch.int64)
        visible = torch.from_numpy(masks.numpy().reshape(len(masks), -1).any(1))
        if not visible.any():
            return None
        if clip.cropped or not self.keep_invisible:
            masks, labels = masks[visible], labels[visible]
        clip_id = ",".join(map(str, frames))
        coarse = {"coarse": self._degraded(masks.numpy(), rng)} if self.degrade else {}
        times = draw_times(self.num_frames, self.time_range, rng) if record.still else frames
        return coarse | {
            "image": clip.frames.as_subclass(Tensor).contiguous(),
            "targets": clip_targets(
                masks.contiguous(),
                labels,
                video_id=record.name,
                clip_id=clip_id,
                times=times,
                boxes_only=record.boxes_only,
            ),
            "video_id": record.name,
            "clip_id": clip_id,
            "dataset": record.dataset,
        }

    def _degraded(self, masks: npt.NDArray[np.bool_], rng: np.random.Generator) -> Tensor:
        """(G, T, H, W), made coarse tracklet by tracklet."""
        coarse = masks.copy()
        for tube in coarse:
            kind = self.degrade[int(rng.integers(len(self.degrade)))]
            if kind != CLEAN:
                tube[:] = degrade_tube(tube, kind, rng, coherent=bool(rng.random() < 0.5))
        return torch.from_numpy(coarse)

    def _read(
        self,
        record: VideoRecord,
        frames: Sequence[int],
        tracklets: Sequence[Tracklet],
        rng: np.random.Generator,
    ) -> Clip:
        paths = record.frame_paths
        pixels = {t: read_frame(paths[t], record.size) for t in sorted(set(frames))}
        masks = decode_masks(tracklets, len(frames), record.size)
        if record.still:
            return self.pseudo_clip(pixels[0], masks[:, 0], self.num_frames, rng)
        video = torch.from_numpy(np.stack([pixels[t] for t in frames])).permute(0, 3, 1, 2)
        return Clip(tv_tensors.Video(video), tv_tensors.Mask(torch.from_numpy(masks)))
