"""The CUDA kernels: compiled, kept on disk, launched through a stand-in, and run on a GPU."""

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.ops.deform_attn_cases import (
    assert_near,
    cast,
    fused_reference_results,
    make_case,
    make_fused_case,
    reference_results,
)
from vmt.ops import fused_ms_deform_attn, ms_deform_attn
from vmt.ops.deform_attn import cuda, nvrtc, warm_up
from vmt.utils.errors import OpError

F16, BF16, F32, F64 = torch.float16, torch.bfloat16, torch.float32, torch.float64
SPECS = [nvrtc.ProgramSpec(F32, F32, 32), nvrtc.ProgramSpec(BF16, F32, 32)]

NO_COMPILER = nvrtc.compiler_unavailable_reason()
needs_nvrtc = pytest.mark.skipif(NO_COMPILER is not None, reason=str(NO_COMPILER))
needs_gpu = pytest.mark.skipif(
    cuda.unavailable_reason() is not None, reason=str(cuda.unavailable_reason())
)


@needs_nvrtc
def test_unknown_newer_architecture_gets_portable_code() -> None:
    assert nvrtc.target_option(990).startswith("compute_")
    assert b".entry vmt_deform_attn_forward" in nvrtc.compile_program(990, SPECS[0])


@needs_nvrtc
def test_too_old_architecture_is_an_error() -> None:
    with pytest.raises(OpError, match=r"this GPU is 20; install .* or set VMT_DEFORM_ATTN"):
        nvrtc.target_option(20)


@needs_nvrtc
def test_compiler_log_reaches_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = nvrtc._sources() | {nvrtc.PROGRAM_SOURCE: b"__global__ void kernel() { nonsense; }"}
    monkeypatch.setattr(nvrtc, "_sources", lambda: broken)
    with pytest.raises(OpError, match='identifier "nonsense" is undefined'):
        nvrtc.compile_program(90, SPECS[0])


def test_too_many_levels_is_an_error() -> None:
    case = make_case(spatial_shapes=((1, 1),) * (cuda.MAX_LEVELS + 1), dtype=F32)
    with pytest.raises(OpError, match=r"33 levels with .*; .* at most 32 levels"):
        cuda.make_problem(case.value, case.flat_shapes, case.locations, case.weights)


class FakeDriver:
    """The calls of NVIDIA's driver that a launch makes, as one thread sees them."""

    def __init__(self, context: int = 0) -> None:
        self.context, self.calls = context, []  # type: int, list[tuple[Any, ...]]
        self.on_launch: Callable[[], object] = lambda: None

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
            if name == "cuLaunchKernel":
                self.on_launch()
            if name == "cuCtxSetCurrent":
                self.context = args[0]
            return args[0] if name == "CUstream" else answers[name]

        return call

    def names(self) -> list[str]:
        return [call[0] for call in self.calls]


@pytest.fixture
def launch_on(monkeypatch: pytest.MonkeyPatch):
    """Launches the forward kernel through a fake driver."""
    loaded = cuda.Kernel("kernel", threads=128, queries=16)
    devices: list[int] = [3]

    @contextlib.contextmanager
    def device(index: int) -> Iterator[None]:
        devices.append(index)
        yield
        devices.pop()

    def on(driver: FakeDriver, spec: nvrtc.ProgramSpec = SPECS[0], capturing: bool = False) -> None:
        monkeypatch.setattr(cuda, "_driver", lambda: driver)
        monkeypatch.setattr(cuda, "_load_kernel", lambda *args: loaded)
        monkeypatch.setattr(torch.cuda, "device", device)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: devices[-1])
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
        monkeypatch.setattr(
            torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=5)
        )
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing)
        case = make_case(batch=5, queries=33, channels=spec.channels, dtype=F32)
        problem = cuda.make_problem(case.value, case.flat_shapes, case.locations, case.weights)
        cuda._launch("forward", spec, problem, torch.device("cuda", on.index))

    on.index = 3
    on.devices = devices
    monkeypatch.setattr(cuda, "_ran", {})
    cuda._primary_context.cache_clear()
    yield on
    cuda._primary_context.cache_clear()


