"""What reference files of IDOL's published code hold, made by our network."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from vmt.modeling.condinst.criterion import IDOLCriterion
from vmt.modeling.condinst.detector import Detector
from vmt.modeling.criteria.contrastive import first_of
from vmt.modeling.criteria.ota import OtaMatch
from vmt.modeling.video_model import ReferenceInputs, ReferenceOutputs
from vmt.structures.boxes import xyxy_to_cxcywh
from vmt.structures.clip import ClipTargets

#: The files number the queries of a batch: this many times the clip, plus the query.
QUERIES_PER_CLIP = 1000


def inference_outputs(model: Detector, inputs: ReferenceInputs) -> ReferenceOutputs:
    """Outputs of every stage.

    Args:
        model: on its device.
        inputs: ``images`` (T, 3, H, W), normalised; ``selected`` (T, N), the queries of ``masks``.
    """
    frames = _tensor(inputs, "images").float().to(model.device)
    chosen = _tensor(inputs, "selected").long().to(model.device)
    out = model.forward_frames(*model.pad([frames]))
    outputs = model.outputs(out, (int(frames.shape[-2]), int(frames.shape[-1])))
    last, pairs = out.states[-1], zip(outputs, chosen, strict=True)
    arrays = {
        "memory": out.memory,
        "query": last.embeds,
        "logits": torch.stack([frame.logits for frame in outputs]),
        "boxes": last.boxes,
        "reference_points": last.centres,
        "embeds": torch.stack([frame.embeddings for frame in outputs]),
        "masks": torch.stack([frame.masks(queries) for frame, queries in pairs]),
    }
    return ReferenceOutputs(arrays, outputs)


def training_outputs(
    model: Detector, criterion: IDOLCriterion, inputs: ReferenceInputs
) -> ReferenceOutputs:
    """A step in which the first negatives take part in the loss of cosines.

    Args:
        model: on its device.
        criterion: its losses.
        inputs: per clip b ``frames_b``, ``labels_b``, ``ids_b``, ``boxes_b``, ``masks_b`` and
            ``size_b``.
    """
    clips = range(sum(name.startswith("frames_") for name in inputs))
    frames = [_tensor(inputs, f"frames_{b}").float().to(model.device) for b in clips]
    targets = [_targets(inputs, b).to(model.device) for b in clips]
    out = model.forward_pairs(frames, targets, replace(criterion, choose=first_of))
    arrays = {"logits": out.last.logits, "boxes": out.last.boxes}
    for layer, matches in enumerate(out.matches):
        arrays |= _numbered(layer, matches)
    weights = {name: criterion.weight(name) for name in out.losses}
    return ReferenceOutputs(arrays, losses=out.losses, weights=weights)


def _targets(inputs: ReferenceInputs, index: int) -> ClipTargets:
    height, width = (int(side) for side in np.asarray(inputs[f"size_{index}"]))
    bits = np.unpackbits(np.asarray(inputs[f"masks_{index}"], np.uint8), axis=-1, count=width)
    boxes = xyxy_to_cxcywh(_tensor(inputs, f"boxes_{index}").float())
    return ClipTargets(
        _tensor(inputs, f"labels_{index}").long(),
        boxes / torch.tensor([width, height, width, height]),
        torch.from_numpy(bits).bool(),
        _tensor(inputs, f"ids_{index}") >= 0,
        clip_id=str(index),
    )


def _numbered(layer: int, matches: list[OtaMatch]) -> dict[str, Tensor]:
    query = [QUERIES_PER_CLIP * b + match.query_index for b, match in enumerate(matches)]
    return {
        f"match_query_{layer}": torch.cat(query).int(),
        f"match_gt_{layer}": torch.cat([match.target_index for match in matches]).int(),
    }


def _tensor(inputs: ReferenceInputs, name: str) -> Tensor:
    return torch.from_numpy(np.asarray(inputs[name]))
