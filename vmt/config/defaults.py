"""A config with every key at its default; the keys are in ``vmt.config.keys``."""

from __future__ import annotations

import pkgutil
from importlib import import_module

from fvcore.common.config import CfgNode as Node

from vmt.config import keys


def default_config() -> Node:
    """A fresh config that holds every key; YAML files and overrides may only change these."""
    cfg = Node()
    for module in pkgutil.iter_modules(keys.__path__):
        import_module(f"{keys.__name__}.{module.name}").add_keys(cfg)
    return cfg
