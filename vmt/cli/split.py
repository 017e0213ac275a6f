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

from vmt.utils.errors import AnnotationError


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
    if drawing:
        from cocoapi_hq.io.json_file import write_text
        from cocoapi_hq.split import draw

        split = draw(args.source, args.draw, seed=args.seed, name=args.name, about=args.about)
        write_text(args.output, split.to_json())
        print(f"written: {args.output} ({len(split.video_ids)} videos)")
        return 0
    from vmt.apps.annotations import cut

    for line in cut(args.split, args.cut, args.output):
        print(line)
    return 0
