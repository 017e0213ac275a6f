#!/usr/bin/env python3
r"""What pretrained features, more photographs and other frames are worth to the mask refiner.

Equally short trainings of its two networks together, the fine one from random weights too, each
without one thing: "random_backbone" without ImageNet weights, "few_photos" on the first COCO file
alone, "no_votes" without the masks of neighbouring frames, "no_coarseness" without the estimate of
how far off a mask is, "no_detail" without the fine network. Scored as by bench_mask_refinement.py.
Called again on the same output folder, the study goes on where it was left.

Example:
  python benchmarks/study_mask_refiner.py --images my/instances.json@my/JPEGImages \
      more/instances.json@more/JPEGImages --steps 500 --seeds 0 1 2 --output output/study
"""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from bench_mask_refinement import CLIPS, Piece, fingerprint, means_of, measure, tracklets
from common import (
    REPO,
    RESULTS,
    BenchmarkError,
    benchmark_parser,
    machine,
    parse,
    require_data,
    run,
    scratch_folder,
    write_json,
)

from tests.conftest import load_tool
from tests.synthetic import write_moving_shapes
from tests.tools.test_make_composites import photo_set
from vmt.checkpoint.files import write_weights
from vmt.config.node import load_config
from vmt.modeling.meta_arch.build import build_network

RECORD = RESULTS / "mask_refiner_study.json"
KINDS = ("halo", "paper", "low_res", "polygon", "clean")
#: Variant -> what its training is told.
VARIANTS: dict[str, dict[str, str]] = {
    "all": {},
    "random_backbone": {},
    "few_photos": {},
    "no_votes": {"MODEL.MASK_REFINER.VOTES_REACH": "0"},
    "no_coarseness": {
        "MODEL.MASK_REFINER.COARSENESS_WEIGHT": "0.0",
        "MODEL.MASK_REFINER.PRIOR": "[]",
    },
    "no_detail": {"MODEL.MASK_REFINER.DETAIL_WIDTHS": "[]"},
}
DRY_RUN = {"steps": 1, "variants": ["all", "few_photos"], "frames_per_clip": 1, "clips": None}
#: A network for ``--dry-run``.
TINY = {
    "SOLVER.CLIPS_PER_BATCH": "1",
    "INPUT.MIN_SIZE_TRAIN": "[64]",
    "MODEL.BACKBONE.NAME": "timm/test_efficientnet",
    "MODEL.MASK_REFINER.DIM": "16",
    "MODEL.MASK_REFINER.DETAIL_WIDTHS": "[16, 16, 16, 24]",
    "MODEL.REFINER.EMBED_DIM": "16",
    "MODEL.REFINER.NUM_HEADS": "2",
}


def train(variant: str, seed: int, tool: ModuleType, args: Namespace) -> Path:
    """One training, or what is left of it; its weights."""
    few = variant == "few_photos"
    data = args.output / ("few" if few else "all_photos")
    sets, _ = tool.prepare(args.images[: 1 if few else None], args.still_categories, data)
    keys = args.keys | VARIANTS[variant] | {"ENGINE.SEED": str(seed)}
    words = [word for pair in keys.items() for word in pair]
    folder: Path = args.output / f"{variant}_{seed}"
    start, made = folder.with_suffix(".start.safetensors"), tool.recipe()
    if not start.exists():
        if variant == "random_backbone" or args.dry_run:
            torch.manual_seed(seed)
            network = build_network(load_config(made.config, words), made.label_space)
            write_weights(network.state_dict(), start)
        else:
            made.write_start(start, args.start, words)
    steps = {
        "DATASETS.TRAIN": json.dumps(list(sets)),
        "DATASETS.RATIOS": json.dumps(list(sets.values())),
        "MODEL.WEIGHTS": str(start),
        "SOLVER.MAX_STEPS": str(args.steps),
        "SOLVER.MILESTONE_STEPS": json.dumps([round(0.75 * args.steps)])
        if args.steps > 3
        else "[]",
        "SOLVER.WARMUP_STEPS": str(min(50, args.steps)),
    }
    made.train(folder, args.num_gpus, steps, words)
    return folder / "model_final.safetensors"


def score(weights: Path, args: Namespace) -> list[dict[str, Any]]:
    """Means over tracklets, per kind."""
    methods = ("coarse", "ours")
    rows = [
        row
        for one in tracklets(args.clips, args.frames_per_clip)
        for kind in KINDS
        for row in measure(
            Piece((one,), kind, methods, 0, str(weights), flickers=not args.frames_per_clip)
        )
    ]
    return [mean for mean in means_of(rows) if mean["method"] == "ours"]


def main(argv: Sequence[str] | None = None) -> None:
    """Train, score, and write the table."""
    parser = benchmark_parser(__doc__, None)
    parser.add_argument("--images", nargs="+", default=[], metavar="JSON@FOLDER")
    parser.add_argument("--still-categories", nargs="*", type=int, default=[], metavar="ID")
    parser.add_argument("--start", default="", help="weights of the backbone, as for the recipe")
    parser.add_argument("--clips", type=Path, default=CLIPS)
    parser.add_argument("--frames-per-clip", type=int, default=0, help="0: all")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--num-gpus", type=int, default=0)
    parser.add_argument("--record", action="store_true", help=f"write {RECORD.relative_to(REPO)}")
    args = parse(parser, argv, DRY_RUN)
    tool, args.keys = load_tool("make_mask_refiner"), {}
    if args.dry_run:
        args.images = [photo_set(args.output.parent / name) for name in ("a", "b")]
        args.clips = write_moving_shapes(scratch_folder(), 1, 1, (48, 64), seed=0).parent
        args.keys = TINY
        small = {"COMPOSITES": {"slow": ("--clips 2", 1)}, "COMMON": "--frames 3 --size 64 64"}
        vars(tool).update(small)
    if not args.images:
        raise BenchmarkError("--images JSON@FOLDER is needed: the photographs to learn from.")
    require_data(args.clips, "--clips")
    rows: list[dict[str, Any]] = []
    for seed in args.seeds:
        for variant in args.variants:
            weights = train(variant, seed, tool, args)
            kept = weights.with_name(f"scores_{fingerprint(str(weights))}.json")
            if not kept.exists():
                write_json(kept, {"means": score(weights, args)})
            about = {"variant": variant, "seed": seed, "steps": args.steps}
            rows += [about | mean for mean in json.loads(kept.read_text())["means"]]
            for row in rows[-len(KINDS) :]:
                print(f"{variant:16} {seed}  {row['kind']:8} {row['boundary_iou_2%']:.3f}")
    content = {"machine": machine(), "steps": args.steps, "clips": args.clips.name, "rows": rows}
    write_json(RECORD if args.record else args.output / "study.json", content)


if __name__ == "__main__":
    sys.exit(run(main))
