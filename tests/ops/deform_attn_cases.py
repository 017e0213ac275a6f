"""Random arguments for multi-scale deformable attention, and the back ends that can run here."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from vmt.ops.deform_attn import cpu, ms_deform_attn_reference, sampling_places

# Pixel positions keep this far from whole numbers, where the gradient of a location jumps.
KINK_MARGIN = 0.02
#: Of results relative to the largest, by the type that holds them.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}

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


@dataclass
class FusedCase:
    """The arguments of the fused operator, and a gradient for the output."""

    value: Tensor
    spatial_shapes: list[tuple[int, int]]
    offsets: Tensor
    logits: Tensor
    reference: Tensor
    grad_out: Tensor

    @property
    def flat_shapes(self) -> list[int]:
        return [side for shape in self.spatial_shapes for side in shape]

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.value, self.offsets, self.logits, self.reference

    def leaves(self) -> tuple[Tensor, ...]:
        """Return fresh copies that ask for gradients."""
        return tuple(x.detach().clone().requires_grad_() for x in self.tensors)

    def cast(self, value: torch.dtype, logits: torch.dtype, places: torch.dtype) -> "FusedCase":
        """Return the case in other types; ``places``: of offsets and reference points."""
        return FusedCase(
            self.value.to(value),
            self.spatial_shapes,
            self.offsets.to(places),
            self.logits.to(logits),
            self.reference.to(places),
            self.grad_out.to(value),
        )

    def to(self, device: str) -> "FusedCase":
        shapes, grad_out = self.spatial_shapes, self.grad_out.to(device)
        value, *rest = (x.to(device) for x in self.tensors)
        return FusedCase(value, shapes, *rest, grad_out)


def make_fused_case(axes: int = 2, **sizes: Any) -> FusedCase:
    """Draw arguments whose places are those of ``make_case(**sizes)``.

    Args:
        axes: 2 for reference points, 4 for boxes.
        **sizes: see ``make_case``.
    """
    case = make_case(**sizes)
    batch, queries, _, levels, points = case.weights.shape
    generator = torch.Generator().manual_seed(sizes.get("seed", 0) + 1)
    reference = torch.rand(batch, queries, levels, axes, generator=generator, dtype=torch.float64)
    away = case.locations.double() - reference[:, :, None, :, None, :2]
    if axes == 2:
        pairs = [(w, h) for h, w in case.spatial_shapes]
        offsets = away * torch.tensor(pairs, dtype=torch.float64)[:, None]
    else:
        reference[..., 2:] = reference[..., 2:] * 0.5 + 0.1
        offsets = away / reference[:, :, None, :, None, 2:] * (2 * points)
    logits = 2 * torch.randn(case.weights.shape, generator=generator, dtype=torch.float64)
    dtype = case.value.dtype
    return FusedCase(
        case.value, case.spatial_shapes, offsets.to(dtype), logits.to(dtype), reference.to(dtype),
        case.grad_out,
    )  # fmt: skip


def cast(case: Case, value_type: torch.dtype, param_type: torch.dtype) -> Case:
    half = case.to(value_type)
    params = case.to(param_type)
    return Case(half.value, case.spatial_shapes, params.locations, params.weights, half.grad_out)


def reference_results(case: Case) -> tuple[Tensor, ...]:
    """Return output and gradients in the accumulator type, from the same rounded inputs."""
    exact = case.to(torch.float64 if case.value.dtype == torch.float64 else torch.float32)
    leaves = exact.leaves()
    out = ms_deform_attn_reference(leaves[0], exact.spatial_shapes, *leaves[1:])
    return (out.detach(), *torch.autograd.grad(out, leaves, exact.grad_out))


def fused_reference_results(case: FusedCase) -> tuple[Tensor, ...]:
    """The same of the fused operator, through places that autograd records; always in double.

    Offsets that are no numbers lead far away, where autograd finds no gradient either.
    """
    exact = case.cast(torch.float64, torch.float64, torch.float64)
    exact.offsets = exact.offsets.nan_to_num(1e9, 1e9, -1e9)
    leaves = exact.leaves()
    value, offsets, logits, points = leaves
    places = sampling_places(offsets, logits, points, exact.flat_shapes)
    out = ms_deform_attn_reference(value, exact.spatial_shapes, *places)
    return (out.detach(), *torch.autograd.grad(out, leaves, exact.grad_out))


def assert_near(actual: Tensor, expected: Tensor, more: float = 1.0) -> None:
    """Compare relative to the largest entry, by what the type of ``actual`` can hold.

    Args:
        actual: of any floating type.
        expected: of another, maybe.
        more: factor of the tolerance.
    """
    tolerance = more * TOLERANCE[actual.dtype]
    scale = max(1.0, float(expected.abs().max())) if expected.numel() else 1.0
    torch.testing.assert_close(actual.to(expected), expected, atol=tolerance * scale, rtol=0)
