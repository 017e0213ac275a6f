"""The losses of a refiner on the tracklets of a network for frames.

Letters: B clips of T frames, N tracklets of a clip, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vmt.modeling.criteria.set_criterion import mean_tracklets
from vmt.modeling.frame_training import (
    ObjectEmbeddings,
    SharpenableModel,
    TrainedClips,
    TrainedFrame,
)
from vmt.modeling.refiners.base import (
    Refiner,
    RefinerInput,
    RefinerLosses,
    refinement_losses,
    zero_loss,
)
from vmt.structures.track_window import ABSENT, FrameMaps, TrackWindow


@dataclass(frozen=True)
class TrackLosses:
    """Refines the annotated tracklets of training clips, as the network cuts them out.

    Args:
        refiner: that of the network.
        criterion: its losses.
    """

    refiner: Refiner
    criterion: RefinerLosses

    def __call__(self, model: SharpenableModel, clips: TrainedClips) -> dict[str, Tensor]:
        """See ``SharpenableModel.sharpening``."""
        assert clips.maps is not None, "a network with a refiner keeps its maps"
        outputs, learned = [], []
        for b, (frames, targets) in enumerate(zip(clips.frames, clips.targets, strict=True)):
            objects = model.objects_in(frames, targets.frame_times)
            maps = clips.maps[b * len(frames) : (b + 1) * len(frames)]
            window = window_of_objects(model, frames, objects, maps, targets.input_size)
            learned.append(targets.select(objects.slots))
            outputs.append(self.refiner(RefinerInput.of_tracks(window, learned[-1].masks)))
        count = mean_tracklets(learned, model.device)
        losses = refinement_losses(self.criterion, outputs, learned, count)
        zero = zero_loss(self.refiner)
        # RefineVIS has a loss_mask_refine too.
        return {name.replace("loss_", "loss_refiner_"): v + zero for name, v in losses.items()}


def window_of_objects(
    model: SharpenableModel,
    frames: Sequence[TrainedFrame],
    objects: ObjectEmbeddings,
    maps: FrameMaps,
    frame_size: tuple[int, int],
) -> TrackWindow:
    """Annotated tracklets of a clip, with the masks that the network cuts out.

    As at inference, an object has no mask in frames in which it is not present, and its query is
    the mean over the others. Gradients reach the queries, not the masks.

    Args:
        model: has the mask head.
        frames: T.
        objects: N.
        maps: of the frames.
        frame_size: (H, W) before padding, in pixels.
    """
    cut_out = []
    with torch.no_grad():
        for t, frame in enumerate(frames):
            refs = None if objects.refs is None else objects.refs[:, t]
            cut_out.append(model.mask_head(objects.embeds[:, t], frame.pixel, refs))
    present = objects.present
    masks = torch.stack(cut_out, 1).float()
    masks = masks.masked_fill(~present[..., None, None], ABSENT)
    query = torch.where(present[..., None], objects.embeds, 0.0).sum(1)
    query = query / present.sum(1)[:, None]
    stride = maps.pixels.shape[-2] // masks.shape[-2]
    return TrackWindow(maps, masks, stride, query, frame_size)
