"""The Python side of deformable attention: what is checked, chosen, cast and handed on."""

from __future__ import annotations

import ctypes
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.apps.networks import operators_of
from tests.ops.deform_attn_cases import (
    CPU_BACKENDS,
    Case,
    make_case,
    make_fused_case,
    needs_cpu_kernel,
)
from tests.ops.reference_deform_attn import loop_ms_deform_attn
from vmt.ops import fused_ms_deform_attn, ms_deform_attn
from vmt.ops.deform_attn import backends, checks, cpu, cuda, reference
from vmt.ops.deform_attn.backends import BACKEND_VARIABLE, describe_backend
from vmt.utils.errors import OpError

F64, F32, F16, BF16 = torch.float64, torch.float32, torch.float16, torch.bfloat16


def call(case: Case, backend: str = "reference") -> Tensor:
    return ms_deform_attn(case.value, case.spatial_shapes, case.locations, case.weights,
                          backend=backend)  # fmt: skip


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "locations", "weights", "fits"),
    [
        (F64, F64, F64, True),
        (F32, F16, BF16, True),
        (BF16, F32, F32, True),
        (F64, F32, F64, False),
        (F64, F64, F32, False),
        (F32, F64, F32, False),
        (F16, F32, F64, False),
        (torch.int64, F32, F32, False),
    ],
)
def test_types(value: Any, locations: Any, weights: Any, fits: bool) -> None:
    case = make_case(dtype=F32)
    case = Case(case.value.to(value), case.spatial_shapes, case.locations.to(locations),
                case.weights.to(weights), case.grad_out)  # fmt: skip
    if fits:
        assert call(case).dtype == value
        return
    with pytest.raises(OpError, match=r"has type torch\.(float|int)(32|64)"):
        call(case)


def shaped(case: Case, **changes: Any) -> Case:
    fields = {name: getattr(case, name) for name in ("value", "spatial_shapes", "locations",
                                                     "weights", "grad_out")}  # fmt: skip
    return Case(**(fields | changes))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: {"value": c.value[0]}, r"value has shape \(39, 3, 8\)"),
        (lambda c: {"value": c.value[:, 1:]}, "S=38 tokens, but the 2 levels .* hold 39"),
        (lambda c: {"spatial_shapes": []}, "one or more pairs"),
        (lambda c: {"spatial_shapes": [(6, 4), (0, 5)]}, "each at least 1"),
        (lambda c: {"spatial_shapes": [(6, 4, 1), (3, 5)]}, r"\(6, 4, 1\); pairs"),
        (lambda c: {"locations": c.locations[:1]}, "B=2, M=3, L=2"),
        (lambda c: {"locations": c.locations[:, :, :2]}, "B=2, M=3, L=2"),
        (lambda c: {"locations": c.locations[:, :, :, :1]}, "B=2, M=3, L=2"),
        (lambda c: {"locations": c.locations[..., :1]}, "B=2, M=3, L=2"),
        (lambda c: {"locations": c.locations[..., 0]}, "B=2, M=3, L=2"),
        *(
            (lambda c, a=axis: {"weights": c.weights.narrow(a, 0, 1)}, "attention_weights has")
            for axis in range(5)
        ),
        (lambda c: {"weights": c.weights[..., None]}, "attention_weights has shape"),
    ],
)  # fmt: skip
def test_shapes(change: Any, said: str) -> None:
    case = make_case()
    with pytest.raises(OpError, match=said):
        call(shaped(case, **change(case)))


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        (torch.tensor([6, 4]), r"\(2,\); \(L, 2\)"),
        (torch.tensor([[6, 4, 1]]), r"\(1, 3\); \(L, 2\)"),
        (torch.tensor([[6.0, 4.0], [3.0, 5.0]]), "integers"),
    ],
)
def test_shapes_as_tensors(shapes: Tensor, said: str) -> None:
    with pytest.raises(OpError, match=said):
        call(shaped(make_case(), spatial_shapes=shapes))


