"""What reference files of Mask2Former's and MinVIS's published code hold, made by our network."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vmt.modeling.criteria.point_sampling import PointSampler, reference_points
from vmt.modeling.instances import image_instances
from vmt.modeling.mask2former.criterion import Mask2FormerCriterion
from vmt.modeling.mask2former.detector import Detector
from vmt.modeling.reference_files import match_rows, tensor, training_images
from vmt.modeling.video_model import FrameOutputs, ReferenceInputs, ReferenceOutputs

#: Of the channels of encoder levels, files of single images hold every fourth.
CHANNEL_STEP = 4
#: And of the masks of their instances the first twenty.
MASKS = 20

Segment = Callable[[Tensor], list[FrameOutputs]]


@torch.inference_mode()
def inference_outputs(
    model: Detector, inputs: ReferenceInputs, segment: Segment
) -> ReferenceOutputs:
    """Outputs of every stage, of a video or of an image.

    Args:
        model: on its device.
        inputs: ``images`` (T, 3, H, W) of a video or ``image`` (3, H, W), normalised;
            ``output_size`` (h, w) of the instances of an image.
        segment: normalised frames -> what is in each.
    """
    video = "images" in inputs
    frames = tensor(inputs, "images" if video else "image").float().to(model.device)
    frames = frames if video else frames[None]
    padded, _ = model.pad([frames])
    out, outputs = model.forward_frames(padded), segment(frames)
    embeds = torch.stack(out.embeds)
    logits = model.class_head(embeds)
    arrays = {"mask_features": out.pixel, "embeds": embeds[-1]}
    if video:
        masks = torch.stack([frame.masks() for frame in outputs])
        arrays |= {"pixel_level_0": out.levels[0], "logits_all_layers": logits, "masks": masks}
        return ReferenceOutputs(arrays, outputs)
    height, width = map(int, inputs["output_size"])
    found = image_instances(outputs[0], (height, width))
    levels = enumerate(out.levels)
    return ReferenceOutputs(
        arrays
        | {f"pixel_level_{index}": level[:, ::CHANNEL_STEP] for index, level in levels}
        | {
            "logits_all_layers": logits[:, 0],
            "masks": outputs[0].masks(),
            "result_scores": found.scores,
            "result_labels": found.labels.int(),
            "result_mask_areas": found.masks.sum((1, 2)).int(),
            f"result_masks_first{MASKS}": found.masks[:MASKS],
        }
    )


def training_outputs(
    model: Detector, criterion: Mask2FormerCriterion, inputs: ReferenceInputs
) -> ReferenceOutputs:
    """A step with fixed points.

    Args:
        model: on its device.
        criterion: its losses; places for masks are those of the file.
        inputs: see ``training_images``.
    """
    frames, targets = training_images(model, inputs)
    out = model.forward_frames(frames)
    outputs = model.predictions(out.embeds)
    fixed = Mask2FormerCriterion(
        criterion.weights,
        PointSampler(draw=reference_points),
        criterion.no_object_weight,
    )
    result = fixed(outputs, targets, out.pixel, float(max(sum(map(len, targets)), 1)))
    arrays = {"logits": outputs[""].logits, "match": match_rows(result.matches.values())}
    weights = {name: fixed.weight(name) for name in result.losses}
    return ReferenceOutputs(arrays, losses=result.losses, weights=weights)
