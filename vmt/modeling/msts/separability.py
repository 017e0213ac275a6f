"""Foreground-background separability: a discriminator is trained beside the model, against it."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from torch import Tensor
from torch.func import functional_call
from torch.optim import Adam, Optimizer

from vmt.modeling.adversarial import AdversarialNetwork, AdversaryInput
from vmt.modeling.msts.discriminator import Discriminator

logger = logging.getLogger(__name__)

#: A discriminator this close to its best loss, for so many steps on end, has nothing to teach.
EASY_LOSS, EASY_STEPS = 0.05, 200
#: What the discriminator should say about annotations.
REAL_LABEL = 0.9
#: Its Adam, and the largest norm of its gradients.
LR, BETAS, CLIP_GRADIENTS = 1e-4, (0.5, 0.999), 1.0


class Separability(AdversarialNetwork):
    """min over the model, max over the discriminator: can it tell the model's masks from true ones?

    Source: arXiv:2203.13253 for the roles; loss form, weights, optimiser and ramp are ours
    (docs/methods/msts.md). All objects of a clip are one mask. Clips count by their tracklets.

    Args:
        dim: channels of the encoder's memory.
        weight: of the loss for the model, behind the ramp.
        ramp_steps: steps in which the weight grows from 0.
    """

    clip_gradients = CLIP_GRADIENTS

    def __init__(self, dim: int, weight: float = 0.1, ramp_steps: int = 1000) -> None:
        super().__init__()
        self.network = Discriminator(dim)
        self.weight = weight
        self.ramp_steps = ramp_steps
        self._step = 0
        self._easy_steps = 0
        self._gradients: dict[str, Tensor] = {}

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Separability:
        """Build from ``MODEL.MSTS``."""
        node = cfg.MODEL.MSTS
        return cls(cfg.MODEL.SEQFORMER.HIDDEN_DIM, node.ADV_WEIGHT, node.ADV_RAMP_STEPS)

    def build_optimizer(self) -> Optimizer:
        """Adam without weight decay."""
        return Adam(self.network.parameters(), lr=LR, betas=BETAS)

    def begin_step(self, step: int) -> None:
        """See ``AdversarialNetwork``."""
        self._step = step
        self._gradients = {}

    @property
    def current_weight(self) -> float:
        """Of the model's loss in this step."""
        if self._easy_steps >= EASY_STEPS:
            return 0.0
        ramp = min(1.0, self._step / self.ramp_steps) if self.ramp_steps > 0 else 1.0
        return self.weight * ramp

    def own_loss(self, inputs: AdversaryInput) -> Tensor:
        """Half of both cross entropies, on detached tensors."""
        maps = [level.detach() for level in encoder_maps(inputs)]
        image = images(inputs)
        masks = torch.cat([true_union(inputs), predicted_union(inputs).detach()])
        scores = self.network(image.repeat(2, 1, 1, 1), [m.repeat(2, 1, 1, 1) for m in maps], masks)
        real, fake = scores.chunk(2)
        weights = cell_weights(inputs)
        return 0.5 * (_bce(real, REAL_LABEL, weights) + _bce(fake, 0.0, weights))

    def end_step(self, own_loss: float) -> bool:
        """Without a tracklet in any process there is nothing to learn; nor when it is too easy."""
        if own_loss == 0.0:
            return False
        least = -0.5 * sum(p * math.log(p) for p in (REAL_LABEL, 1 - REAL_LABEL))
        easy = own_loss - least < EASY_LOSS
        self._easy_steps = self._easy_steps + 1 if easy else 0
        if self._easy_steps == EASY_STEPS:
            logger.warning(
                "step %d: the discriminator told true masks from predicted ones without effort for "
                "%d steps; its loss is left out until it errs again.",
                self._step,
                EASY_STEPS,
            )
        return self._easy_steps < EASY_STEPS

    def losses(self, inputs: AdversaryInput) -> dict[str, Tensor]:
        """``loss_adversarial``: the model's masks should pass for true ones."""
        maps = self._watched("features", encoder_maps(inputs))
        (mask,) = self._watched("masks", [predicted_union(inputs)])
        frozen = {name: p.detach() for name, p in self.network.named_parameters()}
        scores = functional_call(self.network, frozen, (images(inputs), maps, mask))
        loss = _bce(scores, 1.0, cell_weights(inputs))
        return {"loss_adversarial": self.current_weight * loss}

    def _watched(self, name: str, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The same tensors; the gradient that comes back through them is measured."""

        def note(gradient: Tensor) -> None:
            square = gradient.detach().float().square().sum()
            self._gradients[name] = self._gradients.get(name, torch.zeros_like(square)) + square

        out = [x.view_as(x) for x in tensors]
        for x in out:
            if x.requires_grad:
                x.register_hook(note)
        return out

    def numbers(self) -> dict[str, float]:
        """Weight in this step; norms of the gradients that reached encoder maps and masks.

        With fp16 these carry the loss scale.
        """
        norms = {
            f"gradient_{name}": float(self._gradients.get(name, torch.zeros(())).sqrt())
            for name in ("features", "masks")
        }
        return {"weight": self.current_weight, **norms}

    def extra(self) -> dict[str, Any]:
        """See ``AdversarialNetwork``."""
        return {"easy_steps": self._easy_steps}

    def load_extra(self, extra: dict[str, Any]) -> None:
        """See ``AdversarialNetwork``."""
        self._easy_steps = int(extra["easy_steps"])


def encoder_maps(inputs: AdversaryInput) -> list[Tensor]:
    """Levels 0 to 2 of the memory as float32 maps (B*T, C, H_l, W_l), zero on padding."""
    memory = inputs.memory.float()
    if inputs.padding_mask is not None:
        memory = memory.masked_fill(inputs.padding_mask[..., None], 0.0)
    parts = memory.split([h * w for h, w in inputs.shapes], dim=1)
    return [
        part.transpose(1, 2).unflatten(2, shape)
        for part, shape in zip(parts[:3], inputs.shapes[:3], strict=True)
    ]


def images(inputs: AdversaryInput) -> Tensor:
    """(B*T, 3, h8, w8), zero on padding."""
    frames = F.interpolate(
        inputs.frames.float(), size=inputs.shapes[0], mode="bilinear", align_corners=False
    )
    return frames * _valid(inputs, 0)


def true_union(inputs: AdversaryInput) -> Tensor:
    """(B*T, 1, h8, w8) in [0, 1]: share of each cell that any annotated tracklet covers."""
    size = inputs.frames.shape[-2:]
    unions = []
    for target in inputs.targets:
        union = target.masks.any(0)[:, None].float()  # (T, 1, H_b, W_b)
        missing = size[0] - union.shape[-2], size[1] - union.shape[-1]
        unions.append(F.pad(union, (0, missing[1], 0, missing[0])))
    return F.interpolate(torch.cat(unions), size=inputs.shapes[0], mode="area")


def predicted_union(inputs: AdversaryInput) -> Tensor:
    """(B*T, 1, h8, w8) in [0, 1]: 1 - prod over matched queries of (1 - p), zero on padding."""
    unions = [
        -torch.expm1(F.logsigmoid(-masks.float()).sum(0))[:, None]  # (T, 1, h4, w4)
        for masks in inputs.mask_logits
    ]
    union = F.interpolate(
        torch.cat(unions), size=inputs.shapes[0], mode="bilinear", align_corners=False
    )
    return union * _valid(inputs, 0)


def cell_weights(inputs: AdversaryInput) -> Tensor:
    """(B*T, 1, h32, w32): the mean over a clip's valid cells, times its share of the tracklets."""
    valid = _valid(inputs, 2).unflatten(0, (len(inputs.targets), -1))
    counts = valid.new_tensor([len(target) for target in inputs.targets]).view(-1, 1, 1, 1, 1)
    share = counts / inputs.num_tracklets
    weights: Tensor = valid / valid.sum((1, 2, 3, 4), keepdim=True) * share
    return weights.flatten(0, 1)


def _valid(inputs: AdversaryInput, level: int) -> Tensor:
    """(B*T, 1, H_l, W_l) float, 0 on padding."""
    shape = inputs.shapes[level]
    if inputs.padding_mask is None:
        return inputs.frames.new_ones(len(inputs.frames), 1, *shape)
    start = sum(h * w for h, w in inputs.shapes[:level])
    cells = inputs.padding_mask[:, start : start + shape[0] * shape[1]]
    valid: Tensor = (~cells).float().unflatten(1, shape)
    return valid[:, None]


def _bce(logits: Tensor, label: float, weights: Tensor) -> Tensor:
    wanted = torch.full_like(logits, label)
    return F.binary_cross_entropy_with_logits(logits, wanted, weights, reduction="sum")
