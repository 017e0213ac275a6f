"""What a line of a key map can say, and how a table of them renames a state dict both ways."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vmt.utils.errors import CheckpointError

#: Entries that our network does not use are kept under this prefix, so that nothing is lost.
UNUSED = "unused."


def _pattern(template: str) -> re.Pattern[str]:
    """``{x}`` stands for one part of a dotted name, ``{x*}`` for one or more."""
    pieces = re.split(r"(\{\w+\*?\})", template)
    out = ""
    for piece in pieces:
        name = re.fullmatch(r"\{(\w+)(\*?)\}", piece)
        if name is None:
            out += re.escape(piece)
        elif name[2]:
            out += f"(?P<{name[1]}>.+)"
        else:
            out += f"(?P<{name[1]}>[^.]+)"
    return re.compile(out)


def _fill(template: str, values: Mapping[str, str]) -> str:
    return re.sub(r"\{(\w+)\*?\}", lambda m: values[m[1]], template)


def _matches(template: str, names: Iterable[str]) -> list[tuple[str, dict[str, str]]]:
    """The names that fit, each with what stands for the placeholders."""
    fits = [(name, _pattern(template).fullmatch(name)) for name in names]
    return [(name, match.groupdict()) for name, match in fits if match is not None]


@dataclass(frozen=True)
class Rename:
    """One name for another; templates as in ``_pattern``."""

    released: str
    ours: str


@dataclass(frozen=True)
class Split:
    """One released entry holds two of ours, half each along ``axis``."""

    released: str
    ours: tuple[str, str]
    axis: int


@dataclass(frozen=True)
class Alias:
    """A released entry that repeats another one, whose name ``released_source`` gives.

    Where it is repeated more than once, once per layer say, ``each`` is an entry of every layer,
    which gives the parts of the name that the source lacks.
    """

    released: str
    released_source: str
    each: str = ""


@dataclass(frozen=True)
class Unused:
    """A released entry that the network never reads; kept for export."""

    released: str
    reason: str


Row = Rename | Split | Alias | Unused


@dataclass
class Conversion:
    """A renamed state dict and what happened on the way.

    Args:
        state: entries under the new names.
        unknown: names that no row covers.
        conflicts: aliases whose content differs from what they repeat.
    """

    state: dict[str, Tensor] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)


class KeyMap:
    """A table of rows; the first row that fits a name decides, in both directions.

    Args:
        name: for reports.
        rows: the table.
        mark: some name of every file of the family begins so, and no name of ours; the longest
            mark that fits a file chooses its table.
    """

    def __init__(self, name: str, rows: Sequence[Row], mark: str) -> None:
        self.name = name
        self.mark = mark
        self.rows = tuple(rows)
        self._released = [(_pattern(row.released), row) for row in self.rows]
        self._ours = [(_pattern(row.ours), row) for row in self.rows if isinstance(row, Rename)]

    def covers(self, name: str) -> bool:
        """Whether a row speaks of this released name."""
        return any(pattern.fullmatch(name) for pattern, _ in self._released)

    def to_ours(self, released: Mapping[str, Tensor]) -> Conversion:
        """Published names -> ours."""
        out = Conversion()
        for name, value in released.items():
            match, row = self._match(self._released, name)
            if match is None:
                out.unknown.append(name)
            elif isinstance(row, Rename):
                out.state[_fill(row.ours, match.groupdict())] = value
            elif isinstance(row, Split):
                for part, half in zip(row.ours, value.chunk(2, row.axis), strict=True):
                    out.state[part] = half.clone()
            elif isinstance(row, Alias):
                source = released.get(_fill(row.released_source, match.groupdict()))
                if source is None or not torch.equal(source, value):
                    out.conflicts.append(name)
            else:
                out.state[UNUSED + name] = value
        return out

    def to_released(self, ours: Mapping[str, Tensor]) -> Conversion:
        """Our names -> published ones, aliases and unused entries included."""
        out = Conversion()
        halves = {row.ours[1]: row for row in self.rows if isinstance(row, Split)}
        first = {row.ours[0] for row in self.rows if isinstance(row, Split)}
        for name, value in ours.items():
            if name.startswith(UNUSED):
                out.state[name.removeprefix(UNUSED)] = value
            elif name in halves:
                row = halves[name]
                if row.ours[0] not in ours:
                    raise CheckpointError(f"{name} is there, but {row.ours[0]} is not.")
                out.state[row.released] = torch.cat([ours[row.ours[0]], value], row.axis)
            elif name not in first:
                match, rename = self._match(self._ours, name)
                if match is None or not isinstance(rename, Rename):
                    out.unknown.append(name)
                else:
                    out.state[_fill(rename.released, match.groupdict())] = value
        self._add_aliases(out.state)
        return out

    def _add_aliases(self, released: dict[str, Tensor]) -> None:
        for row in self.rows:
            if isinstance(row, Alias):
                each = _matches(row.each, released) if row.each else [("", {})]
                for name, values in _matches(row.released_source, released):
                    for _, more in each:
                        released[_fill(row.released, values | more)] = released[name]

    @staticmethod
    def _match(
        table: Sequence[tuple[re.Pattern[str], Row]], name: str
    ) -> tuple[re.Match[str] | None, Row | None]:
        for pattern, row in table:
            match = pattern.fullmatch(name)
            if match is not None:
                return match, row
        return None, None
