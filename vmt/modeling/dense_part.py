"""The part of a network whose shapes depend on nothing but its input's: what can be exported."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Port:
    """A tensor that goes into an exported graph or comes out of it.

    Args:
        name: in the graph.
        axes: what each axis counts.
        about: its meaning, units and range.
    """

    name: str
    axes: tuple[str, ...]
    about: str


#: What ``refiner_maps`` are for.
REFINER = (
    "the refiner works on lists of points, whose length the masks decide; it reads masks, queries "
    "and places of chosen queries, and the maps fused, stride4 and stride2"
)


def refiner_maps(lead: tuple[str, ...], has_stride2: bool) -> tuple[Port, ...]:
    """Outputs that a refiner of masks reads, with these axes before those of a map."""
    axes = (*lead, "channels", "height", "width")
    fine = (Port("stride2", axes, "of the backbone"),) if has_stride2 else ()
    fused = Port("fused", axes, "stride 8, behind the encoder")
    return (fused, Port("stride4", axes, "of the backbone"), *fine)


class DensePart(nn.Module, ABC):
    """A network without what depends on its own answers: selection, lists of points, association.

    Attributes:
        inputs: in the order of ``forward``'s arguments; the first axis of each is the batch, and
            the only one that an exported graph leaves open.
        outputs: in the order of what ``forward`` gives.
        left_out: what is not in it and follows behind it, one sentence each.
    """

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    left_out: tuple[str, ...] = ()

    @abstractmethod
    def example(self, batch: int, num_frames: int, size: tuple[int, int]) -> tuple[Tensor, ...]:
        """Random inputs, the same at every call.

        Args:
            batch: length of the first axis.
            num_frames: T of a clip, for networks of clips.
            size: (H, W) of the frames, in pixels.

        Raises:
            ConfigError: a size that the network cannot take.
        """

    @abstractmethod
    def forward(self, *inputs: Any) -> tuple[Tensor, ...]:
        """The outputs of a batch."""
