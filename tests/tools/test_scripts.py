"""What a shell needs of the scripts: they can be called by their path alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
SCRIPTS = sorted(
    path
    for pattern in ("tools/*.py", "datasets/prepare_*.py", "benchmarks/*.py")
    for path in REPO.glob(pattern)
    if '__name__ == "__main__"' in path.read_text()
)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_executable(path: Path) -> None:
    assert path.stat().st_mode & 0o111 == 0o111, f"chmod 755 {path.relative_to(REPO)}"
    assert path.read_text().startswith("#!/usr/bin/env python3\n")


@pytest.mark.slow
def test_train_net_runs_by_its_path() -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["tools/train_net.py", "--help"],
        cwd=REPO, env=os.environ | {"PATH": path}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "--config-file" in done.stdout
