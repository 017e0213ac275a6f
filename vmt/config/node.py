"""YAML files to a frozen config: ``_BASE_``, ``KEY VALUE`` overrides, errors that suggest.

``_BASE_`` is a file, relative to the one that names it, or a name of ``vmt configs``; or a list of
them, later ones on top. A preset (``PRESETS``) gives several keys a value; those that a file sets
too are on top of it, on a command line the later word wins.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from fvcore.common.config import BASE_KEY
from fvcore.common.config import CfgNode as Node

from vmt.config.defaults import PRESETS, default_config
from vmt.config.find import config_folder, find_config, missing_hint
from vmt.config.old_names import what_became_of
from vmt.utils.errors import ConfigError


def load_config(path: str | Path | None = None, overrides: Sequence[str] = ()) -> Node:
    """Read a config.

    Args:
        path: YAML file, or a name of ``vmt configs``; None for the defaults alone.
        overrides: alternating keys and values, as on the command line: ``MODEL.DEVICE cpu``.

    Returns:
        A frozen config that holds every key.

    Raises:
        ConfigError: the file is missing or no YAML, a key is unknown, or a value has another type.
    """
    cfg = default_config()
    if path is not None:
        merge_values(cfg, read_yaml(find_config(path)), str(path))
    merge_overrides(cfg, overrides)
    cfg.freeze()
    return cfg


def read_yaml(path: Path) -> dict[str, Any]:
    """Read one YAML or JSON file with everything below it by ``_BASE_``, the file itself on top.

    Raises:
        ConfigError: a file is missing, is no YAML mapping, or ``_BASE_`` runs in a circle.
    """
    return _read_yaml(path, ())


def _read_yaml(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in seen:
        raise ConfigError(f"{path}: {BASE_KEY} runs in a circle; remove one link.")
    try:
        text = path.read_text(encoding="utf-8")
        values = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such config file{missing_hint(path)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}).") from None
    except (yaml.YAMLError, json.JSONDecodeError) as error:
        kind = "JSON" if path.suffix == ".json" else "YAML"
        raise ConfigError(
            f"{path}: is not valid {kind} ({' '.join(str(error).split())})."
        ) from None
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: must hold keys and values, not a {type(values).__name__}.")
    bases = values.pop(BASE_KEY, None) or []
    below: dict[str, Any] = {}
    for base in bases if isinstance(bases, list) else [bases]:
        file = path.parent / str(base)
        file = file if file.is_file() else _by_name(str(base), file)
        below = _overlay(below, _read_yaml(file, (*seen, path.resolve())))
    return _overlay(below, values)


def _by_name(base: str, beside: Path) -> Path:
    """A base of the package; the file that is missing beside the config if there is none."""
    return found if (found := find_config(base)).is_relative_to(config_folder()) else beside


def _overlay(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        if isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = _overlay(merged[key], value)
        else:
            merged[key] = value
    return merged


def merge_values(cfg: Node, values: dict[str, Any], source: str) -> None:
    """Set keys from a nested mapping.

    Args:
        cfg: changed in place.
        values: nested keys and values.
        source: named in errors, usually a file.

    Raises:
        ConfigError: an unknown key (with the nearest known one) or a value of another type.
    """
    leaves = sorted(_leaves(values), key=lambda leaf: leaf[0] not in PRESETS)  # those first
    _check_names((name for name, _ in leaves), source)
    for name, value in leaves:
        _set(cfg, name, value, source)


def _check_names(names: Iterable[str], source: str) -> None:
    sentence = what_became_of(names)
    if sentence is not None:
        raise ConfigError(f"{source}: {sentence}")


def merge_overrides(cfg: Node, overrides: Sequence[str]) -> None:
    """Set keys from alternating ``KEY VALUE`` words; values are read as YAML.

    Raises:
        ConfigError: an odd number of words, an unknown key, or a value of another type.
    """
    if len(overrides) % 2:
        raise ConfigError(
            f"overrides come in pairs KEY VALUE, but {overrides[-1]!r} has no value after it."
        )
    _check_names(overrides[::2], "command line")
    for name, text in zip(overrides[::2], overrides[1::2], strict=True):
        value = yaml.safe_load(text) if isinstance(text, str) else text
        _set(cfg, name, "" if value is None else value, "command line")


def _leaves(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _leaves(value, name + ".")
        else:
            yield name, value


def _set(cfg: Node, name: str, value: Any, source: str) -> None:
    *path, leaf = name.split(".")
    node: Any = cfg
    for part in path:
        node = node.get(part) if isinstance(node, Node) else None
    if not isinstance(node, Node) or leaf not in node:
        known = [key for key, _ in _leaves(cfg)]
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
        if not close:
            close = [key for key in known if key.rsplit(".", 1)[-1] == leaf][:1]
        hint = f"did you mean {close[0]}?" if close else "vmt/config/keys lists every key."
        raise ConfigError(f"{source}: unknown config key {name}; {hint}")
    node[leaf] = _checked(name, value, node[leaf], source)
    if name in PRESETS:
        if value not in PRESETS[name]:
            choices = " or ".join(PRESETS[name])
            raise ConfigError(f"{source}: {name} is {value!r}; choose {choices}.")
        for key in {key for keys in PRESETS[name].values() for key in keys}:
            _set(cfg, key, PRESETS[name][value].get(key, _default(key)), source)


def _default(name: str) -> Any:
    node: Any = default_config()
    for part in name.split("."):
        node = node[part]
    return node


def _float_or(value: Any) -> Any:
    """Numbers, and text that is one (YAML 1.1 reads 1e-3 as text), as float; the rest unchanged."""
    if isinstance(value, int | float | str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _checked(name: str, value: Any, default: Any, source: str) -> Any:
    if isinstance(default, Node):
        raise ConfigError(f"{source}: {name} is a group of keys; set one of {sorted(default)}.")
    if isinstance(default, bool) or isinstance(value, bool):
        fits = isinstance(default, bool) and isinstance(value, bool)
    elif isinstance(default, float):
        value = _float_or(value)
        fits = isinstance(value, float)
    elif isinstance(default, list | tuple):
        fits = isinstance(value, list | tuple)
        value = list(value) if fits else value
    else:
        fits = isinstance(value, type(default))
    if not fits:
        raise ConfigError(
            f"{source}: {name} must be {type(default).__name__} (default {default!r}), "
            f"not {value!r}."
        )
    return value
