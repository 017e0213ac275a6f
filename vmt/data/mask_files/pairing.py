"""Which masks belong to which frame: by name, by the number in the name, or in order."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from vmt.data.mask_files.base import FrameSet, list_few
from vmt.utils.errors import AnnotationError

_NUMBER = re.compile("[0-9]+")


@dataclass(frozen=True)
class Pairing:
    """Masks and their frames.

    Args:
        names: index of a frame -> name of its masks.
        note: what a person should know; may be empty.
        name_of: what masks of any frame are called, beside those that are there.
    """

    names: Mapping[int, str]
    note: str
    name_of: Callable[[int], str] = str


def pair(
    files: Mapping[str, Path], frames: FrameSet, noun: str, first: int | None = None
) -> Pairing:
    """Find the frame of each mask file.

    Beside frames that have names, the same name decides; where no name is the same, the number in
    it. For a video file: one mask file per frame goes in order; a few of them by number, which
    counts from 0, or from 1 where no other way fits.

    Args:
        files: name without extension -> mask file, in natural order.
        frames: of the video.
        noun: what a mask file is called.
        first: number of the first frame of a video file; None: see above.

    Raises:
        AnnotationError: they do not belong together, or it is not certain how.
    """
    pairing = _Pairing(list(files), files, frames, noun)
    if frames.stems is None:
        return pairing.by_number(first)
    if first is not None:
        raise AnnotationError(
            f"--first-number {first}: is for masks of a video file; the frames of {frames.where} "
            f"have names, with which {noun}s pair."
        )
    return pairing.by_name(frames.stems)


@dataclass(frozen=True)
class _Pairing:
    names: Sequence[str]
    files: Mapping[str, Path]
    frames: FrameSet
    noun: str

    def by_name(self, stems: Sequence[str]) -> Pairing:
        index = {stem: t for t, stem in enumerate(stems)}
        lonely = [name for name in self.names if name not in index]
        if not lonely:
            return self._report(
                {index[name]: name for name in self.names}, stems, stems.__getitem__
            )
        numbered, places = numbers_of(self.names), numbers_of(stems)
        per_object = all(name.rpartition("_")[0] in index for name in lonely)
        if len(lonely) == len(self.names) and not per_object:
            if isinstance(numbered, dict) and isinstance(places, dict):
                frame_of = {number: index[stem] for number, stem in places.items()}
                if all(number in frame_of for number in numbered):
                    pairs = {frame_of[number]: name for number, name in numbered.items()}
                    in_order = list(places)
                    return self._report(
                        pairs,
                        stems,
                        lambda t: renumbered(self.names, in_order[t]),
                        "by the number in their names",
                    )
            if len(self.names) == len(stems):
                return self._in_order(stems)
        hint = "."
        if per_object:
            hint = "; one file per object and frame is read from a folder per object."
        elif len(self.names) == len(stems):
            hint = "; there are as many as frames: do both count from the same number?"
        raise AnnotationError(
            f"{self.files[lonely[0]]}: no frame of that name in {self.frames.where} "
            f"({len(lonely)} of {len(self.names)} {self.noun}s have none); {self.noun}s and frames "
            f"pair by file name{hint}"
        )

    def by_number(self, first: int | None) -> Pairing:
        count = self.frames.count or 0
        stems = [str(t) for t in range(count)]
        numbered = numbers_of(self.names)
        if isinstance(numbered, str):
            if len(self.names) == count and first is None:
                return self._in_order(stems)
            raise AnnotationError(
                f"{self.files[self.names[0]]}: there are {len(self.names)} {self.noun}s for the "
                f"{count} frames of {self.frames.where}, and {numbered} tells which frame each is "
                "for; name the files by frame, from 0."
            )
        numbers = sorted(numbered)
        steps = {b - a for a, b in pairwise(numbers)}
        if first is None and len(numbers) == count and len(steps) <= 1:
            names = [numbered[n] for n in numbers]
            return self._report(dict(enumerate(names)), stems, names.__getitem__)
        if first is None:
            first = self._first_number(numbers, count)
        for number in (numbers[0], numbers[-1]):
            if not 0 <= number - first < count:
                raise AnnotationError(
                    f"{self.files[numbered[number]]}: is for frame {number - first}, but "
                    f"{self.frames.where} has frames 0 to {count - 1}; number the files from 0, or "
                    "say with --first-number what the first frame's number is."
                )
        return self._report(
            {n - first: numbered[n] for n in numbers},
            stems,
            lambda t: renumbered(self.names, t + first),
        )

    def _first_number(self, numbers: Sequence[int], count: int) -> int:
        """0 or 1, whichever is certain."""
        if numbers[0] == 0 or numbers[-1] > count:
            return 0
        if numbers[-1] == count:
            return 1
        some = f"number {numbers[0]} in the name of one {self.noun}"
        if len(numbers) > 1:
            some = f"numbers {numbers[0]} to {numbers[-1]} in the names of {len(numbers)} "
            some += f"{self.noun}s"
        raise AnnotationError(
            f"{self.files[self.names[0]].parent}: the {some} may count the {count} frames of "
            f"{self.frames.where} from 0, or from 1 as ffmpeg does; say which: "
            "--first-number 0 or --first-number 1."
        )

    def _in_order(self, stems: Sequence[str]) -> Pairing:
        names = self.names
        return self._report(dict(enumerate(names)), stems, names.__getitem__, "in order")

    def _report(
        self,
        names: Mapping[int, str],
        stems: Sequence[str],
        name_of: Callable[[int], str],
        how: str = "",
    ) -> Pairing:
        notes = []
        if how:
            t = min(names)
            noun = self.noun[0].upper() + self.noun[1:]
            notes.append(f"{noun}s and frames pair {how}: {names[t]} is for frame {stems[t]}.")
        alone = [t for t in range(len(stems)) if t not in names]
        if alone:
            notes.append(
                f"{len(alone)} of {len(stems)} frames have no {self.noun} and are left alone: "
                f"{list_few(_ranges(alone, stems))}."
            )
        return Pairing(names, " ".join(notes), name_of)


def numbers_of(names: Sequence[str]) -> dict[int, str] | str:
    """Number -> name: the only number in a name, or the only one in which the names differ.

    Returns:
        The reason, fit for "and ... tells", where there is no such number.
    """
    column = _column(names)
    if isinstance(column, str):
        return column
    numbered = {int(_NUMBER.findall(name)[column]): name for name in names}
    return numbered if len(numbered) == len(names) else "no number of its own"


def renumbered(names: Sequence[str], number: int) -> str:
    """The first of some names with another number, filled with zeros as theirs are.

    Args:
        names: that have numbers, see ``numbers_of``.
        number: in place of the first one's.
    """
    column = _column(names)
    assert isinstance(column, int), "names without numbers have no renumbered ones"
    digits = [_NUMBER.findall(name)[column] for name in names]
    filled = [len(text) for text in digits if text.startswith("0") and len(text) > 1]
    place = list(_NUMBER.finditer(names[0]))[column]
    text = str(number).zfill(max(filled, default=0))
    return names[0][: place.start()] + text + names[0][place.end() :]


def _column(names: Sequence[str]) -> int | str:
    """Which of the numbers in a name is the frame's, or the reason why none is."""
    numbers = [_NUMBER.findall(name) for name in names]
    if len({_NUMBER.sub("#", name) for name in names}) == 1:
        columns = [{int(digits) for digits in column} for column in zip(*numbers, strict=True)]
        differ = [k for k, column in enumerate(columns) if len(column) > 1]
        if len(columns) > 1 and len(differ) != 1:
            return f"none of the {len(columns)} numbers in a name"
        if differ:
            return differ[0]
    return 0 if all(len(digits) == 1 for digits in numbers) else "no number in its name"


def _ranges(numbers: Sequence[int], names: Sequence[str]) -> list[str]:
    """Runs of neighbours as "first to last"."""
    parts: list[tuple[int, int]] = []
    for t in numbers:
        if parts and parts[-1][1] == t - 1:
            parts[-1] = (parts[-1][0], t)
        else:
            parts.append((t, t))
    return [names[a] if a == b else f"{names[a]} to {names[b]}" for a, b in parts]
