"""Query selection: the tokens of the encoder that look most like objects become queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vmt.modeling.maskdino.heads import Heads
from vmt.structures.boxes import inverse_sigmoid, masks_to_boxes, xyxy_to_cxcywh
from vmt.utils.device import constant
from vmt.utils.precision import no_autocast

#: Side of a token's prior box on the first level of the decoder; it doubles from level to level.
#: In the order low2high that first level is the coarsest one, as published.
PRIOR_SIDE = 0.05
#: A token counts if all four numbers of its prior box lie between this and one minus this.
MARGIN = 0.01


@dataclass(frozen=True)
class Proposals:
    """The Q tokens that become queries, and what the heads say of them; with gradients.

    Args:
        token: (B, Q) int64, in the decoder's order of levels, best class logit first.
        content: (B, Q, C), the first state of the queries.
        logits: (B, Q, num_classes).
        box_logits: (B, Q, 4), cxcywh in log-odds.
    """

    token: Tensor
    content: Tensor
    logits: Tensor
    box_logits: Tensor

    @property
    def boxes(self) -> Tensor:
        """(B, Q, 4) cxcywh in [0, 1] of the padded frame."""
        return self.box_logits.sigmoid()


class QuerySelection(nn.Module):
    """Scores every token of the encoder and takes the best (Deformable DETR's two stages).

    Args:
        dim: C.
        num_queries: Q; a frame with fewer tokens gets as many as it has.
    """

    def __init__(self, dim: int, num_queries: int) -> None:
        super().__init__()
        self.num_queries = num_queries
        self.linear = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, memory: Tensor, shapes: Sequence[tuple[int, int]], heads: Heads) -> Proposals:
        """Select.

        Args:
            memory: (B, S, C).
            shapes: (H_l, W_l) per level, in the order of the memory.
            heads: of the decoder.
        """
        prior = prior_boxes(shapes, memory.device)
        valid = ((prior > MARGIN) & (prior < 1 - MARGIN)).all(-1, keepdim=True)
        tokens = self.norm(self.linear(memory * valid))
        best = heads.cls(tokens).amax(-1)
        top = best.topk(min(self.num_queries, best.shape[1])).indices  # (B, Q)
        content = tokens.gather(1, top[..., None].expand(-1, -1, tokens.shape[-1]))
        origin = torch.logit(prior).masked_fill(~valid, torch.inf)[top]
        with no_autocast(memory.device):
            box_logits = heads.box(content.float()) + origin
        return Proposals(top, content, heads.classes(content), box_logits)


def prior_boxes(shapes: Sequence[tuple[int, int]], device: torch.device) -> Tensor:
    """A box around the centre of every token: (S, 4) cxcywh in [0, 1] of the padded frame."""
    boxes = []
    for level, (h, w) in enumerate(shapes):
        y = (torch.arange(h, device=device) + 0.5) / h
        x = (torch.arange(w, device=device) + 0.5) / w
        side = torch.full((h, w), PRIOR_SIDE * 2.0**level, device=device)
        boxes.append(torch.stack([x.expand(h, w), y[:, None].expand(h, w), side, side], dim=-1))
    return torch.cat([level.flatten(0, 1) for level in boxes])


def first_anchors(box_logits: Tensor, mask_logits: Tensor | None, box_init: str) -> Tensor:
    """Anchors that enter the decoder.

    Args:
        box_logits: (B, Q, 4) of the proposals.
        mask_logits: (B, Q, h, w) of the proposals; None for ``box_init`` "regressed".
        box_init: "regressed": the box of the proposal. Else the tight box of the mask: "bitmask"
            with outer edges on the right and below, and zeros for an empty mask; "mask2box" with
            the last cells' near edges, and (1, 1, 0, 0) for an empty mask, both as published;
            "mask" with outer edges, and the box of the proposal for an empty mask.

    Returns:
        (B, Q, 4) cxcywh in log-odds, without gradient.
    """
    regressed = box_logits.detach()
    if box_init == "regressed":
        return regressed
    assert mask_logits is not None, "boxes of masks take masks"
    masks = mask_logits.detach() > 0
    h, w = masks.shape[-2:]
    boxes = masks_to_boxes(masks)
    empty = ~masks.flatten(2).any(-1, keepdim=True)
    if box_init == "mask2box":
        boxes = torch.cat([boxes[..., :2], (boxes[..., 2:] - 1).clamp(min=0)], dim=-1)
    cxcywh = xyxy_to_cxcywh(boxes) / constant((w, h, w, h), boxes)
    if box_init == "mask2box":
        cxcywh = torch.where(empty, constant((1.0, 1.0, 0.0, 0.0), boxes), cxcywh)
    anchors = inverse_sigmoid(cxcywh)
    return torch.where(empty, regressed, anchors) if box_init == "mask" else anchors
