"""A video of any length as overlapping windows, without knowing where it ends."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Generic, TypeVar

from vmt.utils.errors import VmtError

Item = TypeVar("Item")


@dataclass(frozen=True)
class Window(Generic[Item]):
    """A clip's place in a video.

    Args:
        start: index of its first frame.
        frames: T frames.
        final_until: frames before this index are in no later window.
        last: no window follows.
    """

    start: int
    frames: list[Item]
    final_until: int
    last: bool

    @property
    def end(self) -> int:
        """Index behind its last frame."""
        return self.start + len(self.frames)


def iter_windows(frames: Iterable[Item], length: int, stride: int) -> Iterator[Window[Item]]:
    """Cut a stream into windows; the last one ends with the video.

    See docs/reference/released_code.md#windows.

    Reads one step ahead of the window that it hands out, so that the window's ``final_until`` is
    known: at most ``length + stride`` frames are held. A source that fails counts as ended: the
    windows over the frames before come first, then its error.

    Args:
        frames: read once, in order.
        length: frames per window; 0: the whole video is one window.
        stride: step between windows, 1 to ``length``; not used when ``length`` is 0.

    Yields:
        Windows in order; together they cover every frame, and every window but that of a video
        shorter than ``length`` is full.

    Raises:
        VmtError: of the source, behind the last window.
    """
    if length < 0 or (length and not 1 <= stride <= length):
        raise ValueError(f"length {length} and stride {stride}: 1 <= stride <= length is needed.")
    source = _Guarded(frames)
    held = list(source if length == 0 else islice(source, length))
    start = 0
    while held:
        ahead = [] if length == 0 else list(islice(source, stride))
        # Fewer frames than a step: the next window is the last and moves back to be full.
        step = len(ahead) if ahead else len(held)
        yield Window(start, held, start + step, last=not ahead)
        held = held[step:] + ahead
        start += step
    if source.error is not None:
        raise source.error


def iter_chunks(frames: Iterable[Item], length: int) -> Iterator[Window[Item]]:
    """Cut a stream into windows that share no frame, without reading ahead of the window.

    No window is marked as the last, since none knows; for a source that fails see
    ``iter_windows``.

    Args:
        frames: read once, in order.
        length: frames per window, at least 1; the last window may be shorter.

    Yields:
        Windows in order.

    Raises:
        VmtError: of the source, behind the last window.
    """
    source = _Guarded(frames)
    start = 0
    while held := list(islice(source, length)):
        yield Window(start, held, start + len(held), last=False)
        start += len(held)
    if source.error is not None:
        raise source.error


class _Guarded(Generic[Item]):
    """An iterator that ends where its source fails, and keeps the error."""

    def __init__(self, source: Iterable[Item]) -> None:
        self._source = iter(source)
        self.error: VmtError | None = None

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        if self.error is not None:
            raise StopIteration
        try:
            return next(self._source)
        except VmtError as error:
            self.error = error
            raise StopIteration from None
