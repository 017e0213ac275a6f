"""The tables of exchangeable parts: a config names an entry, a decorator makes one."""

from __future__ import annotations

from typing import Any

from fvcore.common.registry import Registry

from vmt.utils.errors import ConfigError

BACKBONES = Registry("BACKBONES")
META_ARCHITECTURES = Registry("META_ARCHITECTURES")
REFINERS = Registry("REFINERS")


def lookup(registry: Registry, name: str, key: str) -> Any:
    """Entry ``name`` of a registry.

    Args:
        registry: one of this module.
        name: as the config gives it.
        key: the config key, for the error.

    Raises:
        ConfigError: no such entry; the message lists what exists.
    """
    if name not in registry:
        known = ", ".join(sorted(entry for entry, _ in registry))
        raise ConfigError(f"{key}: {name!r} does not exist; known are {known}.")
    return registry.get(name)
