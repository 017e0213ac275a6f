"""Weights into a network: strictly, and with a report that people can read."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from vmt.checkpoint.class_rows import HEAD, ClassRows, new_heads_key, with_class_rows
from vmt.checkpoint.describe import NOTHING, recognise
from vmt.checkpoint.files import WeightFile, read_weights
from vmt.checkpoint.key_maps.rows import UNUSED
from vmt.checkpoint.parts import as_frame_model, extra_layers
from vmt.layers.adapter import Adapter
from vmt.structures.labels import LabelSpace
from vmt.utils.errors import CheckpointError

logger = logging.getLogger(__name__)


@dataclass
class LoadReport:
    """What matched when weights met a network.

    Args:
        source: the file.
        loaded: names that were filled.
        missing: names that the network needs and the file lacks.
        mismatched: (name, shape in the file, shape in the network).
        unexpected: names in the file that the network does not have.
        new: missing or mismatched names that the config declares as newly initialised, or missing
            ones of an ``Adapter`` of which the file has nothing.
        unused: names in the file that no network reads, as the file calls them.
        classes: which rows of the class heads were taken, where they are not the network's.
        notes: what was taken of several things in the file.
    """

    source: str
    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    mismatched: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    classes: ClassRows | None = None
    notes: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether the network has everything that it needs."""
        return not self.missing and not self.mismatched

    def text(self) -> str:
        """One line per family of names and kind of finding."""
        lines = [f"{self.source}: {len(self.loaded)} entries loaded"]
        lines += [f"  {note}" for note in self.notes]
        kinds = (
            ("missing", self.missing),
            ("newly initialised", self.new),
            ("in the file but not in the network", self.unexpected),
            ("in the file, read by no network", self.unused),
        )
        for kind, names in kinds:
            families = Counter(".".join(name.split(".")[:2]) for name in names)
            for family, count in sorted(families.items()):
                lines.append(f"  {kind}: {count} x {family}")
        for name, theirs, ours in self.mismatched:
            lines.append(f"  other shape: {name} {list(theirs)}, the network has {list(ours)}")
        if self.classes is not None:
            lines.append(f"  {self.classes.text()}")
        return "\n".join(lines)


def load_weights(
    model: nn.Module,
    path: str | Path,
    new_parameters: Sequence[str] = (),
    *,
    new_classes: bool = False,
) -> LoadReport:
    """Fill a network from a file of either layout.

    Args:
        model: changed in place, only if everything fits.
        path: see ``vmt.checkpoint.files``.
        new_parameters: prefixes of our names that the file may lack or hold in another shape.
        new_classes: the network may have classes that the file does not know; without, that is an
            error. Rows of class heads go by the names of the classes where these are known.

    Returns:
        What matched.

    Raises:
        CheckpointError: unreadable, the network needs something that the file does not have, or it
            has fewer layers and is no training's start.
    """
    file = read_weights(path)
    everything = file.ours()
    state = {k: v for k, v in everything.items() if not k.startswith(UNUSED)}
    wanted = model.state_dict()
    notes = [*file.notes]
    state = as_frame_model(state, wanted, notes)
    _count_layers(file.path, state, wanted, notes, starts=new_classes)
    report = LoadReport(str(file.path))
    space = getattr(model, "label_space", None)
    if isinstance(space, LabelSpace):
        state, report.classes = with_class_rows(
            file,
            state,
            wanted,
            space.names,
            new_classes=new_classes,
            new_parameters=new_parameters,
            notes=notes,
        )
    report.notes = tuple(notes)
    report.unused = sorted(k.removeprefix(UNUSED) for k in everything if k.startswith(UNUSED))
    allowed = (*new_parameters, *_absent_adapters(model, state))
    for name, value in wanted.items():
        fits = name in state and state[name].shape == value.shape
        if fits:
            report.loaded.append(name)
        elif name.startswith(allowed):
            report.new.append(name)
        elif name not in state:
            report.missing.append(name)
        else:
            report.mismatched.append((name, tuple(state[name].shape), tuple(value.shape)))
    report.unexpected = sorted(set(state) - set(wanted))
    if not report.complete:
        logger.warning(report.text())
        raise CheckpointError(_summary(report, file, wanted, starts=new_classes))
    model.load_state_dict({name: state[name] for name in report.loaded}, strict=False)
    return report


def _absent_adapters(model: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """Prefixes of the additions of a network of which a file holds nothing."""
    prefixes = [f"{name}." for name, part in model.named_modules() if isinstance(part, Adapter)]
    return [prefix for prefix in prefixes if not any(name.startswith(prefix) for name in state)]


def _count_layers(
    path: Path,
    state: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    notes: list[str],
    *,
    starts: bool,
) -> None:
    """Note what a training starts from; without the others a trained network says nonsense."""
    for part, (theirs, ours) in extra_layers(state, wanted).items():
        if not starts:
            raise CheckpointError(
                f"{path}: its {part} has {theirs} layers, the network's {ours}; set the number of "
                "layers to the file's, or take the config it was trained with."
            )
        notes.append(f"the first {ours} of the {theirs} layers of its {part} are taken")


def _summary(
    report: LoadReport, file: WeightFile, wanted: Mapping[str, Tensor], *, starts: bool
) -> str:
    """One sentence with cause and fix; the table goes to the log.

    Args:
        report: of what did not fit.
        file: the weights.
        wanted: entries of the network.
        starts: a training starts from the file, so that parts of the network may be new.
    """
    holds, asks = recognise(file.ours()), recognise(wanted)
    heads = [row for row in report.mismatched if HEAD.fullmatch(row[0])]
    fix = "take the config it was trained with: config.yaml beside it, or what `vmt inspect` says"
    if starts:
        fix = (
            "`vmt inspect` says what the file is, MODEL.NEW_PARAMETERS lists prefixes that may "
            "start from scratch"
        )
    if asks != NOTHING and not asks.suits(holds):
        cause = f"it holds {holds.method}, the network is {asks.method}"
    elif report.mismatched:
        name, theirs, ours = report.mismatched[0]
        cause = f"{name} has shape {list(theirs)} in the file and {list(ours)} in the network"
        if len(heads) == len(report.mismatched) and not report.missing:
            fix = "set MODEL.LABEL_SPACE to its classes"
            if starts:
                fix += f", or train new heads: {new_heads_key([row[0] for row in heads])}"
    else:
        cause = f"{len(report.missing)} entries are missing, first {report.missing[0]}"
        if asks.method.endswith(f" on {holds.method}"):
            cause = f"it holds {holds.method} alone, {cause}"
    return f"{report.source}: does not fit the network: {cause}; {fix}."


def parameter_count(model: nn.Module) -> tuple[int, int, int]:
    """All parameters, trainable ones, and elements of the state dict."""
    parameters = [(p.numel(), p.requires_grad) for p in model.parameters()]
    elements = sum(torch.as_tensor(value).numel() for value in model.state_dict().values())
    return sum(n for n, _ in parameters), sum(n for n, g in parameters if g), elements
