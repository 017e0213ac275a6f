"""What reference files of MaskDINO's published code hold, made by our network."""

from __future__ import annotations

import torch
from torch import Tensor

from vmt.modeling.criteria.point_sampling import PointSampler, reference_points
from vmt.modeling.maskdino.criterion import PROPOSALS, MaskDINOCriterion
from vmt.modeling.maskdino.denoising import Noise
from vmt.modeling.maskdino.detector import Detector
from vmt.modeling.reference_files import match_rows, tensor, training_images
from vmt.modeling.video_model import ReferenceInputs, ReferenceOutputs

#: Of the channels of encoder levels the files hold every fourth.
CHANNEL_STEP = 4


@torch.inference_mode()
def inference_outputs(model: Detector, inputs: ReferenceInputs) -> ReferenceOutputs:
    """Outputs of every stage.

    Args:
        model: on its device.
        inputs: ``images`` (B, 3, H, W), normalised; ``initialize_box_type``; ``selected`` (B, N),
            the queries of ``masks`` and ``interm_masks``, as ranks in ``token_order`` (B, Q),
            token ids.
    """
    kind = str(inputs["initialize_box_type"])
    frames, _ = model.pad([tensor(inputs, "images").float().to(model.device)])
    out = model.forward_frames(frames, "regressed" if kind == "no" else kind)
    pixel, proposals, states = out.features.pixel, out.proposals, out.states
    rows = torch.arange(len(frames), device=model.device)[:, None]
    chosen = rows, _ranks(proposals.token, inputs)
    logits = [model.heads.classes(state.embeds) for state in states]
    arrays = {
        "mask_features": pixel,
        "top_tokens": proposals.token.int(),
        "interm_logits": proposals.logits,
        "interm_boxes": proposals.boxes,
        "interm_masks": model.heads.masks(proposals.content[chosen], pixel),
        "initial_boxes": states[0].boxes,
        "boxes_all_layers": torch.stack([state.boxes for state in states]),
        "logits_all_layers": torch.stack(logits[: -1 : max((len(logits) - 1) // 2, 1)]),
        "logits": logits[-1],
        "boxes": states[-1].boxes,
        "masks": model.heads.masks(states[-1].embeds[chosen], pixel),
        "query": states[-1].embeds,
    }
    levels = enumerate(out.features.levels)
    return ReferenceOutputs(
        arrays | {f"encoder_level_{index}": level[:, ::CHANNEL_STEP] for index, level in levels}
    )


def training_outputs(
    model: Detector, criterion: MaskDINOCriterion, inputs: ReferenceInputs
) -> ReferenceOutputs:
    """A step with the boxes of the encoder, denoising queries without noise and fixed points.

    Args:
        model: on its device.
        criterion: its losses; places for masks are those of the file.
        inputs: per image b ``image_b``, ``labels_b``, ``boxes_b``, ``masks_b`` and ``size_b``;
            ``groups`` of denoising queries.
    """
    frames, targets = training_images(model, inputs)
    noise = Noise(int(inputs["groups"]) * max(map(len, targets)), 0.0)
    out = model.forward_training(frames, targets, noise, "regressed")
    fixed = MaskDINOCriterion(
        criterion.weights, PointSampler(draw=reference_points), *criterion.focal
    )
    objects = float(max(sum(map(len, targets)), 1))
    outputs = model.predictions(out, slice(None))
    result = fixed(outputs, out.noisy, targets, out.pixel, objects)
    last = outputs[""].of_queries(slice(out.num_noisy, None))
    arrays = {
        "logits": last.logits,
        "pred_boxes": last.boxes,
        "interm_boxes": outputs[PROPOSALS].boxes,
        "top_tokens": out.proposals.token.int(),
        "match": match_rows(result.matches.values()),
    }
    weights = {name: fixed.weight(name) for name in result.losses}
    return ReferenceOutputs(arrays, losses=result.losses, weights=weights)


def _ranks(tokens: Tensor, inputs: ReferenceInputs) -> Tensor:
    """Ranks among our queries (B, Q) of those that ``selected`` names, by their tokens: (B, N)."""
    order, selected = (tensor(inputs, name).to(tokens) for name in ("token_order", "selected"))
    chosen = order.gather(1, selected)
    return (tokens[:, None] == chosen[:, :, None]).int().argmax(-1)
