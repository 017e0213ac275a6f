"""Config files by path or by name: those of ``configs/`` travel inside the package."""

from __future__ import annotations

import difflib
from pathlib import Path

from vmt.config.old_names import new_name

#: Ends of the names of config files; the first may be left out.
SUFFIXES = (".yaml", ".yml")
_TOP = "configs"


def config_folder() -> Path:
    """``configs`` inside the installed package, or of the clone that it is imported from."""
    package = Path(__file__).parents[1]
    inside = package / _TOP
    return inside if inside.is_dir() else package.parent / _TOP


def config_names() -> list[str]:
    """Names of the recipes, such as ``hq_ytvis/vmt_R50``, in order; no files that they build on."""
    files = config_folder().rglob(f"*{SUFFIXES[0]}")
    recipes = (f for f in files if f.parent.name != "_base_" and not f.name.startswith("Base-"))
    return sorted(map(_name, recipes))


def find_config(name: str | Path) -> Path:
    """The file of a config that is given by its path or its name.

    Args:
        name: what exists under this path is meant, relative to the current folder. Otherwise a
            file of ``configs/`` by its place there, with or without ``configs/`` before it and
            ``.yaml`` after it: ``hq_ytvis/vmt_R50``.

    Returns:
        The path as it is given if there is neither; whoever reads it says so.
    """
    path, inside = Path(name), _inside(Path(name))
    return inside if inside is not None and not path.exists() and inside.is_file() else path


def missing_hint(path: Path) -> str:
    """End of the sentence about a config that is not there: what it is called, or may be."""
    if renamed := new_name(path):
        return f"; it is called {renamed} now."
    inside = _inside(path)
    if inside is not None and (renamed := new_name(inside)):
        return f"; it is called {_name(renamed)} now."
    beside = path.parent.glob(f"*{SUFFIXES[0]}") if path.parent.is_dir() else ()
    if close := difflib.get_close_matches(path.name, [file.name for file in beside], n=1):
        return f"; did you mean {path.parent / close[0]}?"
    wanted = "" if inside is None else _name(inside)
    if close := difflib.get_close_matches(wanted, config_names(), n=1):
        return f"; did you mean {close[0]}? `vmt configs` lists all names."
    return "; give the path of a YAML, or one of the names that `vmt configs` lists."


def _inside(path: Path) -> Path | None:
    """Where a name would lie in ``configs/``; None for what can be no name."""
    parts = path.parts[1:] if path.parts[:1] == (_TOP,) else path.parts
    if path.is_absolute() or ".." in parts or not parts:
        return None
    inside = config_folder().joinpath(*parts)
    return inside if path.suffix in SUFFIXES else inside.with_name(inside.name + SUFFIXES[0])


def _name(file: Path) -> str:
    """Of a file in ``configs/``."""
    return file.relative_to(config_folder()).with_suffix("").as_posix()
