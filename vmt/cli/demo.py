r"""Video in, tracklets out.

The input is a video file (mp4, mov, webm, gif, ...), a folder of frames, a quoted glob, a
YouTube-VIS JSON (with --images), the number of a webcam, a URL (rtsp://...), a named pipe, - for
the standard input, or with --follow a file that is still written. The output folder gets
results.json (YouTube-VIS result list), tracks.csv (frame, track, label, score, box, area) and
overlay.mp4; with several videos, results.json holds all of them and each has a folder of its own
for the rest.
Ctrl-C stops and finishes the files with what was done so far.

Example:
    vmt demo --config-file configs/hq_ytvis/vmt_R50_released.yaml \
        --weights weights/checkpoint_r50_final.pth --input my.mp4 --output out --window 10
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from vmt.apps.segment_options import DEFAULT_WINDOW, WHOLE_VIDEO_FRAMES, SegmentOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``vmt demo``."""
    parser.add_argument(
        "--config-file",
        help="YAML of the network, or a name that `vmt configs` lists; default: vmt_small, if its "
        "weights are in the package",
    )
    parser.add_argument(
        "--input", required=True, help="video, folder, glob, YTVIS JSON, camera, URL, pipe or -"
    )
    parser.add_argument("--output", required=True, type=Path, help="folder, created if need be")
    parser.add_argument("--weights", help="weight file; default: MODEL.WEIGHTS of the config")
    parser.add_argument(
        "--refiner",
        metavar="NAME|FILE|none",
        help="weights that sharpen the masks, as --weights of vmt refine; default: mask_refiner, "
        "but none with --config-file",
    )
    parser.add_argument(
        "--confidence", type=float, help="lowest score shown; default: TEST.CONFIDENCE (0.3)"
    )
    parser.add_argument(
        "--window",
        help="frames per window, or all; default: TEST.WINDOW, but where that says all, videos of "
        f"more than {WHOLE_VIDEO_FRAMES} frames go in windows of {DEFAULT_WINDOW}",
    )
    parser.add_argument("--stride", type=int, help="step between windows; default: window - 1")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ...; default: MODEL.DEVICE (auto)")
    parser.add_argument("--images", type=Path, help="root of the frames of a YTVIS JSON")
    parser.add_argument("--max-frames", type=int, help="stop after so many frames of each video")
    parser.add_argument("--follow", action="store_true", help="the file is still being written")
    parser.add_argument(
        "--patience",
        type=float,
        default=10.0,
        metavar="S",
        help="seconds without a frame after which live input is given up (10; 0: never)",
    )
    parser.add_argument("--save-masks", action="store_true", help="PNG label maps in masks/")
    parser.add_argument("--save-frames", action="store_true", help="PNG overlays in frames/")
    parser.add_argument(
        "--overlay", action=argparse.BooleanOptionalAction, default=True, help="write overlay.mp4"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY VALUE", help="config keys: INPUT.MIN_SIZE_TEST 480"
    )


def run(args: argparse.Namespace) -> int:
    """Run ``vmt demo``; returns the exit status."""
    options = SegmentOptions(**vars(args))
    from vmt.apps.segment import segment

    def warn(text: str) -> None:
        print(f"vmt demo: {text}", file=sys.stderr)

    print(segment(options, print, warn))
    return 0