def test_gradients_of_another_shape_are_refused() -> None:
    case = make_case()
    with pytest.raises(OpError, match=r"the gradient has shape \(2, 7, 23\).*\(2, 7, 24\)"):
        torch.ops.vmt.ms_deform_attn_backward(
            case.grad_out[..., 1:], case.value, case.flat_shapes, case.locations, case.weights,
            "reference",
        )  # fmt: skip


def test_checks_are_made_once_per_kind_and_errors_every_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(checks, "_RIGHT", set())
    monkeypatch.setattr(checks, "MOST_KINDS", 2)
    seen: list[int] = []

    def check(shapes: Any, tensor: Tensor) -> None:
        seen.append(tensor.numel())
        if tensor.numel() == 3:
            raise OpError("three")

    for count in (1, 1, 2, 1):
        checks.check_once(check, [4, 6], torch.zeros(count))
    assert seen == [1, 2]
    for change in (torch.zeros(2).double(), torch.zeros(1, 2), torch.zeros(2, device="meta")):
        checks.check_once(check, [4, 6], change)  # also makes room
    checks.check_once(check, [6, 4], torch.zeros(2))
    assert seen == [1, 2, 2, 2, 2, 2]
    for _ in range(2):
        with pytest.raises(OpError, match="three"):
            checks.check_once(check, [4, 6], torch.zeros(3))
    assert len(checks._RIGHT) <= 2


# --- which back end -----------------------------------------------------------------------------


