#!/usr/bin/env python3
r"""Make the weights that come with the package: composites, training, and what to ship.

Most samples are composites, pasted from the photos of a COCO file; the others are the photos
themselves with their own polygons, as far as these are of large things. There are seven trainings,
each from the weights of the one before: on clips; on single frames, which shows more things in the
same time; on larger ones; on ones made of a single photo, whose boundaries are harder to see; with
a small learning rate; on composites alone, whose boundaries are exact, as polygons are not, with
more clean masks: mask_refiner; and on masks of 1/8 resolution alone: low_res. OUT keeps what was
made, and a call that was interrupted goes on where it stopped. Everything together takes some five
hours on one core. At the end --ship (vmt/weights would replace those of the package) is filled with
mask_refiner.safetensors, low_res.safetensors, the config of both and ATTRIBUTION.md, the list of
all photos with their licences.

Example:
  python tools/make_mask_refiner.py --images my/instances.json@my/JPEGImages \
      --output output/mask_refiner --ship output/my_weights
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vmt.checkpoint.files import read_weights, write_weights
from vmt.config.node import load_config
from vmt.config.summary import dump_changes
from vmt.engine.defaults import Job, run_job
from vmt.engine.launch import LaunchOptions
from vmt.inference.refine_defaults import ANY, LOW_RES
from vmt.utils.atomic import make_folder, write_text
from vmt.utils.console import exit_with, one_line_errors
from vmt.utils.errors import ConfigError, OutputError, VmtError

REPO = Path(__file__).resolve().parents[1]
CONFIG = REPO / "configs/refine/mask_refiner.yaml"
#: Sets of composites: what tools/make_composites.py is told. The photos themselves with their own
#: polygons are one more set.
COMPOSITES = {
    "small": ("--clips", "6000", "--frames", "4", "--seed", "11"),
    "large": ("--clips", "5000", "--frames", "2", "--size", "320", "320", "--seed", "13"),
    "one_photo": (
        *("--clips", "4000", "--frames", "2", "--size", "320", "320"),
        *("--seed", "17", "--one-photo", "1"),
    ),
}
STILLS = "stills"
#: Polygons of smaller regions, in pixels, are too far off to learn from.
MIN_AREA = 64**2


@dataclass(frozen=True)
class Training:
    """One of several, each from the weights of the one before.

    Args:
        sets: shares of samples by set.
        keys: what it has otherwise than the config.
    """

    sets: dict[str, int]
    keys: dict[str, str]


_OLD_HEADS = {
    "MODEL.REFINER.SHARED_HEAD": "False",
    "MODEL.MASK_REFINER.DENSE_WEIGHT": "0.0",
}
_LARGER = {"INPUT.MIN_SIZE_TRAIN": "[192, 256, 320, 384]"}
_MOSTLY_PAPER = "[paper, paper, paper, paper, halo, low_res, low_res, clean]"
#: In their order, by the name of their folder. "exact" is the config itself.
TRAININGS = {
    "begin": Training(
        {"small": 2, STILLS: 1},
        _OLD_HEADS
        | {
            "INPUT.CLIP_FRAMES": "3",
            "INPUT.MIN_SIZE_TRAIN": "[160, 192, 224, 288]",
            "INPUT.DEGRADE": "[paper, paper, paper, halo, halo, low_res, clean]",
            "MODEL.LOSS.REFINE_MASK_WEIGHT": "20.0",
            "MODEL.LOSS.REFINE_DICE_WEIGHT": "1.0",
            "MODEL.LOSS.REFINE_BOUNDARY_WEIGHT": "2.0",
            "MODEL.LOSS.REFINE_NODE_WEIGHT": "2.0",
            "SOLVER.BASE_LR": "0.0015",
            "SOLVER.MAX_STEPS": "850",
            "SOLVER.MILESTONE_STEPS": "[650]",
            "SOLVER.WARMUP_STEPS": "100",
        },
    ),
    "frames": Training(
        {"small": 2, STILLS: 1},
        _OLD_HEADS
        | {
            "INPUT.MIN_SIZE_TRAIN": "[160, 224, 288, 352]",
            "INPUT.DEGRADE": "[paper, paper, halo, low_res, low_res, clean]",
            "SOLVER.BASE_LR": "0.001",
            "SOLVER.MAX_STEPS": "1300",
            "SOLVER.MILESTONE_STEPS": "[1000]",
        },
    ),
    "large": Training(
        {"large": 2, STILLS: 1},
        _LARGER
        | {
            "MODEL.NEW_PARAMETERS": "[refiner.decoder.shared, dense]",
            "INPUT.DEGRADE": _MOSTLY_PAPER,
            "SOLVER.BASE_LR": "0.001",
            "SOLVER.MAX_STEPS": "1400",
            "SOLVER.MILESTONE_STEPS": "[]",
        },
    ),
    "one_photo": Training(
        {"large": 1, "one_photo": 2, STILLS: 2},
        _LARGER
        | {
            "INPUT.DEGRADE": _MOSTLY_PAPER,
            "SOLVER.BASE_LR": "0.001",
            "SOLVER.MAX_STEPS": "1000",
            "SOLVER.MILESTONE_STEPS": "[]",
        },
    ),
    "settle": Training(
        {"large": 1, "one_photo": 2, STILLS: 2},
        _LARGER
        | {
            "INPUT.DEGRADE": "[paper, paper, paper, halo, low_res, low_res, low_res, clean]",
            "SOLVER.BASE_LR": "0.0003",
            "SOLVER.MAX_STEPS": "800",
            "SOLVER.MILESTONE_STEPS": "[600]",
        },
    ),
    "exact": Training({"small": 1, "large": 2, "one_photo": 4}, {}),
    "low_res": Training(
        {"large": 1, "one_photo": 2},
        _LARGER
        | {
            "INPUT.DEGRADE": "[low_res]",
            "SOLVER.BASE_LR": "0.0008",
            "SOLVER.MAX_STEPS": "800",
            "SOLVER.MILESTONE_STEPS": "[600]",
            "SOLVER.WARMUP_STEPS": "20",
        },
    ),
}
#: Which of them are shipped, under which name.
SHIPS = {ANY: "exact", LOW_RES: "low_res"}
#: The most that all weights of the package may weigh, in bytes.
MAX_BYTES = 16 << 20
HEAD = """# Photographs behind the weights

