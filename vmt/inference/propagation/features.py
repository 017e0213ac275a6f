"""What frames look like, cell by cell: the beginning of an ImageNet network that ships."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from vmt.layers.fixed_norm import fold_norms
from vmt.utils.device import resolve_device

ByteArray = npt.NDArray[np.uint8]
#: (H, W, 3) uint8 RGB -> (C, ceil(H / CELL), ceil(W / CELL)) float32 on the CPU, each cell of
#: length 1. Whatever gives such maps can take the place of ``LiteFeatures``.
FeatureMaps = Callable[[ByteArray], Tensor]

#: Pixels along a side of a cell.
CELL = 8
#: Weights of the package, in float16; ``tools/make_lite_features.py`` makes them.
WEIGHTS = Path(__file__).parents[2] / "weights/lite_features.safetensors"
#: timm's network, and how many of its stages are kept: to stride 16.
NAME, STAGES = "tf_efficientnet_lite0", 5
#: By which EfficientNet-Lite has its pixels normalised, in grey levels.
MEAN = STD = 127.5


def lite_body() -> Any:
    """The first stages of EfficientNet-Lite0 with random weights: maps of stride 8 and 16."""
    body = timm.create_model(NAME, features_only=True, out_indices=(2, 3), pretrained=False)
    body.blocks = body.blocks[:STAGES]
    return body.eval()


class LiteFeatures(nn.Module):
    """Maps of EfficientNet-Lite0 at strides 8 and 16, trained on ImageNet.

    Of every map the mean over the frame is taken away, since all cells share it; the coarser is
    brought to the finer one's cells, and both count the same.

    Args:
        weights: file of ``lite_body``.
        device: where it computes.
    """

    def __init__(self, weights: Path, device: torch.device) -> None:
        super().__init__()
        body = lite_body()
        halves = load_file(weights)
        body.load_state_dict(
            halves | {k: v for k, v in body.state_dict().items() if k not in halves}
        )
        fold_norms(body)
        # Convolutions of single channels take half the time so.
        self.body = body.to(device, memory_format=torch.channels_last)

    @classmethod
    def from_pretrained(cls, device: str = "auto") -> LiteFeatures:
        """With the weights of the package."""
        return cls(WEIGHTS, resolve_device(device))

    @torch.inference_mode()
    def forward(self, frame: ByteArray) -> Tensor:
        """See ``FeatureMaps``."""
        device = next(self.body.parameters()).device
        pixels = torch.from_numpy(np.ascontiguousarray(frame.transpose(2, 0, 1))).to(device)
        x = (pixels[None].float() - MEAN) / STD
        h, w = x.shape[-2:]
        x = F.pad(x, (0, -w % (2 * CELL), 0, -h % (2 * CELL)), mode="replicate")
        fine, coarse = self.body(x.contiguous(memory_format=torch.channels_last))
        coarse = F.interpolate(coarse, fine.shape[-2:], mode="bilinear", align_corners=False)
        maps = [F.normalize(x - x.mean((2, 3), keepdim=True), dim=1) for x in (fine, coarse)]
        both: Tensor = torch.cat(maps, 1)[0] / len(maps) ** 0.5
        return both[:, : -(-h // CELL), : -(-w // CELL)].cpu()
