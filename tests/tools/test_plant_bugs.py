"""The planted bugs still apply, and tools/plant_bugs.py tells noticed ones from others."""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import ModuleType

import pytest

REPO = Path(__file__).resolve().parents[2]
TOOL = REPO / "tools/plant_bugs.py"


def load_tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("plant_bugs", TOOL)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["plant_bugs"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return load_tool()


def test_every_planted_bug_applies(tool: ModuleType) -> None:
    bugs = tool.read_bugs()
    assert len(bugs) >= 100
    assert len({(bug.group, bug.name) for bug in bugs}) == len(bugs)
    for bug in bugs:
        text = bug.planted((REPO / bug.file).read_text())
        if bug.file.endswith(".py"):  # headers are compiled by the tests that read them
            compile(text, bug.file, "exec")
        for test in bug.tests:
            path, _, name = test.partition("::")
            assert (REPO / path).is_file(), f"{bug.name}: {test}"
            assert f"def {name.partition('[')[0]}" in (REPO / path).read_text(), test


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A package with one function, a test that sees half of it, and a test that fails."""
    root = tmp_path / "tree"
    (root / "vmt").mkdir(parents=True)
    (root / "tests/planted").mkdir(parents=True)
    (root / "vmt/add.py").write_text("def add(a, b):\n    return a + b\n\n\nLIMIT = 3\n")
    (root / "tests/test_add.py").write_text(
        "from add import add\n\n\ndef test_add():\n    assert add(1, 2) == 3\n"
    )
    (root / "tests/test_bad.py").write_text("def test_bad():\n    assert False\n")
    (root / "tests/conftest.py").write_text("import sys\nsys.path.insert(0, 'vmt')\n")
    (root / "tests/planted/one.yaml").write_text(json.dumps([
        {"name": "minus", "file": "vmt/add.py", "old": "a + b", "new": "a - b",
         "tests": ["test_add.py"]},
        {"name": "limit", "file": "vmt/add.py", "old": "3", "new": "4", "tests": ["test_add.py"]},
        {"name": "bad", "file": "vmt/add.py", "old": "3", "new": "5", "tests": ["test_bad.py"]},
        {"name": "twice", "file": "vmt/add.py", "old": "a", "new": "c", "tests": []},
    ]))  # fmt: skip
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    return root


def test_noticed_or_not(tree: Path, tmp_path: Path) -> None:
    """In a process of its own: the tool forks, and other tests leave threads that hold locks."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        pool.submit(noticed_or_not, tree, tmp_path).result(timeout=400)


def noticed_or_not(tree: Path, tmp_path: Path) -> None:
    tool = load_tool()
    results = tmp_path / "results.jsonl"
    source = (tree / "vmt/add.py").read_text()
    copy = tmp_path / "copy"
    minus, limit, bad, twice = tool.read_bugs(tree)
    laboratory = tool.Laboratory(copy, results, 60, tree)
    rows = [laboratory.run(bug) for bug in (minus, limit, bad)]
    assert [row["noticed"] for row in rows] == [True, False, False]
    assert rows[0]["by"] == "tests/test_add.py::test_add"
    assert rows[2]["by"].startswith("tests/test_bad.py fails without any bug")
    with pytest.raises(ValueError, match=r"'twice': its old text stands 3 times in vmt/add.py"):
        laboratory.run(twice)
    assert (tree / "vmt/add.py").read_text() == (copy / "vmt/add.py").read_text() == source
    assert "50%" in tool.summary(rows[:2])

    again = tool.Laboratory(copy, results, 60, tree)
    assert [again.run(bug)["cached"] for bug in (minus, limit)] == [True, True]
    (copy / "tests/test_add.py").write_text(
        "from add import LIMIT\n\n\ndef test_limit():\n    assert LIMIT == 3\n"
    )
    assert again.run(limit)["noticed"], "its tests have changed"

    again.timeout = 0.1
    row = again.run(tool.Bug("one", "slow", "vmt/add.py", "a + b", "b - a", limit.tests))
    assert row["noticed"]
    assert row["by"] == "no end after 0.1 s"
