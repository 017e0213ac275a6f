"""ImageNet weights that come as a package, fitted to frames with more channels than RGB."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from vmt.utils.errors import CheckpointError

#: Mean and standard deviation, in grey levels, by which EfficientNet-Lite was given its pixels.
LITE_MEAN = LITE_STD = (127.5, 127.5, 127.5)


@torch.no_grad()
def load_in_order(
    body: nn.Module,
    weights: Mapping[str, Tensor],
    pixel_mean: Sequence[float],
    pixel_std: Sequence[float],
    mean: Sequence[float] = LITE_MEAN,
    std: Sequence[float] = LITE_STD,
) -> None:
    """Give a network weights whose tensors have its order and shapes, under whatever names.

    Its first convolution may read more channels; these start at zero, so that the network begins
    with what the weights say of RGB. Pixels are normalised otherwise here than they were there;
    that goes into the first convolution and the norm behind it, and is exact but for the frame's
    outermost pixels.

    Args:
        body: begins with a convolution without bias and a batch norm.
        weights: may have more tensors at the end, of layers that the body lacks.
        pixel_mean: by which frames are normalised here, in grey levels.
        pixel_std: likewise.
        mean: of the pixels that the weights learned from, in grey levels.
        std: likewise.

    Raises:
        CheckpointError: a tensor is missing or has another shape.
    """
    state = body.state_dict()
    given = dict(zip(state, weights.values(), strict=False))
    stem, norm_mean = next(iter(state)), next(name for name in state if "running_mean" in name)
    for name, own in state.items():
        theirs, expected = given.get(name), own[:, :3] if name == stem else own
        if theirs is None or theirs.shape != expected.shape:
            has = None if theirs is None else list(theirs.shape)
            raise CheckpointError(
                f"{name} of the network is {list(own.shape)}, the weights have {has} in its place: "
                "they are of another network."
            )
        if name != stem:
            own.copy_(theirs)
    ours = zip(pixel_mean, pixel_std, mean, std, strict=True)
    scale, shift = zip(*((s / t, (m - n) / t) for m, s, n, t in ours), strict=True)
    kernel = given[stem]
    state[stem].zero_()
    state[stem][:, :3] = kernel * kernel.new_tensor(scale)[:, None, None]
    state[norm_mean] -= (kernel * kernel.new_tensor(shift)[:, None, None]).sum((1, 2, 3))
