#!/usr/bin/env python3
r"""Do refiners learn to sharpen masks, and does grouping frames help? A study for one CPU thread.

Four rows: the coarse mask as it comes, `dense_band`, `quadtree` without and with quadtree sequence
grouping; three more are `quadtree` with attention within squares, and with attention that falls
with distance, without and with grouping. All refiners have the same small widths and sit on the
same small network, trained with them from random weights: two maps at strides 2 and 4, one at
stride 8, and a query per tracklet pooled from the stride-8 map under the coarse mask. The coarse
mask is the annotation, shifted by up to 2 pixels (--shift: anew in every frame, or once per
tracklet) and averaged over 8 x 8 pixels. Offsets are in units of 64 pixels and gradients
reach the small network's maps, for all refiners alike, and tokens of the quadtree are made of 3 x 3
cells: none of that is so by default. All see the same clips in the same order, for the same number
of steps, with the same optimiser.

Clips are composites: combs, hairs, holes and outlines of photos move over pictures; half of the
photos are kept for scoring. With --real-train every third clip is cut out of real ones. Scored on
held-out composites and, where they are given, on other real clips: tube IoU of masks and of
boundary regions (2% of the diagonal). Real clips also give the share of cells that trained
detectors make nodes, at the study's size and at their own; smaller frames are boundary for a
greater part.

Steps are stored as they are done: called again, the study goes on where it was stopped.

Example:
  python benchmarks/study_refinement.py --steps 600 --seeds 0 1 2 --images ../shared/data/images \
      --clips ../shared/data/clips --real-train ../shared/data/davis_train \
      --output output/study_refinement
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from common import benchmark_parser, machine, parse, require_data, run, write_json
from torch import Tensor, nn

from vmt.config.node import load_config
from vmt.data.composites import CompositeOptions, composite_clip
from vmt.data.datasets.coco import load_coco_json
from vmt.data.datasets.ytvis import load_ytvis_json
from vmt.data.images import read_picture
from vmt.data.mapper import decode_masks
from vmt.data.records import VideoRecord
from vmt.modeling.criteria.matcher import Match
from vmt.modeling.refiners.base import Refiner, RefinerInput, RefinerOutput
from vmt.modeling.refiners.dense_band import DenseBand
from vmt.modeling.refiners.quadtree.criterion import QuadtreeOutput
from vmt.modeling.refiners.quadtree.options import QuadtreeOptions
from vmt.modeling.refiners.quadtree.refiner import QuadtreeRefiner
from vmt.modeling.refiners.quadtree.write_back import to_next_level
from vmt.ops.resize import aligned_upsample2
from vmt.structures.boxes import masks_to_boxes, xyxy_to_cxcywh
from vmt.structures.clip import ClipTargets
from vmt.utils.atomic import AtomicFile
from vmt.visualization.refinement import LastAttention

#: Widths of the network, of the refiner, of its feed-forward layers; its layers and heads.
DIM, EMBED, FFN, LAYERS, HEADS = 32, 16, 64, 2, 2
SIZE = (96, 128)
FRAMES = 5
NUM_OBJECTS = 2
#: Images read at most, and the least share of one that a thing covers to lend its outline.
MAX_PHOTOS = 200
MIN_OUTLINE = 0.02
#: Logit of a cell that lies wholly inside the object.
SURE = 4.0
SHIFT_PX = 2
#: Pixels that count as 1 in offsets to the instance's centre, for all refiners: in raw pixels, as
#: released, offsets drown the features in dynamic layers that have yet to learn.
OFFSET_UNIT_PX = 64.0
#: Nodes per tracklet, level and frame in training; small frames need fewer than the default.
TRAIN_FRAME_POINTS = 150
#: Side of the square of cells that a node's token is made of.
CONTEXT = 3
#: Side, in stride-8 cells, of the squares within which `quadtree_window` attends.
WINDOW = 4
BATCH = 1
LEARNING_RATE = 1e-3
#: Seeds of held-out clips start here; those of training count from 0.
HELD_OUT = 10**6
#: Held-out clips on which the use of other frames is looked at.
PROBED = 15
#: Pixels that attention of the first head reaches at the start in rows of this name.
REACH_PX = 4.0
ROWS = (
    "coarse",
    "dense_band",
    "quadtree_no_qsg",
    "quadtree",
    "quadtree_window",
    "quadtree_near_no_qsg",
    "quadtree_near",
)
SCORES = ("mask", "boundary")
DRY_RUN = {"steps": 1, "seeds": [0], "held_out": 1, "rows": ["coarse", "quadtree_window"]}
Shift = Literal["frame", "tracklet"]


@dataclass(frozen=True)
class Sample:
    """Frames (T, 3, H, W) in [0, 255] and masks (N, T, H, W) bool."""

    frames: Tensor
    masks: Tensor


@dataclass(frozen=True)
class Material:
    """What clips are made of.

    Args:
        photos: (h, w, 3) uint8, for composites.
        outlines: (h, w) bool, of things in them.
        videos: with accurate masks, to cut clips out of.
    """

    photos: list[npt.NDArray[np.uint8]]
    outlines: list[npt.NDArray[np.bool_]]
    videos: Sequence[VideoRecord] = ()


def material_of(folder: Path | None, real: Path | None) -> tuple[Material, Material]:
    """For training and for held-out clips: every other image each; videos for training alone."""
    videos: Sequence[VideoRecord] = ()
    if real is not None:
        videos = load_ytvis_json(real / "annotations.json", real / "JPEGImages", "real")
    halves = Material([], [], videos), Material([], [])
    if folder is None:
        return halves
    records = load_coco_json(folder / "instances.json", folder / "JPEGImages", "images")
    for index in range(min(len(records), MAX_PHOTOS)):
        record = records[index]
        half = halves[index % 2]
        half.photos.append(read_picture(record.frame_paths[0]))
        masks = decode_masks(record.tracklets([0]), 1, record.size)[:, 0]
        half.outlines.extend(mask for mask in masks if mask.mean() > MIN_OUTLINE)
    return halves


def training_clip(seed: int, material: Material) -> Sample:
    """A composite; every third clip is cut out of a video, where there are any."""
    if not material.videos or seed % 3:
        return synthetic(seed, material)
    rng = np.random.default_rng(seed)
    while True:
        found = _cut_out(rng, material.videos[int(rng.integers(len(material.videos)))])
        if found is not None:
            return found


def _cut_out(rng: np.random.Generator, record: VideoRecord) -> Sample | None:
    """A window of a video around an object, mirrored or not; None where nothing is left of it."""
    first = int(rng.integers(len(record) - FRAMES + 1))
    rows = list(range(first, first + FRAMES))
    masks = decode_masks(record.tracklets(rows), FRAMES, record.size)
    tube = masks[int(rng.integers(len(masks)))]
    if not tube.any():
        return None
    seen = np.argwhere(tube.any(0))
    top, left = seen.min(0)
    box = seen.max(0) + 1 - (top, left)
    # As much of the frame as shows the object in some context, in the shape of the clips.
    scale = max(box[0] / SIZE[0], box[1] / SIZE[1]) * rng.uniform(1.1, 2.5)
    scale = min(scale, record.size[0] / SIZE[0], record.size[1] / SIZE[1])
    sides = np.maximum((np.array(SIZE) * scale).astype(int), 1)
    corner = np.array([top, left]) + (box * rng.uniform(0.3, 0.7, 2) - sides / 2).astype(int)
    y, x = np.clip(corner, 0, np.array(record.size) - sides)
    part = (slice(y, y + sides[0]), slice(x, x + sides[1]))
    flip = slice(None, None, -1 if rng.random() < 0.5 else 1)
    H, W = SIZE
    pictures = [
        cv2.resize(read_picture(record.frame_paths[t])[part], (W, H), interpolation=cv2.INTER_AREA)
        for t in rows
    ]
    cut = torch.from_numpy(np.ascontiguousarray(masks[(..., *part)][..., flip])).float()
    small = F.interpolate(cut, (H, W), mode="area") >= 0.5
    shown = small[small.flatten(1).any(1)]
    if not len(shown):
        return None
    frames = np.ascontiguousarray(np.stack(pictures)[:, :, flip])
    return Sample(torch.from_numpy(frames).permute(0, 3, 1, 2).float(), shown)


def synthetic(seed: int, material: Material) -> Sample:
    """A clip of objects with fine structure pasted over pictures; masks are exact."""
    rng = np.random.default_rng(seed)
    options = CompositeOptions(num_frames=FRAMES, size=SIZE, num_objects=NUM_OBJECTS, corrupt=False)
    while True:
        clip = composite_clip(rng, options, material.photos, material.outlines)
        seen = clip.masks[clip.masks.any((1, 2, 3))]
        if len(seen):
            frames = torch.from_numpy(clip.frames).permute(0, 3, 1, 2).float()
            return Sample(frames, torch.from_numpy(seen))


def disturbed(sample: Sample, seed: int, noise: float) -> Sample:
    """The middle frame again and again, each time with other noise: what one misses, others have.

    Args:
        sample: a clip.
        seed: of the noise.
        noise: its standard deviation, in grey levels; 0: the clip as it is.
    """
    middle = len(sample.frames) // 2
    masks = sample.masks[:, middle : middle + 1].expand_as(sample.masks)
    shown = masks.flatten(1).any(1)
    if not noise or not shown.any():
        return sample
    generator = torch.Generator().manual_seed(seed)
    grain = noise * torch.randn(sample.frames.shape, generator=generator)
    return Sample(sample.frames[middle : middle + 1] + grain, masks[shown])


def real_clips(folder: Path, size: tuple[int, int] | None = SIZE) -> list[Sample]:
    """The first frames of every clip of a folder in YouTube-VIS layout; None: in their size."""
    samples = []
    records = load_ytvis_json(folder / "annotations.json", folder / "JPEGImages", "clips")
    for index in range(len(records)):
        record = records[index]
        H, W = size or record.size
        rows = list(range(min(FRAMES, len(record))))
        pictures = [
            cv2.resize(read_picture(record.frame_paths[t]), (W, H), interpolation=cv2.INTER_AREA)
            for t in rows
        ]
        masks = torch.from_numpy(decode_masks(record.tracklets(rows), len(rows), record.size))
        small = F.interpolate(masks.float(), (H, W), mode="area") >= 0.5
        frames = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float()
        samples.append(Sample(frames, small[small.flatten(1).any(1)]))
    return samples


def coarse_logits(masks: Tensor, seed: int, shift: Shift) -> Tensor:
    """(N, T, H, W) bool -> (N, T, h8, w8): shifted, averaged."""
    generator = torch.Generator().manual_seed(seed)
    shifts = torch.randint(-SHIFT_PX, SHIFT_PX + 1, (*masks.shape[:2], 2), generator=generator)
    if shift == "tracklet":
        shifts = shifts[:, :1].expand_as(shifts)
    H, W = masks.shape[-2:]
    room = F.pad(masks.float(), (SHIFT_PX,) * 4)
    moved = torch.zeros_like(masks, dtype=torch.float32)
    for n, tube_shifts in enumerate(shifts.tolist()):
        for t, (dy, dx) in enumerate(tube_shifts):
            y, x = SHIFT_PX - dy, SHIFT_PX - dx
            moved[n, t] = room[n, t, y : y + H, x : x + W]
    return (2 * F.avg_pool2d(moved, 8, ceil_mode=True) - 1) * SURE


class SmallNetwork(nn.Module):
    """What a base detector gives a refiner, from pixels and coarse masks.

    Args:
        refiner: what is studied.
        shift: of its coarse masks.
    """

    def __init__(self, refiner: Refiner, shift: Shift) -> None:
        super().__init__()
        self.shift = shift
        self.stride2 = nn.Conv2d(3, EMBED, 3, 2, 1)
        self.stride4 = nn.Conv2d(EMBED, DIM, 3, 2, 1)
        self.stride8 = nn.Conv2d(DIM, DIM, 3, 2, 1)
        self.fused = nn.Conv2d(DIM, DIM, 3, 1, 1)
        # Queries of a decoder leave a norm; without it dynamic weights start near zero.
        self.query = nn.Sequential(nn.Linear(DIM, DIM), nn.LayerNorm(DIM))
        self.refiner = refiner

    def inputs(self, sample: Sample, seed: int) -> RefinerInput:
        """The refiner's view of a clip."""
        frames = (sample.frames - 120) / 60
        stride2 = self.stride2(frames)
        stride4 = F.relu(self.stride4(F.relu(stride2)))
        fused = F.relu(self.fused(F.relu(self.stride8(stride4))))
        coarse = coarse_logits(sample.masks, seed, self.shift)
        inside = coarse.sigmoid()
        pooled = torch.einsum("nthw,tchw->nc", inside, fused)
        area = inside.sum((1, 2, 3)).clamp(min=1e-6)
        H, W = sample.masks.shape[-2:]
        found = to_next_level(to_next_level(to_next_level(coarse, (H, W)), (H, W)), (H, W))
        boxes = xyxy_to_cxcywh(masks_to_boxes(found > 0) / torch.tensor([W, H, W, H]))
        return RefinerInput(
            frames=frames,
            stride4=stride4,
            stride2=stride2,
            fused=fused,
            coarse_logits=coarse,
            query=self.query(pooled / area[:, None]),
            centres_px=boxes[..., :2] * torch.tensor([W, H]),
            boxes_cxcywh=boxes,
            frame_size=(H, W),
            masks_gt=sample.masks if self.training else None,
        )

    def forward(self, sample: Sample, seed: int) -> RefinerOutput:
        """Refine a clip."""
        out: RefinerOutput = self.refiner(self.inputs(sample, seed))
        return out

    def masks(self, sample: Sample, seed: int) -> Tensor:
        """Refined logits, (N, T, h, w) at stride 2."""
        return self(sample, seed).mask_logits  # type: ignore[no-any-return]


