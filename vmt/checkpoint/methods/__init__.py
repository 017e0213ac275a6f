"""Published weight files of methods, a file each, which are found by themselves.

Nothing here imports torch: ``vmt zoo`` answers at once.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil

from vmt.checkpoint.methods.base import Method


@functools.cache
def methods() -> tuple[Method, ...]:
    """The ``METHOD`` of every file of this folder, in their order."""
    modules = (
        importlib.import_module(module.name)
        for module in pkgutil.iter_modules(__path__, f"{__name__}.")
    )
    rows = [module.METHOD for module in modules if hasattr(module, "METHOD")]
    return tuple(sorted(rows, key=lambda method: method.place))
