"""Make the clean masks of an annotation file coarse, to test or train what should sharpen them.

Kinds: paper (subsampled contours, random dilation and erosion), halo (5 px around every object, as
YouTube-VIS has), low_res (1/8 resolution and back), polygon (15 corners), lag (the mask of the
frame before), holes (and specks), matte (blurred and cut). --amount says by how much. Crowd regions
and null frames stay as they are.

Example:
  vmt degrade --annotations train.json --kind paper --seed 1 --output coarse.json
"""

from __future__ import annotations

import argparse
from pathlib import Path

from vmt.data.names import KINDS
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
        "--amount",
        type=int,
        help="; ".join(
            f"{kind}: {unit} (default {usual})" for kind, (usual, unit) in KINDS.items() if unit
        ),
    )


def run(args: argparse.Namespace) -> int:
    """Degrade the file; returns the exit status."""
    if args.output.absolute() == args.annotations.absolute():
        raise OutputError(f"{args.output}: would overwrite the input; give another name.")
    from vmt.data.degrade import check_amount
    from vmt.data.degrade_file import degrade_file

    try:
        check_amount(args.kind, args.amount)
    except ValueError as error:
        raise ConfigError(f"--amount: {error}") from None

    counts = degrade_file(
        args.annotations,
        args.output,
        args.kind,
        args.seed,
        coherent=args.coherent,
        amount=args.amount,
    )
    print(
        f"written: {args.output} ({counts['masks']} masks of {counts['annotations']} annotations; "
        f"{counts['crowd']} crowd regions left alone)"
    )
    return 0
