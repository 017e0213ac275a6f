r"""A page in the browser: find, draw, follow, sharpen and save the objects of a video.

The page is for this machine alone, unless --host says otherwise. Videos are uploaded, or picked
from the folder of --videos. "Find objects" needs a network, --config-file and --weights as for vmt
demo, unless the weights of vmt_small are in the package; polygons and boxes can be drawn without.
Several people may use the page at once: none sees the files of another, and whoever closes it, or
leaves it alone for an hour, has none left on the server. Ctrl-C ends it. Needs gradio: pip install
'vmt-vis[app]'.

Example:
    vmt app --config-file configs/hq_ytvis/vmt_R50_released.yaml \
        --weights weights/checkpoint_r50_final.pth TEST.WINDOW 10
"""

from __future__ import annotations

import argparse
from pathlib import Path

from vmt.apps.app.options import AppOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options; they are the fields of ``AppOptions``."""
    add = parser.add_argument
    add(
        "--config-file",
        help="network that finds objects: YAML, or a name of `vmt configs`; default: vmt_small, "
        "if its weights are in the package",
    )
    add("--weights", help="its weight file; default: MODEL.WEIGHTS of the config")
    add(
        "--refiner",
        default=AppOptions.refiner,
        metavar="NAME|FILE",
        help="weights that sharpen masks, as --weights of vmt refine (default %(default)s)",
    )
    add("--device", help="cpu, cuda, cuda:1, ...; default: MODEL.DEVICE (auto)")
    add(
        "--host",
        default=AppOptions.host,
        help="address to listen on; 0.0.0.0: for everyone in the network (default %(default)s)",
    )
    add("--port", type=int, default=AppOptions.port, help="0: any free (default %(default)s)")
    add("--videos", type=Path, help="folder of videos to pick from")
    add(
        "--max-upload-mb",
        type=int,
        default=AppOptions.max_upload_mb,
        metavar="MB",
        help="largest video (default %(default)s)",
    )
    add(
        "--max-frames",
        type=int,
        default=AppOptions.max_frames,
        metavar="N",
        help="longest video (default %(default)s)",
    )
    add(
        "--keep-minutes",
        type=int,
        default=AppOptions.keep_minutes,
        metavar="M",
        help="after which the files of somebody idle are removed (default %(default)s)",
    )
    add("overrides", nargs="*", metavar="KEY VALUE", help="config keys: INPUT.MIN_SIZE_TEST 240")


def run(args: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C; returns the exit status."""
    options = AppOptions(**vars(args))
    from vmt.apps.app.serve import serve

    print(serve(options, print))
    return 0
