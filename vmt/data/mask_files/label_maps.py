"""Label maps of a folder: one per frame for all objects, or one per frame and object."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from cocoapi_hq.io import rle
from vmt.data.label_maps import (
    MAX_EDGE_VALUES,
    EdgeSurvey,
    Labels,
    LabelScheme,
    find_scheme,
    read_labels,
    value_text,
    write_labels_like,
)
from vmt.data.mask_files.base import BoolArray, Change, Size, join_notes, list_few, size_text
from vmt.data.mask_files.folders import FrameCodec
from vmt.data.names import VOID
from vmt.utils.errors import AnnotationError


class LabelMapCodec(FrameCodec):
    """The label maps of one set, whose values mean the same everywhere.

    Args:
        files: all label maps of the set.
        void: value that is never touched; None without one.
        guess: learn from the maps what values mean (see ``vmt.data.label_maps.find_scheme``),
            instead of taking all but ``void`` for objects.
    """

    noun = "label map"

    def __init__(
        self, files: Sequence[Path] = (), void: int | None = VOID, *, guess: bool = True
    ) -> None:
        self._files = files
        self._scheme = None if guess else LabelScheme(void)
        self.settings = f"{void} {guess}"

    @property
    def scheme(self) -> LabelScheme:
        """What values mean; the maps are read when it is first asked for."""
        if self._scheme is None:
            self._scheme, self._files = find_scheme(self._files), ()
        return self._scheme

    def survey(self, files: Sequence[Path], size: Size) -> str:
        """Note about values on edges alone and about void; smoothed maps are refused."""
        del size
        values = EdgeSurvey()
        objects: set[int] = set()
        for path in files:
            labels = read_labels(path)
            values.add(labels)
            objects.update(self.scheme.values(labels))
        edges = values.edge_values(self.scheme)
        named = list_few([value_text(value) for value in edges])
        if len(edges) > MAX_EDGE_VALUES or (edges and objects == set(edges)):
            raise AnnotationError(
                f"{files[0].parent}: the values {named} lie only on edges between other values, as "
                "smoothing or resizing makes them; save masks without smoothing, one value per "
                "object, and resize them with nearest neighbour."
            )
        notes = [self.scheme.note]
        if edges:
            count = sum(map(values.pixels, edges))
            notes.append(
                f"Values that lie only on edges between others ({named}; {count} pixels) are read "
                "as objects; were the maps resized with smoothing?"
            )
        void = self.scheme.void
        if void is not None and values.pixels(void):
            notes.append(
                f"{value_text(void)} is taken as not annotated ({values.pixels(void)} pixels; "
                "--void none makes it an object)."
            )
        return join_notes(*notes)

    def read(self, path: Path, size: Size) -> dict[str, BoolArray]:
        """Value -> (H, W) of its object."""
        labels = _read_sized(path, size)
        return {str(value): labels == value for value in self.scheme.values(labels)}

    def label(self, key: str) -> str:
        """The object's value or colour, as people write it."""
        return self.scheme.label(int(key))

    def category(self, key: str) -> str:
        """The class that the value holds; ``object`` without one."""
        return self.scheme.category(int(key))

    def categories(self, files: Sequence[Path]) -> set[str]:
        """The classes that the maps name; ``object`` alone where they name none."""
        return set(self.scheme.classes.values()) or super().categories(files)

    def rewrite(self, path: Path, changes: Mapping[str, Change]) -> bytes:
        """The label map with other objects.

        Where objects overlap, the one with the higher confidence is on top, of equals the one with
        the lower number. An object that would be covered whole keeps its old pixels. Pixels whose
        value is no object's stay.
        """
        return write_labels_like(path, self._painted(read_labels(path), changes))

    def create(
        self, files: Sequence[Path], name: str, changes: Mapping[str, Change]
    ) -> Iterator[tuple[Path, bytes]]:
        """One label map, of the kind of the first one."""
        like = files[0]
        labels = self._painted(np.zeros_like(read_labels(like)), changes)
        yield like.with_name(f"{name}{like.suffix}"), write_labels_like(like, labels)

    @staticmethod
    def _painted(labels: Labels, changes: Mapping[str, Change]) -> Labels:
        old = {int(key): labels == int(key) for key in changes}
        free = (labels == 0) | np.any(list(old.values()), axis=0)
        result = np.where(free, 0, labels).astype(labels.dtype)
        for key in sorted(changes, key=lambda key: (changes[key].confidence, -int(key))):
            mask = changes[key].mask
            result[(old[int(key)] if mask is None else rle.decode(mask)) & free] = int(key)
        for value, before in old.items():
            if not (result == value).any():
                result[before] = value
        return result


class ObjectMapCodec(FrameCodec):
    """Maps of one object each: the folder of a map is the object, and so is every pixel but 0."""

    noun = "mask"
    settings = "objects"

    def survey(self, files: Sequence[Path], size: Size) -> str:
        """Note that each folder is one object."""
        del files, size
        return "Each folder is read as one object."

    def read(self, path: Path, size: Size) -> dict[str, BoolArray]:
        """The one object of the file, by the name of its folder."""
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
        """``object`` and the name of the folder."""
        return f"object {key}"

    def rewrite(self, path: Path, changes: Mapping[str, Change]) -> bytes:
        """The map of the one object."""
        change = changes.get(path.parent.name)
        if change is None or change.mask is None:
            return path.read_bytes()
        labels = read_labels(path)
        new = np.where(rle.decode(change.mask), labels.max(), 0)
        return write_labels_like(path, new.astype(labels.dtype))

    def create(
        self, files: Sequence[Path], name: str, changes: Mapping[str, Change]
    ) -> Iterator[tuple[Path, bytes]]:
        """One map per object, of the kind of its first one that shows something."""
        for key, change in changes.items():
            own = (path for path in files if path.parent.name == key)
            like = next(path for path in own if read_labels(path).any())
            yield like.with_name(f"{name}{like.suffix}"), self.rewrite(like, {key: change})


def _read_sized(path: Path, size: Size) -> np.ndarray[tuple[int, ...], np.dtype[np.integer]]:
    labels = read_labels(path)
    if labels.shape != size:
        raise AnnotationError(
            f"{path}: is {size_text(labels.shape)} pixels, but its frame is {size_text(size)}; "
            "masks and frames must have one size."
        )
    return labels
