"""What a network says about one clip, before it is brought to the size of the video.

Letters: N selected tracklets, T frames, C channels; see the naming table of the docs.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class ClipTracklets:
    """The N tracklets that a network selected in one clip, in ascending order of their queries.

    Args:
        query_index: (N,) int64, which of the network's instance queries each one is.
        class_probs: (N, num_classes) in [0, 1], sigmoid scores of the last decoder layer.
        embeddings: (N, C) instance queries of the last decoder layer.
        boxes_cxcywh: (N, T, 4) in [0, 1] of the frame before padding.
        mask_logits: (N, T, h, w) at the finest stride that the network computed; any float type.
        mask_stride: input pixels per cell of ``mask_logits``, along each axis.
        input_size: (H, W) of the frames that went in, in pixels.
    """

    query_index: Tensor
    class_probs: Tensor
    embeddings: Tensor
    boxes_cxcywh: Tensor
    mask_logits: Tensor
    mask_stride: int
    input_size: tuple[int, int]

    @property
    def num_frames(self) -> int:
        """T."""
        return int(self.mask_logits.shape[1])

    def __len__(self) -> int:
        return int(self.query_index.shape[0])
