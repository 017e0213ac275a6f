"""The tables of exchangeable parts: a config names an entry, a decorator makes one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from fvcore.common.registry import Registry

from vmt.utils.errors import ConfigError

_Entry = TypeVar("_Entry")

BACKBONES = Registry("BACKBONES")
META_ARCHITECTURES = Registry("META_ARCHITECTURES")
REFINERS = Registry("REFINERS")
#: Adapters of every encoder layer, see ``vmt.layers.deformable_encoder.EncoderAdapter``.
ENCODER_ADAPTERS = Registry("ENCODER_ADAPTERS")
#: Adapters of every decoder layer but the first, see
#: ``vmt.modeling.seqformer.decoder.DecoderAdapter``.
DECODER_ADAPTERS = Registry("DECODER_ADAPTERS")
#: Networks trained beside the model, see ``vmt.modeling.adversarial``.
ADVERSARIES = Registry("ADVERSARIES")


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


def register(registry: Registry, name: str) -> Callable[[_Entry], _Entry]:
    """Put a class or builder into a table under the name that configs use.

    Args:
        registry: one of this module.
        name: must be new.
    """

    def add(entry: _Entry) -> _Entry:
        registry._do_register(name, entry)  # fvcore's decorator knows only the object's own name
        return entry

    return add
