"""The CUDA kernels: compiled for every architecture, run lane by lane on the CPU, and on a GPU."""

import ctypes
import logging
import os
import sys
import threading
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from tests.ops.deform_attn_cases import Case, make_case, needs_cpu_kernel
from vmt.ops import ms_deform_attn
from vmt.ops.deform_attn import cpu, cuda, ms_deform_attn_reference, warm_up
from vmt.utils.errors import OpError

ARCHITECTURES = [75, 80, 86, 89, 90, 100, 120]
F16, BF16, F32, F64 = torch.float16, torch.bfloat16, torch.float32, torch.float64
# Between them: every type, one lane, idle lanes, several packs per lane, the width of the model.
SPECS = [
    cuda.ProgramSpec(F32, F32, 32),
    cuda.ProgramSpec(BF16, F32, 32),
    cuda.ProgramSpec(F16, F32, 32),
    cuda.ProgramSpec(BF16, BF16, 32),
    cuda.ProgramSpec(F16, F16, 6),
    cuda.ProgramSpec(F64, F64, 1),
    cuda.ProgramSpec(F32, F32, 160),
]
EMULATED_TYPES = {(F32, F32): 0, (F64, F64): 1, (BF16, F32): 2, (BF16, BF16): 3}
EMULATED_WIDTHS = [1, 4, 6, 32, 33, 160]

NO_COMPILER = cuda.compiler_unavailable_reason()
needs_nvrtc = pytest.mark.skipif(NO_COMPILER is not None, reason=str(NO_COMPILER))
needs_gpu = pytest.mark.skipif(
    cuda.unavailable_reason() is not None, reason=str(cuda.unavailable_reason())
)


@needs_nvrtc
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_compiles_for_every_architecture(arch: int) -> None:
    assert cuda.target_option(arch) == f"sm_{arch}"
    for spec in SPECS:
        code = cuda.compile_program(arch, spec)
        assert code.startswith(b"\x7fELF")
        for kernel in (b"vmt_deform_attn_forward", b"vmt_deform_attn_backward"):
            assert kernel in code


@needs_nvrtc
def test_unknown_newer_architecture_gets_portable_code() -> None:
    assert cuda.target_option(990).startswith("compute_")
    assert b".entry vmt_deform_attn_forward" in cuda.compile_program(990, SPECS[0])


@needs_nvrtc
def test_too_old_architecture_is_an_error() -> None:
    with pytest.raises(OpError, match=r"this GPU is 20; install .* or set VMT_DEFORM_ATTN"):
        cuda.target_option(20)


@needs_nvrtc
def test_compiler_log_reaches_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = cuda._sources() | {cuda.PROGRAM_SOURCE: b"__global__ void kernel() { nonsense; }"}
    monkeypatch.setattr(cuda, "_sources", lambda: broken)
    with pytest.raises(OpError, match='identifier "nonsense" is undefined'):
        cuda.compile_program(90, SPECS[0])


def emulate(case: Case, *, backward: bool) -> tuple[torch.Tensor, ...]:
    """Run a GPU kernel on the CPU through the argument block that a launch would get."""
    library = cpu.library()
    channels = case.value.shape[3]
    accumulator = F64 if case.value.dtype == F64 else F32
    out = torch.full_like(case.grad_out, 7.0)
    grads = (
        torch.zeros_like(case.value, dtype=accumulator),
        torch.full_like(case.locations, 7.0),
        torch.full_like(case.weights, 7.0),
    )
    problem = cuda.make_problem(
        case.value,
        case.flat_shapes,
        case.locations,
        case.weights,
        out=out,
        grad_out=case.grad_out,
        grad_value=grads[0],
        grad_locations=grads[1],
        grad_attention=grads[2],
    )
    status = library.vmt_deform_attn_emulate(
        ctypes.byref(problem),
        EMULATED_TYPES[case.value.dtype, case.locations.dtype],
        channels,
        int(backward),
    )
    assert status == 0
    return grads if backward else (out,)


