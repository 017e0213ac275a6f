#!/usr/bin/env python3
r"""A small network learns from random weights: images as pseudo clips, moving shapes, one thread.

It is scored on real clips of which nothing was trained on, before and after. All classes are one,
"object". The training is killed (SIGKILL) half-way and resumed. Called again on the same output
folder, the study goes on where it was left. docs/studies/training.md has the results.

Example:
    python benchmarks/study_training.py --images ../shared/data/images \
        --clips ../shared/data/clips --steps 1600 --output output/study
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

if __package__ in (None, ""):  # run as a script: the tests' shapes lie one folder up
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import (
    REPO,
    BenchmarkError,
    benchmark_parser,
    parse,
    require_data,
    run,
    scratch_folder,
    write_json,
)

from cocoapi_hq.io import rle
from tests.synthetic import write_moving_shapes
from vmt.checkpoint.files import write_weights
from vmt.checkpoint.training_state import seed_everything
from vmt.config.node import load_config
from vmt.data.labels import label_space_from_json
from vmt.engine.defaults import Job, run_job
from vmt.engine.launch import LaunchOptions
from vmt.modeling.meta_arch.build import build_model

CONFIG = REPO / "configs/quick/seqformer_study.yaml"
CATEGORIES = [{"id": 1, "name": "object"}]
#: Seconds between looks at the folder of checkpoints.
POLL = 2.0
GOOD_IOU = 0.5
#: A network and pictures that take seconds.
TINY = (
    *("INPUT.MIN_SIZE_TRAIN", "[48]", "INPUT.MAX_SIZE_TRAIN", "64", "INPUT.CLIP_FRAMES", "2"),
    *("INPUT.MIN_SIZE_TEST", "48", "SOLVER.CLIPS_PER_BATCH", "1", "DATALOADER.NUM_WORKERS", "0"),
)
DRY_RUN = {"images": None, "clips": None, "steps": 2, "overrides": [*TINY]}


def main(argv: Sequence[str] | None = None) -> None:
    """Prepare, score, train, be killed, resume, score; write ``study.json`` and ``curve.png``."""
    parser = benchmark_parser(__doc__, None)
    add_data(parser)
    parser.add_argument("--steps", type=int, default=1600)
    parser.add_argument("--config-file", type=Path, default=CONFIG)
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE")
    args = parse(parser, argv, DRY_RUN)
    read_data(args)
    overrides = prepare(args)
    initial = args.output / "initial.safetensors"
    if not initial.is_file():
        write_initial_weights(args.config_file, overrides, initial)
    before, training = args.output / "before", args.output / "training"
    overrides += ["MODEL.WEIGHTS", str(initial), "OUTPUT_DIR"]
    config_file = str(args.config_file)
    do(Job(config_file, (*overrides, str(before)), eval_only=True))
    job = Job(config_file, (*overrides, str(training)), resume=True)
    if not args.dry_run:
        train_and_kill(args.steps, job, training)
    do(job)
    report(args, {0: before / "inference/truth", **evaluations(training)})


def add_data(parser: argparse.ArgumentParser) -> None:
    """Options of the two folders that a study reads."""
    parser.add_argument("--images", type=Path, help="folder of instances.json, JPEGImages/")
    parser.add_argument("--clips", type=Path, help="folder of annotations.json, JPEGImages/")


def read_data(args: argparse.Namespace) -> None:
    """See that the folders are there; a dry run makes tiny ones."""
    if args.dry_run and args.images is None:
        folder = scratch_folder()
        args.clips = write_moving_shapes(folder, 1, 2, (48, 64), seed=0).parent
        args.images = write_images(folder)
    for option, name in (("images", "instances.json"), ("clips", "annotations.json")):
        folder = getattr(args, option)
        if folder is None:
            raise BenchmarkError(f"--{option} FOLDER is needed: {name} and JPEGImages/.")
        require_data(folder, f"--{option}", name)


def write_images(folder: Path) -> Path:
    """COCO JSON of the frames of moving shapes in a folder."""
    truth = json.loads((folder / "annotations.json").read_text())
    names = [name for video in truth["videos"] for name in video["file_names"]]
    size = {key: truth["videos"][0][key] for key in ("width", "height")}
    images = [{"id": t + 1, "file_name": name, **size} for t, name in enumerate(names)]
    annotations = [
        {"id": len(names) * k + t + 1, "image_id": t + 1, "category_id": 1, "iscrowd": 0}
        | {"segmentation": mask, "area": rle.area(mask), "bbox": list(rle.to_box(mask))}
        for k, row in enumerate(truth["annotations"])
        for t, mask in enumerate(row["segmentations"])
        if mask
    ]
    content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    (folder / "instances.json").write_text(json.dumps(content))
    return folder


def evaluations(training: Path) -> dict[int, Path]:
    """Step -> folder with the results of the evaluation there."""
    folders = sorted(training.glob("inference/step_*"))
    return {int(folder.name.removeprefix("step_")): folder / "truth" for folder in folders}


def report(args: argparse.Namespace, folders: Mapping[int, Path]) -> None:
    """Scores and losses as JSON and as a picture."""
    truth = json.loads((args.output / "truth.json").read_text())
    rows = [{"step": step, **scores(truth, folder)} for step, folder in folders.items()]
    lines = (args.output / "training/metrics.jsonl").read_text().splitlines()
    curve = [row for row in map(json.loads, lines) if "loss" in row]
    seconds, last = 0.0, 0
    for row in curve:
        seconds, last = seconds + (row["step"] - last) * row["seconds_per_step"], row["step"]
    draw(curve, rows, args.output / "curve.png")
    marker = killed(args.output / "training")
    content = {
        "steps": args.steps,
        "overrides": args.overrides,
        "minutes_of_steps": round(seconds / 60, 1),
        "killed_at_step": None if args.dry_run else int(marker.read_text()),
        "curve": [{"step": row["step"], "loss": round(row["loss"], 3)} for row in curve],
        "scores": rows,
    }
    write_json(args.output / "study.json", content)
    for row in rows:
        print({name: value for name, value in row.items() if name != "per_tracklet"})


def prepare(args: argparse.Namespace) -> list[str]:
    """Write the data files; returns the config keys and values that every run shares."""
    output: Path = args.output.resolve()
    if not (output / "shapes/annotations.json").is_file():
        number, size = (1, (48, 64)) if args.dry_run else (60, (160, 240))
        write_moving_shapes(output / "shapes", number, 8, size, seed=1000)
    truth = json.loads((args.clips / "annotations.json").read_text())
    truth["categories"] = CATEGORIES
    for annotation in truth["annotations"]:
        annotation["category_id"] = CATEGORIES[0]["id"]
    (output / "truth.json").write_text(json.dumps(truth))
    images, clips = args.images.resolve(), args.clips.resolve()
    sets = [f"{images}/instances.json@{images}/JPEGImages"]
    sets += [f"{output}/shapes/annotations.json@{output}/shapes/JPEGImages"]
    overrides = ["DATASETS.TRAIN", json.dumps(sets)]
    overrides += ["DATASETS.TEST", json.dumps([f"{output}/truth.json@{clips}/JPEGImages"])]
    overrides += ["MODEL.LABEL_SPACE", f"{output}/truth.json"]
    overrides += ["SOLVER.MAX_STEPS", str(args.steps)]
    overrides += ["SOLVER.MILESTONE_STEPS", f"[{args.steps * 4 // 5}]"]
    overrides += ["ENGINE.CHECKPOINT_PERIOD", str(max(args.steps // 16, 1))]
    overrides += ["TEST.EVAL_PERIOD", str(max(args.steps // 4, 1))]
    return [*overrides, *args.overrides]


def write_initial_weights(config_file: Path, overrides: Sequence[str], path: Path) -> None:
    """The random weights that the training starts from."""
    cfg = load_config(config_file, list(overrides))
    seed_everything(cfg.ENGINE.SEED)
    model = build_model(cfg, label_space_from_json(cfg.MODEL.LABEL_SPACE))
    write_weights(model.state_dict(), path, {"categories": json.dumps(CATEGORIES)})


def do(job: Job) -> None:
    """Train or evaluate on the CPU."""
    if status := run_job(job, LaunchOptions(num_gpus=0)):
        raise BenchmarkError(f"the training failed with status {status}.")


def killed(output: Path) -> Path:
    """File that names the step at which a training was killed."""
    return output / "killed"


def train_and_kill(steps: int, job: Job, output: Path) -> None:
    """Train in a process that is killed at the first checkpoint of the second half."""
    marker = killed(output)
    if not marker.is_file():
        command = [sys.executable, str(REPO / "tools/train_net.py"), "--num-gpus", "0", "--resume"]
        command += ["--config-file", str(job.config_file), *job.overrides]
        process = subprocess.Popen(command, cwd=REPO)
        while process.poll() is None and newest(output) < steps // 2:
            time.sleep(POLL)
        process.kill()
        if process.wait() > 0:
            raise BenchmarkError(f"the training failed with status {process.returncode}.")
        marker.write_text(f"{newest(output)}\n")


def newest(output: Path) -> int:
    """Step of the newest complete checkpoint; 0 without one."""
    found = output.glob("checkpoints/step_*.pth")
    return max((int(path.stem.removeprefix("step_")) for path in found), default=0)


def scores(truth: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """AP and AR of the scoring package, and how well each tracklet is met.

    Args:
        truth: YouTube-VIS JSON.
        folder: with ``results.json`` and ``metrics.json``.

    Returns:
        ``AP``, ``AP50``, ``AR10`` as fractions; ``best_iou``: mean over tracklets of the largest
        tube IoU with any result of the video; ``first_iou``: the same with the result of highest
        score; ``good``: tracklets whose best reaches ``GOOD_IOU``; ``results``: their number;
        ``per_tracklet``.
    """
    metrics = json.loads((folder / "metrics.json").read_text())
    results = json.loads((folder / "results.json").read_text())
    names = {video["id"]: Path(video["file_names"][0]).parent.name for video in truth["videos"]}
    tracklets = []
    for annotation in truth["annotations"]:
        video = annotation["video_id"]
        own = [row for row in results if row["video_id"] == video]
        own.sort(key=lambda row: -row["score"])
        ious = [tube_iou(annotation["segmentations"], row["segmentations"]) for row in own] or [0.0]
        tracklets.append({"video": names[video], "best_iou": max(ious), "first_iou": ious[0]})
    best = [row["best_iou"] for row in tracklets]
    return {
        **{name: round(metrics[f"tube_mask/{name}"], 4) for name in ("AP", "AP50", "AR10")},
        "best_iou": round(float(np.mean(best)), 4),
        "first_iou": round(float(np.mean([row["first_iou"] for row in tracklets])), 4),
        "good": sum(iou >= GOOD_IOU for iou in best),
        "results": len(results),
        "per_tracklet": tracklets,
    }


def tube_iou(truth: Sequence[Any], result: Sequence[Any]) -> float:
    """Intersection over union of two tubes; RLE or None per frame."""
    common, either = 0, 0
    for a, b in zip(truth, result, strict=True):
        areas = [rle.area(mask) if mask else 0 for mask in (a, b)]
        shared = rle.area(rle.intersection([a, b])) if a and b else 0
        common += shared
        either += sum(areas) - shared
    return round(common / either, 4) if either else 0.0


def draw(curve: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Loss and scores over steps as a PNG."""
    os.environ.setdefault("MPLBACKEND", "Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.2), dpi=80)
    left.plot([row["step"] for row in curve], [row["loss"] for row in curve])
    left.set(xlabel="step", ylabel="sum of weighted losses", yscale="log")
    steps = [row["step"] for row in rows]
    for name, label in (("best_iou", "mean best IoU"), ("AP50", "AP50"), ("AP", "AP")):
        right.plot(steps, [row[name] for row in rows], "o-", label=label)
    right.set(xlabel="step", ylabel="on clips not trained on", ylim=(0, None))
    right.legend()
    figure.tight_layout()
    figure.savefig(path)


if __name__ == "__main__":
    sys.exit(run(main))
