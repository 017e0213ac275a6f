"""A config with every key at its default; the keys are in ``vmt.config.keys``."""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from fvcore.common.config import CfgNode as Node

from vmt.config import keys

_FILES = pkgutil.iter_modules(keys.__path__, f"{keys.__name__}.")
_MODULES = [import_module(file.name) for file in _FILES]
#: Key -> value -> keys that this value gives a value, each of which may be set on top.
PRESETS: dict[str, Mapping[str, Mapping[str, Any]]] = {}
for _module in _MODULES:
    PRESETS |= getattr(_module, "PRESETS", {})


def default_config() -> Node:
    """A fresh config that holds every key; YAML files and overrides may only change these."""
    cfg = Node()
    for module in _MODULES:
        module.add_keys(cfg)
    return cfg