def network_of(row: str, seed: int, shift: Shift) -> SmallNetwork:
    """A fresh network; all rows of a seed start from the same base."""
    widths: dict[str, Any] = {"embed_dim": EMBED, "num_heads": HEADS}
    widths |= {"num_layers": LAYERS, "ffn_dim": FFN, "dropout": 0.0}
    widths |= {"offset_unit_px": OFFSET_UNIT_PX, "train_maps": True}
    torch.manual_seed(seed)
    if row == "dense_band":
        return SmallNetwork(DenseBand(DIM, True, DIM, **widths), shift)
    widths |= {"train_frame_points": TRAIN_FRAME_POINTS, "context": CONTEXT}
    if row == "quadtree_window":
        widths |= {"window": WINDOW}
    if "near" in row:
        widths |= {"reach_px": REACH_PX}
    options = QuadtreeOptions(grouped=not row.endswith("no_qsg"), **widths)
    return SmallNetwork(QuadtreeRefiner(options, DIM, True, DIM), shift)


def targets_of(sample: Sample) -> ClipTargets:
    """The annotation as the losses want it."""
    H, W = sample.masks.shape[-2:]
    boxes = xyxy_to_cxcywh(masks_to_boxes(sample.masks) / torch.tensor([W, H, W, H]))
    return ClipTargets(
        labels=torch.zeros(len(boxes), dtype=torch.int64),
        boxes_cxcywh=boxes.clamp(min=1e-6),
        masks=sample.masks,
        valid=sample.masks.flatten(2).any(2),
    )


