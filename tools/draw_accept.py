#!/usr/bin/env python3
r"""What ``--accept`` and ``--confidence`` of ``vmt refine`` mean, in one picture.

A frame of the demo's clip: its coarse mask, the refined ones at several values of ``--accept``, and
the map of confidence. docs/images/accept.png is made by it.

Example:
    python tools/draw_accept.py --output accept.png --values 0.5 0.65 0.95
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).parent))
from make_demo import FRAMES, SIZE, make_clip

from vmt.data.mask_files.base import FrameSet
from vmt.data.mask_files.open import MaskOptions, open_mask_file
from vmt.inference.mask_refiner import MaskRefiner
from vmt.inference.sources import open_videos
from vmt.inference.video_writer import write_png
from vmt.utils.console import exit_with, one_line_errors

Picture = npt.NDArray[np.uint8]

#: Frames on each side that the refiner hears of.
REACH = 2
#: Rows and columns of the frame that are shown.
PART = (slice(0, 240), slice(256, 496))
COLOUR = (255, 230, 0)


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Refine a frame and draw it; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("accept.png"))
    parser.add_argument("--values", type=float, nargs="+", default=[0.5, 0.65, 0.95])
    args = parser.parse_args(argv)
    frames, masks = window()
    refiner = MaskRefiner.from_pretrained(device="cpu")
    panels = [panel(frames[REACH], masks[REACH], "as given")]
    sure = np.zeros(SIZE, np.uint8)
    for value in args.values:
        found = refiner.refine(frames, masks[None], accept=value)
        panels.append(panel(frames[REACH], found.masks[0, REACH], f"accept {value:g}"))
        sure = found.confidence_map[REACH]
    panels.append(labelled(np.repeat(sure[PART][..., None], 3, axis=2), "confidence"))
    write_png(args.output, np.concatenate(panels, axis=1))
    print(f"written: {args.output}")
    return 0


def window() -> tuple[Picture, npt.NDArray[np.bool_]]:
    """(T, H, W, 3) frames around the middle of the clip, and their masks, (T, H, W)."""
    chosen = range(FRAMES // 2 - REACH, FRAMES // 2 + REACH + 1)
    with tempfile.TemporaryDirectory() as folder:
        video, coarse = make_clip(Path(folder))
        frames = list(next(iter(open_videos(str(video))))())
        clip = FrameSet(str(video), SIZE, None, len(frames))
        given = open_mask_file(coarse, MaskOptions(one_video=True)).videos[0].load(clip)
        masks = np.stack([given.at(t)[0] for t in chosen])
    return np.stack([frames[t] for t in chosen]), masks


def panel(frame: Picture, mask: npt.NDArray[np.bool_], text: str) -> Picture:
    """The shown part of a frame, with the contour of a mask."""
    drawn = frame.copy()
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(drawn, contours, -1, COLOUR, 1, cv2.LINE_AA)
    return labelled(drawn[PART], text)


def labelled(picture: Picture, text: str) -> Picture:
    """With a line of text below, and white on its right."""
    line = np.full((24, picture.shape[1], 3), 255, np.uint8)
    cv2.putText(line, text, (4, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    joined = np.concatenate([picture, line])
    return np.pad(joined, ((0, 0), (0, 4), (0, 0)), constant_values=255)


if __name__ == "__main__":
    exit_with(main)
