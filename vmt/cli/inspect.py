"""Say what a weight file or a config is, without running anything in it.

Example:
  vmt inspect checkpoint_r50_final.pth
  vmt inspect configs/hq_ytvis/vmt_release_R50.yaml
"""

from __future__ import annotations

import argparse
from pathlib import Path

from vmt.checkpoint.describe import describe
from vmt.checkpoint.files import read_weights
from vmt.config.node import load_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``vmt inspect``."""
    parser.add_argument("file", help="weight file (.pth, .safetensors) or config (.yaml)")


def run(args: argparse.Namespace) -> int:
    """Print the findings."""
    if Path(args.file).suffix in (".yaml", ".yml"):
        print(load_config(args.file).dump(), end="")
        return 0
    file = read_weights(args.file)
    found = describe(file)
    print(f"file        {file.path}")
    print(f"layout      {found.layout}, {len(file.state)} entries, {found.elements:,} numbers")
    print(f"network     {found.method}")
    print(f"backbone    {found.backbone}")
    print(f"classes     {found.num_classes}")
    print(f"config      {found.config or 'none of ours is known to fit'}")
    for key, value in sorted(file.metadata.items()):
        print(f"metadata    {key} = {value}")
    for note in file.notes:
        print(f"note        {note}")
    for family, count in found.families.items():
        print(f"  {count:4d} x {family}")
    return 0
