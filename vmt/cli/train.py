r"""Train on your own videos, or on data sets that the config names.

--train and --val are YouTube-VIS JSON files (vmt convert-annotations makes them;
docs/howto/own_data.md goes from a video to a trained network), --train-images and --val-images the
folders that their file_names start from. They take the place of the config's data sets, and the
classes are those of the training file. The output folder gets config.yaml, label_space.json,
log.txt, metrics.jsonl, TensorBoard curves, checkpoints/, inference/ with the results on the
validation videos, model_best.safetensors and model_final.safetensors. Ctrl-C and SIGTERM save
first; --resume goes on from there.

Example:
  vmt train --config-file configs/quick/seqformer_tiny.yaml --train my.json \
      --train-images JPEGImages --val my_val.json --val-images JPEGImages --output out
  vmt demo --config-file out/config.yaml --weights out/model_final.safetensors --input my.mp4 \
      --output demo
"""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path

from vmt.utils.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``vmt train``."""
    parser.add_argument(
        "--config-file",
        required=True,
        help="YAML of network and training, or a name that `vmt configs` lists",
    )
    parser.add_argument("--train", type=Path, help="annotations to train on (YouTube-VIS JSON)")
    parser.add_argument("--train-images", type=Path, help="folder of their frames")
    parser.add_argument("--val", type=Path, help="annotations to evaluate on")
    parser.add_argument("--val-images", type=Path, help="folder of their frames")
    parser.add_argument("--output", type=Path, help="folder; default: OUTPUT_DIR of the config")
    parser.add_argument("--weights", help="weights to start from; default: MODEL.WEIGHTS")
    parser.add_argument(
        "--resume", action="store_true", help="go on from the newest checkpoint, if there is one"
    )
    parser.add_argument(
        "--eval-only", action="store_true", help="no training: evaluate the weights"
    )
    add_launch_arguments(parser)
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY VALUE", help="config keys: SOLVER.BASE_LR 0.0001"
    )


def add_launch_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options about processes; names and meaning are detectron2's."""
    group = parser.add_argument_group(
        "processes", "torchrun works too: it says all of this by itself"
    )
    group.add_argument(
        "--num-gpus", type=int, help="GPUs of each machine; default 1 where there is one, 0: CPU"
    )
    group.add_argument(
        "--num-processes", type=int, default=1, help="with --num-gpus 0: processes on the CPU"
    )
    group.add_argument("--num-machines", type=int, default=1, help="default 1")
    group.add_argument("--machine-rank", type=int, default=0, help="of this machine, from 0")
    group.add_argument(
        "--dist-url", default="auto", help="tcp://HOST:PORT of machine 0; auto on one machine"
    )


def run(args: argparse.Namespace) -> int:
    """Run ``vmt train``; returns the exit status."""
    overrides = [*own_data(args), *args.overrides]
    from vmt.config.node import load_config
    from vmt.engine.job import Job, run_job
    from vmt.engine.launch import LaunchOptions
    from vmt.modeling.meta_arch.build import architecture

    job = Job(args.config_file, tuple(overrides), args.resume, args.eval_only)
    launch = {field.name: getattr(args, field.name) for field in fields(LaunchOptions)}
    status = run_job(job, LaunchOptions(**launch))
    if status == 0 and not args.eval_only:
        cfg = load_config(args.config_file, overrides)
        weights = f"{cfg.OUTPUT_DIR}/model_final.safetensors"
        if architecture(cfg).needs_coarse_masks:
            print(f"use it: vmt refine --weights {weights} --masks M --images DIR --output OUT")
        else:
            print(
                f"see it: vmt demo --config-file {cfg.OUTPUT_DIR}/config.yaml "
                f"--weights {weights} --input VIDEO --output FOLDER"
            )
    return status


def own_data(args: argparse.Namespace) -> list[str]:
    """The options as config keys and values."""
    overrides = []
    for option, key in (("train", "DATASETS.TRAIN"), ("val", "DATASETS.TEST")):
        path, images = getattr(args, option), getattr(args, f"{option}_images")
        if (path is None) != (images is None):
            raise ConfigError(
                f"--{option} and --{option}-images go together: the JSON, and the folder that its "
                "file_names start from."
            )
        if path is None:
            continue
        if not path.is_file():
            raise ConfigError(f"--{option} {path}: no such file.")
        if not images.is_dir():
            raise ConfigError(f"--{option}-images {images}: no such folder.")
        reference = f"{path.resolve()}@{images.resolve()}"
        overrides += [key, f'["{reference}"]']
        if option == "train":
            # What a recipe says of its own sets does not hold for these.
            overrides += ["MODEL.LABEL_SPACE", str(path.resolve())]
            overrides += ["DATASETS.CATEGORY_MAPS", "[]", "DATASETS.RATIOS", "[]"]
            if args.val is None:
                overrides += ["DATASETS.TEST", "[]"]
    if args.output is not None:
        overrides += ["OUTPUT_DIR", str(args.output)]
    if args.weights is not None:
        overrides += ["MODEL.WEIGHTS", str(args.weights)]
    return overrides
