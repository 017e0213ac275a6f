"""Make the clean masks of an annotation file coarse, to test or train what should sharpen them.

Kinds: paper (subsampled contours, random dilation and erosion), halo (5 px around every object, as
YouTube-VIS has), low_res (1/8 resolution and back; see --stride). Crowd regions and null frames
stay as they are.

Example:
  vmt degrade --annotations train.json --kind paper --seed 1 --output coarse.json
"""

from __future__ import annotations

import argparse
from pathlib import Path

from vmt.data.names import KINDS, LOW_RES_STRIDE
from vmt.utils.errors import ConfigError, OutputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--annotations", type=Path, required=True, help="YouTube-VIS or COCO JSON, clean masks"
    )
    parser.add_argument("--output", type=Path, required=True, help="JSON to write")
    parser.add_argument("--kind", choices=KINDS, default="paper", help="default: paper")
    parser.add_argument("--seed", type=int, default=0, help="of the random draws (default 0)")
    parser.add_argument(
        "--coherent", action="store_true", help="the same draws in every frame of a tracklet"
    )
    parser.add_argument(
        "--stride",
        type=int,
        default=LOW_RES_STRIDE,
        help=f"pixels per cell of low_res (default {LOW_RES_STRIDE})",
    )


def run(args: argparse.Namespace) -> int:
    """Degrade the file; returns the exit status."""
    if args.output.absolute() == args.annotations.absolute():
        raise OutputError(f"{args.output}: would overwrite the input; give another name.")
    if args.stride < 1:
        raise ConfigError(f"--stride {args.stride}: give a number of pixels from 1 on.")
    from vmt.data.degrade import degrade_file

    counts = degrade_file(
        args.annotations,
        args.output,
        args.kind,
        args.seed,
        coherent=args.coherent,
        stride=args.stride,
    )
    print(
        f"written: {args.output} ({counts['masks']} masks of {counts['annotations']} annotations; "
        f"{counts['crowd']} crowd regions left alone)"
    )
    return 0
