"""Cut annotation and result files by a frozen list of video ids, or draw such a list.

A split file is a small JSON object with the ids, the seed and the file they were drawn from
(`cocoapi_hq/split.py` documents it). The same seed draws the same videos everywhere.

Example:
  vmt split --draw 1 --seed 0 --from train.json --output mini_val.split.json
  vmt split mini_val.split.json --cut train.json results.json --output mini_val/
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cocoapi_hq import split as splits
from cocoapi_hq.exceptions import ScoringError
from cocoapi_hq.io.json_file import write_json, write_text
from vmt.utils.errors import AnnotationError, OutputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("split", nargs="?", type=Path, help="split file to cut by")
    parser.add_argument("--cut", nargs="+", type=Path, metavar="FILE", help="files to cut")
    parser.add_argument("--draw", type=int, metavar="N", help="draw N videos into a new split")
    parser.add_argument("--from", dest="source", type=Path, help="annotation file to draw from")
    parser.add_argument("--seed", type=int, default=0, help="of the draw (default 0)")
    parser.add_argument("--name", default="", help="name of the new split")
    parser.add_argument("--about", default="", help="one sentence about the new split")
    parser.add_argument(
        "--output", type=Path, required=True, help="split file to write, or folder for cut files"
    )


def run(args: argparse.Namespace) -> int:
    """Draw or cut; returns the exit status."""
    drawing = args.draw is not None
    if drawing and (args.source is None or args.split or args.cut):
        raise AnnotationError("--draw N needs --from FILE, and neither a split file nor --cut.")
    if not drawing and (args.split is None or not args.cut):
        raise AnnotationError("give a split file and --cut FILE, or --draw N --from FILE.")
    try:
        if drawing:
            split = splits.draw(
                args.source, args.draw, seed=args.seed, name=args.name, about=args.about
            )
        else:
            return _cut(args)
    except ScoringError as error:
        raise AnnotationError(str(error)) from None
    try:
        write_text(args.output, split.to_json())
    except ScoringError as error:
        raise OutputError(str(error)) from None
    print(f"written: {args.output} ({len(split.video_ids)} videos)")
    return 0


def _cut(args: argparse.Namespace) -> int:
    split = splits.read(args.split)
    try:
        args.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{args.output}: {error.strerror or error}.") from None
    for path in args.cut:
        target = args.output / path.name
        if target.absolute() == path.absolute():
            raise OutputError(f"{target}: would overwrite the input; give another folder.")
        data, counts = splits.cut(path, split)
        try:
            write_json(target, data)
        except ScoringError as error:
            raise OutputError(str(error)) from None
        kept = ", ".join(f"{count} {name}" for name, count in counts.items())
        print(f"written: {target} ({kept})")
    return 0
