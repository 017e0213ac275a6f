#!/usr/bin/env python3
"""Make the README's picture: fit a small network to one clip and draw what it finds.

Two cut-outs (a horse, a star, filled with photographs) move over a photograph; all of
them ship inside scikit-image. SeqFormer with the dense_band refiner starts from random weights and
is fitted to this one clip, so the picture shows the pipeline, not what it can do on your video.

Example:
  python tools/make_picture.py --output docs/images/overlay.png --steps 400
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import skimage.data
import torch

from vmt.engine.load import load_model
from vmt.inference.predictor import PredictorOptions, VideoPredictor
from vmt.structures.boxes import masks_to_boxes, xyxy_to_cxcywh
from vmt.structures.clip import ClipTargets
from vmt.visualization.draw import draw_tracks

REPO = Path(__file__).resolve().parents[1]
CONFIG = REPO / "configs/quick/overfit_vmt_release.yaml"
FRAMES, HEIGHT, WIDTH = 6, 192, 320
NAMES = {"horse": 17, "airplane": 27}  # labels of ytvis_2019, from 0


def star(size: int, points: int = 5) -> np.ndarray:
    """A star as a (size, size) mask of 0 and 255."""
    angle = np.arange(2 * points) * np.pi / points - np.pi / 2
    radius = np.where(np.arange(2 * points) % 2 == 0, size / 2 - 1, size / 5)
    corners = np.stack([np.cos(angle), np.sin(angle)], 1) * radius[:, None] + size / 2
    mask = np.zeros((size, size), np.uint8)
    return cv2.fillPoly(mask, [corners.astype(np.int32)], 255)


def make_clip() -> tuple[np.ndarray, np.ndarray]:
    """Frames (T, H, W, 3) uint8 RGB and exact masks (2, T, H, W) bool."""
    background = cv2.resize(skimage.data.rocket(), (WIDTH + 40, HEIGHT + 20))
    horse = np.where(skimage.data.horse(), 0, 255).astype(np.uint8)
    ys, xs = np.nonzero(horse)
    horse = cv2.resize(horse[ys.min() : ys.max(), xs.min() : xs.max()], (118, 92))
    fur = cv2.resize(skimage.data.chelsea()[60:260, 80:380], (118, 92))
    shape = star(74)
    sky = cv2.resize(skimage.data.coffee(), (74, 74))
    frames = np.zeros((FRAMES, HEIGHT, WIDTH, 3), np.uint8)
    masks = np.zeros((2, FRAMES, HEIGHT, WIDTH), bool)
    for t in range(FRAMES):
        frame = background[2 * t : 2 * t + HEIGHT, 4 * t : 4 * t + WIDTH].copy()
        places = ((84 - 4 * t, 20 + 14 * t), (10 + 6 * t, 222 - 10 * t))
        cut_outs = ((horse, fur), (shape, sky))
        for index, ((y, x), (cut, fill)) in enumerate(zip(places, cut_outs, strict=True)):
            inside = cut > 127
            h, w = cut.shape
            frame[y : y + h, x : x + w][inside] = fill[inside]
            masks[:, t, y : y + h, x : x + w] &= ~inside
            masks[index, t, y : y + h, x : x + w] |= inside
        frames[t] = frame
    return frames, masks


def targets_of(masks: np.ndarray) -> ClipTargets:
    """What the network is to find."""
    tensor = torch.from_numpy(masks)
    boxes = xyxy_to_cxcywh(masks_to_boxes(tensor.flatten(0, 1)).float()).unflatten(0, (2, FRAMES))
    boxes = boxes / torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT])
    labels = torch.tensor(list(NAMES.values()))
    return ClipTargets(labels, boxes, tensor, tensor.any(-1).any(-1), clip_id="picture")


def main() -> int:
    """Fit, predict, draw three frames side by side."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=REPO / "docs/images/overlay.png")
    parser.add_argument("--steps", type=int, default=400)
    args = parser.parse_args()
    torch.manual_seed(0)
    frames, masks = make_clip()
    model = load_model(CONFIG, device="cpu").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 8e-4, total_steps=args.steps)
    clip = torch.from_numpy(frames).permute(0, 3, 1, 2)
    targets = targets_of(masks)
    start = time.perf_counter()
    for step in range(args.steps):
        rows = torch.randperm(FRAMES)[:3].sort().values
        part = ClipTargets(
            targets.labels, targets.boxes_cxcywh[:, rows], targets.masks[:, rows],
            targets.valid[:, rows], clip_id=f"step {step}",
        )  # fmt: skip
        losses = model([{"image": clip[rows], "targets": part}])
        total = torch.stack(list(losses.values())).sum()
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            print(
                f"step {step}: loss {total.item():.3f}, {time.perf_counter() - start:.0f} s",
                flush=True,
            )
    model.eval()
    options = PredictorOptions(window=FRAMES, min_size=HEIGHT)
    drawn = []
    names = list(model.label_space.names)
    for result in VideoPredictor(model, options).stream(list(frames)):
        tracks = [track for track in result.tracks if track.score > 0.3]
        drawn.append(draw_tracks(frames[result.index].copy(), tracks, names))
        for g, name in enumerate(NAMES):
            found = [_iou(track.rle, masks[g, result.index]) for track in tracks]
            print(f"frame {result.index} {name}: best IoU {max(found, default=0):.3f}")
    strip = np.concatenate([drawn[0], drawn[2], drawn[5]], axis=1)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(args.output), strip[:, :, ::-1])
    print(f"wrote {args.output}")
    return 0


def _iou(rle: dict, mask: np.ndarray) -> float:
    from vmt.structures.masks import decode_masks

    found = decode_masks([rle])[0].numpy()
    return float((found & mask).sum() / (found | mask).sum())


if __name__ == "__main__":
    sys.exit(main())
