"""The deformable encoder, with padding of the coarse levels as IDOL's code has it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from vmt.layers.deformable_encoder import Encoder
from vmt.modeling.backbones.neck import STRIDES
from vmt.ops.resize import nearest


class CondInstEncoder(Encoder):
    """What is padding of levels beyond the backbone's follows from stride 8, not from the frame.

    The two differ where the sides of these levels do not divide those of stride 8.
    """

    def valid_cells(self, padding: Tensor | None, maps: Sequence[Tensor]) -> list[Tensor]:
        """See ``Encoder``."""
        valid = super().valid_cells(padding, maps)
        if padding is None:
            return valid
        finest = valid[0][:, None].float()
        coarse = [
            nearest(finest, (int(level.shape[-2]), int(level.shape[-1])))[:, 0] > 0
            for level in maps[len(STRIDES) :]
        ]
        return [*valid[: len(STRIDES)], *coarse]