def cast(case: Case, value_type: torch.dtype, param_type: torch.dtype) -> Case:
    half = case.to(value_type)
    params = case.to(param_type)
    return Case(half.value, case.spatial_shapes, params.locations, params.weights, half.grad_out)


def reference_results(case: Case) -> tuple[torch.Tensor, ...]:
    """Return output and gradients in the accumulator type, from the same rounded inputs."""
    exact = case.to(F64 if case.value.dtype == F64 else F32)
    leaves = exact.leaves()
    out = ms_deform_attn_reference(leaves[0], exact.spatial_shapes, *leaves[1:])
    return (out.detach(), *torch.autograd.grad(out, leaves, exact.grad_out))


def assert_near(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Compare relative to the largest entry, by what the type of ``actual`` can hold."""
    tolerance = {F64: 1e-12, F32: 1e-5, F16: 2e-3, BF16: 1.6e-2}[actual.dtype]
    scale = max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(actual.to(expected), expected, atol=tolerance * scale, rtol=0)


@needs_cpu_kernel
@pytest.mark.parametrize("channels", EMULATED_WIDTHS)
@pytest.mark.parametrize("types", list(EMULATED_TYPES))
def test_gpu_arithmetic_on_the_cpu(types: tuple[torch.dtype, torch.dtype], channels: int) -> None:
    # Nine points on two levels: more samples than one chunk holds.
    case = cast(make_case(channels=channels, points=9, queries=5), *types)
    case.locations[0, 1, 0, 0, 0, 0] = float("nan")
    case.locations[0, 1, 0, 1, 1, 1] = float("inf")
    case.locations[1, 2, 1, 0, 2] = 1e30
    expected = reference_results(case)
    actual = emulate(case, backward=False) + emulate(case, backward=True)
    for one, other in zip(actual, expected, strict=True):
        assert_near(one, other)


@needs_cpu_kernel
def test_gpu_arithmetic_does_not_read_a_broken_corner_for_a_sample_outside() -> None:
    case = make_case(channels=32, dtype=F32)
    case.value[:, 0] = float("nan")
    case.locations[:] = -2.0
    for result in emulate(case, backward=False) + emulate(case, backward=True):
        assert (result == 0).all()


@needs_cpu_kernel
@pytest.mark.parametrize("channels", EMULATED_WIDTHS)
@pytest.mark.parametrize("value_type", [F64, F32, BF16])
@pytest.mark.parametrize("backward", [False, True])
def test_grid_covers_every_group(value_type: torch.dtype, channels: int, backward: bool) -> None:
    library = cpu.library()
    types = EMULATED_TYPES[value_type, F64 if value_type == F64 else F32]
    expected = library.vmt_deform_attn_groups_per_warp(types, channels, int(backward))
    actual = cuda.groups_per_block(value_type, channels, backward=backward)
    assert actual == expected * cuda.BLOCK_WARPS


def test_too_many_levels_is_an_error() -> None:
    case = make_case(spatial_shapes=((1, 1),) * (cuda.MAX_LEVELS + 1), dtype=F32)
    with pytest.raises(OpError, match=r"33 levels with 33 tokens; .* at most 32 levels"):
        cuda.make_problem(case.value, case.flat_shapes, case.locations, case.weights)


class FakeDriver:
    """The calls of NVIDIA's driver that a launch makes, as one thread sees them."""

    def __init__(self, context: int = 0) -> None:
        self.context, self.calls = context, []  # type: int, list[tuple[Any, ...]]

    def __getattr__(self, name: str) -> Any:
        answers = {
            "cuCtxGetCurrent": (0, self.context),
            "cuDeviceGet": (0, 7),
            "cuDevicePrimaryCtxRetain": (0, 99),
            "cuCtxSetCurrent": (0,),
            "cuLaunchKernel": (0,),
        }

        def call(*args: Any) -> Any:
            self.calls.append((name, *args))
            if name == "cuCtxSetCurrent":
                self.context = args[0]
            return args[0] if name == "CUstream" else answers[name]

        return call

    def names(self) -> list[str]:
        return [call[0] for call in self.calls]


@pytest.fixture
def launch_on(monkeypatch: pytest.MonkeyPatch):
    """Launches the forward kernel through a fake driver."""

    def on(driver: FakeDriver, spec: cuda.ProgramSpec = SPECS[0], capturing: bool = False) -> None:
        bindings = ModuleType("cuda.bindings")
        bindings.driver = driver  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "cuda", ModuleType("cuda"))
        monkeypatch.setitem(sys.modules, "cuda.bindings", bindings)
        monkeypatch.setattr(cuda, "_kernel", lambda *args: "kernel")
        monkeypatch.setattr(torch.cuda, "device", lambda device: threading.Lock())
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
        monkeypatch.setattr(
            torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=5)
        )
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing)
        case = make_case(channels=spec.channels, dtype=F32)
        problem = cuda.make_problem(case.value, case.flat_shapes, case.locations, case.weights)
        cuda._launch("forward", spec, problem, torch.device("cuda", 3))

    monkeypatch.setattr(cuda, "_ran", set())
    cuda._primary_context.cache_clear()
    yield on
    cuda._primary_context.cache_clear()


