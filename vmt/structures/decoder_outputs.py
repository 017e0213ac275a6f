"""What every decoder layer says about every query, before anything is selected."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class DecoderOutputs:
    """Predictions of all decoder layers for a batch of B clips, the last layer at index -1.

    Args:
        logits: (layers, B, Q, num_classes), before the sigmoid.
        boxes_cxcywh: (layers, B, T, Q, 4) in [0, 1] of the frame before padding.

    Raises:
        ValueError: the shapes disagree.
    """

    logits: Tensor
    boxes_cxcywh: Tensor

    def __post_init__(self) -> None:
        logits, boxes = self.logits.shape, self.boxes_cxcywh.shape
        fits = len(logits) == 4 and len(boxes) == 5 and boxes[4] == 4 and logits[0] > 0
        if not fits or logits[:2] != boxes[:2] or logits[2] != boxes[3]:
            raise ValueError(
                "decoder outputs: expected logits (layers, B, Q, classes) and boxes "
                f"(layers, B, T, Q, 4) with equal layers, B and Q, got {tuple(logits)} "
                f"and {tuple(boxes)}."
            )

    @property
    def num_layers(self) -> int:
        """Decoder layers."""
        return int(self.logits.shape[0])

    @property
    def batch_size(self) -> int:
        """B."""
        return int(self.logits.shape[1])
