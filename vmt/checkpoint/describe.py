"""What a weight file is: which network, how big, which config fits."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from vmt.checkpoint.files import WeightFile
from vmt.checkpoint.key_maps.rows import UNUSED

#: A name that only this backbone has -> its name in configs, and in the names of config files.
BACKBONES = (
    ("backbone.stages.2.blocks.17.norm1.weight", "swin_l_p4w12", "SwinL"),
    ("backbone.body.layer3.22.conv1.weight", "resnet101", "R101"),
    ("backbone.body.layer3.5.conv1.weight", "resnet50", "R50"),
)


@dataclass(frozen=True)
class Description:
    """Findings about a weight file.

    Args:
        layout: published or ours.
        method: SeqFormer, or VMT with which refiner.
        backbone: name in configs, or "unknown".
        num_classes: outputs of the class head, 0 if there is none.
        elements: numbers stored, repeated and unused ones included.
        config: a config file that builds the network, or "".
        families: first two parts of the names -> entries.
    """

    layout: str
    method: str
    backbone: str
    num_classes: int
    elements: int
    config: str
    families: dict[str, int]


def describe(file: WeightFile) -> Description:
    """Look at names and shapes only.

    Raises:
        CheckpointError: published names that belong to no network we know.
    """
    state = file.ours()
    names = {name for name in state if not name.startswith(UNUSED)}
    backbone, label = next(
        ((name, label) for key, name, label in BACKBONES if key in names), ("unknown", "")
    )
    split = any(".branch.intra." in name for name in names)
    refined = any(name.startswith("refiner.") for name in names)
    banded = any(name.startswith("refiner.branches.") for name in names)
    if not any(name.startswith("decoder.") for name in names):
        method, stem = "no video instance segmentation network", ""
    elif not refined:
        method, stem = "SeqFormer", "seqformer"
    else:
        method = f"Video Mask Transfiner, refiner {'dense_band' if banded else 'unknown'}"
        stem, label = ("vmt", f"{label}_released") if banded and label else ("", "")
    folder = "hq_ytvis"
    if split:
        method = f"MS-STS VIS base; {method}" if refined else "MS-STS VIS"
        folder, stem = "ytvis_2019", "" if refined else "msts"
    head = state.get("heads.cls.0.weight")
    config = f"configs/{folder}/{stem}_{label}.yaml" if stem and label else ""
    if "selection.linear.weight" in names:
        levels = {"R50": {3: "R50_3s", 5: "R50_5levels"}}.get(label, {})
        label = levels.get(len(state["encoder.level_embed"]), label)
        method, head = "MaskDINO", state.get("heads.cls.weight")
        config = f"configs/coco/maskdino_{label}.yaml" if label else ""
    if "association_head.layers.0.weight" in names and head is not None:
        method, folder = "IDOL", {25: "ovis", 80: "coco"}.get(len(head), "ytvis_2019")
        config = f"configs/{folder}/idol_{label}.yaml" if label else ""
    if "decoder.layers.0.cross_attn.in_proj_weight" in names:
        method, head = "Mask2Former or MinVIS", state.get("heads.cls.weight")
        head = None if head is None else head[:-1]  # the last row is "no object"
        sets = {80: "coco/mask2former", 25: "ovis/minvis"}
        stem = sets.get(0 if head is None else len(head), "ytvis_2019/minvis")
        config = f"configs/{stem}_{label}.yaml" if label else ""
    return Description(
        layout="published" if file.published else "ours",
        method=method,
        backbone=backbone,
        num_classes=0 if head is None else int(head.shape[0]),
        elements=sum(value.numel() for value in file.state.values()),
        config=config,
        families=dict(Counter(".".join(name.split(".")[:2]) for name in sorted(names))),
    )
