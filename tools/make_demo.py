r"""The whole pipeline on a clip that needs no download: photograph in, tracklets out.

Pans and zooms over a photograph that ships inside scikit-image (or takes ``--video FILE``), runs
``vmt demo`` on it with a small network and says what came out, how fast, and with which weights.

Example:
    python tools/make_demo.py --output demo_output --video my.mp4
"""

from __future__ import annotations

import argparse
import logging
import math
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from vmt.cli.main import main as vmt
from vmt.inference.atomic import make_folder
from vmt.inference.video_io import VideoWriter, open_videos
from vmt.utils.errors import VmtError

REPO = Path(__file__).resolve().parents[1]
CONFIG = REPO / "configs" / "quick" / "vmt_release_tiny.yaml"
SIZE = (360, 640)
FPS = 12.0
SECONDS = 2.0

Frame = npt.NDArray[np.uint8]


def pan_and_zoom(photo: Image.Image, frames: int) -> Iterator[Frame]:
    """A camera that drifts and zooms over a photograph.

    Args:
        photo: of any size; small ones are enlarged.
        frames: how many.

    Yields:
        (360, 640, 3) uint8 RGB.
    """
    height, width = SIZE
    largest = min(photo.width / width, photo.height / height)
    for t in range(frames):
        phase = t / max(frames - 1, 1)
        ease = 0.5 - 0.5 * math.cos(math.pi * phase)
        view = largest * (0.95 - 0.3 * ease)
        w, h = width * view, height * view
        x = (photo.width - w) * (0.5 - 0.45 * math.cos(1.3 * math.pi * phase))
        y = (photo.height - h) * (0.3 - 0.2 * ease)
        box = (x, y, x + w, y + h)
        resized = photo.resize((width, height), Image.Resampling.BICUBIC, box=box)
        yield np.asarray(resized.convert("RGB"))


def make_clip(path: Path, frames: int) -> None:
    """Write the clip to ``path``; needs scikit-image (in the extras ``demo`` and ``dev``)."""
    from skimage import data

    photo = Image.fromarray(data.astronaut())
    with VideoWriter(path, FPS, SIZE) as writer:
        for frame in pan_and_zoom(photo, frames):
            writer.write(frame)


def main(argv: Sequence[str] | None = None) -> int:
    """Make the clip, run the pipeline, say what came out; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("demo_output"))
    parser.add_argument("--video", type=Path, help="your own video in place of the clip")
    parser.add_argument("--config-file", type=Path, default=CONFIG)
    parser.add_argument("--weights", help="weight file; without one the weights are random")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.ERROR)
    started = time.perf_counter()
    try:
        output = make_folder(args.output)
        spec = args.video
        if spec is None:
            spec = output / "clip.mp4"
            make_clip(spec, round(SECONDS * FPS))
            print(f"clip: {spec}, {SIZE[1]}x{SIZE[0]}, a photograph that ships in scikit-image")
        else:
            open_videos(str(spec))
    except (VmtError, ImportError) as error:
        print(f"make_demo: {error}", file=sys.stderr)
        return 2
    command = ["demo", "--config-file", str(args.config_file), "--input", str(spec)]
    command += ["--output", str(output), "--save-frames"]
    if args.weights:
        command += ["--weights", args.weights]
    else:
        # Random weights give scores near 0.03: show what the network sees all the same.
        command += ["--confidence", "0"]
    status = vmt(command)
    if status:
        return status
    print(f"everything together took {time.perf_counter() - started:.1f} s; look at")
    for name in ("overlay.mp4", "tracks.csv", "results.json", "frames"):
        print(f"  {output / name}")
    if not args.weights:
        print(
            "The weights were random: the pipeline is real, the masks mean nothing. "
            "`vmt zoo` lists trained ones; give them with --weights and --config-file."
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
