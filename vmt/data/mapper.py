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
from vmt.data.copy_paste import copy_paste
from vmt.data.degrade import Coarseness
from vmt.data.images import read_frame
from vmt.data.pseudo_clip import PseudoClip
from vmt.data.records import Tracklet, VideoRecord
from vmt.data.transforms import Clip, Compose
from vmt.ops.flow_votes import clip_votes
from vmt.structures.boxes import masks_to_boxes, xyxy_to_cxcywh
from vmt.structures.clip import ClipTargets
from vmt.utils.errors import AnnotationError, scoring_errors

#: Least value of a box coordinate in targets [SeqFormer code].
_MIN_COORDINATE = 1e-6
#: Share of samples in which no neighbour votes, as with single images.
SILENT = 0.1


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
    unlabelled: tuple[int, ...] = (),
) -> ClipTargets:
    """Targets whose boxes and visibility are measured on the masks.

    Args:
        masks: (G, T, H, W) bool.
        labels: (G,) int64.
        video_id: for messages.
        clip_id: for messages.
        times: T frame indices in the video; (): 0, 1, 2, ...
        boxes_only: the masks are filled boxes.
        unlabelled: see ``ClipTargets``.

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
        unlabelled=unlabelled,
    )


def _labels(category_ids: Sequence[int], label_of: Mapping[int, int]) -> tuple[int, ...]:
    """Labels of those categories that have one, ascending."""
    return tuple(sorted({label_of[key] for key in category_ids if key in label_of}))


@dataclass(frozen=True)
class Guest:
    """An image whose objects are pasted into another one, see ``vmt.data.copy_paste``.

    Args:
        record: of the image.
        label_of: category id -> label.
    """

    record: VideoRecord
    label_of: Mapping[int, int]


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
        degrade: what makes masks coarse, one drawn per tracklet; samples then have coarse masks
            too.
        votes_reach: samples with coarse masks have votes of so many frames on each side as well,
            see ``vmt.ops.flow_votes``; 0: none.
        learn_frames: frames of a sample, neighbours of each other, drawn from the clip after coarse
            masks and votes are made; 0: all.
        time_range: the views of an image are at most so many frames apart; see ``draw_times``.
    """

    num_frames: int
    sampler: Sampler
    pseudo_clip: PseudoClip
    augmentation: Compose
    max_image_objects: int = 25
    keep_invisible: bool = False
    degrade: tuple[Coarseness, ...] = ()
    votes_reach: int = 0
    learn_frames: int = 0
    time_range: int = 10

    def __call__(
        self,
        record: VideoRecord,
        key_frame: int,
        label_of: Mapping[int, int],
        rng: np.random.Generator,
        guest: Guest | None = None,
    ) -> dict[str, Any] | None:
        """Make one sample.

        Args:
            record: the video or image.
            key_frame: index of the key frame.
            label_of: category id -> label; tracklets of other categories are left out.
            rng: the only source of chance.
            guest: an image whose objects are pasted into that of ``record``.

        Returns:
            ``image`` (T, 3, H, W) uint8 RGB, ``targets`` (``ClipTargets`` with G >= 1), and the
            strings ``video_id``, ``clip_id``, ``dataset``; with ``degrade`` also ``coarse``
            (G, T, H, W) bool, and ``votes`` (G, T, 2, H, W) uint8; or None when nothing is visible.

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
        clip = self._read(record, frames, tracklets, rng)
        labels = torch.tensor([label_of[x.category_id] for x in tracklets], dtype=torch.int64)
        if guest is not None:
            clip, labels = self._with_guest(clip, labels, guest, rng)
        clip = self.augmentation(clip, rng)
        masks = torch.as_tensor(clip.masks).as_subclass(Tensor)
        visible = torch.from_numpy(masks.numpy().reshape(len(masks), -1).any(1))
        if not visible.any():
            return None
        if clip.cropped or not self.keep_invisible:
            masks, labels = masks[visible], labels[visible]
        clip_id = ",".join(map(str, frames))
        times = draw_times(self.num_frames, self.time_range, rng) if record.still else frames
        pixels = clip.frames.as_subclass(Tensor)
        coarse: dict[str, Any] = {}
        if self.degrade:
            own, coarse = self._coarse(pixels, masks.numpy(), rng)
            pixels, masks, times = pixels[own], masks[:, own], times[own]
        return coarse | {
            "image": pixels.contiguous(),
            "targets": clip_targets(
                masks.contiguous(),
                labels,
                video_id=record.name,
                clip_id=clip_id,
                times=times,
                boxes_only=record.boxes_only,
                unlabelled=_labels(record.unlabelled, label_of),
            ),
            "video_id": record.name,
            "clip_id": clip_id,
            "dataset": record.dataset,
        }

    def _with_guest(
        self, clip: Clip, labels: Tensor, guest: Guest, rng: np.random.Generator
    ) -> tuple[Clip, Tensor]:
        """The clip with objects of another image, and the labels of all."""
        tracklets = [x for x in guest.record.tracklets([0]) if x.category_id in guest.label_of]
        if not tracklets:
            return clip, labels
        other = self._read(guest.record, [0], tracklets, rng)
        joined, index = copy_paste(clip, other, rng)
        new = [guest.label_of[tracklets[k].category_id] for k in index.tolist()]
        return joined, torch.cat([labels, torch.tensor(new, dtype=torch.int64)])

    def _coarse(
        self, frames: Tensor, masks: npt.NDArray[np.bool_], rng: np.random.Generator
    ) -> tuple[slice, dict[str, Any]]:
        """Coarse masks of a clip, and votes: which frames are learned from, and what they have."""
        coarse = masks.copy()
        for tube in coarse:
            tube[:] = self.degrade[int(rng.integers(len(self.degrade)))](tube, rng)
        count = self.learn_frames or len(frames)
        first = int(rng.integers(max(len(frames) - count, 0) + 1))
        own = slice(first, first + count)
        made: dict[str, Any] = {"coarse": torch.from_numpy(coarse[:, own])}
        if self.votes_reach:
            pictures = list(np.ascontiguousarray(frames.permute(0, 2, 3, 1).numpy()))
            chosen = range(len(frames))[own]
            votes = clip_votes(pictures, coarse, chosen, self.votes_reach)
            if rng.random() < SILENT:
                votes[:] = 0
            made["votes"] = torch.from_numpy(votes)
        return own, made

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
