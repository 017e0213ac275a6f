"""Every config key has a test that shows what it changes; see ``tests/config/keys``."""

from __future__ import annotations

import importlib
from pathlib import Path

from fvcore.common.config import CfgNode

from tests.config.keys.pairs import SHOWN
from vmt.config.defaults import default_config


def leaves(node: CfgNode, prefix: str = "") -> set[str]:
    found: set[str] = set()
    for key, value in node.items():
        name = f"{prefix}{key}"
        found |= leaves(value, f"{name}.") if isinstance(value, CfgNode) else {name}
    return found


def test_every_key_has_a_test() -> None:
    for path in (Path(__file__).parent / "keys").glob("test_*.py"):
        importlib.import_module(f"tests.config.keys.{path.stem}")
    keys = leaves(default_config())
    assert len(keys) > 100
    assert sorted(keys - SHOWN) == [], "add a test to tests/config/keys"
    assert sorted(SHOWN - keys) == [], "keys that are gone"
