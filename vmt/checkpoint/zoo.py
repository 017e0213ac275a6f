"""Published weight files of all methods, by name; ``vmt.checkpoint.download`` fetches them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Final

from vmt.checkpoint.methods import methods
from vmt.checkpoint.methods.base import ZooFile
from vmt.utils.errors import ConfigError

#: Every published file by name.
ZOO: Final[Mapping[str, ZooFile]] = {
    file.name: file for method in methods() for file in method.files
}


def zoo_file(name: str) -> ZooFile:
    """The published file of a name.

    Raises:
        ConfigError: there is none; the message suggests the nearest and lists all.
    """
    if name not in ZOO:
        close = difflib.get_close_matches(name, ZOO, n=1, cutoff=0.4)
        hint = f"did you mean {close[0]}? " if close else ""
        raise ConfigError(f"no published file is called {name!r}; {hint}Known: {', '.join(ZOO)}.")
    return ZOO[name]
