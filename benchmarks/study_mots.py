#!/usr/bin/env python3
r"""What a refiner adds to QDTrack's masks, on the clips of benchmarks/driving_clips.py.

A small QDTrack learns from random weights. Then, with detector and embeddings fixed as for the last
rows of VMT's Table 7 (arXiv:2207.14012), equally many steps teach the mask head alone, dense_band,
or quadtree: detections are the same, masks differ. Scores: BDD100K's mMOTSA, mMOTSP and mIDF1,
means over its eight classes of which the clips have four (absent ones count as 0, so 50 is
perfect), and J&F and boundary IoU, means over tracklets; "found" are those whose tube IoU the
detector brings to 0.5. Row "perfect" has the annotation in place of every mask of the detector that
overlaps an object by half: no refiner can do better. Test set "seen" are clips of the training.
docs/studies/mots.md has the results. Called again on the same output folder, the study goes on
where it was left: trainings from their checkpoints, evaluations from the last video.

Example:
    python benchmarks/study_mots.py --steps 400 --refiner-steps 600 --output output/study_mots
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from common import REPO, RESULTS, benchmark_parser, machine, parse, run, write_json
from driving_clips import write_bdd100k
from pycocotools import mask as coco_mask
from study_training import do

import cocoapi_hq
from vmt.engine.job import Job
from vmt.engine.run import SCALARS

Mask = npt.NDArray[np.bool_]
CONFIG = REPO / "configs/quick/qdtrack_study.yaml"
RECORD = RESULTS / "mots_study.json"
#: Where an evaluation has its files.
INFERENCE = "inference/bdd100k_mots_val"
#: Of the masks, logged as they are trained.
LOSSES = ("loss_mask", "loss_mask_dice_refine", "loss_mask_bound_refine", "loss_inc_dice")
LOSSES += ("peak_memory_mb",)
#: Everything but the mask head and the refiner.
FIXED = ("backbone.", "neck.", "rpn.", "embedding.", "roi_heads.box_head.")
FIXED += ("roi_heads.box_predictor.",)
MASK_HEAD = ("roi_heads.mask_head.", "roi_heads.mask_predictor.")
#: What refiners learn from: clips of three frames. Dropout would keep attention over thousands of
#: points from the fused kernel, and 12,000 points of dense_band take 9 GB.
REFINER = {
    "MODEL.META_ARCHITECTURE": "QDTrackVMT",
    "MODEL.NEW_PARAMETERS": '["refiner.", "region_query."]',
    "MODEL.REFINER.DROPOUT": "0.0",
    "SOLVER.FREEZE": json.dumps(FIXED + MASK_HEAD),
    "INPUT.CLIP_FRAMES": "3",
    "SOLVER.BASE_LR": "1e-3",  # all of it is new
}
DENSE_BAND = {"MODEL.REFINER.NAME": "dense_band", "MODEL.REFINER.MAX_POINTS": "3000"}
#: Row of the table -> the keys of its training; None: none, the detector as it is.
METHODS: dict[str, dict[str, str] | None] = {
    "detector": None,
    "mask head": {"SOLVER.FREEZE": json.dumps(FIXED)},
    "dense_band": REFINER
    | {"MODEL.REFINER.NAME": "dense_band", "MODEL.REFINER.MAX_POINTS": "3000"},
    "quadtree": REFINER | {"MODEL.REFINER.NAME": "quadtree"},
}


@dataclass(frozen=True)
class Clips:
    """Clips of the study.

    Args:
        size: (h, w) of a frame, in pixels.
        videos: how many.
        frames: of each.
        side: what the network sees as the short side of a frame: one that it was trained with, so
            that masks of large frames are drawn several times as large.
        seed: of the first one; those of the training have 1000 and more.
    """

    size: tuple[int, int]
    videos: int
    frames: int
    side: int
    seed: int = 9000


OBJECTS = 6
TRAIN = Clips((176, 320), 40, 8, 176, 1000)
TESTS = {
    "small": Clips((176, 320), 6, 24, 176),
    "large": Clips((720, 1280), 2, 8, 208),
    "seen": Clips((176, 320), 6, 8, 176, 1000),
}
DRY_TRAIN = Clips((48, 80), 2, 8, 48, 1000)
DRY_TESTS = {"small": Clips((48, 80), 1, 2, 48)}
#: Number of a row -> head of its column.
COLUMNS = {
    **{name: name for name in ("mMOTSA", "mMOTSP", "mIDF1")},
    **{"IDSw": "switches", "mAP": "mAP", "JF": "J&F", "boundary_iou": "boundary IoU"},
    **{"stability": "flicker", "found": "found", "JF_found": "J&F, found"},
    "boundary_iou_found": "boundary IoU, found",
}
#: Pixels.
REACHES = (1, 2, 4)
#: A result shows the object that it overlaps so much.
SAME_OBJECT = 0.5
TINY = (
    *("INPUT.MIN_SIZE_TRAIN", "[48]", "MODEL.BACKBONE.WIDTHS", "[16, 16, 16, 16]"),
    *("SOLVER.CLIPS_PER_BATCH", "2", "MODEL.MOTS.DIM", "32", "MODEL.MOTS.FC_DIM", "32"),
)
DRY_RUN = {"steps": 1, "refiner_steps": 1, "overrides": [*TINY]}


def main(argv: Sequence[str] | None = None) -> None:
    """Draw, train, score; write ``study.json`` and ``table.md``."""
    parser = benchmark_parser(__doc__, None)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--refiner-steps", type=int, default=600)
    parser.add_argument("--record", action="store_true", help=f"write {RECORD.name} too")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE")
    args = parse(parser, argv, DRY_RUN)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    tests = DRY_TESTS if args.dry_run else TESTS
    draw(args.output / "train", "train", DRY_TRAIN if args.dry_run else TRAIN)
    truths = {test: draw(args.output / test, "val", clips) for test, clips in tests.items()}
    base = train(args, "detector", args.steps, {})
    content: dict[str, Any] = {"machine": machine(), "overrides": args.overrides}
    content |= {"steps": args.steps, "refiner_steps": args.refiner_steps}
    content |= {"rows": {}, "losses": {}, "near_contour": {}}
    for test, clips in tests.items():
        evaluate(args, base, test, clips.side)
    for name, keys in METHODS.items():
        own = base
        if keys is not None:
            own = train(args, name.replace(" ", "_"), args.refiner_steps, keys, base)
            content["losses"][name] = losses_of(own)
        for test, clips in tests.items():
            evaluate(args, own, test, clips.side)
            scores = metrics_of(own / test) | quality(base, own, test, truths[test])
            content["rows"][f"{name}, {test}"] = scores
            write_json(args.output / "study.json", content)
    for test, truth in truths.items():
        scores = quality(base, perfect(base, test, truth), test, truth)
        content["rows"][f"perfect, {test}"] = scores
        content["near_contour"][test] = near_contour(base / test, truth)
    record = args.record and not args.dry_run
    for path in (args.output / "study.json", *((RECORD,) if record else ())):
        write_json(path, content)
    text = table(content["rows"], tests)
    (args.output / "table.md").write_text(text)
    print(text)


def draw(root: Path, part: str, clips: Clips) -> Path:
    """Write clips; returns their truth as YouTube-VIS JSON."""
    return write_bdd100k(root, part, clips.videos, clips.frames, clips.size, clips.seed, OBJECTS)


def train(
    args: argparse.Namespace, name: str, steps: int, keys: dict[str, str], start: Path | None = None
) -> Path:
    """Train, or take what is there; returns the folder."""
    folder: Path = args.output / name
    if (folder / "model_final.safetensors").is_file():
        return folder
    settings = {
        "DATASETS.ROOT": str(args.output / "train"),
        "DATASETS.TEST": "[]",
        "SOLVER.MAX_STEPS": str(steps),
        "SOLVER.MILESTONE_STEPS": f"[{steps * 4 // 5}]",
        "OUTPUT_DIR": str(folder),
        **keys,
    }
    if start is not None:
        settings["MODEL.WEIGHTS"] = str(start / "model_final.safetensors")
    words = [word for pair in settings.items() for word in pair]
    do(Job(str(CONFIG), (*args.overrides, *words), resume=True))
    return folder


def evaluate(args: argparse.Namespace, trained: Path, test: str, side: int) -> None:
    """Run a network over a test set, into a folder of its training."""
    settings = {
        "DATASETS.ROOT": str(args.output / test),
        "DATASETS.TEST": "[bdd100k_mots_val]",
        "INPUT.MIN_SIZE_TEST": str(side),
        "MODEL.WEIGHTS": str(trained / "model_final.safetensors"),
        "OUTPUT_DIR": str(trained / test),
    }
    words = [word for pair in settings.items() for word in pair]
    do(Job(str(trained / "config.yaml"), tuple(words), eval_only=True))


def metrics_of(folder: Path) -> dict[str, float]:
    """BDD100K's numbers of an evaluation."""
    metrics = json.loads((folder / INFERENCE / "metrics.json").read_text())
    names = {f"bdd_mots/{name}": name for name in ("mMOTSA", "mMOTSP", "mIDF1", "IDSw")}
    names["frame_ap/AP"] = "mAP"
    return {short: round(metrics[name], 1) for name, short in names.items()}


