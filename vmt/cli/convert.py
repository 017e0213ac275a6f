"""Convert a weight file between the published layout and ours.

Published files (.pth) become safetensors with our parameter names; our files become .pth files that
the published code loads. Nothing is lost on the way: entries that the network never reads are kept.

Example:
  vmt convert weights/checkpoint_r50_final.pth vmt_r50.safetensors
  vmt convert vmt_r50.safetensors checkpoint_r50.pth
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``vmt convert``."""
    parser.add_argument("input", help="weight file of either layout")
    parser.add_argument(
        "output", type=Path, help=".safetensors for our names, .pth for published names"
    )


def run(args: argparse.Namespace) -> int:
    """Convert and say what was written."""
    from vmt.apps.weights import convert_weights

    print(convert_weights(args.input, args.output))
    return 0
