#!/usr/bin/env python3
r"""Draw where the encoders of two networks look, side by side: SeqFormer and MS-STS, say.

Writes attention.png: a row per frame of the clip, a column per network. Colours show which pixels
the last encoder layer reads through deformable attention, over all levels, from the place of the
cross. Where a network lets frames meet (MS-STS), the title says how much it reads of which frame.
The left column is --config-file, the right one --against; overrides hold for both.
The place is --pixel, or with --data the centre of an object, frame by frame. Weights that are not
given are random: the picture then shows where untrained networks look, and a warning says so.

Example:
  python tools/visualize_attention.py --config-file configs/ytvis_2019/seqformer_R50.yaml \
      --weights weights/seqformer_r50.pth --against configs/ytvis_2019/msts_R50.yaml \
      --against-weights weights/seqformer_r50.pth --video my.mp4 --pixel 140 310 --frames 2
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

if __package__ in (None, ""):  # run as a script: the tool beside it lies in this folder
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools.visualize_refinement import Clip, add_clip_arguments, check_clip_arguments, read_clip
from vmt.config.node import load_config
from vmt.inference.load import load_model
from vmt.inference.video_writer import write_png
from vmt.layers.deformable_encoder import Encoder
from vmt.utils.atomic import make_folder
from vmt.utils.console import exit_with, one_line_errors
from vmt.utils.errors import ConfigError
from vmt.visualization.encoder_attention import (
    EncoderAttention,
    Looked,
    attention_panel,
    heat_at_size,
)

Place = tuple[int, int]
SIZE_DIVISOR = 32


def places_of(args: argparse.Namespace, clip: Clip) -> list[Place]:
    """(y, x) in pixels of every frame, from where to look.

    Raises:
        ConfigError: neither a pixel nor an object, or one that is not there.
    """
    height, width = clip.frames[0].shape[:2]
    if clip.masks is None:
        if args.pixel is None:
            raise ConfigError("give --pixel Y X, or --data JSON@IMAGES: from where to look.")
        y, x = args.pixel
        if not (0 <= y < height and 0 <= x < width):
            raise ConfigError(f"--pixel {y} {x}: frames are {height}x{width} for the network.")
        return [(y, x)] * len(clip.frames)
    if not 0 <= args.tracklet < len(clip.masks):
        raise ConfigError(f"--tracklet {args.tracklet}: the clip has 0 to {len(clip.masks) - 1}.")
    return centres(clip.masks[args.tracklet])


def centres(masks: Tensor) -> list[Place]:
    """(T, H, W) bool -> the pixel of each mask that is nearest to its mean; else the one before.

    Raises:
        ConfigError: the object is in no frame.
    """
    centres: list[Place | None] = []
    for mask in masks:
        pixels = mask.nonzero().float()
        if not len(pixels):
            centres.append(None)
            continue
        nearest = (pixels - pixels.mean(0)).square().sum(1).argmin()
        y, x = pixels[nearest].int().tolist()
        centres.append((y, x))
    seen = [place for place in centres if place is not None]
    if not seen:
        raise ConfigError("the object is in none of these frames; change --start or --tracklet.")
    last, places = seen[0], []
    for place in centres:
        last = place or last
        places.append(last)
    return places


@torch.inference_mode()
def look(model: Any, clip: Clip, places: list[Place]) -> Looked:
    """Run a network over the clip and look from the places."""
    frames = torch.from_numpy(np.stack(clip.frames)).permute(0, 3, 1, 2)
    height, width = padded_size(clip)
    with EncoderAttention(model.encoder) as attention:
        model.run_clip(model.normalise(frames))
    return attention.from_places([((y + 0.5) / height, (x + 0.5) / width) for y, x in places])


def padded_size(clip: Clip) -> tuple[int, int]:
    """(h, w) of the frames with the network's padding."""
    height, width = (-(-side // SIZE_DIVISOR) * SIZE_DIVISOR for side in clip.frames[0].shape[:2])
    return height, width


def column(name: str, looked: Looked, clip: Clip, places: list[Place]) -> npt.NDArray[np.uint8]:
    """The panels of one network, frame under frame."""
    height, width = clip.frames[0].shape[:2]
    panels = []
    for t, frame in enumerate(clip.frames):
        title = f"{name}  frame {t}"
        if looked.frames is not None:
            shares = ", ".join(f"{k}: {share:.0%}" for k, share in enumerate(looked.frames[t]))
            title += f"  reads frames {shares}"
        heat = heat_at_size(looked.heat[t], padded_size(clip), (height, width))
        panels.append(attention_panel(frame, heat, places[t], title))
    return np.concatenate(panels)


def network(config_file: str, weights: str | None, args: argparse.Namespace) -> Any:
    """Load one of the two.

    Raises:
        ConfigError: a config without such an encoder.
    """
    model: Any = load_model(config_file, weights, args.opts, args.device)
    if not isinstance(getattr(model, "encoder", None), Encoder):
        raise ConfigError(f"{config_file}: has no deformable encoder; take a SeqFormer or MS-STS.")
    if not (weights or load_config(config_file, args.opts).MODEL.WEIGHTS):
        print(f"warning: {config_file} has random weights: it shows nothing that was learned")
    return model


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Draw a clip; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_clip_arguments(parser, frames=3)
    parser.add_argument("--against", required=True, metavar="YAML", help="the right column")
    parser.add_argument("--against-weights", help="its weights, likewise")
    parser.add_argument("--tracklet", type=int, default=0, help="which object of --data")
    parser.add_argument(
        "--pixel",
        type=int,
        nargs=2,
        metavar=("Y", "X"),
        help="of the frames as the network sees them",
    )
    parser.add_argument("--output", type=Path, default=Path("output/attention"))
    args = parser.parse_args(argv)
    check_clip_arguments(args)
    cfg = load_config(args.config_file, args.opts)
    clip = read_clip(args, cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)
    places = places_of(args, clip)
    columns = []
    for path, weights in (
        (args.config_file, args.weights),
        (args.against, args.against_weights),
    ):
        looked = look(network(path, weights, args), clip, places)
        columns.append(column(Path(path).stem, looked, clip, places))
    make_folder(args.output)
    write_png(args.output / "attention.png", np.concatenate(columns, axis=1))
    print(f"written: {args.output / 'attention.png'}")
    return 0


if __name__ == "__main__":
    exit_with(main)