def test_the_grid_and_the_stream(launch_on) -> None:
    """Five images of three heads, 33 queries in blocks of 16, and torch's stream."""
    driver = FakeDriver(context=12)
    launch_on(driver)
    (launch,) = (call for call in driver.calls if call[0] == "cuLaunchKernel")
    assert launch[1:9] == ("kernel", 5 * 3 * 3, 1, 1, 128, 1, 1, 0)
    assert launch[9] == 5


def test_a_tensor_of_another_device_makes_it_current(launch_on) -> None:
    launch_on.index = 1
    entered: list[int] = []
    driver = FakeDriver(context=12)
    driver.on_launch = lambda: entered.append(launch_on.devices[-1])
    launch_on(driver)
    assert entered == [1]
    assert launch_on.devices == [3]


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


def test_warm_up_runs_every_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    launched = []
    monkeypatch.setattr(cuda, "_launch", lambda *args: launched.append(args[:2]))
    torch.use_deterministic_algorithms(True)
    try:
        warm_up("cpu", 32, BF16, F32)
    finally:
        torch.use_deterministic_algorithms(False)
    names = ["forward", "backward", "backward_tiled"]
    specs = [
        nvrtc.ProgramSpec(BF16, F32, 32),
        nvrtc.ProgramSpec(BF16, F32, 32, fused=True),
        nvrtc.ProgramSpec(BF16, BF16, 32, fused=True),
    ]
    assert launched == [(name, spec) for spec in specs for name in names]


def test_deterministic_algorithms_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "_launch", lambda *args: None)
    case = make_case(channels=32, dtype=F32)
    args = (case.grad_out, case.value, case.flat_shapes, case.locations, case.weights)
    fused = make_fused_case(channels=32, dtype=F32)
    fused_args = (fused.grad_out, fused.value, fused.flat_shapes, *fused.tensors[1:])
    backwards = [lambda: cuda.backward(*args), lambda: cuda.fused_backward(*fused_args, True)]
    try:
        torch.use_deterministic_algorithms(True)
        for backward in backwards:
            with pytest.raises(OpError, match="a sum in no fixed order"):
                backward()
        cuda.forward(*args[1:])
        cuda.fused_forward(*fused_args[1:])
        torch.use_deterministic_algorithms(True, warn_only=True)
        for backward in backwards:
            with pytest.warns(UserWarning, match="a sum in no fixed order"):
                backward()
    finally:
        torch.use_deterministic_algorithms(False)
    for backward in backwards:
        backward()