def train(
    row: str,
    seed: int,
    steps: int,
    folder: Path,
    material: Material,
    shift: Shift,
    noise: float = 0.0,
    start: Path | None = None,
) -> SmallNetwork:
    """Train one row, from its checkpoint where there is one; see ``main`` for the rest."""
    network = network_of(row, seed, shift).train()
    optimiser = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE)
    criterion = type(network.refiner).criterion(load_config(None, []))
    path, first = folder / f"{row}_{seed}.pt", 0
    if start is not None:
        state = torch.load(start / path.name, weights_only=True)
        network.load_state_dict(state["network"])
    if path.is_file():
        state = torch.load(path, weights_only=True)
        network.load_state_dict(state["network"])
        optimiser.load_state_dict(state["optimiser"])
        first = state["step"]
    for step in range(first, steps):
        torch.manual_seed(1000 * seed + step)
        optimiser.param_groups[0]["lr"] = LEARNING_RATE * (0.1 if step >= 0.8 * steps else 1.0)
        for clip in range(BATCH):
            number = (seed * steps + step) * BATCH + clip
            sample = disturbed(training_clip(number, material), number, noise)
            pairs = torch.arange(len(sample.masks))
            losses = criterion.measure(
                [network(sample, number)],
                [targets_of(sample)],
                [Match(pairs, pairs)],
                len(pairs) * BATCH,
            )
            total = sum(criterion.weight(name) * loss for name, loss in losses.items())
            assert isinstance(total, Tensor), "there are losses"
            total.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        if (step + 1) % 50 == 0 or step + 1 == steps:
            state = {"network": network.state_dict(), "optimiser": optimiser.state_dict()}
            with AtomicFile(path) as file:
                torch.save(state | {"step": step + 1}, file)
            print(f"{row} seed {seed} step {step + 1}: loss {total.item():.3f}", flush=True)
    return network.eval()


