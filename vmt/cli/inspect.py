"""Say what a weight, annotation, result or config file is, without running anything in it.

Example:
  vmt inspect weights/checkpoint_r50_final.pth
  vmt inspect train.json
  vmt inspect hq_ytvis/vmt_R50_released
"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``vmt inspect``."""
    parser.add_argument(
        "file",
        help="weights (.pth, .safetensors, ...), JSON of masks or results, config (path or name)",
    )
    parser.add_argument("--all", action="store_true", help="of a config: every key, as YAML")


def run(args: argparse.Namespace) -> int:
    """Print what the file is."""
    from vmt.apps.inspect import inspect_file

    print(inspect_file(args.file, every_key=args.all))
    return 0