def test_bindings_of_another_cuda_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> None:
        raise RuntimeError("libnvrtc.so.13: not found")

    monkeypatch.setattr(nvrtc, "nvrtc_version", absent)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    reason = nvrtc.compiler_unavailable_reason()
    assert reason is not None
    assert "libnvrtc.so.13: not found" in reason
    assert "pip install 'cuda-bindings==12.*'" in reason


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(nvrtc.CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Replace the compiler by one that counts, and return the architectures it was asked for."""
    calls: list[int] = []

    def compile_program(arch: int, spec: nvrtc.ProgramSpec) -> bytes:
        calls.append(arch)
        return b"program for " + str((arch, spec)).encode()

    monkeypatch.setattr(nvrtc, "compile_program", compile_program)
    return calls


@needs_nvrtc
def test_cache_keeps_one_program_per_architecture_and_spec(
    cache: Path, compiled: list[int]
) -> None:
    for _ in range(2):
        for arch in (80, 90):
            assert nvrtc.load_program(arch, SPECS[0]).startswith(b"program for " + b"(%d" % arch)
    nvrtc.load_program(90, SPECS[1])
    assert compiled == [80, 90, 90]
    files = [path for path in cache.rglob("*") if path.is_file()]
    assert len(files) == 3
    assert not [path for path in files if path.suffix == ".tmp"]


@needs_nvrtc
def test_cache_key_follows_sources(
    cache: Path, compiled: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    nvrtc.load_program(90, SPECS[0])
    changed = nvrtc._sources() | {"bilinear.h": b"// another text\n"}
    monkeypatch.setattr(nvrtc, "_sources", lambda: changed)
    nvrtc.load_program(90, SPECS[0])
    assert compiled == [90, 90]


@needs_nvrtc
@pytest.mark.parametrize("damage", [b"", b"short", None])
def test_damaged_cache_file_is_replaced(
    cache: Path, compiled: list[int], caplog: pytest.LogCaptureFixture, damage: bytes | None
) -> None:
    code = nvrtc.load_program(90, SPECS[0])
    path = nvrtc.program_path(90, SPECS[0])
    path.write_bytes(path.read_bytes()[:-3] + b"xyz" if damage is None else damage)
    with caplog.at_level(logging.WARNING):
        assert nvrtc.load_program(90, SPECS[0]) == code
    assert "is damaged" in caplog.text
    assert nvrtc.load_program(90, SPECS[0]) == code
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
    monkeypatch.setenv(nvrtc.CACHE_VARIABLE, str(blocker))
    with caplog.at_level(logging.WARNING):
        assert nvrtc.load_program(90, SPECS[0]).startswith(b"program for")
    assert f"Set {nvrtc.CACHE_VARIABLE} to a writable folder" in caplog.text


@needs_nvrtc
def test_failed_write_leaves_nothing_behind(
    cache: Path, compiled: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    assert nvrtc.load_program(90, SPECS[0]).startswith(b"program for")
    assert not [path for path in cache.rglob("*") if path.is_file()]


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(nvrtc.CACHE_VARIABLE, str(tmp_path))
    assert nvrtc.cache_dir() == tmp_path
    monkeypatch.delenv(nvrtc.CACHE_VARIABLE)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert nvrtc.cache_dir() == tmp_path / ".cache" / "vmt"


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
@pytest.mark.parametrize("axes", [2, 4])
@pytest.mark.parametrize("channels", [1, 6, 32, 33, 64, 160])
@pytest.mark.parametrize("types", [(F64, F64), (F32, F32), (F16, F32), (BF16, BF16)])
def test_gpu_fused_matches_reference(
    types: tuple[torch.dtype, torch.dtype], channels: int, axes: int
) -> None:
    case = make_fused_case(axes=axes, channels=channels, points=9, queries=300)
    case = case.cast(*types, F64 if types[0] == F64 else F32)
    case.offsets[0, 1, 0, 0, 0, 0] = float("nan")
    expected = fused_reference_results(case)
    leaves = case.to("cuda").leaves()
    out = fused_ms_deform_attn(leaves[0], case.spatial_shapes, *leaves[1:], backend="cuda")
    grads = torch.autograd.grad(out, leaves, case.grad_out.cuda())
    for one, other in zip((out.detach(), *grads), expected, strict=True):
        assert_near(one.cpu(), other, more=4.0)


@pytest.mark.cuda
@needs_gpu
@pytest.mark.parametrize("types", [(F32, F32), (BF16, F32)])
def test_gpu_sums_of_a_block_are_those_of_single_samples(
    types: tuple[torch.dtype, torch.dtype],
) -> None:
    """As many queries as tokens: the tiled kernel against the plain one."""
    case = cast(make_case(channels=32, points=4, queries=1030, heads=2,
                          spatial_shapes=((25, 40), (5, 6))), *types).to("cuda")  # fmt: skip
    case = cast(case, *types)
    args = (case.grad_out, case.value, case.flat_shapes, case.locations, case.weights)
    assert cuda.backward_kernel(case.value, 1030) == cuda.BACKWARD_TILED
    for one, other in zip(cuda._backward(cuda.BACKWARD, *args), cuda.backward(*args), strict=True):
        assert_near(one, other.to(F32 if one.dtype == F32 else one.dtype))


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
    monkeypatch.setattr(cuda, "_ran", {})
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
