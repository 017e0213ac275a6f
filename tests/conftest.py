"""Fixtures that several rooms share."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

REPO = Path(__file__).resolve().parents[1]


#: Files that take minutes; last in line, one of them would run while the other worker waits.
LONGEST = ("test_overfit.py", "test_make_mask_refiner.py", "test_recipes.py", "test_parallel.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONGEST)


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


def load_tool(name: str) -> ModuleType:
    """A script of ``tools/`` as a module."""
    spec = importlib.util.spec_from_file_location(name, REPO / f"tools/{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def tiny_datasets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Root of tiny stand-ins of every data set; to read, not to change."""
    root = tmp_path_factory.mktemp("data") / "sets"
    load_tool("make_tiny_datasets").make_tiny_datasets(root)
    return root