def boundary(masks: Tensor) -> Tensor:
    """(..., H, W) bool -> pixels of the mask within 2% of the diagonal of its contour."""
    H, W = masks.shape[-2:]
    reach = max(1, round(0.02 * (H**2 + W**2) ** 0.5))
    outside = F.pad(1 - masks.float().reshape(-1, 1, H, W), (1, 1, 1, 1), value=1.0)
    for _ in range(reach):
        outside = F.max_pool2d(outside, 3, 1, padding=1)
    return masks & (outside[..., 1:-1, 1:-1] > 0).reshape(masks.shape)


def tube_iou(found: Tensor, truth: Tensor) -> float:
    """Mean over tracklets of intersection over union, both summed over frames, in per cent."""
    overlap = (found & truth).flatten(1).sum(1)
    union = (found | truth).flatten(1).sum(1)
    return 100 * float((overlap / union.clamp(min=1)).mean())


@torch.inference_mode()
def score(predict: Callable[[Sample, int], Tensor], samples: list[Sample]) -> dict[str, float]:
    """Mean tube IoUs; ``predict`` gives logits (N, T, h, w) at stride 2."""
    values: dict[str, list[float]] = {name: [] for name in SCORES}
    for index, sample in enumerate(samples):
        H, W = sample.masks.shape[-2:]
        logits = aligned_upsample2(predict(sample, HELD_OUT + index))[..., :H, :W]
        found = logits > 0
        values["mask"].append(tube_iou(found, sample.masks))
        values["boundary"].append(tube_iou(boundary(found), boundary(sample.masks)))
    return {name: statistics.mean(value) for name, value in values.items()}


