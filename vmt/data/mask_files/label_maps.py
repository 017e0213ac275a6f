"""Label maps of a folder: one per frame for all objects, or one per frame and object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vmt.data.label_maps import (
    MAX_EDGE_VALUES,
    VOID,
    EdgeSurvey,
    LabelScheme,
    find_scheme,
    read_labels,
    value_text,
    write_labels_like,
)
from vmt.data.mask_files.base import BoolArray, Size, list_few, size_text
from vmt.data.mask_files.folders import FrameCodec, NewMask
from vmt.utils.errors import AnnotationError


@dataclass(frozen=True)
class LabelMapCodec:
    """Reads and writes label maps; see ``folders.FrameCodec``.

    Args:
        scheme: what their values mean.
        note: see there.
    """

    scheme: LabelScheme = field(default_factory=LabelScheme)
    note: str = ""
    noun: str = "label map"

    def read(self, path: Path, size: Size) -> dict[str, BoolArray]:
        """See ``folders.FrameCodec``."""
        labels = _read_sized(path, size)
        return {str(value): labels == value for value in self.scheme.values(labels)}

    def label(self, key: str) -> str:
        """See ``folders.FrameCodec``."""
        return self.scheme.label(int(key))

    def category(self, key: str) -> str:
        """See ``folders.FrameCodec``."""
        return self.scheme.category(int(key))

    def rewrite(self, path: Path, new: Mapping[str, NewMask]) -> bytes:
        """See ``folders.FrameCodec``.

        Where objects overlap, the one with the higher confidence is on top, of equals the one with
        the lower number. An object that would be covered whole keeps its old pixels. Pixels whose
        value is no object's stay.
        """
        labels = read_labels(path)
        old = {int(key): labels == int(key) for key in new}
        free = (labels == 0) | np.any(list(old.values()), axis=0)
        result = np.where(free, 0, labels).astype(labels.dtype)
        order = sorted(new, key=lambda key: (new[key].confidence, -int(key)))
        for key in order:
            mask = new[key].mask
            result[(old[int(key)] if mask is None else mask) & free] = int(key)
        for value, mask in old.items():
            if not (result == value).any():
                result[mask] = value
        return write_labels_like(path, result)


@dataclass(frozen=True)
class ObjectMapCodec:
    """Reads and writes maps of one object each; see ``folders.FrameCodec``.

    The folder that a map lies in is the object; every pixel but 0 is the object's.
    """

    note: str = "Each folder is read as one object."
    noun: str = "mask"

    def read(self, path: Path, size: Size) -> dict[str, BoolArray]:
        """See ``folders.FrameCodec``."""
        labels = _read_sized(path, size)
        values = [int(value) for value in np.unique(labels) if value]
        if len(values) > 1:
            raise AnnotationError(
                f"{path}: holds the values {list_few([value_text(v) for v in values])}, but each "
                "folder is of one object; give label maps of all objects in one folder, or masks "
                "of one value, without smoothing."
            )
        return {path.parent.name: labels != 0} if values else {}

    def label(self, key: str) -> str:
        """See ``folders.FrameCodec``."""
        return f"object {key}"

    def category(self, key: str) -> str:
        """See ``folders.FrameCodec``."""
        del key
        return "object"

    def rewrite(self, path: Path, new: Mapping[str, NewMask]) -> bytes:
        """See ``folders.FrameCodec``."""
        labels = read_labels(path)
        mask = new[path.parent.name].mask if path.parent.name in new else None
        if mask is None:
            return path.read_bytes()
        return write_labels_like(path, np.where(mask, labels.max(), 0).astype(labels.dtype))


class ObjectMaps:
    """See ``folders.MakeCodec``."""

    def __call__(self, files: Sequence[Path], size: Size) -> ObjectMapCodec:
        """See ``folders.MakeCodec``."""
        del files, size
        return ObjectMapCodec()

    def categories(self, files: Sequence[Path]) -> set[str]:
        """See ``folders.MakeCodec``."""
        del files
        return {"object"}

    def settings(self) -> str:
        """See ``folders.MakeCodec``."""
        return "objects"


class MakeLabelMapCodec:
    """Codecs for the videos of one set of label maps, whose values mean the same everywhere.

    Args:
        files: all label maps of the set.
        void: value that is never touched; None without one.
        guess: find out what values mean (see ``vmt.data.label_maps.find_scheme``), instead of
            taking all but ``void`` for objects.
    """

    def __init__(
        self, files: Sequence[Path] = (), void: int | None = VOID, *, guess: bool = True
    ) -> None:
        self._files = files
        self._scheme = None if guess else LabelScheme(void)
        self._settings = f"{void} {guess}"

    @property
    def scheme(self) -> LabelScheme:
        """What values mean; found out when it is first asked for."""
        if self._scheme is None:
            self._scheme = find_scheme(self._files)
        return self._scheme

    def categories(self, files: Sequence[Path]) -> set[str]:
        """See ``folders.MakeCodec``."""
        del files
        return set(self.scheme.classes.values()) or {"object"}

    def settings(self) -> str:
        """See ``folders.MakeCodec``."""
        return self._settings

    def __call__(self, files: Sequence[Path], size: Size) -> FrameCodec:
        """See ``folders.MakeCodec``."""
        del size
        survey = EdgeSurvey()
        objects: set[int] = set()
        for path in files:
            labels = read_labels(path)
            survey.add(labels)
            objects.update(self.scheme.values(labels))
        return LabelMapCodec(self.scheme, self._notes(files, survey, objects))

    def _notes(self, files: Sequence[Path], survey: EdgeSurvey, objects: set[int]) -> str:
        edges = survey.edge_values(self.scheme)
        named = list_few([value_text(value) for value in edges])
        if len(edges) > MAX_EDGE_VALUES or (edges and objects == set(edges)):
            raise AnnotationError(
                f"{files[0].parent}: the values {named} lie only on edges between other values, as "
                "smoothing or resizing makes them; save masks without smoothing, one value per "
                "object, and resize them with nearest neighbour."
            )
        notes = [self.scheme.note]
        if edges:
            count = sum(map(survey.pixels, edges))
            notes.append(
                f"Values that lie only on edges between others ({named}; {count} pixels) are read "
                "as objects; were the maps resized with smoothing?"
            )
        void = self.scheme.void
        if void is not None and survey.pixels(void):
            notes.append(
                f"{value_text(void)} is taken as not annotated ({survey.pixels(void)} pixels; "
                "--void none makes it an object)."
            )
        return " ".join(note for note in notes if note)


def _read_sized(path: Path, size: Size) -> np.ndarray[tuple[int, ...], np.dtype[np.integer]]:
    labels = read_labels(path)
    if labels.shape != size:
        raise AnnotationError(
            f"{path}: is {size_text(labels.shape)} pixels, but its frame is {size_text(size)}; "
            "masks and frames must have one size."
        )
    return labels
