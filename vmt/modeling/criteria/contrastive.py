"""What teaches embeddings to tell objects apart from one frame to another.

Source: QDTrack, arXiv:2006.06664, Eq. 3 and 4, as IDOL, arXiv:2207.10661, section 3.2, and its code
have it. Letters: A anchors, one per object, in the key frame; Q queries of the reference frame.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vmt.modeling.criteria.losses import full_precision

#: Negatives per positive in the auxiliary loss; so many as well where there is no positive.
NEGATIVES = 10

#: (N,) indices of negatives and a number -> at most so many of them.
Choice = Callable[[Tensor, int], Tensor]


def any_of(negatives: Tensor, count: int) -> Tensor:
    """At most ``count`` of the (N,) negatives, at random."""
    return negatives[torch.randperm(len(negatives), device=negatives.device)[:count]]


def first_of(negatives: Tensor, count: int) -> Tensor:
    """At most ``count`` of the (N,) negatives, the first ones: for reference files."""
    return negatives[:count]


@full_precision
def contrastive_loss(
    anchors: Tensor, queries: Tensor, positive: Tensor, negative: Tensor
) -> Tensor:
    """log(1 + sum over positives p and negatives n of exp(v.n - v.p)), the mean over anchors v.

    In closed form: the double sum is a product, so memory is linear in the queries.

    Args:
        anchors: (A, C), not normalised; A may be 0, which costs 0.
        queries: (Q, C).
        positive: (A, Q) bool.
        negative: (A, Q) bool. Anchors without a positive or a negative cost 0 and count.

    Returns:
        Scalar.
    """
    dots = anchors @ queries.t()  # (A, Q)
    contrasts = positive.any(1) & negative.any(1)
    lowest = torch.finfo(dots.dtype).min
    # Rows without contrast are taken out before, since their gradient would be NaN.
    dots, near, far = dots[contrasts], positive[contrasts], negative[contrasts]
    exponent = dots.masked_fill(~far, lowest).logsumexp(1)
    exponent = exponent + (-dots).masked_fill(~near, lowest).logsumexp(1)
    return F.softplus(exponent).sum() / max(len(anchors), 1) + 0 * (anchors.sum() + queries.sum())


@full_precision
def cosine_loss(
    anchors: Tensor,
    queries: Tensor,
    positive: Tensor,
    negative: Tensor,
    choose: Choice = any_of,
) -> Tensor:
    """Squared distance of cosines to 1 (positives) and 0 (negatives), the mean over anchors.

    IDOL's code adds it to the contrastive loss; its paper does not speak of it.

    Args:
        anchors: (A, C); A may be 0, which costs 0.
        queries: (Q, C).
        positive: (A, Q) bool.
        negative: (A, Q) bool, of which ``NEGATIVES`` per positive are chosen.
        choose: which ones.

    Returns:
        Scalar.
    """
    cosines = F.normalize(anchors, dim=1) @ F.normalize(queries, dim=1).t()
    losses = [0 * (anchors.sum() + queries.sum())]
    for cosine, near, far in zip(cosines, positive, negative, strict=True):
        count = NEGATIVES * max(int(near.sum()), 1)
        negatives = choose(far.nonzero()[:, 0], count)
        errors = torch.cat([cosine[near] - 1, cosine[negatives]]).square()
        losses.append(errors.sum() / max(len(errors), 1))
    return torch.stack(losses).sum() / max(len(anchors), 1)


@dataclass(frozen=True)
class Contrast:
    """Two frames of a clip whose embeddings are held against each other.

    Args:
        anchors: (A, C), of objects in the key frame; A may be 0.
        queries: (Q, C) of the reference frame.
        positive: (A, Q) bool, queries that are the anchor's object.
        negative: (A, Q) bool, queries that are not.
    """

    anchors: Tensor
    queries: Tensor
    positive: Tensor
    negative: Tensor


def association_losses(
    contrasts: Sequence[Contrast], *, cosine: bool = True, choose: Choice = any_of
) -> dict[str, Tensor]:
    """Losses of embeddings, the mean over the anchors of all pairs of frames; not weighted.

    Args:
        contrasts: none where clips have one frame: then there is nothing to associate.
        cosine: whether ``cosine_loss`` is one of them.
        choose: see there.

    Returns:
        "loss_reid", the contrastive loss, and "loss_reid_aux", that of cosines; or nothing.
    """
    if not contrasts:
        return {}
    sums: dict[str, list[Tensor]] = {}
    for pair in contrasts:
        given = pair.anchors, pair.queries, pair.positive, pair.negative
        weight = len(pair.anchors)
        sums.setdefault("loss_reid", []).append(weight * contrastive_loss(*given))
        if cosine:
            loss = cosine_loss(*given, choose=choose)
            sums.setdefault("loss_reid_aux", []).append(weight * loss)
    count = max(sum(len(pair.anchors) for pair in contrasts), 1)
    return {name: torch.stack(parts).sum() / count for name, parts in sums.items()}
