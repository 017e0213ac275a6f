#!/usr/bin/env python3
r"""SeqFormer against MS-STS VIS: the same small network, data, steps and start, several seeds.

Both learn from random weights on pseudo clips of images, on moving shapes, and on moving shapes
that grow or shrink eightfold, which is what MS-STS says it is made for. They are scored on real
clips and on synthetic ones with and without such change of scale, none of which they have seen.
MS-STS starts from the weights that SeqFormer starts from; its own additions start closed. Called
again on the same output folder, the study goes on where it was left.
docs/studies/msts.md has the results.

Example:
    python benchmarks/study_msts.py --images ../shared/data/images \
        --clips ../shared/data/clips --steps 500 --output output/study_msts
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
from study_training import (
    CATEGORIES,
    TINY,
    add_data,
    do,
    read_data,
    scores,
    write_initial_weights,
)

from tests.synthetic import write_moving_shapes
from vmt.engine.job import Job

CONFIG = REPO / "configs/quick/seqformer_study.yaml"
METHODS: Mapping[str, list[str]] = {
    "seqformer": [],
    "msts": [
        "MODEL.SEQFORMER.ENCODER_ADAPTER",
        "msts",
        "MODEL.SEQFORMER.DECODER_ADAPTER",
        "temporal_attention",
        "MODEL.ADVERSARY",
        "foreground_background",
        "MODEL.MSTS.ADV_RAMP_STEPS",
        "100",
    ],
}
#: How much larger a shape is in one end frame of a video than in the other.
ZOOM = 8.0
SIZE, NUM_FRAMES = (160, 240), 8
#: Test set -> its zoom; "real" comes from a folder.
SYNTHETIC = {"steady": 1.0, "zoom": ZOOM}
TEST_VIDEOS = 12
KEYS = ("AP", "AP50", "AR10", "best_iou", "first_iou")
DRY_RUN = {"images": None, "clips": None, "steps": 1, "seeds": [0], "overrides": [*TINY]}


def main(argv: Sequence[str] | None = None) -> None:
    """Prepare, train and score every method and seed, write ``study.json`` and ``table.md``."""
    parser = benchmark_parser(__doc__, None)
    add_data(parser)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE")
    args = parse(parser, argv, DRY_RUN)
    read_data(args)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    common, truths = prepare(args)
    results: dict[str, dict[str, Any]] = {name: {} for name in METHODS}
    for seed in args.seeds:
        seeds = ["ENGINE.SEED", str(seed)]
        initial = args.output / f"initial_{seed}.safetensors"
        if not initial.is_file():
            write_initial_weights(CONFIG, [*common, *seeds], initial)
        for name, keys in METHODS.items():
            folder = args.output / f"{name}_{seed}"
            found = folder / f"inference/step_{args.steps:08d}"
            if not all((found / test / "metrics.json").is_file() for test in truths):
                files = ["MODEL.WEIGHTS", str(initial), "OUTPUT_DIR", str(folder)]
                do(Job(str(CONFIG), (*common, *seeds, *keys, *files), resume=True))
            results[name][str(seed)] = {
                test: {key: scores(truth, found / test)[key] for key in KEYS}
                for test, truth in truths.items()
            }
            content = {"machine": machine(), "steps": args.steps, "results": results}
            write_json(args.output / "study.json", content)
    text = table(results, list(truths))
    (args.output / "table.md").write_text(text)
    print(text)


def prepare(args: argparse.Namespace) -> tuple[list[str], dict[str, Any]]:
    """Write the data files; returns config overrides that all runs share, and test set -> truth."""
    output: Path = args.output.resolve()
    images, clips = args.images.resolve(), args.clips.resolve()
    train_videos, test_videos, size = (1, 1, (48, 64)) if args.dry_run else (60, TEST_VIDEOS, SIZE)
    train = [f"{images}/instances.json@{images}/JPEGImages"]
    for name, zoom in SYNTHETIC.items():
        folder = output / f"train_{name}"
        if not (folder / "annotations.json").is_file():
            write_moving_shapes(folder, train_videos, NUM_FRAMES, size, seed=1000, zoom=zoom)
        train.append(f"{folder}/annotations.json@{folder}/JPEGImages")
    truths = {"real": json.loads((clips / "annotations.json").read_text())}
    roots = {"real": clips}
    for name, zoom in SYNTHETIC.items():
        roots[name] = output / f"test_{name}"
        path = roots[name] / "annotations.json"
        if not path.is_file():
            write_moving_shapes(roots[name], test_videos, NUM_FRAMES, size, seed=9000, zoom=zoom)
        truths[name] = json.loads(path.read_text())
    tests = []
    for name, truth in truths.items():
        truth["categories"] = CATEGORIES
        for annotation in truth["annotations"]:
            annotation["category_id"] = CATEGORIES[0]["id"]
        (output / f"{name}.json").write_text(json.dumps(truth))
        tests.append(f"{output}/{name}.json@{roots[name]}/JPEGImages")
    common = ["DATASETS.TRAIN", json.dumps(train), "DATASETS.TEST", json.dumps(tests)]
    common += ["DATASETS.RATIOS", "[1.0, 1.0, 1.0]", "INPUT.CLIP_FRAMES", "3"]
    common += ["SOLVER.CLIPS_PER_BATCH", "3", "MODEL.LABEL_SPACE", f"{output}/real.json"]
    common += ["SOLVER.MAX_STEPS", str(args.steps)]
    common += ["SOLVER.MILESTONE_STEPS", f"[{args.steps * 4 // 5}]"]
    common += ["ENGINE.CHECKPOINT_PERIOD", "50", "TEST.EVAL_PERIOD", str(args.steps)]
    return [*common, *args.overrides], truths


def table(results: Mapping[str, Mapping[str, Any]], tests: list[str]) -> str:
    """Mean and standard deviation over seeds, and the paired difference, as Markdown."""
    head = "| test set | score | SeqFormer | MS-STS | difference, seed by seed |"
    lines = [head, "|---" * 5 + "|"]
    for test in tests:
        for key in KEYS:
            values = {
                name: {seed: run[test][key] for seed, run in runs.items()}
                for name, runs in results.items()
            }
            cells = [spread(list(of.values())) for of in values.values()]
            first, second = values.values()
            gains = [f"{second[seed] - first[seed]:+.3f}" for seed in second]
            lines.append(f"| {test} | {key} | {' | '.join(cells)} | {', '.join(gains)} |")
    return "\n".join(lines) + "\n"


def spread(values: list[float]) -> str:
    """Mean and standard deviation."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.3f} ± {deviation:.3f}"


if __name__ == "__main__":
    sys.exit(run(main))
