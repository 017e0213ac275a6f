r"""Sharpen masks: coarse ones of any source in, the same file with sharp ones out.

--masks is one of
  YouTube-VIS annotations (JSON)     frames: --images is the folder that its file_names start from
  COCO annotations (JSON)            each image is a video of one frame; polygons become run lengths
  results (JSON list of entries)     frames: --annotations lists them, or --images has a folder per
                                     video (named by video_name or video_id), or there is one video
  folder of label maps               PNG, BMP, TIFF, NPY or NPZ; pixel value or colour = object; or
                                     one such folder per video, as in DAVIS. 255 is void and stays,
                                     unless it is the only value; 16-bit values from 1000 on are
                                     class * 1000 + instance, as in KITTI MOTS. Where objects
                                     overlap, the one with the higher confidence is on top
  folder of masks per object         VIDEO/OBJECT/00000.png; every pixel but 0 is the object's
  folder of polygon files            JSON per frame, as labelme writes it: {"shapes": [{"label":
                                     "dog", "points": [[x, y], ...]}]}; a few frames are enough, the
                                     others are left alone. Also one single file
Files pair with frames of the same name, or with the same number in it. With --video, one file per
frame goes in order; a few go by number, counted from 0, or from 1 where nothing else fits; where
both would, --first-number says which.

With --propagate a mask in one frame is enough, of a JSON, a folder, or one file of a frame; the
others are made. Where an object is not found it has no mask.

--output gets the same form; what is not refined stays as it is: null frames, crowd regions, empty
masks, other fields. A tracklet's changes are listed in a log beside it.

Videos that are done stay in OUTPUT.part until all are; a run that broke off goes on there.

Example:
  vmt refine --masks train.json --images JPEGImages --output sharp.json --report report.html
  vmt refine --masks my_polygons --video my.mp4 --first-number 0 --propagate --output my_tracklets
"""

from __future__ import annotations

import argparse
from pathlib import Path

from vmt.apps.refine.options import RefineOptions
from vmt.inference.refine_defaults import SHIPPED
from vmt.utils.errors import ConfigError

#: Options of earlier versions, and what to do without them.
REMOVED = {
    "window": "every frame hears of those around it anyway. Leave it out; for networks whose "
    "attention was trained on clips, vmt.MaskRefiner.refine has it.",
    "steady": "what neighbouring frames say of a mask is heard anyway. Leave it out.",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options; they are the fields of ``RefineOptions``."""
    add = parser.add_argument
    add("--masks", type=Path, required=True, help="file or folder of masks")
    frames = parser.add_mutually_exclusive_group(required=True)
    frames.add_argument("--images", type=Path, help="folder of frames, see above")
    frames.add_argument("--video", type=Path, help="video file, for masks of one video")
    add("--output", type=Path, required=True, help="file or folder to write")
    add(
        "--accept",
        type=float,
        default=RefineOptions.accept,
        help="confidence from which a pixel takes its new label, [0.5, 1) (default %(default)s)",
    )
    for name in REMOVED:
        add(f"--{name}", help=argparse.SUPPRESS)
    add(
        "--propagate",
        action="store_true",
        help="give every object a mask in all frames of its video, forwards and backwards from "
        "those that it has, see docs/howto/propagate.md",
    )
    add("--report", type=Path, help="HTML page with before and after")
    add("--log", type=Path, help="change log; default: OUTPUT.changes.json")
    add(
        "--confidence",
        type=Path,
        metavar="DIR",
        help="folder for a grey PNG per frame that says where to look: from 128 (a toss-up) to 255 "
        "(sure, or not looked at); one folder per video where there are several",
    )
    add(
        "--weights",
        default=SHIPPED,
        metavar="NAME|FILE",
        help="a file of vmt train; default: those of the package, %(default)s",
    )
    add("--device", default="auto", help="cpu, cuda, cuda:1, ... (default auto)")
    add("--annotations", type=Path, help="JSON that lists the videos or images of a result file")
    add(
        "--mask-key",
        default=RefineOptions.mask_key,
        help="list of masks to refine (default %(default)s)",
    )
    add("--min-score", type=float, default=0.0, help="leave results below it alone (default 0)")
    add(
        "--void",
        help="value of label maps that is never touched, or none (default: 255, see above)",
    )
    add(
        "--first-number",
        type=int,
        metavar="N",
        help="number that the first frame of --video has in the names of the mask files; asked for "
        "where it may be 0 or 1",
    )
    add(
        "--skip-bad",
        action="store_true",
        help="write the output even if videos could not be refined; their masks stay as they are",
    )


def run(args: argparse.Namespace) -> int:
    """Refine the file; returns the exit status."""
    values = vars(args)
    for name, why in REMOVED.items():
        if values.pop(name) is not None:
            raise ConfigError(f"--{name} was removed: {why}")
    options = RefineOptions(**values)
    from vmt.apps.refine.job import refine_masks

    print(refine_masks(options, say=print))
    return 0
