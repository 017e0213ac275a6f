"""Parameter names of published weight files <-> ours, as tables that read both ways.

A file here holds the ``KeyMap`` of one family of published files; ``key_map_of`` finds it.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Collection

from vmt.checkpoint.key_maps.rows import KeyMap


@functools.cache
def _key_maps() -> tuple[KeyMap, ...]:
    """Of all files of this folder, the longest mark first."""
    modules = [
        importlib.import_module(module.name)
        for module in pkgutil.iter_modules(__path__, f"{__name__}.")
    ]
    tables = {v for module in modules for v in vars(module).values() if isinstance(v, KeyMap)}
    return tuple(sorted(tables, key=lambda table: (-len(table.mark), table.name)))


def key_map_of(names: Collection[str]) -> KeyMap | None:
    """The table that speaks of a weight file's names; None for a file with our own."""
    for table in _key_maps():
        if any(name.startswith(table.mark) for name in names):
            return table
    return None
