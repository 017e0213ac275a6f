#!/usr/bin/env python3
r"""Objects found in a video, and coarse masks made sharp, on clips that need no download.

``vmt demo`` finds the two cars of docs/videos/two_cars.mp4, if the weights of vmt_small are in the
package. Then a camera pans and zooms over a photograph that ships inside scikit-image; seventeen
corners, drawn by hand around the cup, are the coarse mask of every frame, and ``vmt refine``
sharpens them with the weights of the package. ``--video`` takes your own in place of the cars, with
``--masks`` in place of the cup; the other part is left out then.

Example:
    python tools/make_demo.py --output demo_output --video my.mp4 --masks my_polygons \
        --first-number 0
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from cocoapi_hq.io import rle
from vmt.apps.refine.job import refine_masks
from vmt.apps.refine.options import RefineOptions
from vmt.apps.segment import segment
from vmt.apps.segment_options import SegmentOptions
from vmt.data.mask_files.base import FrameSet, VideoMasks
from vmt.data.mask_files.open import MaskOptions, open_mask_file
from vmt.inference.package_detector import missing_weights, ships
from vmt.inference.refine_defaults import SHIPPED
from vmt.inference.sources import open_videos
from vmt.inference.video_file import VideoFile
from vmt.inference.video_writer import VideoWriter, write_png
from vmt.structures.masks import Rle
from vmt.utils.atomic import make_folder
from vmt.utils.console import exit_with, one_line_errors
from vmt.utils.errors import ConfigError
from vmt.visualization.draw import OverlayStyle, draw_tracks

#: Two cars that pass each other; docs/videos/README.md has its source and licence.
CARS = Path(__file__).resolve().parents[1] / "docs/videos/two_cars.mp4"
SIZE = (384, 576)
FPS = 12.0
FRAMES = 24
#: Corners (x, y) around cup, saucer and spoon, in pixels of the photograph, 600 x 400.
POLYGON = (
    (172, 64), (203, 26), (245, 10), (330, 10), (390, 45), (430, 62), (430, 105), (472, 150),
    (488, 235), (462, 318), (385, 378), (290, 397), (190, 385), (112, 325), (72, 240), (84, 158),
    (128, 92),
)  # fmt: skip

Frame = npt.NDArray[np.uint8]
View = tuple[float, float, float, float]


@dataclass(frozen=True)
class Track:
    """What ``draw_tracks`` paints."""

    track_id: int
    rle: Rle
    label: int = 0
    score: float = 1.0


def camera(photo: Image.Image) -> Iterator[View]:
    """Rectangles (x1, y1, x2, y2) of a photograph that a drifting, zooming camera sees."""
    height, width = SIZE
    largest = min(photo.width / width, photo.height / height)
    for t in range(FRAMES):
        phase = t / (FRAMES - 1)
        ease = 0.5 - 0.5 * math.cos(math.pi * phase)
        view = largest * (1.0 - 0.08 * ease)
        w, h = width * view, height * view
        x = (photo.width - w) * phase
        y = (photo.height - h) * (0.4 + 0.4 * ease)
        yield x, y, x + w, y + h


def make_clip(folder: Path) -> tuple[Path, Path]:
    """Write the clip and its polygons; needs scikit-image (in the extras ``demo`` and ``dev``)."""
    try:
        from skimage import data
    except ImportError as error:
        raise ConfigError(
            f"{error}; pip install scikit-image, or give --video and --masks."
        ) from None
    photo = Image.fromarray(data.coffee())
    clip, masks = folder / "clip.mp4", make_folder(folder / "coarse")
    height, width = SIZE
    with VideoWriter(clip, FPS, SIZE) as writer:
        for t, (x1, y1, x2, y2) in enumerate(camera(photo)):
            size = (width, height)
            seen = photo.resize(size, Image.Resampling.BICUBIC, box=(x1, y1, x2, y2))
            writer.write(np.asarray(seen.convert("RGB")))
            scale = width / (x2 - x1), height / (y2 - y1)
            points = [
                [min(max((x - x1) * scale[0], 0), width), min(max((y - y1) * scale[1], 0), height)]
                for x, y in POLYGON
            ]
            content = {"shapes": [{"label": "cup", "points": points, "shape_type": "polygon"}]}
            (masks / f"{t:05d}.json").write_text(json.dumps(content))
    return clip, masks


def find(video: Path, output: Path) -> list[Path]:
    """Find the objects of a video with the network of the package; the files worth a look."""
    folder = make_folder(output / "found")
    options = SegmentOptions(input=str(video), output=folder, save_masks=True)
    print(segment(options, print, print))
    frames = list(VideoFile(folder / "overlay.mp4"))
    write_png(folder / "picture.png", frames[len(frames) // 2])
    return [folder / name for name in ("overlay.mp4", "picture.png", "masks", "tracks.csv")]


def sharpen(args: argparse.Namespace, output: Path) -> list[Path]:
    """Sharpen coarse masks, of the user's or the cup's; the files worth a look."""
    video, masks = args.video, args.masks
    if masks is None:
        video, masks = make_clip(output)
        print(f"clip: {video}, a photograph that ships in scikit-image; masks: {masks}")
    options = RefineOptions(
        masks=masks,
        video=video,
        output=output / "refined",
        report=output / "report.html",
        weights=args.weights,
        first_number=args.first_number,
    )
    print(refine_masks(options, print))
    show(video, masks, options.output, output, args.first_number)
    return [output / name for name in ("report.html", "overlay.mp4", "picture.png", "refined")]


def show(video: Path, coarse: Path, refined: Path, output: Path, first: int | None) -> None:
    """overlay.mp4 and picture.png: the coarse masks on the left, the refined ones on the right."""
    frames = list(next(iter(open_videos(str(video))))())
    height, width = frames[0].shape[:2]
    sides: list[VideoMasks] = []
    for path in (coarse, refined):
        clip = FrameSet(str(video), (height, width), None, len(frames))
        options = MaskOptions(one_video=True, first_number=first)
        sides.append(open_mask_file(path, options).videos[0].load(clip))
    style = OverlayStyle(labels=False)
    pictured = _middle_frame_with_a_mask(sides[1])
    with VideoWriter(output / "overlay.mp4", FPS, (height, 2 * width)) as writer:
        for t, frame in enumerate(frames):
            halves = []
            for masks in sides:
                drawn = masks.at(t) if t in set(masks.frames) else np.zeros((0, height, width))
                tracks = [Track(n + 1, rle.encode(mask)) for n, mask in enumerate(drawn)]
                halves.append(draw_tracks(frame, tracks, ["object"], style))
            both = np.concatenate(halves, axis=1)
            writer.write(both)
            if t == pictured:
                write_png(output / "picture.png", both)


def _middle_frame_with_a_mask(masks: VideoMasks) -> int:
    """Index of the frame in the middle of those in which something is seen; 0 without any."""
    seen = [t for t in masks.frames if masks.at(t).any()]
    return seen[len(seen) // 2] if seen else 0


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Find objects, sharpen masks, show both; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("demo_output"))
    parser.add_argument("--video", type=Path, help="your own video in place of the clips")
    parser.add_argument("--masks", type=Path, help="its coarse masks, see vmt refine --help")
    parser.add_argument(
        "--first-number", type=int, metavar="N", help="see vmt refine --help; asked for if needed"
    )
    parser.add_argument(
        "--weights", default=SHIPPED, help="default: those that come with the package"
    )
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.ERROR)
    started = time.perf_counter()
    if args.masks is not None and args.video is None:
        raise ConfigError("--masks need --video: in which video they are.")
    output, made = make_folder(args.output), []
    if args.masks is None and (args.video is not None or ships()):
        made += find(args.video or CARS, output)
    elif args.masks is None:
        print(f"{CARS.name}: no objects are looked for: {missing_weights()}.")
    if args.masks is not None or args.video is None:
        made += sharpen(args, output)
    print(f"everything together took {time.perf_counter() - started:.1f} s; look at")
    for path in made:
        print(f"  {path}")
    return 0


if __name__ == "__main__":
    exit_with(main)
