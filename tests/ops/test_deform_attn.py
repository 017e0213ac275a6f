"""``vmt.ops.ms_deform_attn`` on the CPU: values, gradients, edge cases, tracing, errors."""

import concurrent.futures
import logging
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

from tests.ops.deform_attn_cases import CPU_BACKENDS, make_case, needs_cpu_kernel
from tests.ops.reference_deform_attn import loop_ms_deform_attn
from vmt.ops import ms_deform_attn
from vmt.ops.deform_attn import backends, cpu, describe_backend, ms_deform_attn_reference
from vmt.utils.errors import OpError

ISA_LEVELS = ["baseline", "avx2", "avx512"]
NAN = float("nan")
INF = float("inf")


def skip_without_isa(isa: str) -> None:
    best = cpu.isa_level()
    if cpu.ISA_NUMBERS[isa] > cpu.ISA_NUMBERS[best]:
        pytest.skip(f"this processor has {best}, not {isa}")


@pytest.fixture
def _keep_thread_count() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize(
    ("dtype", "atol"),
    [
        (torch.float64, 1e-12),
        (torch.float32, 1e-5),
        (torch.bfloat16, 0.15),
        (torch.float16, 0.02),
    ],
)
def test_matches_loops(backend: str, dtype: torch.dtype, atol: float) -> None:
    case = make_case(dtype=dtype)
    actual = ms_deform_attn(
        case.value, case.spatial_shapes, case.locations, case.weights, backend=backend
    )
    expected = loop_ms_deform_attn(case.value, case.spatial_shapes, case.locations, case.weights)
    assert actual.dtype == dtype
    torch.testing.assert_close(actual.double(), expected, atol=atol, rtol=0)


