"""``vmt.ops.fused_ms_deform_attn`` on the CPU: values, gradients, edge cases, tracing, errors."""

from __future__ import annotations

import pytest
import torch

from tests.ops.deform_attn_cases import (
    CPU_BACKENDS,
    assert_near,
    fused_reference_results,
    make_fused_case,
    needs_cpu_kernel,
)
from tests.ops.reference_deform_attn import loop_ms_deform_attn
from vmt.ops import fused_ms_deform_attn
from vmt.ops.deform_attn import cpu, sampling_places
from vmt.utils.errors import OpError

F16, BF16, F32, F64 = torch.float16, torch.bfloat16, torch.float32, torch.float64
AXES = pytest.mark.parametrize("axes", [2, 4])
BACKENDS = pytest.mark.parametrize("backend", CPU_BACKENDS)


@AXES
def test_places_are_what_they_are_said_to_be(axes: int) -> None:
    """One place by hand: 1.5 cells right and 1 up on a level of 4x6; or in box sides."""
    offsets = torch.tensor([1.5, -1.0], dtype=F64).view(1, 1, 1, 1, 1, 2).repeat(1, 1, 1, 1, 2, 1)
    logits = torch.tensor([0.0, 1.0], dtype=F64).view(1, 1, 1, 1, 2)
    reference = torch.tensor([0.5, 0.25, 0.2, 0.4][:axes], dtype=F64).view(1, 1, 1, axes)
    locations, weights = sampling_places(offsets, logits, reference, [4, 6])
    # a step is a cell, or half a side over two points
    step = (1 / 6, 1 / 4) if axes == 2 else (0.2 / 4, 0.4 / 4)
    expected = [0.5 + 1.5 * step[0], 0.25 - step[1]]
    torch.testing.assert_close(locations.flatten()[:2], torch.tensor(expected, dtype=F64))
    e = torch.tensor(1.0, dtype=F64).exp()
    torch.testing.assert_close(weights.flatten(), torch.stack([1 / (1 + e), e / (1 + e)]))


@BACKENDS
@AXES
@pytest.mark.parametrize(
    ("types", "atol"),
    [
        ((F64, F64, F64), 1e-12),
        ((F32, F32, F32), 1e-5),
        ((BF16, BF16, F32), 2e-2),
        ((F16, F32, F32), 2e-3),
    ],
)
def test_matches_loops(backend: str, axes: int, types, atol: float) -> None:
    case = make_fused_case(axes=axes).cast(*types)
    actual = fused_ms_deform_attn(
        case.value, case.spatial_shapes, *case.tensors[1:], backend=backend
    )
    exact = case.cast(F64, F64, F64)
    places = sampling_places(exact.offsets, exact.logits, exact.reference, exact.flat_shapes)
    expected = loop_ms_deform_attn(exact.value, exact.spatial_shapes, *places)
    assert actual.dtype == types[0]
    torch.testing.assert_close(actual.double(), expected, atol=atol, rtol=atol)


@BACKENDS
@AXES
def test_gradcheck(backend: str, axes: int) -> None:
    case = make_fused_case(axes=axes, batch=1, queries=3, heads=2, channels=3, outside=0.1)

    def call(*tensors: torch.Tensor) -> torch.Tensor:
        return fused_ms_deform_attn(tensors[0], case.spatial_shapes, *tensors[1:], backend=backend)

    assert torch.autograd.gradcheck(call, case.leaves())


@needs_cpu_kernel
@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
@AXES
@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize(("channels", "points"), [(1, 3), (5, 8), (32, 8), (32, 11), (33, 1)])
def test_the_kernel_matches_autograd_of_the_places(
    isa: str, axes: int, dtype: torch.dtype, channels: int, points: int
) -> None:
    if cpu.ISA_NUMBERS[isa] > cpu.ISA_NUMBERS[cpu.isa_level()]:
        pytest.skip(f"this processor has no {isa}")
    assert cpu.has_fused()
    case = make_fused_case(axes=axes, channels=channels, points=points, queries=11, dtype=dtype)
    args = (case.value, case.flat_shapes, *case.tensors[1:])
    found = (
        cpu.fused_forward(*args, isa=isa),
        *cpu.fused_backward(case.grad_out, *args, True, isa=isa),
    )
    for one, other in zip(found, fused_reference_results(case), strict=True):
        assert_near(one, other, more=8.0)


@BACKENDS
def test_large_and_lonely_logits(backend: str) -> None:
    """A softmax of 88, -inf and 1e4, and of equal ones: finite weights that add up to one."""
    case = make_fused_case(dtype=F32, points=5)
    case.value[:] = 1.0
    case.offsets[:] = 0.0
    case.reference[:] = 0.5
    case.logits[0, 0] = torch.tensor([88.0, -float("inf"), 1e4, 9999.0, -1e4])
    case.logits[0, 1] = -3e4
    out = fused_ms_deform_attn(case.value, case.spatial_shapes, *case.tensors[1:], backend=backend)
    torch.testing.assert_close(out, torch.ones_like(out), atol=1e-5, rtol=0)
    case.logits[0, 2, 1, 0, 0] = float("nan")
    out = fused_ms_deform_attn(case.value, case.spatial_shapes, *case.tensors[1:], backend=backend)
    assert out[0, 2].view(3, 8)[1].isnan().all()
    assert out.isnan().sum() == 8


