"""Ctrl-C and SIGTERM: who hears them, and writes that they do not cut in two."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

Handler = Callable[[int, FrameType | None], None]


def handle_stop(handler: Handler) -> Callable[[], None]:
    """Call ``handler`` at SIGINT and SIGTERM.

    Returns:
        Gives them back to whom they belonged. Outside the main thread signals are left alone.
    """
    if threading.current_thread() is not threading.main_thread():
        return lambda: None
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}

    def give_back() -> None:
        for number, old in before.items():
            signal.signal(number, old)

    return give_back


class StopSignals:
    """Ctrl-C and SIGTERM as KeyboardInterrupt, but never in the middle of a write.

    A context manager; outside of it, and outside the main thread, signals are left alone.
    """

    def __init__(self) -> None:
        self._shields = 0
        self._pending = False

    def __enter__(self) -> StopSignals:
        self._give_back = handle_stop(self._stop)
        return self

    def __exit__(self, *exc: object) -> None:
        self._give_back()

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self._shields:
            self._pending = True
        else:
            raise KeyboardInterrupt

    @contextmanager
    def shield(self) -> Iterator[None]:
        """Hold signals back; one that came meanwhile counts at the end."""
        self._shields += 1
        try:
            yield
        finally:
            self._shields -= 1
        if self._pending and not self._shields:
            self._pending = False
            raise KeyboardInterrupt

    def shielded(self, action: Callable[[], None]) -> Callable[[], None]:
        """``action`` under ``shield``."""

        def guarded() -> None:
            with self.shield():
                action()

        return guarded
