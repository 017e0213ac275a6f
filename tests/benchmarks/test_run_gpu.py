"""Every step of ``run_gpu.py`` on the CPU at toy size: no minute on a GPU dies of a TypeError."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from tests.benchmarks.test_dry_runs import FOLDER, load

assert load  # the fixture
STEPS = [
    *("env", "correct", "op", "model", "train", "refine", "end_to_end"),
    *("launch", "multi", "baselines", "sanitizer", "ncu"),
]


@pytest.fixture
def script(load) -> Iterator[ModuleType]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield load("run_gpu")
    torch.set_num_threads(threads)


def test_all_steps_are_here(script: ModuleType) -> None:
    assert list(script.STEPS) == STEPS
    assert sum(plan.cap for plan in script.STEPS.values()) <= 470


@pytest.mark.slow
@pytest.mark.parametrize("name", STEPS)
def test_a_step_runs_dry(name: str, script: ModuleType, tmp_path: Path) -> None:
    words = ["--dry-run", "--step", name, "--output", str(tmp_path / "out")]
    status = script.main(words)
    results = json.loads((tmp_path / "out" / name / "results.json").read_text())
    assert "error" not in results
    assert status == 0
    assert results["summary"]


def test_results_are_on_the_disk_after_each_step_and_one_too_long_is_ended(
    script: ModuleType, load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in = tmp_path / "stand_in.py"
    stand_in.write_text(
        "import json, os, pathlib, sys, time\n"
        "step, out = sys.argv[2], pathlib.Path(sys.argv[4])\n"
        "(out / step / 'results.json').write_text(json.dumps({'summary': step}))\n"
        "print('line of', step, flush=True)\n"
        "known = json.loads((out / 'gpu.json').read_text())['steps'] if step != 'env' else {}\n"
        "(out / 'known').write_text(json.dumps(list(known)))\n"
        "if step == 'op':\n"
        "    if os.fork() == 0:\n"
        "        time.sleep(30)\n"
        "        (out / 'alive').touch()\n"
        "    time.sleep(60)\n"
        "sys.exit(step == 'train')\n"
    )
    monkeypatch.setattr(script, "SCRIPT", stand_in)
    plans = {k: script.Plan(20, p.action) for k, p in script.STEPS.items()}
    plans |= {"op": script.Plan(2, plans["op"].action), "ncu": script.Plan(900, print)}
    monkeypatch.setattr(script, "STEPS", plans)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(script, "machine", dict)
    started = time.monotonic()
    words = ["--output", str(tmp_path / "o"), "--budget", "200"]
    status = script.main([*words, "--only", "env", "op", "train", "ncu"])
    assert status == 1
    assert time.monotonic() - started < 50
    steps = json.loads((tmp_path / "o/gpu.json").read_text())["steps"]
    assert {name: row["state"] for name, row in steps.items()} == {
        "env": "ok",
        "op": "timeout",
        "train": "failed",
        "ncu": "skipped",
    }
    assert steps["op"]["results"] == {"summary": "op"}
    assert steps["train"]["tail"] == ["line of train"]
    assert "it may take 900" in steps["ncu"]["reason"]
    assert json.loads((tmp_path / "o/known").read_text()) == ["env", "op"]
    assert not (tmp_path / "o/alive").exists()


@pytest.mark.slow
def test_a_dry_run_of_a_step_in_a_process_of_its_own(tmp_path: Path) -> None:
    words = [sys.executable, str(FOLDER / "run_gpu.py"), "--dry-run", "--only", "env"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    last = done.stdout.splitlines()[-1].split()
    assert last[:2] == ["env", "ok"]
    assert not list(tmp_path.iterdir()), "a dry run leaves nothing behind"


def test_without_a_gpu_it_says_so(script: ModuleType, load) -> None:
    common = load("common")
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(common.BenchmarkError, match="--dry-run runs every step without one"):
        script.main([])
    with pytest.raises(common.BenchmarkError, match="no such folder"):
        script.main(["--dry-run", "--third-party", "nowhere"])


def test_what_a_step_finds_wrong_is_its_status(
    script: ModuleType, load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step_error = load("gpu_common").StepError

    def wrong(step: object) -> None:
        raise step_error("masks differ")

    monkeypatch.setitem(script.STEPS, "refine", script.Plan(1, wrong))
    assert script.main(["--dry-run", "--step", "refine", "--output", str(tmp_path)]) == 1
    results = json.loads((tmp_path / "refine/results.json").read_text())
    assert results["error"] == "StepError: masks differ"
    row = {"state": "failed", "seconds": 1, "results": results}
    assert "masks differ" in script.table({"steps": {"refine": row}})[1]


def test_clocks_and_counters(load) -> None:
    common = load("gpu_common")
    cpu = torch.device("cpu")
    counts = common.profiled(lambda: (torch.ones(3) + 1).view(3, 1).sum().item(), cpu)
    assert counts["reads"] == 1
    assert 4 <= counts["operators"] <= 6
    calls: list[int] = []
    times = common.wall_seconds(lambda: calls.append(1), cpu, 3, 2)
    assert (len(times), len(calls)) == (3, 5)
    assert common.relative_error(torch.tensor([1.0, 4.2]), torch.tensor([1.0, 4.0])) == (
        pytest.approx(0.05)
    )
    assert common.relative_error(torch.tensor([float("nan")]), torch.ones(1)) == float("inf")


def test_the_operator_is_right_and_wrong_gradients_are_seen(
    load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator, common = load("gpu_operator"), load("gpu_common")
    step = common.Step(tmp_path, dry=True)
    errors = operator.errors_against_double(step, 2, torch.float32)
    assert max(errors.values()) < operator.FULL_TOLERANCE
    ours = operator.kernel(step)
    monkeypatch.setattr(
        operator, "kernel", lambda step: lambda v, loc, w: ours(v, loc.detach() + 0 * loc, w)
    )
    errors = operator.errors_against_double(step, 2, torch.float32)
    assert errors["grad_locations"] > 0.1 > errors["grad_value"]
