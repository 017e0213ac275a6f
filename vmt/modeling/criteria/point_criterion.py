"""Hungarian matching where masks are dot products that are looked at in some thousand places."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Generic, TypeVar

import torch
from torch import Tensor

from vmt.modeling.criteria.matcher import Match, match_costs
from vmt.modeling.criteria.ota import OtaMatch
from vmt.modeling.criteria.point_sampling import PointSampler, at_points
from vmt.modeling.criteria.weights import WeightedLosses
from vmt.structures.frame_targets import FrameTargets

_Self = TypeVar("_Self", bound="Predictions")


@dataclass(frozen=True)
class Predictions:
    """What the heads say of Q queries of B frames.

    Args:
        logits: (B, Q, num_classes), or one column more.
        kernels: (B, Q, mask_dim), whose dots with the pixel map are the masks.
    """

    logits: Tensor
    kernels: Tensor

    def of_queries(self: _Self, queries: slice) -> _Self:
        """The same of some queries."""
        return replace(self, **{f.name: getattr(self, f.name)[:, queries] for f in fields(self)})

    def of_frames(self: _Self, frames: slice | Sequence[int]) -> _Self:
        """The same of some frames."""
        rows = frames if isinstance(frames, slice) else list(frames)
        return replace(self, **{f.name: getattr(self, f.name)[rows] for f in fields(self)})


@dataclass(frozen=True)
class CriterionResult:
    """What the criterion says of a step.

    Args:
        losses: unweighted scalars by name.
        matches: by suffix of the losses, one per frame.
    """

    losses: dict[str, Tensor]
    matches: dict[str, Sequence[Match | OtaMatch]]


_Predictions = TypeVar("_Predictions", bound=Predictions)


class PointCriterion(WeightedLosses, Generic[_Predictions]):
    """Matching per frame and output.

    Source: Mask2Former, arXiv:2112.01527, sections 3.3 and 4.1.

    Args:
        weights: of losses and of the costs of matching.
        sampler: where masks are compared.
        deep_supervision: whether outputs before the last layer are trained.
    """

    def __init__(
        self, weights: Mapping[str, float], sampler: PointSampler | None, deep_supervision: bool
    ) -> None:
        self.weights = weights
        self.sampler = sampler or PointSampler()
        self.deep_supervision = deep_supervision

    @torch.no_grad()
    def match(
        self, outputs: Sequence[_Predictions], targets: Sequence[FrameTargets], pixel: Tensor
    ) -> list[list[Match]]:
        """Match every output of every frame, with one copy to the host per frame.

        The outputs of a frame share their points.

        Args:
            outputs: of the same queries, at several places of the network.
            targets: B frames.
            pixel: (B, mask_dim, h, w).

        Returns:
            Per output one match per frame.

        Raises:
            NonFiniteError: a cost is NaN or infinite.
        """
        matches: list[list[Match]] = [[] for _ in outputs]
        for frame, target in enumerate(targets):
            points = self.sampler.shared(pixel.device)
            features = at_points(pixel[frame : frame + 1].float(), points)[0]  # (mask_dim, P)
            truth = at_points(target.masks[None].float(), points)[0]  # (G, P)
            costs = [self.pair_costs(o, frame, features, target, truth) for o in outputs]
            pairs = match_costs(torch.stack(costs), target.name) if costs else []
            for output, match in zip(matches, pairs, strict=True):
                output.append(match)
        return matches

    def assign(
        self, output: _Predictions, targets: Sequence[FrameTargets], pixel: Tensor
    ) -> Sequence[Match | OtaMatch]:
        """Queries of the last layer and their objects, frame by frame; see ``match``."""
        return self.match([output], targets, pixel)[0]

    @abstractmethod
    def pair_costs(
        self,
        output: _Predictions,
        frame: int,
        features: Tensor,
        target: FrameTargets,
        truth: Tensor,
    ) -> Tensor:
        """Cost of every pair of query and object of a frame.

        Args:
            output: of all frames.
            frame: which one.
            features: (mask_dim, P) of the pixel map at points.
            target: G objects.
            truth: (G, P), their masks at these points, in [0, 1].

        Returns:
            (Q, G).
        """

    @abstractmethod
    def embedding_class_loss(self, logits: Tensor, labels: Tensor, count: float | Tensor) -> Tensor:
        """Class loss of queries whose classes are known, as a sum over them divided by ``count``.

        Args:
            logits: (N, num_classes), or one column more.
            labels: (N,) int64; -1 is none.
            count: divisor.
        """