def quality(base: Path, trained: Path, test: str, truth: Path) -> dict[str, float]:
    """How good the masks of tracklets are: of all, and of those that the detector found."""
    all_of = {
        folder: cocoapi_hq.evaluate(
            truth, folder / test / INFERENCE / "results.json", metrics=["tracklet_quality"]
        ).to_dict()["tracklet_quality"]
        for folder in {base, trained}
    }
    found = {t["annotation_id"] for t in all_of[base]["tracklets"] if t["tube_iou"] >= SAME_OBJECT}
    own = [t for t in all_of[trained]["tracklets"] if t["annotation_id"] in found]
    numbers = {name: all_of[trained][name] for name in ("JF", "boundary_iou", "stability")}
    for name in ("JF", "boundary_iou"):
        numbers[f"{name}_found"] = sum(t[name] for t in own) / max(len(own), 1)
    return {name: round(value, 3) for name, value in numbers.items()} | {"found": len(found)}


def perfect(base: Path, test: str, truth: Path) -> Path:
    """The results of the detector with the masks of the annotation; returns their folder."""
    results = json.loads((base / test / INFERENCE / "results.json").read_text())
    pairs = iter(with_their_objects(results, truth))
    for row in results:
        row["segmentations"] = [m and (next(pairs)[1] or m) for m in row["segmentations"]]
    folder = base / "perfect"
    write_json(folder / test / INFERENCE / "results.json", results)
    return folder