def test_a_thread_without_a_context_gets_that_of_the_device(launch_on) -> None:
    driver = FakeDriver()
    launch_on(driver)
    assert ("cuDeviceGet", 3) in driver.calls
    assert ("cuDevicePrimaryCtxRetain", 7) in driver.calls
    assert driver.names().index("cuCtxSetCurrent") < driver.names().index("cuLaunchKernel")
    assert driver.context == 99
    other = FakeDriver()  # of another thread: the context is the same one, kept once
    launch_on(other)
    assert ("cuCtxSetCurrent", 99) in other.calls
    assert "cuDevicePrimaryCtxRetain" not in other.names()


def test_a_thread_with_a_context_keeps_it(launch_on) -> None:
    driver = FakeDriver(context=12)
    launch_on(driver)
    assert driver.names() == ["cuCtxGetCurrent", "CUstream", "cuLaunchKernel"]


def test_a_kernel_that_never_ran_cannot_be_captured(launch_on) -> None:
    driver = FakeDriver(context=12)
    with pytest.raises(OpError, match=r"has not run on cuda:3 yet.* run the same once"):
        launch_on(driver, capturing=True)
    assert driver.calls == []
    launch_on(driver)
    launch_on(driver, capturing=True)
    with pytest.raises(OpError, match="has not run"):  # another program
        launch_on(driver, SPECS[1], capturing=True)


def test_warm_up_runs_both_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    launched = []
    monkeypatch.setattr(cuda, "_launch", lambda *args: launched.append(args[:2]))
    torch.use_deterministic_algorithms(True)
    try:
        warm_up("cpu", 32, BF16, F32)
    finally:
        torch.use_deterministic_algorithms(False)
    spec = cuda.ProgramSpec(BF16, F32, 32)
    assert launched == [("forward", spec), ("backward", spec)]


def test_deterministic_algorithms_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "_launch", lambda *args: None)
    case = make_case(channels=32, dtype=F32)
    args = (case.grad_out, case.value, case.flat_shapes, case.locations, case.weights)
    try:
        torch.use_deterministic_algorithms(True)
        with pytest.raises(OpError, match="a sum in no fixed order"):
            cuda.backward(*args)
        cuda.forward(*args[1:])
        torch.use_deterministic_algorithms(True, warn_only=True)
        with pytest.warns(UserWarning, match="a sum in no fixed order"):
            cuda.backward(*args)
    finally:
        torch.use_deterministic_algorithms(False)
    cuda.backward(*args)


