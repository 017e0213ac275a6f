"""Rows of class heads by the names of their classes, where a file and a network differ in them."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vmt.checkpoint.files import WeightFile
from vmt.structures.labels import PUBLISHED_ROWS, normalise_name
from vmt.utils.errors import CheckpointError

#: Weights and biases of class heads, and embeddings of labels: axis 0 counts the classes.
HEAD = re.compile(r"(frame_model\.)?(heads\.cls(\.\d+)?|denoising\.labels)\.(weight|bias)")
#: The last row of heads that have one more than there are classes.
NO_OBJECT = "(no object)"


@dataclass(frozen=True)
class ClassRows:
    """Which row of a file each class of a network takes.

    Args:
        source: class names of the file, by row.
        target: class names of the network, by row.
        rows: row of the network -> row of the file.
    """

    source: tuple[str, ...]
    target: tuple[str, ...]
    rows: Mapping[int, int]

    @property
    def new(self) -> list[str]:
        """Classes of the network that the file does not know."""
        return [name for row, name in enumerate(self.target) if row not in self.rows]

    @property
    def unchanged(self) -> bool:
        """Whether the two have the same classes in the same order."""
        same = all(row == source for row, source in self.rows.items())
        return same and len(self.rows) == len(self.source) == len(self.target)

    def text(self) -> str:
        """One line: how many rows are taken over, and which are not."""
        taken = set(self.rows.values())
        left = [name for row, name in enumerate(self.source) if row not in taken]
        line = f"class rows by name: {len(self.rows)} of {len(self.target)} from the file"
        line += f"; newly initialised: {', '.join(self.new)}" if self.new else ""
        return line + (f"; of the file's, not used: {', '.join(left)}" if left else "")


def classes_of_file(file: WeightFile, count: int) -> tuple[str, ...] | None:
    """Names of the rows of a file's class heads.

    Args:
        file: says it beside the weights where we wrote it; a head of 42 rows without is that of the
            published files.
        count: rows of its class heads.

    Returns:
        ``count`` names, or None where nobody says what the rows are.
    """
    names: tuple[str, ...] = ()
    with contextlib.suppress(ValueError, TypeError, KeyError):  # somebody else's "categories"
        names = tuple(str(row["name"]) for row in json.loads(file.metadata.get("categories", "[]")))
    if not names and count == len(PUBLISHED_ROWS):
        names = PUBLISHED_ROWS
    if names and count == len(names) + 1:
        names = (*names, NO_OBJECT)
    return names if len(names) == count else None


def match_classes(source: Sequence[str], target: Sequence[str]) -> ClassRows:
    """Rows of the same name; spelling counts as in annotation files."""
    row_of = {normalise_name(name): row for row, name in enumerate(source)}
    names = enumerate(map(normalise_name, target))
    rows = {row: row_of[name] for row, name in names if name in row_of}
    return ClassRows(tuple(source), tuple(target), rows)


def with_class_rows(
    file: WeightFile,
    state: Mapping[str, Tensor],
    model_state: Mapping[str, Tensor],
    target: Sequence[str],
    *,
    new_classes: bool,
    new_parameters: Sequence[str],
    notes: list[str],
) -> tuple[dict[str, Tensor], ClassRows | None]:
    """Put the rows of the class heads where a network has the classes of these names.

    Args:
        file: where the entries are from.
        state: its entries under our names.
        model_state: the network's entries; classes that the file does not know keep these.
        target: class names of the network.
        new_classes: there may be such classes.
        new_parameters: prefixes of names; heads among them may be new altogether.
        notes: gets a remark where rows go by position.

    Returns:
        The entries, and what was done: None when rows are taken as they are, because they agree or
        because the file does not say what they are. Such heads are left out where they may be new.

    Raises:
        CheckpointError: the network has classes that the file does not know.
    """
    heads = [name for name in state if HEAD.fullmatch(name) and name in model_state]
    if not heads:
        return dict(state), None
    count = len(state[heads[0]])
    new_heads = heads[0].startswith(tuple(new_parameters))
    if len(model_state[heads[0]]) == len(target) + 1:
        target = (*target, NO_OBJECT)
    source = classes_of_file(file, count)
    if source is None and not new_heads:
        if count == len(target):
            notes.append("class rows are taken by position: the file does not name its classes")
        return dict(state), None
    if source is None:  # nobody knows whose rows these are, and the config says they are new
        return {name: value for name, value in state.items() if name not in heads}, None
    found = match_classes(source, target)
    if found.unchanged:
        return dict(state), None
    if not found.rows and new_heads:
        return {name: value for name, value in state.items() if name not in heads}, found
    if found.new and not (new_classes and found.rows):
        fix = "Set MODEL.LABEL_SPACE to the classes of the file"
        if not found.rows:
            fix += f", or train new heads: {new_heads_key(heads)}"
        raise CheckpointError(
            f"{file.path}: its class head does not know {_some(found.new)}; it knows "
            f"{_some(source)}. {fix}."
        )
    return dict(state) | _mapped(state, model_state, heads, found.rows), found


def new_heads_key(heads: Sequence[str]) -> str:
    """How a config says that class heads are new.

    Args:
        heads: names of their parameters.
    """
    prefixes = dict.fromkeys(re.sub(r"(cls|denoising)\..*", r"\1.", name) for name in heads)
    return f'MODEL.NEW_PARAMETERS "{list(prefixes)}"'


def _mapped(
    state: Mapping[str, Tensor],
    model_state: Mapping[str, Tensor],
    heads: Sequence[str],
    rows: Mapping[int, int],
) -> dict[str, Tensor]:
    """The network's heads with the file's rows in their places."""
    to, of = (torch.tensor(list(places)) for places in (rows.keys(), rows.values()))
    mapped = {}
    for name in heads:
        head = model_state[name].detach().clone()
        if head.shape[1:] == state[name].shape[1:]:  # another width is reported as such
            head[to] = state[name][of].to(head)
            mapped[name] = head
    return mapped


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} others" if len(names) > 3 else "")