def propagated(sample: Sample, seed: int, shift: Shift) -> Tensor:
    """The coarse mask at stride 2, as the quadtree leaves cells that are no nodes."""
    logits = coarse_logits(sample.masks, seed, shift)
    for stride in (4, 2):
        H, W = sample.masks.shape[-2:]
        logits = to_next_level(logits, (-(-H // stride), -(-W // stride)))
    return logits


@torch.inference_mode()
def use_of_frames(network: SmallNetwork, samples: list[Sample]) -> dict[str, float]:
    """Whether grouping is used, whatever was trained.

    Returns:
        Boundary scores with and without it; share of the last layer's attention that nodes give to
        other frames, and share of the nodes there.
    """
    refiner = network.refiner
    assert isinstance(refiner, QuadtreeRefiner), "other refiners have no groups"
    trained, found = refiner.options, {}
    for name, grouped in (("alone", False), ("together", True)):
        refiner.options = replace(trained, grouped=grouped)
        found[f"boundary_{name}"] = score(network.masks, samples)["boundary"]
    attention, nodes = [], []
    for index, sample in enumerate(samples[:5]):
        with LastAttention(refiner) as last:
            tree = network(sample, HELD_OUT + index).tree  # type: ignore[attr-defined]
        for node in range(0, len(tree), max(1, len(tree) // 20)):
            read, weights = last.weights(node)
            other = tree.frame[read] != tree.frame[node]
            attention.append(float(weights[other].sum()))
            nodes.append(float(other.float().mean()))
    refiner.options = trained
    means = {"attention": statistics.mean(attention), "nodes": statistics.mean(nodes)}
    return found | {f"{name}_of_other_frames": value for name, value in means.items()}


@torch.inference_mode()
def if_frames_were_averaged(network: SmallNetwork, samples: list[Sample]) -> float:
    """Boundary score if the mean of all frames and coarse masks were told: still clips only."""

    def predict(sample: Sample, seed: int) -> Tensor:
        mean = sample.frames.mean(0, keepdim=True).expand_as(sample.frames)
        inputs = network.inputs(Sample(mean.contiguous(), sample.masks), seed)
        coarse = inputs.coarse_logits.mean(1, keepdim=True).expand_as(inputs.coarse_logits)
        refined: Tensor = network.refiner(replace(inputs, coarse_logits=coarse)).mask_logits
        return refined

    return score(predict, samples)["boundary"]


@torch.inference_mode()
def shares(network: SmallNetwork, samples: list[Sample]) -> list[float]:
    """Cells that the trained detector makes nodes: per level and of all, mean in per cent."""
    assert isinstance(network.refiner, QuadtreeRefiner), "other refiners have no nodes"
    options = network.refiner.options
    network.refiner.options = replace(options, window=WINDOW)  # nodes do not depend on it
    found = [network(sample, HELD_OUT + i) for i, sample in enumerate(samples)]
    network.refiner.options = options
    per_clip = [out.tree.share_of_cells() for out in found if isinstance(out, QuadtreeOutput)]
    return [100 * statistics.mean(level) for level in zip(*per_clip, strict=True)]


def share_table(results: dict[str, Any]) -> str:
    """Mean and spread over seeds of the shares of nodes, as Markdown."""
    lines = ["| | frames | H/8 | H/4 | H/2 | all |", "|---|---|---|---|---|---|"]
    for row in ROWS:
        runs = [run["shares"] for run in results[row].values() if "shares" in run]
        for size in runs[0] if runs else ():
            cells = [summary(list(level)) for level in zip(*(r[size] for r in runs), strict=True)]
            lines.append(f"| {row} | {size} | {' | '.join(f'{cell}%' for cell in cells)} |")
    return "\n".join(lines) + "\n"


def missing(scores: dict[str, Any], row: str, sets: dict[str, list[Sample]]) -> set[str]:
    """What has not been measured of a row yet."""
    wanted = set(sets)
    if row.startswith("quadtree"):
        wanted |= {"frames"} | ({"shares"} if "real" in sets else set())
    return wanted - set(scores)


def looks_inside(
    network: SmallNetwork,
    sets: dict[str, list[Sample]],
    full_size: list[Sample],
    still: bool,
) -> dict[str, Any]:
    """What can be said of a quadtree alone: its use of frames, and its share of cells."""
    found: dict[str, Any] = {"frames": use_of_frames(network, sets["held-out"][:PROBED])}
    if still:
        found["frames"]["boundary_if_averaged"] = if_frames_were_averaged(network, sets["held-out"])
    if full_size:
        found["shares"] = {
            "{} x {}".format(*clips[0].masks.shape[-2:]): shares(network, clips)
            for clips in (sets["real"], full_size)
        }
    return found


def summary(values: list[float]) -> str:
    """Mean and spread."""
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.1f} ± {spread:.1f}"


def table(results: dict[str, Any], sets: list[str]) -> str:
    """Mean and spread over seeds as Markdown."""
    heads = [f"{name}: {score}" for name in sets for score in SCORES]
    lines = [f"| | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for row in ROWS:
        runs = results[row].values()
        if not runs:
            continue
        cells = [summary([run[name][key] for run in runs]) for name in sets for key in SCORES]
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def read_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; folders that it names are there."""
    parser = benchmark_parser(__doc__, None)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--held-out", type=int, default=40, help="synthetic clips scored")
    parser.add_argument("--images", type=Path, help="instances.json, JPEGImages/: photos to paste")
    parser.add_argument("--clips", type=Path, help="annotations.json, JPEGImages/: scored too")
    parser.add_argument("--real-train", type=Path, help="annotations.json, JPEGImages/: trained on")
    parser.add_argument(
        "--shift", choices=("frame", "tracklet"), default="frame",
        help="the coarse mask's shift: anew in every frame (default), or once per tracklet",
    )  # fmt: skip
    parser.add_argument(
        "--noise", type=float, default=0.0,
        help="standard deviation in grey levels: clips then show one picture in every frame, with "
        "other noise in each, so that frames can tell each other something (default 0: as it is)",
    )  # fmt: skip
    parser.add_argument("--start", type=Path, help="folder of a study: go on from its weights")
    parser.add_argument("--rows", choices=ROWS, nargs="+", default=list(ROWS))
    args = parse(parser, argv, DRY_RUN)
    for option in ("images", "clips", "real_train"):
        if getattr(args, option):
            name = "instances.json" if option == "images" else "annotations.json"
            require_data(getattr(args, option), f"--{option.replace('_', '-')}", name)
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Train, score, write ``study.json`` and ``table.md``."""
    args = read_arguments(argv)
    torch.set_num_threads(1)
    name = f"steps_{args.steps}_{args.shift}" + (f"_noise_{args.noise:g}" if args.noise else "")
    folder = args.output / name
    folder.mkdir(parents=True, exist_ok=True)
    for_training, for_scores = material_of(args.images, args.real_train)
    held_out = [synthetic(HELD_OUT + i, for_scores) for i in range(args.held_out)]
    sets = {"held-out": [disturbed(s, HELD_OUT + i, args.noise) for i, s in enumerate(held_out)]}
    full_size = []
    if args.clips is not None:
        sets["real"] = real_clips(args.clips)
        full_size = real_clips(args.clips, None)
    path = folder / "study.json"
    results: dict[str, Any] = {row: {} for row in ROWS}
    if path.is_file():
        results |= json.loads(path.read_text())["results"]
    for seed in args.seeds:
        for row in args.rows:
            scores = results[row].setdefault(str(seed), {})
            if missing(scores, row, sets):
                predict = partial(propagated, shift=args.shift)
                network = None
                if row != "coarse":
                    network = train(
                        row, seed, args.steps, folder, for_training, args.shift, args.noise,
                        args.start,
                    )  # fmt: skip
                    predict = network.masks
                for name in missing(scores, row, sets) & set(sets):
                    scores[name] = score(predict, sets[name])
                if network is not None and row.startswith("quadtree"):
                    scores |= looks_inside(network, sets, full_size, args.noise > 0)
                write_json(path, {"machine": machine(), "steps": args.steps, "results": results})
    text = table(results, list(sets)) + "\n" + share_table(results)
    (folder / "table.md").write_text(text)
    print(text)


if __name__ == "__main__":
    sys.exit(run(main))