@BACKENDS
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1e30, 3e9])
def test_a_bad_offset_reads_zero_and_gets_zero_gradient(backend: str, bad: float) -> None:
    case = make_fused_case(dtype=F32)
    case.offsets[0, 2, 1, 0, 0, 0] = bad
    leaves = case.leaves()
    out = fused_ms_deform_attn(leaves[0], case.spatial_shapes, *leaves[1:], backend=backend)
    grads = torch.autograd.grad(out, leaves, case.grad_out)
    for one, other in zip((out, *grads), fused_reference_results(case), strict=True):
        assert_near(one, other, more=4.0)
    assert (grads[1][0, 2, 1, 0, 0] == 0).all()


@BACKENDS
@pytest.mark.parametrize(
    "sizes", [{"batch": 0}, {"queries": 0}, {"heads": 0}, {"channels": 0}, {"points": 0}]
)
@AXES
def test_empty_axes(backend: str, axes: int, sizes: dict[str, int]) -> None:
    case = make_fused_case(axes=axes, dtype=F32, **sizes)
    leaves = case.leaves()
    out = fused_ms_deform_attn(leaves[0], case.spatial_shapes, *leaves[1:], backend=backend)
    assert (out == 0).all()
    for leaf, grad in zip(leaves, torch.autograd.grad(out, leaves, case.grad_out), strict=True):
        assert grad.shape == leaf.shape
        assert (grad == 0).all()


@BACKENDS
@pytest.mark.parametrize("dtype", [F32, BF16])
def test_opcheck(backend: str, dtype: torch.dtype) -> None:
    case = make_fused_case(batch=1, queries=3, dtype=dtype)
    value, *rest = case.leaves()
    operator = torch.ops.vmt.fused_ms_deform_attn.default
    torch.library.opcheck(operator, (value, case.flat_shapes, *rest, backend))


@BACKENDS
def test_compiles_to_one_graph(backend: str) -> None:
    case = make_fused_case(dtype=F32)

    def call(value: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        return fused_ms_deform_attn(value * 2, case.spatial_shapes, *rest, backend=backend)

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager", dynamic=True)
    actual_leaves, expected_leaves = case.leaves(), case.leaves()
    actual, expected = compiled(*actual_leaves), call(*expected_leaves)
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(
        torch.autograd.grad(actual, actual_leaves, case.grad_out),
        torch.autograd.grad(expected, expected_leaves, case.grad_out),
    )


@BACKENDS
def test_reference_points_that_ask_for_no_gradient_get_none(backend: str) -> None:
    case = make_fused_case(axes=4, dtype=F32)
    value, offsets, logits, reference = case.leaves()
    args = (value, case.spatial_shapes, offsets, logits)
    all_four = torch.autograd.grad(
        fused_ms_deform_attn(*args, reference, backend=backend),
        (value, offsets, logits, reference),
        case.grad_out,
    )
    three = torch.autograd.grad(
        fused_ms_deform_attn(*args, reference.detach(), backend=backend),
        (value, offsets, logits),
        case.grad_out,
    )
    torch.testing.assert_close(three, all_four[:3])
    assert all_four[3].abs().max() > 0


@needs_cpu_kernel
def test_same_bits_for_every_thread_count() -> None:
    case = make_fused_case(queries=900, channels=32, spatial_shapes=((20, 30), (10, 15)), dtype=F32)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            leaves = case.leaves()
            out = fused_ms_deform_attn(leaves[0], case.spatial_shapes, *leaves[1:], backend="cpu")
            results.append((out, *torch.autograd.grad(out, leaves, case.grad_out)))
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert all(torch.equal(one, other) for one, other in zip(results[0], result, strict=True))


@needs_cpu_kernel
def test_a_library_without_fused_kernels_does(monkeypatch: pytest.MonkeyPatch) -> None:
    case = make_fused_case(dtype=F32)
    args = (case.value, case.flat_shapes, *case.tensors[1:])
    native = (cpu.fused_forward(*args), *cpu.fused_backward(case.grad_out, *args, True))
    monkeypatch.setattr(cpu, "has_fused", lambda: False)
    composed = (cpu.fused_forward(*args), *cpu.fused_backward(case.grad_out, *args, True))
    for one, other in zip(native, composed, strict=True):
        assert_near(one, other, more=8.0)


ERRORS = [
    (
        {"reference": torch.zeros(2, 7, 2, 3)},
        r"reference_points has shape \(2, 7, 2, 3\).*Q=7, L=2",
    ),
    ({"reference": torch.zeros(2, 7, 1, 2)}, "reference_points has shape"),
    ({"reference": torch.zeros(2, 7, 2, 2).double()}, "reference_points has type torch.float64"),
    ({"offsets": torch.zeros(2, 7, 3, 2, 2, 3)}, r"offsets has shape .*L=2 is needed"),
    ({"logits": torch.zeros(2, 7, 3, 4)}, r"logits has shape \(2, 7, 3, 4\)"),
    ({"logits": torch.zeros(2, 7, 3, 2, 2, device="meta")}, "logits is on meta"),
    ({"value": torch.zeros(2, 38, 3, 8)}, "S=38 tokens, but the 2 levels .* hold 39"),
    ({"backend": "gpu"}, "backend='gpu' names no back end"),
]


@pytest.mark.parametrize(("change", "message"), ERRORS)
def test_errors_name_the_argument(change: dict[str, object], message: str) -> None:
    case = make_fused_case(dtype=F32)
    given = {
        "value": case.value,
        "offsets": case.offsets,
        "logits": case.logits,
        "reference": case.reference,
        "backend": "auto",
    } | change
    with pytest.raises(OpError, match=message):
        fused_ms_deform_attn(
            given["value"],
            case.spatial_shapes,
            given["offsets"],
            given["logits"],
            given["reference"],
            backend=given["backend"],
        )
