"""What ``vmt inspect`` does: say what a file is, without running anything in it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from cocoapi_hq.io.json_file import is_json_name
from vmt.checkpoint.describe import describe
from vmt.checkpoint.files import read_weights
from vmt.config.find import SUFFIXES, find_config
from vmt.config.node import load_config
from vmt.config.summary import changed_keys, summary
from vmt.data.describe_json import describe_json


def inspect_file(file: str, *, every_key: bool = False) -> str:
    """What a weight, annotation, result or config file is, in lines.

    Args:
        file: its path; of a config, its name will do.
        every_key: of a config, all keys as YAML.

    Raises:
        VmtError: it cannot be read.
    """
    path = find_config(file)
    if path.suffix in SUFFIXES:
        return _config(path, every_key)
    if is_json_name(path):
        return _table([("file", str(path)), *describe_json(path)])
    return _weights(file)


def _table(rows: Iterable[tuple[str, str]]) -> str:
    return "\n".join(f"{name:<12}  {text}" for name, text in rows)


def _config(path: Path, everything: bool) -> str:
    cfg = load_config(path)
    if everything:
        return str(cfg.dump()).rstrip("\n")
    changed = changed_keys(cfg)
    lines = [
        _table([("file", str(path)), *summary(cfg)]),
        f"\n{len(changed)} keys differ from the defaults (--all prints every key):",
    ]
    lines += [f"  {name}: {value!r}  (default {default!r})" for name, value, default in changed]
    return "\n".join(lines)


def _weights(path: str) -> str:
    file = read_weights(path)
    network = describe(file)
    rows = [
        ("file", str(file.path)),
        ("layout", f"{network.layout}, {len(file.state)} entries, {network.elements:,} numbers"),
        ("network", network.method),
        ("backbone", network.backbone),
        ("classes", str(network.num_classes)),
        ("config", network.config or "none of ours is known to fit"),
    ]
    rows += [("metadata", f"{key} = {value}") for key, value in sorted(file.metadata.items())]
    rows += [("note", note) for note in file.notes]
    families = [f"  {count:4d} x {family}" for family, count in network.families.items()]
    return "\n".join([_table(rows), *families])
