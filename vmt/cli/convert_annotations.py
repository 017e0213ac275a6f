"""Turn annotations of other formats into YouTube-VIS JSON, which training and scoring read.

Formats (--from; guessed when it is left out):
  coco-video  COCO JSON with video_id per image and track_id (or instance_id) per annotation
  png         folders of PNG label maps, one per video, pixel value = object (DAVIS, YouTube-VOS)
  mots        BDD100K MOTS: Scalabel JSON, a folder of such files, or bitmask PNG folders
  mots-txt    MOTSChallenge / KITTI MOTS: one text file per video

Example:
  vmt convert-annotations masks/ --images frames/ --output train.json
  vmt check-annotations train.json --images frames/
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cocoapi_hq.exceptions import ScoringError
from cocoapi_hq.json_file import is_json_name, read_json
from cocoapi_hq.listing import list_files
from vmt.data.catalog import sniff_format
from vmt.data.convert import FORMATS, open_source, write_ytvis_json
from vmt.utils.errors import AnnotationError, OutputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("source", type=Path, help="file or folder of annotations")
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="the frames")
    parser.add_argument("--output", type=Path, required=True, metavar="JSON")
    parser.add_argument("--from", dest="kind", choices=FORMATS, help="format of the source")
    parser.add_argument(
        "--sparse", action="store_true", help="png: leave out frames that have no label map"
    )


def run(args: argparse.Namespace) -> int:
    """Convert; returns the exit status."""
    if not args.source.exists():
        raise AnnotationError(f"{args.source}: no such file or folder.")
    if not args.images.is_dir():
        raise AnnotationError(f"{args.images}: no such folder; --images is the folder of frames.")
    if args.output.absolute() == args.source.absolute():
        raise OutputError(f"{args.output}: would overwrite the source; give another name.")
    kind = args.kind or _guess(args.source)
    data = open_source(kind, args.source, args.images, sparse=args.sparse)
    counts = write_ytvis_json(data, args.output)
    found = ", ".join(f"{count} {name}" for name, count in counts.items())
    print(f"written: {args.output} ({found}; classes {', '.join(data.categories.values())})")
    print(f"train on it as DATASETS.TRAIN \"['{args.output}@{args.images}']\"")
    return 0


def _guess(path: Path) -> str:
    if path.suffix.lower() == ".txt" or (path.is_dir() and list_files(path, (".txt",))):
        return "mots-txt"
    if path.is_file() and is_json_name(path):
        try:
            content = read_json(path)
        except ScoringError as error:
            raise AnnotationError(str(error)) from None
        images = content.get("images") if isinstance(content, dict) else None
        if isinstance(images, list) and any("video_id" in x for x in images[:1]):
            return "coco-video"
    kind = sniff_format(path)
    if kind not in FORMATS:
        raise AnnotationError(
            f"{path}: is {kind} already; nothing to convert. DATASETS.TRAIN takes it as it is."
        )
    return kind
