#!/usr/bin/env python3
r"""Write what the network sees in training: one PNG per batch, a row per clip, a column per frame.

Masks, boxes and class names are the targets as the losses get them; an object keeps its colour
along the row. Frames of a batch are padded grey to one size.

Example:
  python tools/visualize_data.py --config-file configs/quick/seqformer_tiny.yaml \
      --data my.json@JPEGImages --output output/data --batches 4 INPUT.AUGMENTATION lsj
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

if __package__ in (None, ""):  # run as a script from a checkout that is not installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from vmt.config.node import load_config
from vmt.data.build import build_train_loader
from vmt.data.datasets.categories import label_space
from vmt.data.labels import label_space_from_json
from vmt.structures.boxes import cxcywh_to_xyxy
from vmt.structures.labels import LabelSpace
from vmt.utils.console import exit_with, one_line_errors
from vmt.utils.errors import VmtError
from vmt.visualization.colors import track_color

Picture = npt.NDArray[np.uint8]
_GREY = 128
_GAP = 4


def draw_sample(sample: dict[str, Any], space: LabelSpace, size: tuple[int, int]) -> Picture:
    """One clip as a row of frames.

    Args:
        sample: of the train loader.
        space: names of the labels.
        size: (h, w) of a cell in pixels, at least that of the frames.
    """
    targets = sample["targets"]
    height, width = targets.input_size
    scale = np.array([width, height, width, height])
    cells = []
    for t, pixels in enumerate(sample["image"].permute(0, 2, 3, 1).numpy()):
        cell = np.full((*size, 3), _GREY, dtype=np.uint8)
        frame = np.ascontiguousarray(pixels).astype(np.uint8)
        for g in range(len(targets)):
            if targets.valid[g, t]:
                box = cxcywh_to_xyxy(targets.boxes_cxcywh[g, t]).numpy() * scale
                name = space.names[int(targets.labels[g])]
                _draw_object(frame, targets.masks[g, t].numpy(), box, name, track_color(g))
        cell[:height, :width] = frame
        cells.append(cell)
        cells.append(np.full((size[0], _GAP, 3), 255, dtype=np.uint8))
    row = np.concatenate(cells[:-1], axis=1)
    title = np.full((22, row.shape[1], 3), 255, dtype=np.uint8)
    text = f"{sample['dataset'][-40:]}  video {sample['video_id']}  frames {sample['clip_id']}"
    cv2.putText(title, f"{text}  {height}x{width}", (4, 16), 0, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([title, row])


def _draw_object(
    frame: Picture,
    mask: npt.NDArray[np.bool_],
    box: npt.NDArray[np.float64],
    name: str,
    color: tuple[int, int, int],
) -> None:
    frame[mask] = (0.6 * frame[mask] + 0.4 * np.array(color)).astype(np.uint8)
    contours, _ = cv2.findContours(mask.view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(frame, contours, -1, color, 1)
    x1, y1, x2, y2 = (round(float(v)) for v in box)
    cv2.rectangle(frame, (x1, y1), (x2 - 1, y2 - 1), color, 1)
    cv2.putText(frame, name, (x1 + 2, max(y1 - 4, 10)), 0, 0.4, (0, 0, 0), 3, cv2.LINE_AA)
    cv2.putText(frame, name, (x1 + 2, max(y1 - 4, 10)), 0, 0.4, (255, 255, 255), 1, cv2.LINE_AA)


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Draw batches; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", metavar="YAML", help="default: the built-in values")
    parser.add_argument("--data", metavar="SET", help="instead of DATASETS.TRAIN; classes from it")
    parser.add_argument("--output", type=Path, default=Path("output/data"))
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--clips", type=int, default=4, help="per picture")
    parser.add_argument("--start-step", type=int, default=0)
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config overrides")
    args = parser.parse_args(argv)
    chosen = ["DATASETS.TRAIN", f"[{args.data!r}]"] if args.data else []
    batch = ["SOLVER.CLIPS_PER_BATCH", str(args.clips)]
    cfg = load_config(args.config_file, [*args.opts, *chosen, *batch])
    if args.data and "@" in args.data:
        space = label_space_from_json(args.data.rpartition("@")[0])
    else:
        space = label_space(cfg.MODEL.LABEL_SPACE)
    loader = build_train_loader(cfg, space, start_step=args.start_step)
    args.output.mkdir(parents=True, exist_ok=True)
    for step, samples in enumerate(islice(loader, args.batches), start=args.start_step):
        sizes = np.array([sample["targets"].input_size for sample in samples])
        size = (int(sizes[:, 0].max()), int(sizes[:, 1].max()))
        picture = np.concatenate([draw_sample(sample, space, size) for sample in samples])
        path = args.output / f"step_{step:06d}.png"
        if not cv2.imwrite(str(path), picture[..., ::-1]):
            raise VmtError(f"{path}: cannot be written.")
        print(f"written: {path}")
    return 0


if __name__ == "__main__":
    exit_with(main)
