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
import threading
from pathlib import Path

from tqdm import tqdm

from cocoapi_hq.check.files import CheckReport, check_file
from cocoapi_hq.check.images import OpenedImage
from cocoapi_hq.exceptions import ScoringError
from cocoapi_hq.io.json_file import write_json
from vmt.data.frame_names import frame_path, why_missing
from vmt.data.images import check_picture
from vmt.utils.errors import AnnotationError, OutputError, VideoError


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
    try:
        report = _check(args.file, args.images, args.gt)
    except ScoringError as error:
        raise AnnotationError(str(error)) from None
    if args.fix is not None:  # before the text, whose reader may be gone
        try:
            write_json(args.fix, report.mended)
        except ScoringError as error:
            raise OutputError(str(error)) from None
    _print(report, args)
    if args.fix is not None:
        print(f"\nwritten: {args.fix}")
    return 1 if report.defects else 0


def _print(report: CheckReport, args: argparse.Namespace) -> None:
    if not args.quiet:
        for defect in report.defects:
            print(defect)
    for note in report.notes:
        print(note)
    if args.images is None and report.kind == "ground truth":
        report.statistics["images"] = "not opened; give --images"
    width = max(map(len, report.statistics), default=0)
    print(f"\n{args.file.name}: {report.kind}, {len(report.defects)} defects")
    for name, value in report.statistics.items():
        print(f"  {name:<{width}}  {value}")


def _check(file: Path, images: Path | None, gt: Path | None) -> CheckReport:
    if images is None:
        return check_file(file, gt=gt)
    with tqdm(unit=" images", disable=None, leave=False) as bar:
        lock = threading.Lock()

        def open_image(name: str) -> OpenedImage:
            path = frame_path(images, name)
            try:
                if not path.exists() and (why := why_missing(name, images)):
                    raise ValueError(f"no such file; {why}")
                info = check_picture(path)
            except VideoError as error:  # the check names the file itself
                raise ValueError(str(error).removeprefix(f"{path}: ")) from None
            finally:
                with lock:
                    bar.update()
            return OpenedImage(*info.size, info.orientation)

        return check_file(file, images=open_image, gt=gt)