@needs_cpu_kernel
@pytest.mark.parametrize("isa", ISA_LEVELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("channels", "points"), [(1, 3), (5, 8), (16, 11), (32, 8), (32, 11), (33, 3), (100, 11)]
)
def test_kernel_matches_autograd_of_reference(
    isa: str, dtype: torch.dtype, channels: int, points: int
) -> None:
    # Two levels: 6, 16 and 22 samples, around the 16 that the kernel handles at once.
    skip_without_isa(isa)
    case = make_case(channels=channels, points=points, queries=11, dtype=dtype)
    leaves = case.leaves()
    expected = ms_deform_attn_reference(leaves[0], case.spatial_shapes, *leaves[1:])
    expected_grads = torch.autograd.grad(expected, leaves, case.grad_out)
    actual = cpu.forward(case.value, case.flat_shapes, case.locations, case.weights, isa=isa)
    grads = cpu.backward(
        case.grad_out, case.value, case.flat_shapes, case.locations, case.weights, isa=isa
    )
    atol = 1e-11 if dtype == torch.float64 else 5e-4
    torch.testing.assert_close(actual, expected, atol=atol, rtol=0)
    for grad, expected_grad in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(grad, expected_grad, atol=atol, rtol=0)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_gradcheck(backend: str) -> None:
    case = make_case(batch=1, queries=3, heads=2, channels=3, outside=0.1)

    def call(*tensors: torch.Tensor) -> torch.Tensor:
        return ms_deform_attn(
            tensors[0], case.spatial_shapes, tensors[1], tensors[2], backend=backend
        )

    assert torch.autograd.gradcheck(call, case.leaves())


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_opcheck(backend: str, dtype: torch.dtype) -> None:
    case = make_case(batch=1, queries=3, dtype=dtype)
    value, locations, weights = case.leaves()
    torch.library.opcheck(
        torch.ops.vmt.ms_deform_attn.default, (value, case.flat_shapes, locations, weights, backend)
    )


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_compiles_to_one_graph(backend: str) -> None:
    case = make_case(dtype=torch.float32)

    def call(value: torch.Tensor, locations: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        return ms_deform_attn(value * 2, case.spatial_shapes, locations, weights, backend=backend)

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager", dynamic=True)
    actual_leaves, expected_leaves = case.leaves(), case.leaves()
    actual, expected = compiled(*actual_leaves), call(*expected_leaves)
    torch.testing.assert_close(actual, expected)
    actual_grads = torch.autograd.grad(actual, actual_leaves, case.grad_out)
    expected_grads = torch.autograd.grad(expected, expected_leaves, case.grad_out)
    torch.testing.assert_close(actual_grads, expected_grads)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_half_values_with_float_locations_under_autocast(backend: str) -> None:
    case = make_case(channels=16, dtype=torch.float32)
    projection = torch.nn.Linear(16, 16, bias=False)
    locations = case.locations.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = projection(case.value)
        out = ms_deform_attn(value, case.spatial_shapes, locations, case.weights, backend=backend)
    assert value.dtype == out.dtype == torch.bfloat16
    expected = loop_ms_deform_attn(value, case.spatial_shapes, locations, case.weights)
    torch.testing.assert_close(out.double(), expected, atol=0.03, rtol=0.01)
    out.backward(case.grad_out.bfloat16())
    assert projection.weight.grad is not None
    assert locations.grad is not None
    assert locations.grad.dtype == torch.float32


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("weight", [0.5, NAN])
@pytest.mark.parametrize("bad", [NAN, INF, -INF, 1e30, -1e30, 3e9, -2.0])
@pytest.mark.parametrize("axis", [0, 1])
def test_bad_location_reads_zero_and_gets_zero_gradient(
    backend: str, dtype: torch.dtype, weight: float, bad: float, axis: int
) -> None:
    case = make_case(dtype=dtype)
    case.weights[0, 2, 1, 0, 0] = 0
    expected_leaves = case.leaves()
    expected = ms_deform_attn(
        expected_leaves[0], case.spatial_shapes, *expected_leaves[1:], backend=backend
    )
    expected_grads = torch.autograd.grad(expected, expected_leaves, case.grad_out)
    case.locations[0, 2, 1, 0, 0, axis] = bad
    case.weights[0, 2, 1, 0, 0] = weight
    leaves = case.leaves()
    actual = ms_deform_attn(leaves[0], case.spatial_shapes, *leaves[1:], backend=backend)
    grads = torch.autograd.grad(actual, leaves, case.grad_out)
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(grads[0], expected_grads[0])
    assert (grads[1][0, 2, 1, 0, 0] == 0).all()
    assert grads[2][0, 2, 1, 0, 0] == 0


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_sample_outside_does_not_read_a_broken_corner(backend: str) -> None:
    case = make_case(dtype=torch.float32)
    case.value[:, 0] = NAN
    case.locations[:] = -2.0
    leaves = case.leaves()
    out = ms_deform_attn(leaves[0], case.spatial_shapes, *leaves[1:], backend=backend)
    assert (out == 0).all()
    for grad in torch.autograd.grad(out, leaves, case.grad_out):
        assert (grad == 0).all()


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize(
    "sizes", [{"batch": 0}, {"queries": 0}, {"heads": 0}, {"channels": 0}, {"points": 0}]
)
def test_empty_axes(backend: str, sizes: dict[str, int]) -> None:
    case = make_case(dtype=torch.float32, **sizes)  # type: ignore[arg-type]
    leaves = case.leaves()
    out = ms_deform_attn(leaves[0], case.spatial_shapes, *leaves[1:], backend=backend)
    assert out.shape == case.grad_out.shape
    assert (out == 0).all()
    for leaf, grad in zip(leaves, torch.autograd.grad(out, leaves, case.grad_out), strict=True):
        assert grad.shape == leaf.shape
        assert (grad == 0).all()


@needs_cpu_kernel
@pytest.mark.usefixtures("_keep_thread_count")
@pytest.mark.parametrize("pool", ["of_torch", "none"])
def test_same_bits_for_every_thread_count(pool: str, request: pytest.FixtureRequest) -> None:
    use_pool = cpu.library().vmt_deform_attn_use_pool
    request.addfinalizer(lambda: use_pool(cpu.torch_thread_pool()))
    if pool == "none":
        use_pool(None)
    elif cpu.torch_thread_pool() is None:
        pytest.skip("torch runs on no OpenMP library that is known")
    case = make_case(
        queries=900, channels=32, spatial_shapes=((20, 30), (10, 15)), dtype=torch.float32
    )
    results = []
    for threads in (1, 2, 5, 16):
        torch.set_num_threads(threads)
        leaves = case.leaves()
        out = ms_deform_attn(leaves[0], case.spatial_shapes, *leaves[1:], backend="cpu")
        results.append((out, *torch.autograd.grad(out, leaves, case.grad_out)))
    for result in results[1:]:
        for one, other in zip(results[0], result, strict=True):
            assert torch.equal(one, other)


@needs_cpu_kernel
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_starts_threads_of_its_own() -> None:
    code = """
import os, sys, torch
from vmt.ops import ms_deform_attn
torch.set_num_threads(2)
value, shapes = torch.rand(2, 600, 8, 32), [(20, 30)]
places, weights = torch.rand(2, 900, 8, 1, 4, 2), torch.rand(2, 900, 8, 1, 4)
expected = ms_deform_attn(value, shapes, places, weights, backend="cpu")
child = os.fork()
if child == 0:
    found = ms_deform_attn(value, shapes, places, weights, backend="cpu")
    os._exit(0 if found.numpy().tobytes() == expected.numpy().tobytes() else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@needs_cpu_kernel
def test_rows_read_in_place_equal_packed_rows() -> None:
    many = make_case(queries=400, channels=32, spatial_shapes=((20, 30),), dtype=torch.float32)
    out = ms_deform_attn(many.value, many.spatial_shapes, many.locations, many.weights)
    few = ms_deform_attn(
        many.value, many.spatial_shapes, many.locations[:, :3], many.weights[:, :3]
    )
    torch.testing.assert_close(few, out[:, :3], atol=1e-6, rtol=0)


@needs_cpu_kernel
def test_calls_from_several_threads() -> None:
    case = make_case(queries=500, channels=32, dtype=torch.float32)
    expected = ms_deform_attn(case.value, case.spatial_shapes, case.locations, case.weights)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        calls = [
            pool.submit(
                ms_deform_attn, case.value, case.spatial_shapes, case.locations, case.weights
            )
            for _ in range(16)
        ]
        for call in calls:
            assert torch.equal(call.result(), expected)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_strided_inputs(backend: str) -> None:
    case = make_case(dtype=torch.float32)
    expected = ms_deform_attn(
        case.value, case.spatial_shapes, case.locations, case.weights, backend=backend
    )
    value = case.value.transpose(1, 2).contiguous().transpose(1, 2)
    locations = torch.stack([case.locations, case.locations + 1])[0]
    weights = case.weights.flip(1).flip(1)
    actual = ms_deform_attn(value, case.spatial_shapes, locations, weights, backend=backend)
    assert not value.is_contiguous()
    torch.testing.assert_close(actual, expected)


def test_spatial_shapes_as_tensor() -> None:
    case = make_case()
    expected = ms_deform_attn(case.value, case.spatial_shapes, case.locations, case.weights)
    shapes = torch.tensor(case.spatial_shapes)
    assert torch.equal(ms_deform_attn(case.value, shapes, case.locations, case.weights), expected)


ERRORS = [
    ({"value": torch.zeros(2, 39, 24)}, r"value has shape \(2, 39, 24\); \(B, S, M, D\)"),
    ({"value": torch.zeros(2, 38, 3, 8)}, "S=38 tokens, but the 2 levels .* hold 39"),
    ({"value": torch.zeros(2, 39, 3, 8).int()}, "value has type torch.int32"),
    ({"value": torch.zeros(2, 39, 3, 8).double()}, "sampling_locations has type torch.float32"),
    ({"locations": torch.zeros(2, 7, 3, 2, 2, 3)}, r"sampling_locations has shape .*L=2 is needed"),
    ({"locations": torch.zeros(2, 7, 3, 1, 2, 2)}, "sampling_locations has shape .*L=2 is needed"),
    ({"locations": torch.zeros(2, 7, 3, 2, 2, 2).double()}, "sampling_locations has type"),
    ({"weights": torch.zeros(2, 7, 3, 2, 3)}, r"attention_weights has shape \(2, 7, 3, 2, 3\)"),
    ({"weights": torch.zeros(2, 7, 3, 2, 2).long()}, "attention_weights has type torch.int64"),
    ({"weights": torch.zeros(2, 7, 3, 2, 2, device="meta")}, "attention_weights is on meta"),
    ({"shapes": [(6, 4), (3, 0)]}, "each at least 1"),
    ({"shapes": []}, "one or more pairs"),
    ({"shapes": [(6, 4, 1)]}, r"holds \(6, 4, 1\); pairs"),
    ({"shapes": torch.zeros(2, 3).long()}, r"spatial_shapes has shape \(2, 3\)"),
    ({"shapes": torch.ones(2, 2)}, "spatial_shapes has type torch.float32"),
    ({"backend": "gpu"}, "backend='gpu' names no back end; choose auto, reference, cpu, cuda"),
    ({"backend": "cuda"}, "backend='cuda' cannot read tensors on cpu"),
]


@pytest.mark.parametrize(("change", "message"), ERRORS)
def test_errors_name_the_argument(change: dict[str, object], message: str) -> None:
    case = make_case(dtype=torch.float32)
    arguments = {
        "value": case.value,
        "shapes": case.spatial_shapes,
        "locations": case.locations,
        "weights": case.weights,
        "backend": "auto",
    } | change
    with pytest.raises(OpError, match=message):
        ms_deform_attn(
            arguments["value"],
            arguments["shapes"],
            arguments["locations"],
            arguments["weights"],
            backend=arguments["backend"],
        )


def test_operator_called_by_its_own_name_checks_sizes() -> None:
    case = make_case(dtype=torch.float32)
    with pytest.raises(OpError, match="S=39 tokens"):
        torch.ops.vmt.ms_deform_attn(
            case.value, [60, 40, 3, 5], case.locations, case.weights, "auto"
        )


def test_environment_forces_the_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    case = make_case(dtype=torch.float32)
    monkeypatch.setenv(backends.BACKEND_VARIABLE, "reference")
    assert describe_backend().active == {"cpu": "reference", "cuda": "reference"}
    assert describe_backend().forced == "reference"
    monkeypatch.setenv(backends.BACKEND_VARIABLE, "cuda")
    with pytest.raises(OpError, match="VMT_DEFORM_ATTN=cuda cannot read tensors on cpu"):
        ms_deform_attn(case.value, case.spatial_shapes, case.locations, case.weights)
    monkeypatch.setenv(backends.BACKEND_VARIABLE, "fast")
    with pytest.raises(OpError, match="VMT_DEFORM_ATTN=fast names no back end"):
        ms_deform_attn(case.value, case.spatial_shapes, case.locations, case.weights)


def test_missing_library_falls_back_with_one_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    case = make_case(dtype=torch.float32)
    monkeypatch.delenv(backends.BACKEND_VARIABLE, raising=False)
    monkeypatch.setattr(cpu, "LIBRARY_MODULE", "vmt.ops.deform_attn._absent")
    cpu._load.cache_clear()
    backends._warn_about_fallback.cache_clear()
    try:
        with caplog.at_level(logging.WARNING):
            for _ in range(3):
                out = ms_deform_attn(case.value, case.spatial_shapes, case.locations, case.weights)
        messages = [r.getMessage() for r in caplog.records if r.name == backends.__name__]
        assert len(messages) == 1
        assert "install a C++17 compiler" in messages[0]
        expected = ms_deform_attn_reference(
            case.value, case.spatial_shapes, case.locations, case.weights
        )
        assert torch.equal(out, expected)
        with pytest.raises(OpError, match=r"backend='cpu' asks for .* not available.*compiler"):
            ms_deform_attn(
                case.value, case.spatial_shapes, case.locations, case.weights, backend="cpu"
            )
        report = describe_backend()
        assert report.active["cpu"] == "reference"
        assert report.cpu_isa is None
    finally:
        cpu._load.cache_clear()
        backends._warn_about_fallback.cache_clear()


@needs_cpu_kernel
def test_report_names_the_cpu_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(backends.BACKEND_VARIABLE, raising=False)
    report = describe_backend()
    assert report.backends["cpu"].available
    assert report.active["cpu"] == "cpu"
    assert report.cpu_isa in ISA_LEVELS
    assert report.cpu_threads == torch.get_num_threads()
