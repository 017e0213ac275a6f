#!/usr/bin/env python3
r"""Everything that only a GPU can say, in one run of some minutes: correctness first, then speed.

Each step is a process of its own with a cap of seconds. After each, OUTPUT/gpu.json holds all that
is known, so that a run which is cut off loses one step at most; a step that runs out of time leaves
what it had measured. Steps that no longer fit into --budget are skipped and say so. `--dry-run`
does every step on the CPU at toy size; its numbers mean nothing.

Compare numbers of one card only.

Example:
    python benchmarks/run_gpu.py --output output/gpu --budget 400
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gpu_baselines
import gpu_correct
import gpu_network
import gpu_operator
import gpu_processes
import gpu_tools
import torch
from common import BenchmarkError, machine, run, scratch_folder, write_json
from gpu_common import Step, StepError

from vmt.utils.errors import VmtError

#: What each process of a step starts.
SCRIPT = Path(__file__).resolve()
#: Lines of a step's output that are kept where it fails.
TAIL = 30
#: Seconds that a dry step may take, whatever its cap.
DRY_CAP = 120.0


@dataclass(frozen=True)
class Plan:
    """A step: what it does, and the seconds it may take."""

    cap: float
    action: Callable[[Step], None]


STEPS = {
    "env": Plan(15, gpu_operator.env),
    "correct": Plan(60, gpu_correct.correct),
    "op": Plan(50, gpu_operator.op),
    "model": Plan(85, gpu_network.model),
    "train": Plan(45, gpu_network.train),
    "refine": Plan(25, gpu_network.refine),
    "end_to_end": Plan(30, gpu_network.end_to_end),
    "launch": Plan(35, gpu_processes.launch),
    "multi": Plan(30, gpu_processes.multi),
    "baselines": Plan(45, gpu_baselines.baselines),
    "sanitizer": Plan(30, gpu_tools.sanitizer),
    "ncu": Plan(15, gpu_tools.ncu),
}


def run_step(name: str, step: Step) -> int:
    """Do a step in this process; its exit status: 0, or 1 with a sentence under ``error``."""
    step.folder.mkdir(parents=True, exist_ok=True)
    step.put()
    if not step.dry and not torch.cuda.is_available():
        step.put(error="torch sees no GPU; --dry-run does without")
        return 1
    try:
        STEPS[name].action(step)
    except (StepError, VmtError, RuntimeError, subprocess.SubprocessError, OSError) as error:
        step.put(error=f"{type(error).__name__}: {error}")
        return 1
    return 0


def run_apart(name: str, words: Sequence[str], folder: Path, cap: float) -> dict[str, Any]:
    """Do a step in a process of its own, which is ended with its children after ``cap`` seconds."""
    folder.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    with (folder / "output.txt").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, str(SCRIPT), "--step", name, *words],
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        try:
            state = "ok" if process.wait(cap) == 0 else "failed"
        except subprocess.TimeoutExpired:
            state = "timeout"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    row: dict[str, Any] = {"state": state, "seconds": round(time.perf_counter() - started, 1)}
    found = folder / "results.json"
    row["results"] = json.loads(found.read_text(encoding="utf-8")) if found.is_file() else {}
    if state != "ok":
        text = (folder / "output.txt").read_text(encoding="utf-8", errors="replace")
        row["tail"] = text.splitlines()[-TAIL:]
    return row


def commit() -> str:
    """Of the tree that runs; "unknown" outside git."""
    words = ["git", "-C", str(SCRIPT.parent), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip() or "unknown"


def do_all(args: argparse.Namespace, names: Sequence[str]) -> dict[str, Any]:
    """All steps, one after the other; the record is on the disk after each."""
    began = time.perf_counter()
    record: dict[str, Any] = {
        "machine": machine(),
        "commit": commit(),
        "dry_run": args.dry_run,
        "budget": args.budget,
        "steps": {},
    }
    for name in names:
        cap = max(STEPS[name].cap, DRY_CAP) if args.dry_run else STEPS[name].cap
        left = args.budget - (time.perf_counter() - began)
        if cap > left and not args.dry_run:
            row = {"state": "skipped", "reason": f"{left:.0f} s left, it may take {cap:.0f}"}
        else:
            words = ["--output", str(args.output)]
            words += ["--dry-run"] if args.dry_run else []
            words += ["--third-party", str(args.third_party)] if args.third_party else []
            row = run_apart(name, words, args.output / name, cap)
        record["steps"][name] = row
        print(f"{name}: {row['state']} {row.get('reason', '')}", flush=True)
        record["seconds"] = round(time.perf_counter() - began, 1)
        write_json(args.output / "gpu.json", record)
    return record


def table(record: dict[str, Any]) -> list[str]:
    """A line per step: state, seconds, and its numbers in short."""
    lines = [f"{'step':<11} {'state':<8} {'s':>6}  what"]
    for name, row in record["steps"].items():
        results = row.get("results", {})
        what = row.get("reason") or results.get("error") or results.get("summary", "")
        lines.append(f"{name:<11} {row['state']:<8} {row.get('seconds', 0):>6}  {what}"[:200])
        if row["state"] in ("failed", "timeout") and "error" not in results:
            lines += [f"    {line}"[:200] for line in row.get("tail", [])[-1:]]
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """Run and print; 1 when a step failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("output/gpu"), help="folder of results")
    parser.add_argument("--budget", type=float, default=400, help="seconds of all (default 400)")
    parser.add_argument("--only", nargs="+", choices=STEPS, metavar="STEP", help=", ".join(STEPS))
    parser.add_argument("--skip", nargs="+", choices=STEPS, default=[], metavar="STEP")
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, at toy size")
    parser.add_argument(
        "--third-party",
        type=Path,
        help="folder with Deformable-DETR/ and msda-triton/, which `baselines` is measured against",
    )
    parser.add_argument("--step", choices=STEPS, metavar="STEP", help="one step, in this process")
    args = parser.parse_args(argv)
    if args.third_party is not None and not args.third_party.is_dir():
        raise BenchmarkError(f"--third-party {args.third_party}: there is no such folder.")
    if args.step:
        folder = args.output.absolute() / args.step
        return run_step(args.step, Step(folder, args.dry_run, args.third_party))
    if args.dry_run:
        args.output = scratch_folder()
    elif not torch.cuda.is_available():
        raise BenchmarkError("torch sees no GPU here; --dry-run runs every step without one.")
    args.output = args.output.absolute()
    names = [name for name in args.only or STEPS if name not in args.skip]
    record = do_all(args, names)
    print("\n".join(table(record)))
    return int(any(row["state"] in ("failed", "timeout") for row in record["steps"].values()))


if __name__ == "__main__":
    sys.exit(run(main))
