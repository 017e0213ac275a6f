#!/usr/bin/env python3
r"""Show what the quadtree refiner does to a clip, and where one of its nodes looks.

Writes refinement.png (a row per frame) and refinement.mp4: coarse mask | nodes by level | refined
mask | difference. With --node also attention.png, the paper's figure 6 (arXiv:2207.14012): the
nodes that the node next to a pixel reads most in the last node attention layer, in all frames.

With --data the coarse mask is the annotation at H/8 and the nodes are the incoherent regions of the
annotation, so that the picture means something before the detector is trained; with --video both
are the network's own.

Example:
  python tools/visualize_refinement.py --config-file configs/hq_ytvis/vmt_R50.yaml \
      --data my.json@JPEGImages --video a --frames 5 --tracklet 0 --node 2 140 310 \
      --output output/refinement
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

if __package__ in (None, ""):  # run as a script from a checkout that is not installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from vmt.config.node import load_config
from vmt.data.datasets.ytvis import load_ytvis_json
from vmt.data.images import read_picture
from vmt.data.mapper import decode_masks
from vmt.inference.load import load_model
from vmt.inference.predictor import resize_frame
from vmt.inference.sources import open_videos
from vmt.inference.video_writer import VideoWriter, write_png
from vmt.modeling.refiners.base import RefinerInput
from vmt.modeling.refiners.quadtree.criterion import QuadtreeOutput
from vmt.modeling.refiners.quadtree.refiner import STRIDES, QuadtreeRefiner
from vmt.modeling.refiners.quadtree.regions import region_levels
from vmt.modeling.refiners.quadtree.write_back import to_next_level
from vmt.ops.resize import aligned_upsample2
from vmt.utils.atomic import make_folder
from vmt.utils.console import exit_with, one_line_errors
from vmt.utils.errors import AnnotationError, ConfigError, VideoError
from vmt.visualization.refinement import (
    LastAttention,
    Place,
    attention_picture,
    nearest_node,
    refinement_row,
    top_attended,
)

Frame = npt.NDArray[np.uint8]
#: Logit of the annotation's inside when it stands for a coarse mask.
SURE = 4.0
FPS = 4.0


@dataclass(frozen=True)
class Clip:
    """Frames (H, W, 3) at network size; annotation (N, T, H, W) bool where there is one."""

    frames: list[Frame]
    masks: Tensor | None


def read_clip(args: argparse.Namespace, short_side: int, long_side: int) -> Clip:
    """The frames that the arguments name."""
    numbers = range(args.start, args.start + args.frames * args.step, args.step)
    if args.data is None:
        source = next(iter(open_videos(args.video)))()
        pictures = [frame for t, frame in enumerate(source) if t in numbers]
        masks = None
    else:
        pictures, masks = _annotated(args, numbers)
    if len(pictures) < len(numbers):
        raise VideoError(
            f"{args.video}: has no frame {numbers[len(pictures)]}; lower --start, --step or "
            "--frames."
        )
    frames = [resize_frame(frame, short_side, long_side) for frame in pictures]
    if masks is not None:
        masks = F.interpolate(masks.float(), frames[0].shape[:2], mode="area") >= 0.5
    return Clip(frames, masks)


def _annotated(args: argparse.Namespace, numbers: range) -> tuple[list[Frame], Tensor]:
    path, _, images = args.data.rpartition("@")
    if not path:
        raise ConfigError(f"--data {args.data}: write my.json@FOLDER_OF_IMAGES.")
    records = load_ytvis_json(Path(path), Path(images), "data")
    names = [records[i].name for i in range(len(records))]
    if args.video not in names:
        raise AnnotationError(f"{path}: no video {args.video!r}; it has {', '.join(names)}.")
    record = records[names.index(args.video)]
    inside = [t for t in numbers if t < len(record)]
    masks = decode_masks(record.tracklets(inside), len(inside), record.size)
    return [read_picture(record.frame_paths[t]) for t in inside], torch.from_numpy(masks)


@torch.inference_mode()
def refine(model: Any, clip: Clip) -> tuple[RefinerInput, QuadtreeOutput, LastAttention]:
    """Run the network; for an annotated clip, only its refiner on the annotation."""
    inputs = model.refiner_input(torch.from_numpy(np.stack(clip.frames)).permute(0, 3, 1, 2))
    with LastAttention(model.refiner) as attention:
        if clip.masks is None:
            return inputs, model.refiner(inputs), attention
        masks = clip.masks.to(inputs.frames.device)
        given = annotation_as_coarse(inputs, masks)
        regions = region_levels(masks, STRIDES, model.refiner.level_sizes(given))
        return given, model.refiner.refine_regions(given, regions), attention


def annotation_as_coarse(inputs: RefinerInput, masks: Tensor) -> RefinerInput:
    """The annotation at H/8 in place of coarse masks, with the query whose mask is most like it."""
    N, T, H, W = masks.shape
    h8, w8 = inputs.coarse_logits.shape[-2:]
    values = F.pad(masks.float(), (0, 8 * w8 - W, 0, 8 * h8 - H)).to(inputs.frames.device)
    share = F.avg_pool2d(values.flatten(0, 1), 8).view(N, T, h8, w8)
    probs = inputs.coarse_logits.sigmoid().flatten(1)
    overlap = share.flatten(1) @ probs.T
    union = share.flatten(1).sum(1)[:, None] + probs.sum(1) - overlap
    best = (overlap / union.clamp(min=1e-6)).argmax(1)
    return replace(
        inputs,
        coarse_logits=(share * 2 - 1) * SURE,
        query=inputs.query[best],
        centres_px=inputs.centres_px[best],
        boxes_cxcywh=inputs.boxes_cxcywh[best],
        box_query=None if inputs.box_query is None else inputs.box_query[best],
    )


def full_size(logits: Tensor, size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """(T, h2, w2) logits at stride 2 -> (T, H, W) bool."""
    masks: npt.NDArray[np.bool_] = (aligned_upsample2(logits) > 0).cpu().numpy()
    return masks[:, : size[0], : size[1]]


def draw(args: argparse.Namespace, model: Any, clip: Clip) -> None:
    """Write the pictures."""
    inputs, out, attention = refine(model, clip)
    count = len(inputs.coarse_logits)
    if not 0 <= args.tracklet < count:
        raise ConfigError(f"--tracklet {args.tracklet}: the clip has tracklets 0 to {count - 1}.")
    size = (int(clip.frames[0].shape[0]), int(clip.frames[0].shape[1]))
    coarse = inputs.coarse_logits[args.tracklet, None]
    for level_size in out.tree.sizes[1:]:
        coarse = to_next_level(coarse, level_size)
    before = full_size(coarse[0], size)
    after = full_size(out.mask_logits[args.tracklet], size)
    rows = [
        refinement_row(frame, before[t], after[t], out.tree, args.tracklet, t)
        for t, frame in enumerate(clip.frames)
    ]
    write_png(args.output / "refinement.png", np.concatenate(rows))
    with VideoWriter(args.output / "refinement.mp4", FPS, rows[0].shape[:2]) as video:
        for row in rows:
            video.write(row)
    shares = ", ".join(f"{share:.1%}" for share in out.tree.share_of_cells())
    print(f"nodes: {len(out.tree)}; share of cells at H/8, H/4, H/2, all: {shares}")
    print(f"written: {args.output / 'refinement.png'}, {args.output / 'refinement.mp4'}")
    if args.node is not None:
        _draw_attention(args, clip, out, attention)


def _draw_attention(
    args: argparse.Namespace, clip: Clip, out: QuadtreeOutput, attention: LastAttention
) -> None:
    node = nearest_node(out.tree, args.tracklet, Place(*args.node))
    if node is None:
        raise ConfigError(
            f"--node {' '.join(map(str, args.node))}: tracklet {args.tracklet} has no nodes in "
            f"frame {args.node[0]} of the clip; choose another frame or --tracklet."
        )
    others, weights = top_attended(attention, node, args.top_k)
    path = args.output / "attention.png"
    write_png(path, attention_picture(clip.frames, out.tree, node, others, weights))
    centres = out.tree.centres_px(STRIDES)
    print("frame stride    y    x  weight")
    for index in [node, *others.tolist()]:
        x, y = centres[index].tolist()
        weight = "(looks)" if index == node else ""
        if weight == "":
            weight = f"{float(weights[others == index][0]):.3%}"
        stride = STRIDES[int(out.tree.level[index])]
        print(f"{int(out.tree.frame[index]):5} {stride:6} {y:4} {x:4}  {weight}")
    print(f"written: {path}")


def add_clip_arguments(parser: argparse.ArgumentParser, frames: int) -> None:
    """Those that name a network and a clip; ``frames`` is the default of --frames."""
    parser.add_argument("--config-file", required=True, metavar="YAML")
    parser.add_argument("--weights", help="default: MODEL.WEIGHTS; without: random weights")
    parser.add_argument("--video", required=True, help="file or folder; with --data a video's name")
    parser.add_argument("--data", metavar="JSON@IMAGES", help="take frames and masks from there")
    parser.add_argument(
        "--frames", type=int, default=frames, help="of the clip (default %(default)s)"
    )
    parser.add_argument("--start", type=int, default=0, help="first frame of the video")
    parser.add_argument("--step", type=int, default=1, help="between frames of the clip")
    parser.add_argument("--device", help="default: MODEL.DEVICE")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config overrides")


def check_clip_arguments(args: argparse.Namespace) -> None:
    """Refuse numbers that no clip has.

    Raises:
        ConfigError: naming the option.
    """
    for name, least in (("frames", 1), ("step", 1), ("start", 0)):
        if getattr(args, name) < least:
            raise ConfigError(f"--{name} must be at least {least}.")


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Draw a clip; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_clip_arguments(parser, frames=5)
    parser.add_argument("--tracklet", type=int, default=0, help="which one is drawn")
    parser.add_argument(
        "--node", type=int, nargs=3, metavar=("FRAME", "Y", "X"), help="pixel of a clip's frame"
    )
    parser.add_argument("--top-k", type=int, default=20, help="nodes shown for --node")
    parser.add_argument("--output", type=Path, default=Path("output/refinement"))
    args = parser.parse_args(argv)
    check_clip_arguments(args)
    if args.top_k < 1:
        raise ConfigError("--top-k must be at least 1.")
    cfg = load_config(args.config_file, args.opts)
    clip = read_clip(args, cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)
    model: Any = load_model(args.config_file, args.weights, args.opts, args.device)
    if not isinstance(getattr(model, "refiner", None), QuadtreeRefiner):
        raise ConfigError(
            f"{args.config_file}: MODEL.REFINER.NAME is {cfg.MODEL.REFINER.NAME!r}, but nodes "
            "are drawn of 'quadtree' only; take a config like configs/hq_ytvis/vmt_R50.yaml."
        )
    if not (args.weights or cfg.MODEL.WEIGHTS):
        print("random weights: refined masks mean nothing")
    make_folder(args.output)
    draw(args, model, clip)
    return 0


if __name__ == "__main__":
    exit_with(main)
