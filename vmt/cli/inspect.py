"""Say what a weight, annotation, result or config file is, without running anything in it.

Example:
  vmt inspect weights/checkpoint_r50_final.pth
  vmt inspect train.json
  vmt inspect configs/hq_ytvis/vmt_release_R50.yaml
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

from cocoapi_hq.io.json_file import is_json_name
from vmt.checkpoint.describe import describe
from vmt.checkpoint.files import read_weights
from vmt.config.node import load_config
from vmt.config.summary import changed_keys, summary
from vmt.data.describe_json import describe_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``vmt inspect``."""
    parser.add_argument(
        "file", help="weights (.pth, .safetensors, ...), JSON of masks or results, config (.yaml)"
    )
    parser.add_argument("--all", action="store_true", help="of a config: every key, as YAML")


def run(args: argparse.Namespace) -> int:
    """Print the findings."""
    path = Path(args.file)
    if path.suffix in (".yaml", ".yml"):
        _print_config(path, args.all)
    elif is_json_name(path):
        _print_lines([("file", str(path)), *describe_json(path)])
    else:
        _print_weights(args.file)
    return 0


def _print_lines(lines: Iterable[tuple[str, str]]) -> None:
    for name, text in lines:
        print(f"{name:<12}  {text}")


def _print_config(path: Path, everything: bool) -> None:
    cfg = load_config(path)
    if everything:
        print(cfg.dump(), end="")
        return
    _print_lines([("file", str(path)), *summary(cfg)])
    changed = changed_keys(cfg)
    print(f"\n{len(changed)} keys differ from the defaults (--all prints every key):")
    for name, value, default in changed:
        print(f"  {name}: {value!r}  (default {default!r})")


def _print_weights(path: str) -> None:
    file = read_weights(path)
    found = describe(file)
    lines = [
        ("file", str(file.path)),
        ("layout", f"{found.layout}, {len(file.state)} entries, {found.elements:,} numbers"),
        ("network", found.method),
        ("backbone", found.backbone),
        ("classes", str(found.num_classes)),
        ("config", found.config or "none of ours is known to fit"),
    ]
    lines += [("metadata", f"{key} = {value}") for key, value in sorted(file.metadata.items())]
    lines += [("note", note) for note in file.notes]
    _print_lines(lines)
    for family, count in found.families.items():
        print(f"  {count:4d} x {family}")
