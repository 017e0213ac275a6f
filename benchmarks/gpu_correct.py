"""Step ``correct`` of ``run_gpu.py``: are operators and networks right on this card?

Not a script.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys

import torch
from common import REPO
from gpu_common import Step, StepError, overlap, relative_error
from gpu_network import NETWORKS, answer, clip_of, discs, load
from gpu_operator import FULL_TOLERANCE, HALF_TOLERANCE, errors_against_double, kernel_cache

import vmt

#: Least overlap of masks on the GPU, in fp32, with those on the CPU.
LEAST_OVERLAP = 0.995
#: Most that a replayed network may differ from itself: kernels of cuDNN may be others.
SAME_ANSWER = 1e-3
#: Those of which a part can be captured, one of each kind.
GRAPHED = ("vmt_released_R50", "idol_R50", "minvis_R50", "refinevis_R50")


def correct(step: Step) -> None:
    """Tests that need a GPU, the operator against fp64 at full size, networks against the CPU."""
    problems = [*_tests(step), *kernel_cache(step), *_operator(step)]
    problems += [*_networks(step), *_graphs(step), *_refiner(step)]
    if problems:
        raise StepError("; ".join(problems))
    step.put(summary="all right")


def _tests(step: Step) -> list[str]:
    """``pytest -m cuda``; in a dry run a few of them, which skip."""
    words = [sys.executable, "-m", "pytest", "-q", "-m", "cuda", "-p", "no:cacheprovider"]
    if step.dry:
        words += ["tests/ops/test_deform_attn_cuda.py", "-k", "misaligned"]
    elif importlib.util.find_spec("xdist"):
        words += ["-n", "4"]
    done = subprocess.run(words, cwd=REPO, capture_output=True, text=True)
    lines = (done.stdout + done.stderr).strip().splitlines()
    counts = {
        word: int(n) for n, word in re.findall(r"(\d+) (passed|failed|skipped|error)", lines[-1])
    }
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    step.put(tests=counts, failed_tests=failed)
    # 5: nothing was collected
    if done.returncode or (not step.dry and not counts.get("passed")):
        return [f"pytest -m cuda: {lines[-1]}"]
    return []


def _operator(step: Step) -> list[str]:
    problems, errors = [], {}
    for batch in step.size((5, 36), (1,)):
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            found = errors_against_double(step, batch, dtype)
            name = f"{str(dtype).removeprefix('torch.')} B={batch}"
            errors[name] = found
            limit = FULL_TOLERANCE if dtype == torch.float32 else HALF_TOLERANCE
            problems += [f"op {name}: {k} off by {v:.1e}" for k, v in found.items() if v > limit]
            step.put(operator_errors=errors)
    return problems


def _networks(step: Step) -> list[str]:
    problems, found = [], {}
    clip = clip_of(step, 2, (96, 160))
    for name in step.size(tuple(NETWORKS), ("vmt_released_R50", "idol_R50")):
        if "Swin" in name:
            continue
        expected = answer(load(step, name, "cpu", "TEST.PRECISION", "fp32"), clip)
        actual = answer(load(step, name, step.device, "TEST.PRECISION", "fp32"), clip)
        if expected.keys() == actual.keys() and all(
            expected[k].shape == actual[k].shape for k in expected
        ):
            found[name] = {k: relative_error(actual[k], expected[k]) for k in expected}
            worst = max(found[name].values())
        else:
            worst = float("inf")
        step.put(networks=found)
        if worst > 5e-3:
            problems.append(f"{name} differs from the CPU by {worst:.1e}")
    return problems


def _graphs(step: Step) -> list[str]:
    """``TEST.GRAPH``: first call, capture and replays, of other frames each, against calls without.

    In a dry run, which has no graphs, a network is held against itself.
    """
    problems, found = [], {}
    clips = [clip_of(step, 2, (96, 160)).flip(axes) for axes in ((), (2,), (3,), (2, 3))]
    for name in step.size(GRAPHED, GRAPHED[:2]):
        plain, graphed = (
            load(step, name, step.device, "TEST.GRAPH", str(on and not step.dry))
            for on in (False, True)
        )
        pairs = [(answer(graphed, clip), answer(plain, clip)) for clip in clips]
        found[name] = max(
            relative_error(one[k], other[k]) if one[k].shape == other[k].shape else float("inf")
            for one, other in pairs
            for k in other
        )
        step.put(graphs=found)
        if found[name] > SAME_ANSWER:
            problems.append(f"{name} with TEST.GRAPH differs by {found[name]:.1e}")
    return problems


def _refiner(step: Step) -> list[str]:
    frames, coarse = discs(2, 2, step)
    masks = [
        vmt.MaskRefiner.from_pretrained(device=str(device)).refine(frames, coarse).masks
        for device in ("cpu", step.device)
    ]
    same = overlap(*(torch.from_numpy(x) for x in masks))
    step.put(refiner_overlap=same)
    return [f"vmt refine overlaps with the CPU by {same:.4f}"] if same < LEAST_OVERLAP else []
