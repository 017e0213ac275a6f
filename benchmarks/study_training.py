r"""A small network learns from random weights: images as pseudo clips, moving shapes, one thread.

It is scored on real clips of which nothing was trained on, before and after. All classes are one,
"object". The training is killed (SIGKILL) half-way and resumed. Called again on the same output
folder, the study goes on where it was left. docs/training_study.md has the results.

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

REPO = Path(__file__).resolve().parents[1]
if __package__ in (None, ""):
    sys.path.insert(0, str(REPO))

from benchmarks.common import write_json  # noqa: E402
from cocoapi_hq import rle  # noqa: E402
from tests.synthetic import write_moving_shapes  # noqa: E402
from vmt.checkpoint.files import write_weights  # noqa: E402
from vmt.checkpoint.training_state import seed_everything  # noqa: E402
from vmt.config.node import load_config  # noqa: E402
from vmt.data.labels import label_space_from_json  # noqa: E402
from vmt.modeling.meta_arch.build import build_model  # noqa: E402

CONFIG = REPO / "configs/quick/seqformer_study.yaml"
CATEGORIES = [{"id": 1, "name": "object"}]
#: Seconds between looks at the folder of checkpoints.
POLL = 2.0
GOOD_IOU = 0.5


def main() -> None:
    """Prepare, score, train, be killed, resume, score; write ``study.json`` and ``curve.png``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, required=True, help="instances.json, JPEGImages/")
    parser.add_argument("--clips", type=Path, required=True, help="annotations.json, JPEGImages/")
    parser.add_argument("--steps", type=int, default=1600)
    parser.add_argument("--output", type=Path, required=True, help="folder of everything")
    parser.add_argument("--config-file", type=Path, default=CONFIG)
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE")
    args = parser.parse_args()
    overrides = prepare(args)
    options = ["--num-gpus", "0", "--config-file", str(args.config_file), *overrides]
    initial = args.output / "initial.safetensors"
    if not initial.is_file():
        write_initial_weights(args.config_file, overrides, initial)
    before, training = args.output / "before", args.output / "training"
    run([*options, "--eval-only", "--weights", str(initial), "--output", str(before)])
    train(args.steps, [*options, "--resume", "--weights", str(initial)], training)
    report(args, {0: before / "inference/truth", **evaluations(training)})


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
    content = {
        "steps": args.steps,
        "overrides": args.overrides,
        "minutes_of_steps": round(seconds / 60, 1),
        "killed_at_step": int((args.output / "training/killed").read_text()),
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
        write_moving_shapes(output / "shapes", 60, 8, (160, 240), seed=1000)
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


def command(options: Sequence[str]) -> list[str]:
    """A run of ``train_net.py``."""
    return [sys.executable, str(REPO / "tools/train_net.py"), *options]


def run(options: Sequence[str]) -> None:
    """``train_net.py`` to its end."""
    subprocess.run(command(options), cwd=REPO, check=True)


def train(steps: int, options: Sequence[str], output: Path) -> None:
    """Train; the first process is killed at the first checkpoint of the second half."""
    marker = output / "killed"
    options = [*options, "--output", str(output)]
    if not marker.is_file():
        process = subprocess.Popen(command(options), cwd=REPO)
        while process.poll() is None and newest(output) < steps // 2:
            time.sleep(POLL)
        process.kill()
        if process.wait() > 0:
            raise SystemExit(f"the training failed with status {process.returncode}")
        marker.write_text(f"{newest(output)}\n")
    run(options)


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
    main()
