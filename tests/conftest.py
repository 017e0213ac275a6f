"""Fixtures that several rooms share."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

REPO = Path(__file__).resolve().parents[1]


#: Files that take long as a whole, the longest first; their tests count as slow. Last in line, one
#: of them would run while the other worker waits.
LONGEST = (
    "engine/test_overfit.py",
    "engine/test_recipes.py",
    "engine/test_parallel.py",
    "engine/test_resume.py",
    "engine/test_configs.py",
    "apps/test_exported_graphs.py",
    "tools/test_make_mask_refiner.py",
    "tools/test_make_vmt_small.py",
    "docs/test_commands.py",
    "benchmarks/test_dry_runs.py",
    "benchmarks/test_gpu_steps.py",
    "ops/test_deform_attn_programs.py",
    "ops/test_deform_attn_emulated.py",
    "engine/test_switches.py",
    "engine/test_train_loop.py",
    "engine/test_phases.py",
    "apps/app/test_browser.py",
    "cocoapi_hq/tubes/test_fuzz.py",
)


def asks_for_gpus(mark_expression: str) -> bool:
    """Whether ``pytest -m`` selects tests by the mark of those that need a GPU."""
    return "cuda" in mark_expression.replace("not cuda", "")


def pytest_configure(config: pytest.Config) -> None:
    # Numbers of the other tests are a CPU's: with a GPU in sight, "auto" would move them there.
    if not asks_for_gpus(config.option.markexpr):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {REPO / "tests" / name: k for k, name in enumerate(LONGEST)}
    for item in items:
        if item.path in place:
            item.add_marker("slow")
    items.sort(key=lambda item: place.get(item.path, len(place)))


@pytest.fixture(scope="session")
def repo() -> Path:
    return REPO


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Reference data that lies beside the repository on some machines; tests skip without it."""
    folder = REPO.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("reference data is not beside the repository")
    return folder


def load_module(path: Path) -> ModuleType:
    """A file that is in no package as a new module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # data classes look there
    spec.loader.exec_module(module)
    return module


def load_tool(name: str) -> ModuleType:
    """A script of ``tools/`` as a new module."""
    return load_module(REPO / f"tools/{name}.py")


@pytest.fixture(scope="session")
def tiny_datasets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Root of tiny stand-ins of every data set; to read, not to change."""
    root = tmp_path_factory.mktemp("data") / "sets"
    load_tool("make_tiny_datasets").make_tiny_datasets(root)
    return root
