#!/usr/bin/env python3
r"""What a refiner adds to QDTrack's masks, on the clips of benchmarks/driving_clips.py.

A small QDTrack learns from random weights. Then, with detector and embeddings fixed as for the last
rows of VMT's Table 7 (arXiv:2207.14012), equally many steps teach the mask head alone, dense_band,
or quadtree: detections are the same, masks differ. Scores: BDD100K's mMOTSA, mMOTSP and mIDF1,
means over its eight classes of which the clips have four (absent ones count as 0, so 50 is
perfect), and J&F and boundary IoU, means over tracklets. Seconds are processor time of the
evaluation. docs/studies/mots.md has the results. Called again on the same output folder, the study
goes on where it was left.

Example:
    python benchmarks/study_mots.py --steps 500 --refiner-steps 150 --output output/study_mots
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import REPO, benchmark_parser, machine, parse, run, write_json
from driving_clips import write_bdd100k
from study_training import do

import cocoapi_hq
from vmt.engine.job import Job

CONFIG = REPO / "configs/quick/qdtrack_study.yaml"
#: Everything but the mask head and the refiner.
FIXED = ("backbone.", "neck.", "rpn.", "embedding.", "roi_heads.box_head.")
FIXED += ("roi_heads.box_predictor.",)
MASK_HEAD = ("roi_heads.mask_head.", "roi_heads.mask_predictor.")
#: Row of the table -> its keys. Refiners learn from clips of three frames; dense_band in parts of a
#: step, for its memory.
METHODS = {
    "mask head": {"SOLVER.FREEZE": json.dumps(FIXED)},
    **{
        name: {
            "MODEL.META_ARCHITECTURE": "QDTrackVMT",
            "MODEL.REFINER.NAME": name,
            "MODEL.NEW_PARAMETERS": '["refiner.", "region_query."]',
            "SOLVER.FREEZE": json.dumps(FIXED + MASK_HEAD),
            "INPUT.CLIP_FRAMES": "3",
            "SOLVER.ACCUMULATE": accumulate,
        }
        for name, accumulate in (("dense_band", "2"), ("quadtree", "1"))
    },
}
#: Test set -> size of its frames, videos, frames of each, short side that the network sees: one
#: that it was trained with, so that masks of large frames are drawn several times as large.
TESTS = {"small": ((176, 320), 6, 24, 176), "large": ((720, 1280), 2, 8, 208)}
SMALL_TESTS = {"small": ((48, 80), 1, 2, 48)}
TINY = (
    *("INPUT.MIN_SIZE_TRAIN", "[48]", "MODEL.BACKBONE.WIDTHS", "[16, 16, 16, 16]"),
    *("SOLVER.CLIPS_PER_BATCH", "2", "MODEL.MOTS.DIM", "32", "MODEL.MOTS.FC_DIM", "32"),
)
DRY_RUN = {"steps": 1, "refiner_steps": 1, "overrides": [*TINY]}


def main(argv: Sequence[str] | None = None) -> None:
    """Draw, train, score; write ``study.json`` and ``table.md``."""
    parser = benchmark_parser(__doc__, None)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--refiner-steps", type=int, default=150)
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE")
    args = parse(parser, argv, DRY_RUN)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    tests = SMALL_TESTS if args.dry_run else TESTS
    truths = draw(args, tests)
    base = train(args, "detector", args.steps, {})
    rows = {}
    for name, keys in METHODS.items():
        own = train(args, name.replace(" ", "_"), args.refiner_steps, keys, base)
        for test, (*_, side) in tests.items():
            rows[f"{name}, {test}"] = score(args, own, test, truths[test], side)
            content = {"machine": machine(), "steps": args.steps, "rows": rows}
            content |= {"refiner_steps": args.refiner_steps, "overrides": args.overrides}
            write_json(args.output / "study.json", content)
    text = table(rows)
    (args.output / "table.md").write_text(text)
    print(text)


def draw(args: argparse.Namespace, tests: dict[str, Any]) -> dict[str, Path]:
    """Write the clips; test set -> its truth as YouTube-VIS JSON."""
    videos, size = (2, (48, 80)) if args.dry_run else (40, (176, 320))
    write_bdd100k(args.output / "train", "train", videos, 8, size, seed=1000, objects=6)
    return {
        test: write_bdd100k(args.output / test, "val", count, frames, size, seed=9000, objects=6)
        for test, (size, count, frames, _) in tests.items()
    }


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


def score(
    args: argparse.Namespace, trained: Path, test: str, truth: Path, side: int
) -> dict[str, Any]:
    """Evaluate a network on a test set."""
    folder = trained / test
    found = folder / "inference/bdd100k_mots_val"
    started = time.process_time()
    settings = {
        "DATASETS.ROOT": str(args.output / test),
        "DATASETS.TEST": "[bdd100k_mots_val]",
        "INPUT.MIN_SIZE_TEST": str(side),
        "MODEL.WEIGHTS": str(trained / "model_final.safetensors"),
        "OUTPUT_DIR": str(folder),
    }
    words = [word for pair in settings.items() for word in pair]
    do(Job(str(trained / "config.yaml"), tuple(words), eval_only=True))
    metrics = json.loads((found / "metrics.json").read_text())
    quality = cocoapi_hq.evaluate(
        truth, found / "results.json", metrics=["tracklet_quality"]
    ).to_dict()["tracklet_quality"]
    names = {f"bdd_mots/{name}": name for name in ("mMOTSA", "mMOTSP", "mIDF1", "IDSw")}
    names["frame_ap/AP"] = "mAP"
    return {
        **{short: round(metrics[name], 1) for name, short in names.items()},
        **{name: round(quality[name], 3) for name in ("JF", "boundary_iou", "stability")},
        "seconds": round(time.process_time() - started, 1),
    }


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Markdown."""
    names = list(next(iter(rows.values())))
    lines = ["| masks, clips | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for title, row in rows.items():
        lines.append(f"| {title} | " + " | ".join(f"{row[name]}" for name in names) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(run(main))
