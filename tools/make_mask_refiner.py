#!/usr/bin/env python3
r"""Make the weights that come with the package: composites, training, and what to ship.

Composites are pasted from the photos of a COCO file. Training begins on them alone; after a while
a third of the clips are distorted copies of the photos with their own polygons, and more masks are
clean, so that it learns to leave good masks alone. OUT/composites and
OUT/train keep what was made, and a call that was interrupted goes on where it stopped. At the end
--ship is filled with mask_refiner.safetensors, its config and ATTRIBUTION.md, the list of all
photos with their licences.

Example:
  python tools/make_mask_refiner.py --images my/instances.json@my/JPEGImages \
      --output output/mask_refiner --ship vmt/weights
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vmt.checkpoint.files import read_weights, write_weights
from vmt.config.node import load_config
from vmt.inference.atomic import AtomicFile, make_folder
from vmt.utils.errors import OutputError, VmtError

REPO = Path(__file__).resolve().parents[1]
CONFIG = REPO / "configs/refine/mask_refiner.yaml"
CLIPS = 3000
#: What the first steps, up to this one, do otherwise than the config.
FIRST_STEPS = 428
FIRST = ("INPUT.DEGRADE", "[paper, paper, paper, halo, halo, low_res, clean]")
#: Largest file of weights that the package may carry, in bytes.
MAX_BYTES = 16 << 20
HEAD = """# Photographs behind `mask_refiner.safetensors`

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
    model: Any = type(cfg)({"MODEL": cfg.MODEL})
    head = "# Network of mask_refiner.safetensors, written by tools/make_mask_refiner.py.\n"
    return head + str(model.dump())


def ship(trained: Path, annotations: Path, folder: Path) -> None:
    """Copy weights, config and attribution to where the package looks for them."""
    state = read_weights(trained / "model_final.safetensors").ours()
    size = sum(value.numel() * value.element_size() for value in state.values())
    if size > MAX_BYTES:
        raise OutputError(
            f"{trained}: {size} bytes of weights; at most {MAX_BYTES} may be shipped."
        )
    make_folder(folder)
    write_weights(state, folder / "mask_refiner.safetensors")
    texts = {
        "mask_refiner.yaml": shipped_config(trained / "config.yaml"),
        "ATTRIBUTION.md": attribution(annotations),
    }
    for name, text in texts.items():
        with AtomicFile(folder / name) as file:
            file.write(text.encode())
    print(f"{folder}: {size / 2**20:.1f} MiB of weights")


def main(argv: Sequence[str] | None = None) -> int:
    """Make and ship; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", required=True, help="COCO JSON@FOLDER, openly licensed")
    parser.add_argument("--output", type=Path, required=True, help="folder of the training")
    parser.add_argument("--ship", type=Path, required=True, help="folder of the weights")
    parser.add_argument("--num-gpus", default="0", help="default 0: the CPU")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="config keys")
    args = parser.parse_args(argv)
    composites, trained = args.output / "composites", args.output / "train"
    try:
        if not (composites / "annotations.json").exists():
            tool = [sys.executable, str(REPO / "tools/make_composites.py"), "--images", args.images]
            run([*tool, "--clips", str(CLIPS), "--output", str(composites)])
        if not (trained / "model_final.safetensors").exists():
            sources = [
                f"{composites / 'annotations.json'}@{composites / 'JPEGImages'}",
                args.images,
            ]
            command = [sys.executable, "-m", "vmt.cli.main", "train", "--config-file", str(CONFIG)]
            command += ["--num-gpus", args.num_gpus, "--output", str(trained), "--resume"]
            command += ["DATASETS.TRAIN", json.dumps(sources), "DATASETS.RATIOS", "[2, 1]"]
            run([*command, *args.overrides])
        ship(trained, Path(args.images.partition("@")[0]), args.ship)
    except VmtError as error:
        print(f"make_mask_refiner: {error}", file=sys.stderr)
        return 2
    return 0


def has_checkpoint(trained: Path, step: int) -> bool:
    """Whether a training has come so far."""
    found = (trained / "checkpoints").glob("step_*.pth")
    return any(int(path.stem.removeprefix("step_")) >= step for path in found)


def run(command: Sequence[str]) -> None:
    """A command whose output goes to the terminal."""
    status = subprocess.run(command, check=False).returncode
    if status:
        raise VmtError(f"ended with status {status}: {' '.join(command)}")


if __name__ == "__main__":
    sys.exit(main())
