"""Turn annotations of other formats into YouTube-VIS JSON, which training and scoring read.

Formats (--from; guessed when it is left out):
  coco-video  COCO JSON with video_id per image and track_id (or instance_id) per annotation
  labelme     a folder of labelme files, or one per video. Shapes of one label and group_id are one
              object, and so is the k-th of a label in each frame. Frames without a file are no part
              of the video; _background_ is a hole, __ignore__ no object
  cvat        XML, or the zip that holds it: "CVAT for video 1.1" (tracks are objects) or "CVAT for
              images 1.1"; polygons and masks
  via         project or annotations of the VGG Image Annotator 2 (JSON), polygons
  png         folders of label maps, one per video, pixel value = object (DAVIS, YouTube-VOS, KITTI
              MOTS), or of masks, one folder per object: what vmt refine reads
  mots        BDD100K MOTS: Scalabel JSON, a folder of such files, or bitmask PNG folders
  mots-txt    MOTSChallenge / KITTI MOTS: one text file per video

Example:
  vmt convert-annotations label_maps/ --images images/ --output train.json
  vmt check-annotations train.json --images images/
"""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from cocoapi_hq.exceptions import ScoringError
from cocoapi_hq.io.json_file import is_json_name, read_json
from cocoapi_hq.io.listing import list_files, list_folders
from vmt.data.catalog import sniff_format
from vmt.data.convert import FORMATS, open_source, write_ytvis_json
from vmt.data.formats.cvat import SUFFIXES as CVAT_SUFFIXES
from vmt.data.formats.foreign import via_images
from vmt.data.label_maps import LABEL_SUFFIXES
from vmt.data.mask_files.polygons import polygon_files
from vmt.utils.errors import AnnotationError, OutputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("source", type=Path, help="file or folder of annotations")
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="the frames")
    parser.add_argument("--output", type=Path, required=True, metavar="JSON")
    parser.add_argument("--from", dest="kind", choices=FORMATS, help="format of the source")
    parser.add_argument(
        "--sparse", action="store_true", help="png: leave out frames that have no masks"
    )
    parser.add_argument(
        "--void",
        help="png: value of label maps that is no object, or none (default: 255, unless it is the "
        "only value)",
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
    source = open_source(kind, args.source, args.images, sparse=args.sparse, void=args.void)
    written = write_ytvis_json(source.data, args.output)
    for note in (*source.notes, *written.notes):
        print(f"note: {note}")
    found = ", ".join(f"{count} {name}" for name, count in written.counts.items())
    classes = ", ".join(source.data.categories.values())
    print(f"written: {args.output} ({found}; classes {classes})")
    output, images = shlex.quote(str(args.output)), shlex.quote(str(args.images))
    print(f"look at it: vmt check-annotations {output} --images {images}")
    print(
        "train on it: vmt train --config-file configs/quick/seqformer_tiny.yaml "
        f"--train {output} --train-images {images} --output trained"
    )
    print(
        f"or in a config: DATASETS.TRAIN \"['{args.output}@{args.images}']\" "
        f"MODEL.LABEL_SPACE {output}"
    )
    return 0


def _guess(path: Path) -> str:
    if path.suffix.lower() == ".txt":
        return "mots-txt"
    if path.is_dir() and list_files(path, (".txt",)) and not list_folders(path):
        return "png" if list_files(path, LABEL_SUFFIXES) else "mots-txt"
    if path.is_file() and path.suffix.lower() in CVAT_SUFFIXES:
        return "cvat"
    if path.is_dir() and any(polygon_files(folder) for folder in (path, *list_folders(path))):
        return "labelme"
    if path.is_file() and is_json_name(path):
        try:
            content = read_json(path)
        except ScoringError as error:
            raise AnnotationError(str(error)) from None
        images = content.get("images") if isinstance(content, dict) else None
        if isinstance(images, list) and any(
            isinstance(x, dict) and "video_id" in x for x in images
        ):
            return "coco-video"
        if via_images(content) is not None:
            return "via"
    kind = sniff_format(path)
    if kind not in FORMATS:
        raise AnnotationError(
            f"{path}: is {kind} already; nothing to convert. DATASETS.TRAIN takes it as it is."
        )
    return kind
