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

from vmt.data.names import FORMATS
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
    from vmt.apps.annotations import convert

    for line in convert(
        args.source, args.images, args.output, args.kind, sparse=args.sparse, void=args.void
    ):
        print(line)
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