The weights were trained on clips generated from these {count} photographs (COCO 2017) and their
annotations (COCO Consortium, CC BY 4.0). No photograph is part of this package. Each is the work
of its Flickr author, reached by the link, under the licence that COCO recorded.

| COCO id | licence | origin |
|---|---|---|
"""


def attribution(annotations: Path) -> str:
    """ATTRIBUTION.md for the photos of a COCO file."""
    content = json.loads(annotations.read_text())
    licences = {row["id"]: row for row in content["licenses"]}
    rows = []
    for image in sorted(content["images"], key=lambda row: int(row["id"])):
        licence = licences[image["license"]]
        name = f"[{licence['name']}]({licence['url']})"
        rows.append(f"| {image['id']} | {name} | {image['flickr_url']} |\n")
    return HEAD.format(count=len(rows)) + "".join(rows)


def shipped_config(trained: Path) -> str:
    """What the network needs to be built again: MODEL, without what names files."""
    cfg = load_config(trained)
    cfg.defrost()
    cfg.MODEL.LABEL_SPACE = "object"
    cfg.MODEL.WEIGHTS = ""
    for section in [name for name in cfg if name != "MODEL"]:
        del cfg[section]
    return "# Network of the weights, written by tools/make_mask_refiner.py.\n" + dump_changes(cfg)


def ship(trained: dict[str, Path], annotations: Path, folder: Path) -> None:
    """Copy weights, their config and attribution to where the package looks for them.

    Args:
        trained: folders of trainings, by the name under which they are shipped.
        annotations: of the photos.
        folder: where to.
    """
    states = {
        name: read_weights(own / "model_final.safetensors").ours() for name, own in trained.items()
    }
    size = sum(v.numel() * v.element_size() for state in states.values() for v in state.values())
    if size > MAX_BYTES:
        raise OutputError(f"{size} bytes of weights; at most {MAX_BYTES} may be shipped.")
    configs = {shipped_config(own / "config.yaml") for own in trained.values()}
    if len(configs) > 1:
        raise ConfigError(f"{', '.join(trained)}: their configs differ in MODEL; they share one.")
    make_folder(folder)
    for name, state in states.items():
        write_weights(state, folder / f"{name}.safetensors")
    texts = {"config.yaml": configs.pop(), "ATTRIBUTION.md": attribution(annotations)}
    for name, text in texts.items():
        write_text(folder / name, text)
    print(f"{folder}: {size / 2**20:.1f} MiB of weights")


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Make and ship; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", required=True, help="COCO JSON@FOLDER, openly licensed")
    parser.add_argument("--output", type=Path, required=True, help="folder of the training")
    parser.add_argument("--ship", type=Path, required=True, help="folder of the weights")
    parser.add_argument("--num-gpus", type=int, default=0, help="default 0: the CPU")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="config keys")
    args = parser.parse_args(argv)
    annotations, _, folder = args.images.partition("@")
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    sets = {STILLS: f"{args.output / 'stills.json'}@{folder}"}
    for name, options in COMPOSITES.items():
        target = args.output / "composites" / name
        if not (target / "annotations.json").exists():
            tool = [sys.executable, str(REPO / "tools/make_composites.py")]
            run([*tool, "--images", args.images, *options, "--output", str(target)])
        sets[name] = f"{target / 'annotations.json'}@{target / 'JPEGImages'}"
    large_regions(Path(annotations), args.output / "stills.json")
    weights = ""
    for name, training in TRAININGS.items():
        sources = {
            "DATASETS.TRAIN": json.dumps([sets[own] for own in training.sets]),
            "DATASETS.RATIOS": json.dumps(list(training.sets.values())),
        }
        own = sources | training.keys | {"MODEL.WEIGHTS": weights}
        weights = str(train(args.output / name, args.num_gpus, own, args.overrides))
    trained = {name: args.output / own for name, own in SHIPS.items()}
    ship(trained, Path(annotations), args.ship)
    return 0


def large_regions(annotations: Path, target: Path) -> None:
    """Write a COCO file without crowds and small regions, and without images that have no other."""
    content = json.loads(annotations.read_text())
    content["annotations"] = [
        row for row in content["annotations"] if not row.get("iscrowd") and row["area"] >= MIN_AREA
    ]
    pictured = {row["image_id"] for row in content["annotations"]}
    content["images"] = [row for row in content["images"] if row["id"] in pictured]
    write_text(target, json.dumps(content))


def train(folder: Path, num_gpus: int, keys: dict[str, str], overrides: Sequence[str]) -> Path:
    """Train, or go on, or find it done; returns the weights."""
    weights = folder / "model_final.safetensors"
    if not weights.exists():
        words = [part for pair in keys.items() for part in pair]
        job = Job(str(CONFIG), (*words, "OUTPUT_DIR", str(folder), *overrides), resume=True)
        if status := run_job(job, LaunchOptions(num_gpus=num_gpus)):
            raise VmtError(f"{folder}: the training ended with status {status}; see above.")
    return weights


def run(command: Sequence[str]) -> None:
    """A command whose output goes to the terminal."""
    status = subprocess.run(command, check=False).returncode
    if status:
        raise VmtError(f"ended with status {status}: {' '.join(command)}")


if __name__ == "__main__":
    exit_with(main)
