"""What associations make of reference inputs, under the names of the reference files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from vmt.modeling.video_model import FrameOutputs, ReferenceInputs

#: Fixture -> what it makes of the inputs; no network is needed.
FIXTURES: dict[str, Callable[[ReferenceInputs], Mapping[str, Tensor]]] = {}


def associated_arrays(
    association: str, frames: Sequence[FrameOutputs], inputs: ReferenceInputs
) -> dict[str, Tensor]:
    """Tracks and results of a video, from what a network says about its frames.

    Args:
        association: its name, as in ``TEST.ASSOCIATION``.
        frames: all frames of the video.
        inputs: ``video_size`` is the (h, w) of the results.
    """
    return {}
