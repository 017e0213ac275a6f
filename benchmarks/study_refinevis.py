#!/usr/bin/env python3
r"""Does refinement over time add under occlusion? RefineVIS on moving shapes that hide one another.

A small MaskDINO learns the frames of synthetic clips from random weights (phase 1, once). From its
weights RefineVIS is trained, per seed with and without denoising across frames, for the same
number of steps. Each checkpoint is scored on held-out clips without refinement (the tracked masks
of the frames), refined online and refined offline; shapes that others hide completely for 1 to 8
frames are scored apart as well. Called again on the same output folder, the study goes on where it
was left. docs/studies/refinevis.md has the results.

Example:
    python benchmarks/study_refinevis.py --output output/study_refinevis
    python benchmarks/study_refinevis.py --output output/study_refinevis --seeds 0 --variants joint
    python benchmarks/study_refinevis.py --output output/study_refinevis --seeds 0 --steps 120 \
        --variants alone alone_gaps alone_without alone_without_gaps
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common import REPO, benchmark_parser, machine, parse, run, write_json
from study_training import do, tube_iou

from cocoapi_hq.io import rle
from tests.synthetic import hiding_shapes, write_moving_shapes
from vmt.engine.job import Job

CONFIG = REPO / "configs/quick/refinevis_study.yaml"
SIZE, NUM_FRAMES, ZOOM = (96, 160), 20, 2.0
#: Keys of a training of refinement alone.
ALONE = [
    *("SOLVER.FREEZE", json.dumps(["frame_model.", "association_head."])),
    *("MODEL.REFINEVIS.ASSOCIATION_CDN", "False", "SOLVER.BASE_LR", "0.001"),
]
GAPS = ["MODEL.REFINEVIS.TRAIN_GAPS", "0.5"]
#: Variant -> keys of its training. The first two are the study, the others look for reasons.
VARIANTS: Mapping[str, list[str]] = {
    "without": [
        "MODEL.REFINEVIS.ASSOCIATION_CDN",
        "False",
        "MODEL.REFINEVIS.TEMPORAL_CDN",
        "False",
    ],
    "both": [],
    "association": ["MODEL.REFINEVIS.TEMPORAL_CDN", "False"],
    "joint": ["MODEL.REFINEVIS.TRAIN_PASS", "joint"],
    "gt": ["MODEL.REFINEVIS.TRAIN_TRACKLETS", "gt"],
    "query_key": ["MODEL.REFINEVIS.POSITION", "query_key"],
    "gaps": GAPS,
    "three_frames": ["INPUT.CLIP_FRAMES", "3"],
    "alone": [*ALONE],
    "alone_gaps": [*ALONE, *GAPS],
    "alone_without": [*ALONE, "MODEL.REFINEVIS.TEMPORAL_CDN", "False"],
    "alone_without_gaps": [*ALONE, *GAPS, "MODEL.REFINEVIS.TEMPORAL_CDN", "False"],
}
#: Variants that go on from the weights of another one.
START = {name: "without" for name in VARIANTS if name.startswith("alone")}
#: Name of an evaluation -> its keys.
EVALUATIONS: Mapping[str, list[str]] = {
    "frame": ["TEST.REFINEVIS.WINDOW", "0"],
    "online": ["TEST.REFINEVIS.MODE", "online"],
    "offline": ["TEST.REFINEVIS.MODE", "offline"],
}
#: Lengths of the window, tried with the first seed of "both", offline.
WINDOWS = (2, 4, 8, 16)
#: What phase 1 does not know.
NEW = ["MODEL.NEW_PARAMETERS", json.dumps(["association_head.", "tar."])]
KEYS = {"AP": "AP", "AP50": "AP50", "hidden": "APheavy", "others": "APlight"}
DRY_RUN = {
    "steps": 1,
    "frame_steps": 1,
    "seeds": [0],
    "variants": ["both"],
    "videos": [1, 1],
    "overrides": ["SOLVER.CLIPS_PER_BATCH", "1"],
}


def main(argv: Sequence[str] | None = None) -> None:
    """Prepare, train and score every variant and seed, write ``study.json`` and ``table.md``."""
    parser = benchmark_parser(__doc__, None)
    parser.add_argument("--frame-steps", type=int, default=770, help="steps of phase 1")
    parser.add_argument("--steps", type=int, default=240, help="of RefineVIS")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=["without", "both"])
    parser.add_argument("--videos", type=int, nargs=2, default=[300, 24], help="to train, to score")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE")
    args = parse(parser, argv, DRY_RUN)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    data = prepare(args)
    weights = frame_model(args, data)
    for seed in args.seeds:
        for variant in args.variants:
            keys = [*data, *VARIANTS[variant], "ENGINE.SEED", str(seed), "MODEL.WEIGHTS"]
            folder = args.output / f"{variant}_{seed}"
            start, new = weights, NEW
            if variant in START:
                start, new = args.output / f"{START[variant]}_{seed}/model_final.safetensors", []
            train([*keys, str(start), *new], args.steps, folder)
            keys += [str(folder / "model_final.safetensors")]
            windows = WINDOWS if variant == "both" and seed == args.seeds[0] else ()
            for name, choice in evaluations(windows[: 1 if args.dry_run else None]).items():
                evaluate([*keys, *choice], folder / name)
            report(args)


def prepare(args: argparse.Namespace) -> list[str]:
    """Write the clips; returns the config keys and values that every run shares."""
    sets = []
    for name, count, seed in zip(("train", "test"), args.videos, (1000, 9000), strict=True):
        folder = args.output.resolve() / name
        if not (folder / "annotations.json").is_file():
            write_moving_shapes(folder, count, NUM_FRAMES, SIZE, seed, ZOOM, hiding_shapes)
        sets.append(f"{folder}/annotations.json@{folder}/JPEGImages")
    train, test = ([name] for name in sets)
    keys = ["DATASETS.TRAIN", json.dumps(train), "DATASETS.TEST", json.dumps(test)]
    return [*keys, "MODEL.LABEL_SPACE", sets[0].split("@")[0], *args.overrides]


def frame_model(args: argparse.Namespace, data: Sequence[str]) -> Path:
    """Phase 1: the frame model alone, every frame an image of its own; returns its weights."""
    folder: Path = args.output / "frames"
    keys = ["MODEL.META_ARCHITECTURE", "MaskDINO", "INPUT.CLIP_FRAMES", "1"]
    keys += ["MODEL.NEW_PARAMETERS", json.dumps(["backbone."])]
    keys += ["SOLVER.CLIPS_PER_BATCH", "1" if args.dry_run else "8", "SOLVER.BASE_LR", "0.001"]
    train([*data, *keys], args.frame_steps, folder)
    return folder / "model_final.safetensors"


def train(keys: Sequence[str], steps: int, folder: Path) -> None:
    """Train unless that is done; goes on from a checkpoint."""
    if (folder / "model_final.safetensors").is_file():
        return
    schedule = ["SOLVER.MAX_STEPS", str(steps), "SOLVER.MILESTONE_STEPS", f"[{steps * 6 // 7}]"]
    do(Job(str(CONFIG), (*keys, *schedule, "OUTPUT_DIR", str(folder)), resume=True))


def evaluations(windows: Sequence[int]) -> dict[str, list[str]]:
    """Evaluations of a checkpoint and their keys; those of some windows are offline."""
    lengths = {f"offline_{w}": ["TEST.REFINEVIS.WINDOW", str(w)] for w in windows}
    offline = EVALUATIONS["offline"]
    return {**EVALUATIONS, **{name: [*offline, *keys] for name, keys in lengths.items()}}


def evaluate(keys: Sequence[str], folder: Path) -> None:
    """Score unless that is done."""
    if not metrics(folder).is_file():
        do(Job(str(CONFIG), (*keys, "OUTPUT_DIR", str(folder)), eval_only=True))


def metrics(folder: Path) -> Path:
    """File of the scores of an evaluation."""
    return folder / "inference/annotations/metrics.json"


def report(args: argparse.Namespace) -> None:
    """Write what all runs of the folder have given so far."""
    truth = json.loads((args.output / "test/annotations.json").read_text())
    results: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for path in sorted(args.output.glob("*_[0-9]*/*/inference/annotations/metrics.json")):
        variant, _, seed = path.parents[3].name.rpartition("_")
        numbers = json.loads(path.read_text())
        row = {name: round(numbers[f"tube_mask/{key}"], 4) for name, key in KEYS.items()}
        row |= frames_of_hidden(truth, json.loads((path.parent / "results.json").read_text()))
        results.setdefault(variant, {}).setdefault(seed, {})[path.parents[2].name] = row
    steps = {"frame_steps": args.frame_steps, "steps": args.steps}
    content = {"machine": machine(), **steps, "overrides": args.overrides, "results": results}
    write_json(args.output / "study.json", content)
    text = table(results)
    (args.output / "table.md").write_text(text)
    print(text)


def frames_of_hidden(
    truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]]
) -> dict[str, float]:
    """What becomes of the frames of shapes that others hide.

    A shape is held against the result of its class with the best tube IoU.

    Args:
        truth: YouTube-VIS JSON with OVIS's fields.
        results: of the scoring package's format.

    Returns:
        ``missed``: share of the frames that show a shape and have no mask of it; ``iou``: mean IoU
        where both are; ``invented``: share of the frames that do not show it and have a mask.
    """
    ious, missed, shown, invented, absent = [], 0, 0, 0, 0
    for row in truth["annotations"]:
        if "severe_occlusion" not in row["occlusion"]:
            continue
        wanted = row["segmentations"]
        same = [
            entry["segmentations"]
            for entry in results
            if all(entry[key] == row[key] for key in ("video_id", "category_id"))
        ]
        masks = max(same, key=lambda tube: tube_iou(wanted, tube), default=[None] * len(wanted))
        for a, b in zip(wanted, masks, strict=True):
            drawn = bool(b and rle.area(b))
            shown, missed = shown + bool(a), missed + bool(a and not drawn)
            absent, invented = absent + (not a), invented + (drawn and not a)
            if a and drawn:
                ious.append(tube_iou([a], [b]))
    return {
        "missed": round(missed / max(shown, 1), 4),
        "iou": round(statistics.mean(ious), 4) if ious else 0.0,
        "invented": round(invented / max(absent, 1), 4),
    }


def table(results: Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]]) -> str:
    """Mean and standard deviation over seeds, and what refinement adds seed by seed."""
    columns = ("AP", "hidden", "others", "missed", "iou", "invented")
    lines = [f"| training | evaluation | {' | '.join(columns)} | hidden, refined - frame |"]
    lines.append("|---" * (len(columns) + 3) + "|")
    for variant, seeds in results.items():
        for name in sorted({name for runs in seeds.values() for name in runs}):
            rows = {seed: runs[name] for seed, runs in seeds.items() if name in runs}
            cells = [spread([row[key] for row in rows.values()]) for key in columns]
            frame = {seed: seeds[seed].get("frame") for seed in rows}
            gains = [
                f"{rows[seed]['hidden'] - base['hidden']:+.3f}"
                for seed, base in frame.items()
                if base is not None and name != "frame"
            ]
            lines.append(f"| {variant} | {name} | {' | '.join(cells)} | {', '.join(gains)} |")
    return "\n".join(lines) + "\n"


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.3f} ± {deviation:.3f}"


if __name__ == "__main__":
    sys.exit(run(main))
