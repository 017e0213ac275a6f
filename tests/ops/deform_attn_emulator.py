"""The GPU kernels compiled for the CPU, which runs their threads one after the other."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.resources
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.ops.deform_attn_cases import Case, FusedCase
from vmt.ops.deform_attn import cuda, nvrtc

SOURCE = Path(__file__).with_suffix(".cpp")
#: Widths that deform_attn_emulator.cpp instantiates: for float, and for the other types.
WIDTHS, FEWER_WIDTHS = (1, 4, 6, 20, 32, 33, 160), (1, 32, 33)
KERNELS = {cuda.FORWARD: 0, cuda.BACKWARD: 1, cuda.BACKWARD_TILED: 2}
F16, BF16, F32, F64 = torch.float16, torch.bfloat16, torch.float32, torch.float64
#: Value and parameter types, given locations and fused.
TYPES = [(F32, F32), (F64, F64), (BF16, F32), (F16, F16)]
FUSED_TYPES = [(F32, F32), (F64, F64), (BF16, BF16), (F16, F32)]
COMPILER = shutil.which("g++") or shutil.which("clang++")


def with_widths(types: list[tuple[torch.dtype, torch.dtype]]) -> list[Any]:
    """Pairs for ``parametrize``: types and a width that is built for them."""
    return [
        pytest.param(pair, width, id=f"{pair[0]}-{pair[1]}-{width}".replace("torch.", ""))
        for pair in types
        for width in (WIDTHS if pair == (F32, F32) else FEWER_WIDTHS)
    ]


needs_emulator = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")


@functools.cache
def library(value_type: torch.dtype, param_type: torch.dtype, fused: bool) -> ctypes.CDLL:
    """Compile, or take what an earlier run compiled from the same text."""
    assert COMPILER
    spec = nvrtc.ProgramSpec(value_type, param_type, 0, fused)
    headers = importlib.resources.files("vmt.ops.deform_attn") / "csrc"
    macros = [macro for macro in spec.macros() if "CHANNELS" not in macro]
    macros += ["-DVMT_ALL_WIDTHS"] if value_type == F32 else []
    digest = hashlib.sha256(repr((COMPILER, macros)).encode() + SOURCE.read_bytes())
    for name in (nvrtc.PROGRAM_SOURCE, *nvrtc.HEADERS):
        digest.update((headers / name).read_bytes())
    folder = Path(tempfile.gettempdir()) / f"vmt-emulator-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    path = folder / f"{digest.hexdigest()[:24]}.so"
    if not path.is_file():
        part = path.with_suffix(f".{os.getpid()}")
        words = [COMPILER, "-std=c++17", "-O1", "-shared", "-fPIC", "-fvisibility=hidden"]
        words += ["-Wno-unknown-pragmas"]
        subprocess.run([*words, "-I", str(headers), *macros, str(SOURCE), "-o", part], check=True)
        part.replace(path)
    return ctypes.CDLL(str(path))


def queries_of_a_block(
    value_type: torch.dtype, param_type: torch.dtype, channels: int, kernel: str
) -> int:
    emulator = library(value_type, param_type, False)
    found: int = emulator.vmt_queries_of_a_block(channels, KERNELS[kernel])
    return found


def order_of_queries(case: Case, queries_of_a_block: int) -> list[int]:
    """In which order blocks of so many take them."""
    problem = cuda.make_problem(case.value, case.flat_shapes, case.locations, case.weights)
    order = (ctypes.c_longlong * problem.queries)()
    library(F32, F32, False).vmt_order(ctypes.byref(problem), queries_of_a_block, order)
    return list(order)


def emulate(case: Case | FusedCase, kernel: str, *, last_first: bool = False) -> tuple[Tensor, ...]:
    """Run a GPU kernel on the CPU through the argument block that a launch would get.

    Args:
        case: the arguments.
        kernel: a key of KERNELS.
        last_first: between barriers the last thread runs first, and half as many blocks do all.

    Returns:
        The output, or gradients: of value in the type of sums, of the others as the kernel leaves
        them.
    """
    fused = isinstance(case, FusedCase)
    accumulator = F64 if case.value.dtype == F64 else F32
    out = torch.full_like(case.grad_out, 7.0)
    if isinstance(case, FusedCase):
        params, more = (case.offsets, case.logits), {"reference": case.reference}
        grads = [torch.full_like(x, 7.0, dtype=accumulator) for x in params]
    else:
        params, more = (case.locations, case.weights), {}
        grads = [torch.full_like(x, 7.0) for x in params]
    grad_value = torch.zeros_like(case.value, dtype=accumulator)
    problem = cuda.make_problem(
        case.value,
        case.flat_shapes,
        *params,
        out=out,
        grad_out=case.grad_out,
        grad_value=grad_value,
        grad_locations=grads[0],
        grad_attention=grads[1],
        **more,
    )
    emulator = library(case.value.dtype, params[1].dtype, fused)
    status = emulator.vmt_emulate(
        ctypes.byref(problem), case.value.shape[3], KERNELS[kernel], int(last_first)
    )
    assert status == 0, "threads wait for each other" if status == 1 else "no such kernel"
    return (out,) if kernel == cuda.FORWARD else (grad_value, *grads)
