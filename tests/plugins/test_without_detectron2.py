"""What is said where detectron2 is missing or too old; runs with and without it."""

from __future__ import annotations

import re
import sys
from types import ModuleType

import pytest

from tests.conftest import REPO, load_module
from vmt.utils.errors import ConfigError, VmtError

VERSION = REPO / "vmt/plugins/detectron2/version.py"


def test_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "detectron2", None)
    with pytest.raises(ImportError, match=r"needs detectron2, which .* docs/howto/detectron2\.md"):
        load_module(VERSION)
    with pytest.raises(VmtError):  # so that the console says it in one line
        load_module(VERSION)


@pytest.mark.parametrize("version", ["0.5", "0.1.3", "0.5+cu111"])
def test_too_old(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = ModuleType("detectron2")
    stand_in.__version__ = version  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "detectron2", stand_in)
    message = rf"detectron2 {version[:3]}.* is too old for .*; install 0\.6 or newer"
    with pytest.raises(ConfigError, match=message):
        load_module(VERSION)


@pytest.mark.parametrize("version", ["0.6", "0.6+cu118", "0.10", "1.0"])
def test_new_enough(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = ModuleType("detectron2")
    stand_in.__version__ = version  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "detectron2", stand_in)
    assert load_module(VERSION).OLDEST == (0, 6)


def test_nothing_else_imports_it() -> None:
    pattern = re.compile(r"^\s*(?:import|from) detectron2\b", re.MULTILINE)
    files = [p for folder in ("vmt", "cocoapi_hq", "tools") for p in (REPO / folder).rglob("*.py")]
    users = {path.relative_to(REPO) for path in files if pattern.search(path.read_text())}
    assert users
    for path in users:
        plugin = path.parts[:3] == ("vmt", "plugins", "detectron2")
        assert plugin or path.name == "train_net_detectron2.py", path
