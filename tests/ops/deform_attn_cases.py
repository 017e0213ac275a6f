"""Random arguments for multi-scale deformable attention, and the back ends that can run here."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from vmt.ops.deform_attn import cpu

# Pixel positions keep this far from whole numbers, where the gradient of a location jumps.
KINK_MARGIN = 0.02

needs_cpu_kernel = pytest.mark.skipif(
    cpu.unavailable_reason() is not None, reason=str(cpu.unavailable_reason())
)
CPU_BACKENDS = ["reference", pytest.param("cpu", marks=needs_cpu_kernel)]


@dataclass
class Case:
    """The four arguments, and a gradient for the output."""

    value: Tensor
    spatial_shapes: list[tuple[int, int]]
    locations: Tensor
    weights: Tensor
    grad_out: Tensor

    @property
    def flat_shapes(self) -> list[int]:
        return [side for shape in self.spatial_shapes for side in shape]

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.value, self.locations, self.weights

    def leaves(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return fresh copies that ask for gradients."""
        value, locations, weights = (x.detach().clone().requires_grad_() for x in self.tensors)
        return value, locations, weights

    def to(self, *args: object, **kwargs: object) -> "Case":
        return Case(
            self.value.to(*args, **kwargs),  # type: ignore[call-overload]
            self.spatial_shapes,
            self.locations.to(*args, **kwargs),  # type: ignore[call-overload]
            self.weights.to(*args, **kwargs),  # type: ignore[call-overload]
            self.grad_out.to(*args, **kwargs),  # type: ignore[call-overload]
        )


def make_case(
    *,
    batch: int = 2,
    queries: int = 7,
    heads: int = 3,
    channels: int = 8,
    points: int = 2,
    spatial_shapes: tuple[tuple[int, int], ...] = ((6, 4), (3, 5)),
    outside: float = 0.3,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> Case:
    """Draw arguments; locations lie in [-outside, 1 + outside], away from whole pixels."""
    generator = torch.Generator().manual_seed(seed)
    levels = len(spatial_shapes)
    sizes = torch.tensor([(w, h) for h, w in spatial_shapes], dtype=torch.float64)[:, None]
    shape = (batch, queries, heads, levels, points)
    span = 1 + 2 * outside
    locations = torch.rand(*shape, 2, generator=generator, dtype=torch.float64) * span - outside
    pixels = locations * sizes - 0.5
    fraction = (pixels - pixels.floor()).clamp(KINK_MARGIN, 1 - KINK_MARGIN)
    locations = (pixels.floor() + fraction + 0.5) / sizes
    tokens = sum(h * w for h, w in spatial_shapes)
    value = torch.randn(batch, tokens, heads, channels, generator=generator, dtype=torch.float64)
    weights = torch.rand(shape, generator=generator, dtype=torch.float64)
    grad_out = torch.randn(
        batch, queries, heads * channels, generator=generator, dtype=torch.float64
    )
    return Case(value, list(spatial_shapes), locations, weights, grad_out).to(dtype)
