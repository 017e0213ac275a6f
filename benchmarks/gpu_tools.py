"""Steps ``sanitizer`` and ``ncu`` of ``run_gpu.py``: tools of the CUDA toolkit, where they are.

Not a script.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from common import REPO
from gpu_common import Step, StepError

#: Every kernel once, for three types and three head widths: given places and fused, as many queries
#: as tokens (sums in shared memory) and fewer. Inputs are made on the CPU.
_PROGRAM = """
import sys, torch
from vmt.ops import fused_ms_deform_attn, ms_deform_attn
device, backend = sys.argv[1], sys.argv[2]
torch.manual_seed(0)
shapes = [(4, 6), (2, 3)]
for channels in (32, 33, 6):
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        for queries in (17, 30):
            value = torch.randn(1, 30, 2, channels).to(dtype)
            places = torch.rand(1, queries, 2, 2, 9, 2) * 1.4 - 0.2
            weights, points = torch.rand(1, queries, 2, 2, 9), torch.rand(1, queries, 2, 2)
            for call, args in ((ms_deform_attn, (value, places, weights)),
                               (fused_ms_deform_attn, (value, places * 5, weights, points))):
                leaves = [x.to(device).requires_grad_() for x in args]
                out = call(leaves[0], shapes, *leaves[1:], backend=backend)
                grads = torch.autograd.grad(out.float().sum(), leaves)
                assert all(x.isfinite().all() for x in (out, *grads)), (channels, dtype)
print("done")
"""


def _under(step: Step, tool: str, options: Sequence[str]) -> str | None:
    """What a tool prints about both kernels; None where it is not installed."""
    found = shutil.which(tool)
    if found is None and not step.dry:
        return None
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "kernels.py"
        script.write_text(_PROGRAM, encoding="utf-8")
        prefix = [] if step.dry or found is None else [found, *options]
        words = [
            *prefix,
            sys.executable,
            str(script),
            *step.size(("cuda", "cuda"), ("cpu", "auto")),
        ]
        done = subprocess.run(words, capture_output=True, text=True, cwd=REPO)
    text = done.stdout + done.stderr
    if "done" not in text.split():
        raise StepError(f"{tool}: " + " | ".join(text.strip().splitlines()[-6:]))
    return text


def sanitizer(step: Step) -> None:
    """``compute-sanitizer``: memcheck, then racecheck, of both kernels."""
    only = ["--kernel-regex", "kns=vmt_deform_attn"]
    for check in step.size(("memcheck", "racecheck"), ("memcheck",)):
        text = _under(step, "compute-sanitizer", ["--tool", check, *only])
        if text is None:
            step.put(summary="compute-sanitizer is not installed")
            return
        lines = [line for line in text.splitlines() if "ERROR SUMMARY" in line or "hazard" in line]
        step.put(**{check: lines})
        if any("0 errors" not in line and "0 hazards" not in line for line in lines):
            raise StepError(f"{check}: " + " | ".join(lines))
        if not lines and not step.dry:
            raise StepError(f"{check} printed no summary.")
    step.put(summary="no errors" if not step.dry else "dry")


def ncu(step: Step) -> None:
    """Nsight Compute's own numbers of six launches."""
    metrics = (
        "l1tex__t_sector_hit_rate.pct,lts__t_sector_hit_rate.pct,"
        "sm__throughput.avg.pct_of_peak_sustained_elapsed,"
        "lts__throughput.avg.pct_of_peak_sustained_elapsed,"
        "launch__registers_per_thread,sm__warps_active.avg.pct_of_peak_sustained_active"
    )
    options = ["--clock-control", "none", "--launch-count", "6", "--metrics", metrics, "--csv"]
    text = _under(step, "ncu", [*options, "--kernel-name", "regex:vmt_deform_attn"])
    if text is None:
        step.put(summary="ncu is not installed")
        return
    rows = [line for line in text.splitlines() if line.startswith('"')]
    step.put(rows=rows, summary=f"{len(rows)} rows")