def test_bindings_of_another_cuda_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> None:
        raise RuntimeError("libnvrtc.so.13: not found")

    monkeypatch.setattr(cuda, "nvrtc_version", absent)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    reason = cuda.compiler_unavailable_reason()
    assert reason is not None
    assert "libnvrtc.so.13: not found" in reason
    assert "pip install 'cuda-bindings==12.*'" in reason


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(cuda.CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Replace the compiler by one that counts, and return the architectures it was asked for."""
    calls: list[int] = []

    def compile_program(arch: int, spec: cuda.ProgramSpec) -> bytes:
        calls.append(arch)
        return b"program for " + str((arch, spec)).encode()

    monkeypatch.setattr(cuda, "compile_program", compile_program)
    return calls


@needs_nvrtc
def test_cache_keeps_one_program_per_architecture_and_spec(
    cache: Path, compiled: list[int]
) -> None:
    for _ in range(2):
        for arch in (80, 90):
            assert cuda.load_program(arch, SPECS[0]).startswith(b"program for " + b"(%d" % arch)
    cuda.load_program(90, SPECS[1])
    assert compiled == [80, 90, 90]
    files = [path for path in cache.rglob("*") if path.is_file()]
    assert len(files) == 3
    assert not [path for path in files if path.suffix == ".tmp"]


@needs_nvrtc
def test_cache_key_follows_sources(
    cache: Path, compiled: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda.load_program(90, SPECS[0])
    changed = cuda._sources() | {"bilinear.h": b"// another text\n"}
    monkeypatch.setattr(cuda, "_sources", lambda: changed)
    cuda.load_program(90, SPECS[0])
    assert compiled == [90, 90]


@needs_nvrtc
@pytest.mark.parametrize("damage", [b"", b"short", None])
def test_damaged_cache_file_is_replaced(
    cache: Path, compiled: list[int], caplog: pytest.LogCaptureFixture, damage: bytes | None
) -> None:
    code = cuda.load_program(90, SPECS[0])
    path = cuda.program_path(90, SPECS[0])
    path.write_bytes(path.read_bytes()[:-3] + b"xyz" if damage is None else damage)
    with caplog.at_level(logging.WARNING):
        assert cuda.load_program(90, SPECS[0]) == code
    assert "is damaged" in caplog.text
    assert cuda.load_program(90, SPECS[0]) == code
    assert len(compiled) == 2


@needs_nvrtc
def test_unwritable_cache_is_no_error(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    compiled: list[int],
    caplog: pytest.LogCaptureFixture,
) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("a file where the folder should be")
    monkeypatch.setenv(cuda.CACHE_VARIABLE, str(blocker))
    with caplog.at_level(logging.WARNING):
        assert cuda.load_program(90, SPECS[0]).startswith(b"program for")
    assert f"Set {cuda.CACHE_VARIABLE} to a writable folder" in caplog.text


@needs_nvrtc
def test_failed_write_leaves_nothing_behind(
    cache: Path, compiled: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    assert cuda.load_program(90, SPECS[0]).startswith(b"program for")
    assert not [path for path in cache.rglob("*") if path.is_file()]


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(cuda.CACHE_VARIABLE, str(tmp_path))
    assert cuda.cache_dir() == tmp_path
    monkeypatch.delenv(cuda.CACHE_VARIABLE)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cuda.cache_dir() == tmp_path / ".cache" / "vmt"


@pytest.mark.cuda
@needs_gpu
@pytest.mark.parametrize("channels", [1, 6, 32, 33, 64, 160])
@pytest.mark.parametrize(
    "types", [(F64, F64), (F32, F32), (F16, F32), (F16, F16), (BF16, F32), (BF16, BF16)]
)
def test_gpu_matches_reference(types: tuple[torch.dtype, torch.dtype], channels: int) -> None:
    case = cast(make_case(channels=channels, points=9, queries=300), *types)
    case.locations[0, 1, 0, 0, 0, 0] = float("nan")
    case.locations[0, 1, 0, 1, 1, 1] = float("inf")
    case.locations[1, 2, 1, 0, 2] = 1e30
    expected = reference_results(case)
    leaves = case.to("cuda").leaves()
    out = ms_deform_attn(leaves[0], case.spatial_shapes, *leaves[1:], backend="cuda")
    grads = torch.autograd.grad(out, leaves, case.grad_out.cuda())
    for one, other in zip((out.detach(), *grads), expected, strict=True):
        assert_near(one.cpu(), other)


@pytest.mark.cuda
@needs_gpu
def test_gpu_gradcheck() -> None:
    case = make_case(batch=1, queries=3, heads=2, channels=3, outside=0.1).to("cuda")

    def call(*tensors: torch.Tensor) -> torch.Tensor:
        return ms_deform_attn(
            tensors[0], case.spatial_shapes, tensors[1], tensors[2], backend="cuda"
        )

    assert torch.autograd.gradcheck(call, case.leaves(), nondet_tol=1e-12)


@pytest.mark.cuda
@needs_gpu
def test_gpu_runs_on_the_current_stream_without_waiting() -> None:
    case = make_case(channels=32, queries=300, dtype=F32).to("cuda")
    expected = ms_deform_attn(case.value, case.spatial_shapes, case.locations, case.weights)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.cuda.stream(torch.cuda.Stream()):
            doubled = case.value * 2
            out = ms_deform_attn(doubled, case.spatial_shapes, case.locations, case.weights)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()
    torch.testing.assert_close(out, 2 * expected)


@pytest.mark.cuda
@needs_gpu
def test_gpu_misaligned_and_empty_inputs() -> None:
    case = make_case(channels=32, dtype=F32).to("cuda")
    expected = ms_deform_attn(case.value, case.spatial_shapes, case.locations, case.weights)
    storage = torch.empty(case.value.numel() + 1, device="cuda")
    shifted = storage[1:].view(case.value.shape).copy_(case.value)
    out = ms_deform_attn(shifted, case.spatial_shapes, case.locations, case.weights)
    assert torch.equal(out, expected)
    for axis in ({"batch": 0}, {"queries": 0}, {"points": 0}):
        empty = make_case(channels=32, dtype=F32, **axis).to("cuda")  # type: ignore[arg-type]
        leaves = empty.leaves()
        out = ms_deform_attn(leaves[0], empty.spatial_shapes, *leaves[1:], backend="cuda")
        for grad in torch.autograd.grad(out, leaves, empty.grad_out):
            assert (grad == 0).all()


@pytest.mark.cuda
@needs_gpu
def test_gpu_first_work_of_a_thread() -> None:
    case = make_case(channels=32, dtype=F32).to("cuda")
    arguments = (case.value, case.spatial_shapes, case.locations, case.weights)
    expected = ms_deform_attn(*arguments, backend="cuda")
    torch.empty_like(expected)  # freed: the thread's output needs no call of the runtime
    results: list[torch.Tensor | Exception] = []

    def first() -> None:
        try:
            results.append(ms_deform_attn(*arguments, backend="cuda"))
        except OpError as error:
            results.append(error)

    thread = threading.Thread(target=first)
    thread.start()
    thread.join()
    assert isinstance(results[0], torch.Tensor), results[0]
    assert torch.equal(results[0], expected)


@pytest.mark.cuda
@needs_gpu
def test_gpu_capture_and_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    case = make_case(channels=32, dtype=F32).to("cuda")
    arguments = (case.value, case.spatial_shapes, case.locations, case.weights)
    expected = ms_deform_attn(*arguments, backend="cuda")
    monkeypatch.setattr(cuda, "_ran", set())
    with pytest.raises(OpError, match="has not run"), torch.cuda.graph(torch.cuda.CUDAGraph()):
        ms_deform_attn(*arguments, backend="cuda")
    warm_up("cuda", 32, F32, F32)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = ms_deform_attn(*arguments, backend="cuda")
    case.value.mul_(2)
    graph.replay()
    torch.testing.assert_close(out, 2 * expected)


@pytest.mark.cuda
@needs_gpu
def test_gpu_compiles_into_one_graph() -> None:
    case = make_case(channels=32, dtype=F32).to("cuda")

    def call(*tensors: torch.Tensor) -> torch.Tensor:
        return ms_deform_attn(
            tensors[0], case.spatial_shapes, tensors[1], tensors[2], backend="cuda"
        )

    leaves = case.leaves()
    compiled = torch.compile(call, fullgraph=True)(*leaves)
    expected = call(*leaves)
    torch.testing.assert_close(compiled, expected)
    for one, other in zip(
        torch.autograd.grad(compiled, leaves, case.grad_out),
        torch.autograd.grad(expected, leaves, case.grad_out),
        strict=True,
    ):
        torch.testing.assert_close(one, other)
