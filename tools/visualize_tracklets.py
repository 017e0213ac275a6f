#!/usr/bin/env python3
r"""Show a tracklet of RefineVIS before and after temporal refinement, and which frames it read.

Writes tracklet.png, a column per frame, as figures 1 to 3 of the paper (arXiv:2306.04774): the mask
of the network for frames, or that it missed the object; the refined mask, with what it gained in
green and lost in red; and a chart of the weights with which the frame read all frames of the clip
(blue: itself, red: frames in which the object was missed), mean over the heads. Masks before and
after are of one run: ids are those of the association, which knows nothing of the refinement.

Without --track the tracklet is the one with most recovered frames. TEST.REFINEVIS.MODE offline
lets frames read later ones too.

Example:
  python tools/visualize_tracklets.py --config-file configs/quick/refinevis_tiny.yaml \
      --video my.mp4 --frames 2 --output output/tracklets
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
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
from vmt.inference.association.base import FrameLogits
from vmt.inference.load import load_model
from vmt.inference.postprocess import masks_at_video_size
from vmt.inference.predictor import PredictorOptions
from vmt.inference.video_writer import write_png
from vmt.modeling.video_model import FrameOutputs, RefiningModel
from vmt.utils.atomic import make_folder
from vmt.utils.console import exit_with, one_line_errors
from vmt.utils.errors import ConfigError, VideoError
from vmt.visualization.temporal_refinement import (
    TrackletFrame,
    frames_read,
    tracklet_picture,
)

Mask = npt.NDArray[np.bool_]


def tracks_of(
    options: PredictorOptions, model: RefiningModel, frames: Sequence[FrameOutputs]
) -> list[FrameLogits]:
    """The tracks of each frame."""
    association: Any = options.association(model)
    step = association.clip or 1
    for start in range(0, len(frames), step):
        association.add(start, list(frames[start : start + step]))
    records: list[FrameLogits] = association.pop_frames(len(frames))
    return records


def with_any_score(options: PredictorOptions) -> PredictorOptions:
    """The same, but every query is a detection and starts a track."""
    association = options.bisoftmax
    selection = replace(association.selection, score=0.0)
    memory = replace(association.memory, first_score=0.0, birth_score=0.0)
    association = replace(association, selection=selection, memory=memory)
    return replace(options, bisoftmax=association)


def chosen_track(before: Sequence[FrameLogits], after: Sequence[FrameLogits]) -> int:
    """The track with most recovered frames; of equals that with most frames, then the first.

    Raises:
        VideoError: no frame has a track.
    """
    shown = [track for record in after for track in record.track_ids]
    if not shown:
        raise VideoError(
            "there is no track in these frames; choose others with --start, or take weights that "
            "know the objects of the video."
        )
    seen = [track for record in before for track in record.track_ids]
    return min(
        sorted(set(shown)),
        key=lambda track: (seen.count(track) - shown.count(track), -shown.count(track)),
    )


def mask_of(record: FrameLogits, track: int, size: tuple[int, int]) -> Mask | None:
    """(H, W) of a track in a frame, or None where it is not in it."""
    if track not in record.track_ids:
        return None
    row = record.track_ids.index(track)
    (crop,) = masks_at_video_size(
        record.logits[row : row + 1],
        record.mask_stride,
        record.input_size,
        size,
        upsampling=record.upsampling,
    )
    mask: Mask = np.zeros(size, dtype=bool)
    bottom, right = crop.y + crop.bits.shape[0], crop.x + crop.bits.shape[1]
    mask[crop.y : bottom, crop.x : right] = crop.bits
    return mask


def embeddings_of(records: Sequence[FrameLogits], track: int) -> Tensor:
    """(T, C) of a track, zero in frames in which it was missed.

    Raises:
        VideoError: it is in none of the frames.
    """
    rows = [
        (t, record.query[record.track_ids.index(track)])
        for t, record in enumerate(records)
        if track in record.track_ids and record.query is not None
    ]
    if not rows:
        raise VideoError(f"--track {track}: there is no such track in these frames.")
    embeds = rows[0][1].new_zeros(len(records), len(rows[0][1]))
    for t, query in rows:
        embeds[t] = query
    return embeds


@torch.inference_mode()
def tracklet_frames(
    model: Any, clip: Clip, options: PredictorOptions, track: int | None, start: int, step: int
) -> tuple[int, list[TrackletFrame]]:
    """A tracklet before and after refinement, and its number."""
    outputs = model.segment_frames(torch.from_numpy(np.stack(clip.frames)).permute(0, 3, 1, 2))
    plain = replace(options, refinevis=replace(options.refinevis, window=0))
    before, after = (tracks_of(kind, model, outputs) for kind in (plain, options))
    if track is None:
        track = chosen_track(before, after)
    window = model.window if options.refinevis.window < 0 else options.refinevis.window
    online = options.refinevis.mode == "online"
    weights = frames_read(model.tar, embeddings_of(before, track), window, online).cpu().numpy()
    size = (int(clip.frames[0].shape[0]), int(clip.frames[0].shape[1]))
    frames = []
    for t, picture in enumerate(clip.frames):
        ids = after[t].track_ids
        score = after[t].scores[ids.index(track)] if track in ids else 0.0
        masks = [mask_of(records[t], track, size) for records in (before, after)]
        frames.append(TrackletFrame(start + t * step, picture, *masks, score, weights[t]))
    return track, frames


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Draw a tracklet; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_clip_arguments(parser, frames=6)
    parser.add_argument("--track", type=int, help="id; default: most recovered frames")
    parser.add_argument("--output", type=Path, default=Path("output/tracklets"))
    args = parser.parse_args(argv)
    check_clip_arguments(args)
    cfg = load_config(args.config_file, args.opts)
    clip = read_clip(args, cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)
    model: Any = load_model(args.config_file, args.weights, args.opts, args.device)
    if not isinstance(model, RefiningModel) or model.window == 0:
        raise ConfigError(
            f"{args.config_file}: nothing is refined over time; take a RefineVIS with "
            "MODEL.REFINEVIS.WINDOW above 0, like configs/quick/refinevis_tiny.yaml."
        )
    options = PredictorOptions.from_config(cfg)
    if not (args.weights or cfg.MODEL.WEIGHTS):
        print("random weights: masks mean nothing, and whatever is found is a track")
        options = with_any_score(options)
    track, frames = tracklet_frames(model, clip, options, args.track, args.start, args.step)
    make_folder(args.output)
    write_png(args.output / "tracklet.png", tracklet_picture(frames))
    missed, recovered = (
        sum(kind) for kind in zip(*((f.before is None, f.recovered) for f in frames), strict=True)
    )
    print(f"track {track}: missed in {missed} of {len(frames)} frames, recovered in {recovered}")
    print(f"written: {args.output / 'tracklet.png'}")
    return 0


if __name__ == "__main__":
    exit_with(main)
