"""Files that hold a part of a network, or more layers than it has."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final, TypeVar

Entry = TypeVar("Entry")

#: Where a network that refines a frame model keeps it (RefineVIS).
FRAME_MODEL: Final = "frame_model."
_LAYER = re.compile(r"((?:.*\.)?(?:encoder|decoder))\.layers\.(\d+)\..*")


def as_frame_model(
    state: Mapping[str, Entry], wanted: Iterable[str], notes: list[str]
) -> dict[str, Entry]:
    """A frame model's own file under the names that it has inside another network.

    Args:
        state: entries of the file, under our names.
        wanted: names of the network.
        notes: gets a remark if that is what the file is.
    """
    inside = any(name.startswith(FRAME_MODEL) for name in wanted)
    if not inside or any(name.startswith(FRAME_MODEL) for name in state):
        return dict(state)
    notes.append("the file holds a frame model alone; what refines it is not in it")
    return {FRAME_MODEL + name: value for name, value in state.items()}


def extra_layers(state: Iterable[str], wanted: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Encoders and decoders of which a file has more layers than the network.

    Args:
        state: names in the file, under ours.
        wanted: names of the network.

    Returns:
        Name of the part -> its layers in the file and in the network, at least one.
    """
    theirs, ours = _layers(state), _layers(wanted)
    return {
        part: (theirs[part], count) for part, count in ours.items() if theirs.get(part, 0) > count
    }


def _layers(names: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name in names:
        match = _LAYER.fullmatch(name)
        if match is not None:
            counts[match[1]] = max(counts.get(match[1], 0), int(match[2]) + 1)
    return counts
