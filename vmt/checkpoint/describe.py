"""What a weight file is: which network, how big, which config fits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from vmt.checkpoint.files import WeightFile
from vmt.checkpoint.key_maps.rows import UNUSED
from vmt.checkpoint.methods import methods
from vmt.checkpoint.methods.base import Recognised
from vmt.checkpoint.parts import FRAME_MODEL

#: A name that only this backbone has -> its name in configs, and in the names of config files.
BACKBONES = (
    ("backbone.stages.2.blocks.17.norm1.weight", "swin_l_p4w12", "SwinL"),
    ("backbone.body.layer3.22.conv1.weight", "resnet101", "R101"),
    ("backbone.body.layer3.5.conv1.weight", "resnet50", "R50"),
)

NOTHING = Recognised("no video instance segmentation network", "")


@dataclass(frozen=True)
class Description:
    """Findings about a weight file.

    Args:
        layout: published or ours.
        method: as a sentence calls it, see ``vmt.checkpoint.methods``.
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
    shapes = _shapes(state)
    backbone, _ = _backbone(shapes)
    what = recognise(state)
    return Description(
        layout="published" if file.published else "ours",
        method=what.method,
        backbone=backbone,
        num_classes=shapes[what.head][0] - what.more_rows if what.head in shapes else 0,
        elements=sum(value.numel() for value in file.state.values()),
        config=what.config,
        families=dict(Counter(".".join(name.split(".")[:2]) for name in sorted(shapes))),
    )


def recognise(state: Mapping[str, Tensor]) -> Recognised:
    """Whose parameters these are.

    Args:
        state: of a network, or of a file under our names.
    """
    shapes = _shapes(state)
    _, label = _backbone(shapes)
    fits = (method.recognise(shapes, label) for method in methods())
    return next((fit for fit in fits if fit is not None), NOTHING)


def _shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    used = {name: value for name, value in state.items() if not name.startswith(UNUSED)}
    return {name: tuple(value.shape) for name, value in used.items()}


def _backbone(names: Iterable[str]) -> tuple[str, str]:
    """Its name in configs, and in names of config files."""
    bare = {name.removeprefix(FRAME_MODEL) for name in names}
    rows = ((name, label) for key, name, label in BACKBONES if key in bare)
    return next(rows, ("unknown", ""))
