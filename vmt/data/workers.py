"""Deaths of loading processes, reported where batches are waited for and nowhere else."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Generator, Iterable
from types import FrameType
from typing import TypeVar

Item = TypeVar("Item")
_Handler = Callable[[int, FrameType | None], object]


class _Deaths:
    """Stands before torch's handler of SIGCHLD.

    torch's ``DataLoader`` raises RuntimeError from that handler, wherever the main thread is at
    that moment: in the middle of a step, in a hook, in code that runs after the training. This one
    hears of a death only while a batch is waited for, and asks for earlier ones when that begins.
    """

    def __init__(self) -> None:
        self._torch: _Handler | None = None
        self._waiting = False

    def install(self) -> None:
        """Take torch's place, once; outside the main thread torch installs nothing."""
        current = signal.getsignal(signal.SIGCHLD)
        of_torch = getattr(current, "__module__", "").startswith("torch.utils.data.")
        if of_torch and callable(current) and threading.current_thread() is threading.main_thread():
            self._torch = current
            signal.signal(signal.SIGCHLD, self._heard)

    def begin(self) -> None:
        """Raise for workers that died before; from here on, raise at once."""
        self._waiting = True
        if self._torch is not None and threading.current_thread() is threading.main_thread():
            self._torch(signal.SIGCHLD, None)

    def end(self) -> None:
        """Raise no longer."""
        self._waiting = False

    def _heard(self, number: int, frame: FrameType | None) -> None:
        if self._waiting and self._torch is not None:
            self._torch(number, frame)


_deaths = _Deaths()


def iterate(loader: Iterable[Item]) -> Generator[Item, None, None]:
    """Items of a ``DataLoader`` with workers.

    Raises:
        RuntimeError: a worker died; only from ``next`` on this generator.
    """
    batches = iter(loader)
    _deaths.install()
    while True:
        try:
            _deaths.begin()
            batch = next(batches)
        except StopIteration:
            return
        except (ConnectionError, EOFError) as error:  # tensors are fetched from the worker itself
            raise RuntimeError(f"DataLoader worker died handing over a batch: {error}") from error
        finally:
            _deaths.end()
        yield batch
