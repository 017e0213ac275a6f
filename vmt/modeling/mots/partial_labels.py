"""Two stages that learn from images in which not every object is labelled.

What looks like an object and has no label is then no known background: the first stage learns from
labelled objects alone, the second that a region is none of the classes that are labelled in full.
Letters: P regions, K classes, with the background, which is class 0.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.models.detection.rpn import RegionProposalNetwork

from vmt.modeling.criteria.losses import full_precision
from vmt.structures.frame_targets import FrameTargets

#: Labels of anchors in torchvision's first stage: background, and what no loss sees.
_BACKGROUND, _IGNORED = 0.0, -1.0


class ProposalNetwork(RegionProposalNetwork):  # type: ignore[misc]
    """torchvision's first stage; targets may say ``partial``: they have no background."""

    def assign_targets_to_anchors(
        self, anchors: list[Tensor], targets: list[dict[str, Tensor]]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Per frame 1, 0 or -1 for each anchor, and the box that it should become."""
        labels, boxes = super().assign_targets_to_anchors(anchors, targets)
        known = [
            label.masked_fill(label == _BACKGROUND, _IGNORED) if target["partial"] else label
            for label, target in zip(labels, targets, strict=True)
        ]
        return known, boxes

    def compute_loss(
        self,
        objectness: Tensor,
        pred_bbox_deltas: Tensor,
        labels: list[Tensor],
        regression_targets: list[Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Losses of objectness and boxes; 0 where no frame says anything."""
        if not any(bool((label > _IGNORED).any()) for label in labels):
            nothing = 0 * (objectness.sum() + pred_bbox_deltas.sum())
            return nothing, nothing
        losses: tuple[Tensor, Tensor] = super().compute_loss(
            objectness, pred_bbox_deltas, labels, regression_targets
        )
        return losses


def unlabelled_classes(target: FrameTargets, num_classes: int, device: torch.device) -> Tensor:
    """(K,) bool, which classes a region without a label may be all the same."""
    row = torch.zeros(num_classes, dtype=torch.bool, device=device)
    for label in target.unlabelled:
        row[label + 1] = True
    return row


@full_precision
def region_class_loss(logits: Tensor, labels: Tensor, unlabelled: Tensor) -> Tensor:
    """Cross entropy in which a background region may be one of several classes.

    -log(p_0 + sum of p_k over the classes k that are not labelled in full): the marginal likelihood
    of what is known (Cermelli et al., arXiv:2002.00718, section 3). Without such classes, and for
    regions that show an object, the cross entropy.

    Args:
        logits: (P, K).
        labels: (P,) int64, 0 for the background.
        unlabelled: (P, K) bool.

    Returns:
        Scalar, the mean over regions; 0 without any.
    """
    own = torch.nn.functional.one_hot(labels, logits.shape[1]).bool()
    possible = own | (unlabelled & (labels == 0)[:, None])
    known = logits.masked_fill(~possible, float("-inf")).logsumexp(1)
    return (logits.logsumexp(1) - known).sum() / max(len(labels), 1)
