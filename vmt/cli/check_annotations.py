"""List every defect of an annotation or result file: file, place in the JSON, value and fix.

Looks at the whole file in one run: list lengths, run-length sizes and corrupt counts, ids and
duplicates, boxes and areas against masks, unknown categories and videos. With --images every image
is decoded as in training: missing and cut-off ones and other sizes than the file's are named. Ends
with statistics. Exit status 0: sound, 1: defects were found.

Example:
  vmt check-annotations train.json --images JPEGImages --fix train_fixed.json
  vmt check-annotations results.json --gt val.json
"""

from __future__ import annotations

import argparse
from pathlib import Path

from vmt.utils.errors import AnnotationError, OutputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("file", type=Path, help="annotation file or result file")
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="folder of the frames; every one is decoded"
    )
    parser.add_argument("--gt", type=Path, help="annotation file that results are meant for")
    parser.add_argument("--fix", type=Path, metavar="OUT", help="write a mended copy there")
    parser.add_argument("--quiet", action="store_true", help="counts and statistics only")


def run(args: argparse.Namespace) -> int:
    """Check, print, write; returns the exit status."""
    if args.fix is not None and args.fix.absolute() == args.file.absolute():
        raise OutputError(f"{args.fix}: --fix would overwrite the input; give another name.")
    if args.images is not None and not args.images.is_dir():
        raise AnnotationError(f"{args.images}: no such folder; --images is the folder of frames.")
    from vmt.apps.annotations import check

    report = check(args.file, args.images, args.gt, args.fix)
    for line in [*([] if args.quiet else report.defects), *report.notes]:
        print(line)
    width = max(map(len, report.statistics), default=0)
    print(f"\n{args.file.name}: {report.kind}, {len(report.defects)} defects")
    for name, value in report.statistics.items():
        print(f"  {name:<{width}}  {value}")
    if args.fix is not None:
        print(f"\nwritten: {args.fix}")
    return 1 if report.defects else 0