class Spy:
    """A back end that notes its calls and leaves the work to the reference."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def unavailable_reason(self) -> str | None:
        return None

    def forward(self, *args: Any) -> Tensor:
        self.calls.append("forward")
        return reference.forward(*args)

    def backward(self, *args: Any) -> Any:
        self.calls.append("backward")
        return reference.backward(*args)

    def fused_forward(self, *args: Any) -> Tensor:
        self.calls.append("fused_forward")
        return reference.fused_forward(*args)

    def fused_backward(self, *args: Any) -> Any:
        self.calls.append("fused_backward")
        return reference.fused_backward(*args)


@pytest.fixture
def spies(monkeypatch: pytest.MonkeyPatch) -> dict[str, Spy]:
    found = {name: Spy() for name in ("reference", "cpu", "cuda")}
    monkeypatch.setattr(backends, "BACKENDS", found)
    monkeypatch.delenv(BACKEND_VARIABLE, raising=False)
    return found


BOTH = ["forward", "backward"]


@pytest.mark.parametrize(
    ("argument", "variable", "taken"),
    [
        ("auto", None, "cpu"),
        ("auto", "", "cpu"),
        ("auto", "auto", "cpu"),
        ("auto", "reference", "reference"),
        ("auto", "  Reference ", "reference"),
        ("auto", "CPU", "cpu"),
        ("reference", "cpu", "reference"),
        ("cpu", "reference", "cpu"),
    ],
)
def test_forward_and_backward_take_the_same_back_end(
    argument: str, variable: str | None, taken: str, spies: dict[str, Spy],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    if variable is not None:
        monkeypatch.setenv(BACKEND_VARIABLE, variable)
    case = make_case()
    value, locations, weights = case.leaves()
    ms_deform_attn(
        value, case.spatial_shapes, locations, weights, backend=argument
    ).sum().backward()
    fused = make_fused_case()
    fused_ms_deform_attn(
        fused.leaves()[0], case.spatial_shapes, *fused.leaves()[1:], backend=argument
    ).sum().backward()
    calls = {name: spy.calls for name, spy in spies.items()}
    expected = [*BOTH, *(f"fused_{name}" for name in BOTH)]
    assert calls == {"reference": [], "cpu": [], "cuda": []} | {taken: expected}


@pytest.mark.parametrize("way", ["argument", "variable"])
def test_unknown_and_foreign_back_ends_are_named(
    way: str, spies: dict[str, Spy], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, said in (("fast", "names no back end; choose auto, reference, cpu, cuda"),
                       ("cuda", "cannot read tensors on cpu")):  # fmt: skip
        argument = name if way == "argument" else "auto"
        origin = f"backend='{name}'" if way == "argument" else f"{BACKEND_VARIABLE}={name}"
        if way == "variable":
            monkeypatch.setenv(BACKEND_VARIABLE, name)
        with pytest.raises(OpError, match=said) as caught:
            call(make_case(), argument)
        assert origin in str(caught.value)
    assert not any(spy.calls for spy in spies.values())


def test_a_forced_back_end_that_is_missing_says_why(
    spies: dict[str, Spy], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spies["cpu"], "unavailable_reason", lambda: "no compiler")
    with pytest.raises(OpError, match="not available: no compiler"):
        call(make_case(), "cpu")
    backends._warn_about_fallback.cache_clear()
    call(make_case(), "auto")
    assert spies["reference"].calls == ["forward"]


def test_the_report_names_what_runs(spies: dict[str, Spy], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends.cpu, "isa_level", lambda: "avx2")
    report = describe_backend()
    assert report.active == {"cpu": "cpu", "cuda": "cuda"}
    assert report.forced is None
    monkeypatch.setenv(BACKEND_VARIABLE, "CPU")
    report = describe_backend()
    assert report.forced == "cpu"
    assert report.active["cpu"] == "cpu"
    assert report.active["cuda"].startswith("error: ")
    monkeypatch.setattr(spies["cpu"], "unavailable_reason", lambda: "no compiler")
    report = describe_backend()
    assert (report.backends["cpu"].available, report.backends["cpu"].reason) == (
        False,
        "no compiler",
    )
    assert report.cpu_isa is None


# --- what comes back ----------------------------------------------------------------------------


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize(
    ("value", "parameters"), [(F64, F64), (F32, F32), (F16, F32), (BF16, F32), (BF16, BF16)]
)
def test_gradients_have_the_types_of_their_inputs(
    backend: str, value: torch.dtype, parameters: torch.dtype
) -> None:
    case = make_case(dtype=F32)
    module = backends.BACKENDS[backend]
    grads = module.backward(case.grad_out.to(value), case.value.to(value), case.flat_shapes,
                            case.locations.to(parameters), case.weights.to(parameters))  # fmt: skip
    assert [g.dtype for g in grads] == [value, parameters, parameters]
    assert [g.shape for g in grads] == [t.shape for t in case.tensors]


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_each_back_end_takes_tensors_that_lie_anyhow(backend: str) -> None:
    """Called as the operator calls it, with transposed and cut tensors."""
    case = make_case()
    module = backends.BACKENDS[backend]
    value = torch.stack([case.value, case.value], 1).transpose(2, 3).contiguous()
    value = value.transpose(2, 3)[:, 0]
    locations = case.locations.flip(-1).contiguous().flip(-1).transpose(1, 2).contiguous()
    locations = locations.transpose(1, 2)
    weights = torch.stack([case.weights, -case.weights], -1)[..., 0]
    grad_out = case.grad_out.transpose(1, 2).contiguous().transpose(1, 2)
    assert not any(t.is_contiguous() for t in (value, locations, weights, grad_out))
    expected = loop_ms_deform_attn(case.value, case.spatial_shapes, case.locations, case.weights)
    found = module.forward(value, case.flat_shapes, locations, weights)
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)
    plain = reference.backward(case.grad_out, case.value, case.flat_shapes, case.locations,
                               case.weights)  # fmt: skip
    strided = module.backward(grad_out, value, case.flat_shapes, locations, weights)
    for ours, theirs in zip(strided, plain, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=0)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_gradients_are_slopes(backend: str) -> None:
    """Central differences of the loops, of some entries of every input."""
    case = make_case(queries=2, channels=2)
    grads = backends.BACKENDS[backend].backward(case.grad_out, case.value, case.flat_shapes,
                                          case.locations, case.weights)  # fmt: skip
    step = 1e-6
    generator = torch.Generator().manual_seed(1)
    for which, grad in enumerate(grads):
        for place in torch.randperm(grad.numel(), generator=generator)[:12].tolist():
            ends = []
            for sign in (1, -1):
                tensors = [t.clone() for t in case.tensors]
                tensors[which].view(-1)[place] += sign * step
                out = loop_ms_deform_attn(tensors[0], case.spatial_shapes, *tensors[1:])
                ends.append(float((out * case.grad_out).sum()))
            slope = (ends[0] - ends[1]) / (2 * step)
            assert float(grad.view(-1)[place]) == pytest.approx(slope, abs=1e-5)


@pytest.mark.parametrize(
    ("status", "error", "said"),
    [
        (1, MemoryError, "use fewer threads"),
        (2, OpError, r"do not fit together or exceed 2\^31"),
        (3, OpError, "instruction set"),
    ],
)
def test_what_the_library_refuses_is_an_error(status: int, error: Any, said: str) -> None:
    cpu._check(0)
    with pytest.raises(error, match=said):
        cpu._check(status)


@needs_cpu_kernel
def test_the_library_is_told_every_size(monkeypatch: pytest.MonkeyPatch) -> None:
    case = make_case(batch=1, queries=5, heads=2, channels=4, points=3)
    told: list[list[int]] = []
    entry = cpu._entry

    def watched(direction: str, dtype: torch.dtype) -> Any:
        def run(sizes: Any, shapes: Any, *rest: Any) -> int:
            told.append([*sizes, *shapes, rest[-2]])
            return int(entry(direction, dtype)(sizes, shapes, *rest))

        return run

    monkeypatch.setattr(cpu, "_entry", watched)
    cpu.forward(case.value, case.flat_shapes, case.locations, case.weights)
    threads = torch.get_num_threads()
    assert told == [[1, 39, 2, 4, 5, 2, 3, 6, 4, 3, 5, threads]]


# --- what the GPU's kernels are told ------------------------------------------------------------


def test_the_argument_of_the_gpu_kernels() -> None:
    case = make_case(spatial_shapes=((6, 4), (3, 5), (2, 2)), dtype=F32)
    out = torch.empty(2, 7, 24)
    problem = cuda.make_problem(case.value, case.flat_shapes, case.locations, case.weights, out=out)
    fields = ("batch", "tokens", "heads", "queries", "levels", "points")
    assert [getattr(problem, f) for f in fields] == [2, 43, 3, 7, 3, 2]
    assert list(problem.height)[:4] == [6, 3, 2, 0]
    assert list(problem.width)[:4] == [4, 5, 2, 0]
    assert list(problem.start)[:3] == [0, 24, 24 + 15]
    names = ("value", "locations", "attention", "out", "grad_out")
    tensors = (case.value, case.locations, case.weights, out)
    assert [getattr(problem, n) for n in names] == [*(t.data_ptr() for t in tensors), None]
    assert isinstance(problem, ctypes.Structure)


@pytest.mark.parametrize(
    ("value", "locations", "weights", "expected"),
    [
        (F32, F32, F32, F32),
        (BF16, BF16, BF16, BF16),
        # anything mixed: both parameters in the type of the sums
        *((v, a, b, F32) for v, a, b in itertools.product((F16, BF16), (F32, BF16, F16), (F32,))),
        (BF16, F32, BF16, F32),
        (F32, BF16, F32, F32),
        (F32, F32, F16, F32),
        (F32, BF16, BF16, F32),
    ],
)
def test_gpu_parameters_have_one_type(
    value: Any, locations: Any, weights: Any, expected: Any
) -> None:
    case = make_case(dtype=F32)
    given = case.locations.to(locations).transpose(1, 2).contiguous().transpose(1, 2)
    found = cuda._parameters(case.value.to(value), given, case.weights.to(weights))
    assert [t.dtype for t in found] == [expected] * 2
    assert all(t.is_contiguous() and t.data_ptr() % 16 == 0 for t in found)
    torch.testing.assert_close(found[0].float(), given.float())


def test_the_gpu_reads_aligned_memory() -> None:
    """A tensor that begins in the middle of 16 bytes is copied, others are taken as they are."""
    whole = torch.arange(64, dtype=F32)
    aligned = cuda._readable(whole)
    assert aligned.data_ptr() == whole.data_ptr()
    shifted = cuda._readable(whole[1:])
    assert shifted.data_ptr() % 16 == 0
    assert torch.equal(shifted, whole[1:])


@pytest.mark.parametrize(
    ("dtype", "channels", "kernel", "queries"),
    [
        # 4 warps of 32 lanes; 16 bytes per lane: 4 fp32 values, 8 of fp16, 4 where sums are fp32
        (F32, 32, cuda.FORWARD, 128 // 8),
        (F16, 32, cuda.FORWARD, 128 // 4),
        (F16, 32, cuda.BACKWARD, 128 // 8),
        (F64, 32, cuda.FORWARD, 128 // 16),
        (F32, 6, cuda.FORWARD, 128 // 4),
        (F32, 1, cuda.FORWARD, 128),
        (F32, 33, cuda.FORWARD, 128 // 32),
        (F16, 64, cuda.BACKWARD, 128 // 16),
        (F32, 32, cuda.BACKWARD_TILED, 4 * 256 // 8),
    ],
)
def test_queries_of_a_block(dtype: Any, channels: int, kernel: str, queries: int) -> None:
    assert cuda.queries_per_block(dtype, channels, kernel) == queries


def test_images_too_large_for_offsets_of_32_bits_are_refused() -> None:
    """2^31 numbers of one image are one too many; how many images there are does not matter."""
    most = torch.empty(5, 2**21, 32, 32, device="meta")
    case = make_case(dtype=F32)
    with pytest.raises(OpError, match=r"S\*M\*D = 2147483648; .* at most .* 2147483647 numbers"):
        cuda.make_problem(most, [2**11, 2**10], case.locations, case.weights)
    cuda.make_problem(most[:, 1:], [2**21 - 1, 1], case.locations, case.weights)


@pytest.mark.parametrize("expanded", [False, True])
def test_the_argument_of_the_fused_gpu_kernels(expanded: bool) -> None:
    case = make_fused_case(axes=4, dtype=F32)
    if expanded:
        case.reference = case.reference[:1].expand_as(case.reference)
    value = case.value.bfloat16()
    params = cuda._fused_parameters(value, case.offsets.half(), case.logits, case.reference)
    assert [t.dtype for t in params] == [F32] * 3
    problem = cuda.make_problem(value, case.flat_shapes, *params[:2], reference=params[2])
    assert problem.reference == params[2].data_ptr()
    assert problem.reference_axes == 4
    assert problem.reference_step == (0 if expanded else 7 * 2 * 4)
    torch.testing.assert_close(params[2], case.reference)


@pytest.mark.parametrize(
    ("value", "logits", "taken"),
    [(BF16, BF16, BF16), (BF16, F32, F32), (BF16, F16, F32), (F32, BF16, F32), (F64, F64, F64)],
)
def test_gpu_logits_have_the_type_of_value_or_sums(value: Any, logits: Any, taken: Any) -> None:
    case = make_fused_case(dtype=F64 if value == F64 else F32)
    places, given, points = cuda._fused_parameters(
        case.value.to(value), case.offsets, case.logits.to(logits), case.reference
    )
    assert given.dtype == taken
    assert places.dtype == points.dtype == (F64 if value == F64 else F32)


@pytest.mark.parametrize("fused", [False, True])
def test_a_program_of_torch_export_has_plain_operators_and_an_open_batch(fused: bool) -> None:
    case: Any = make_fused_case(dtype=F32) if fused else make_case(dtype=F32)

    class Reads(torch.nn.Module):
        def forward(self, value: Tensor, *tensors: Tensor) -> Tensor:
            operator = fused_ms_deform_attn if fused else ms_deform_attn
            return operator(value, case.spatial_shapes, *tensors)

    batch = torch.export.Dim("batch")
    count = len(case.tensors)
    program = torch.export.export(
        Reads(), case.tensors, dynamic_shapes=({0: batch}, ({0: batch},) * (count - 1))
    )
    used = operators_of(program)
    assert any("grid_sampler" in name for name in used)
    assert not any("vmt" in name for name in used)
    larger = [torch.cat([tensor, tensor, tensor]) for tensor in case.tensors]
    torch.testing.assert_close(program.module()(*larger), Reads()(*larger))