def with_their_objects(results: list[dict[str, Any]], truth: Path) -> list[tuple[Any, Any]]:
    """Every mask, and the object of its frame that it overlaps most; None if that is too little."""
    tubes = defaultdict(list)
    for row in json.loads(truth.read_text())["annotations"]:
        tubes[row["video_id"]].append(row["segmentations"])
    pairs = []
    for row in results:
        for t, mask in enumerate(row["segmentations"]):
            objects = [tube[t] for tube in tubes[row["video_id"]] if tube[t]]
            if mask:
                pairs.append((mask, same_object(mask, objects)))
    return pairs


def same_object(mask: dict[str, Any], objects: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The object that a mask overlaps most, or None."""
    if not objects:
        return None
    overlaps = coco_mask.iou([mask], objects, [0] * len(objects))[0]
    return objects[overlaps.argmax()] if overlaps.max() >= SAME_OBJECT else None


def near_contour(folder: Path, truth: Path) -> dict[str, float]:
    """Of the wrong pixels of masks of found objects, the share near the contour of the mask.

    And the mean IoU of these masks, and of the objects' own when a stride-2 or a stride-4 map had
    to hold them: what a refiner could reach, and what it starts from.
    """
    results = json.loads((folder / INFERENCE / "results.json").read_text())
    numbers = defaultdict(list)
    for pair in with_their_objects(results, truth):
        if pair[1] is None:
            continue
        mask, own = (coco_mask.decode(rle).astype(bool) for rle in pair)
        numbers["iou"].append(overlap(mask, own))
        sides = [
            cv2.distanceTransform(part.astype(np.uint8), cv2.DIST_L2, 5) for part in (mask, ~mask)
        ]
        for reach in REACHES if (mask != own).any() else ():
            numbers[f"within_{reach}_px"].append((sum(sides)[mask != own] <= reach).mean())
        for stride in (2, 4):
            numbers[f"iou_at_stride_{stride}"].append(overlap(at_stride(own, stride), own))
    return {name: round(float(np.mean(values)), 3) for name, values in numbers.items()}


def overlap(one: Mask, other: Mask) -> float:
    """IoU of two masks, one of which is not empty."""
    return float((one & other).sum() / (one | other).sum())


def at_stride(mask: Mask, stride: int) -> Mask:
    """A mask that went through a map of coarser cells, as shares of them."""
    h, w = mask.shape
    cells = cv2.resize(
        mask.astype(np.float32), (w // stride, h // stride), interpolation=cv2.INTER_AREA
    )
    return cv2.resize(cells, (w, h), interpolation=cv2.INTER_LINEAR) >= 0.5


def losses_of(trained: Path) -> dict[str, list[float]]:
    """Step, memory and the losses of refined or coarse masks, as they were logged."""
    lines = [json.loads(line) for line in (trained / SCALARS).read_text().splitlines()]
    logged = [line for line in lines if "loss_mask" in line]
    names = [name for name in LOSSES if logged and name in logged[0]]
    curve = {name: [round(line[name], 3) for line in logged] for name in names}
    return {"step": [line["step"] for line in logged], **curve}


def table(rows: dict[str, dict[str, Any]], tests: Mapping[str, Clips]) -> str:
    """Markdown, as docs/studies/mots.md has it."""
    head = ["clips", "masks", *COLUMNS.values()]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for test, clips in tests.items():
        title = f"{clips.videos} of {clips.frames} frames, {clips.size[0]}x{clips.size[1]}"
        title += f", seen at {clips.side} pixels" if clips.side != clips.size[0] else ""
        title += " (of the training)" if test == "seen" else ""
        for name in (*METHODS, "perfect"):
            numbers = [str(rows[f"{name}, {test}"].get(key, "-")) for key in COLUMNS]
            lines.append(f"| {' | '.join([title, name, *numbers])} |")
            title = ""
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(run(main))
