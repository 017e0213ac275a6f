"""Reading ahead, working and writing behind, so that the network does not wait for codecs."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


#: Items, an error, or None for the end.
_Ready = queue.Queue[tuple[Item] | BaseException | None]


class StalledError(Exception):
    """No item came in time."""


class ReadAhead(Generic[Item]):
    """An iterable whose items are made by a thread, a few before they are asked for.

    Every ``iter()`` starts a thread of its own over the source; it ends with the source, its first
    VmtError (which comes behind the items before it), or the iterator.

    Args:
        source: read in order, in the thread.
        depth: most items that wait.
        patience: seconds to wait for an item, then ``StalledError`` is raised; None: for ever.
        stopped: set when the iterator ends, for a source that waits; it can be iterated once then.
    """

    def __init__(
        self,
        source: Iterable[Item],
        depth: int = 4,
        patience: float | None = None,
        stopped: threading.Event | None = None,
    ) -> None:
        self._source = source
        self._depth = depth
        self._patience = patience
        self._stopped = stopped

    def __iter__(self) -> Generator[Item, None, None]:
        """Items in order."""
        ready: _Ready[Item] = queue.Queue(self._depth)
        stopped = self._stopped if self._stopped is not None else threading.Event()
        thread = threading.Thread(
            target=self._fill, args=(ready, stopped), name="read-ahead", daemon=True
        )
        thread.start()
        leave = 5.0
        try:
            while (entry := ready.get(timeout=self._patience)) is not None:
                if isinstance(entry, BaseException):
                    raise entry
                yield entry[0]
        except queue.Empty:
            leave = 0.0  # the thread waits for what may never come
            raise StalledError from None
        finally:
            stopped.set()
            thread.join(timeout=leave)

    def _fill(self, ready: _Ready[Item], stopped: threading.Event) -> None:
        def put(entry: tuple[Item] | BaseException | None) -> None:
            while not stopped.is_set():
                try:
                    ready.put(entry, timeout=0.1)
                except queue.Full:
                    continue
                return

        try:
            for item in self._source:
                put((item,))
                if stopped.is_set():
                    return
            put(None)
        except BaseException as error:  # noqa: BLE001 (raised again where items are taken)
            put(error)


def map_behind(
    work: Callable[[Item], Result], items: Iterable[Item], depth: int
) -> Generator[Result, None, None]:
    """``map``, in a thread that works on earlier items while the next ones are made.

    Args:
        work: called in the thread, item by item, in order.
        items: made by whoever takes the results; an error of theirs comes behind all results.
        depth: items that are made before the first result is given; 0: no thread.

    Yields:
        Results in order.
    """
    if not depth:
        yield from map(work, items)
        return
    waiting: deque[Future[Result]] = deque()
    failed: Exception | None = None
    pool = ThreadPoolExecutor(1, "map-behind")
    try:
        source = iter(items)
        while failed is None:
            try:
                waiting.append(pool.submit(work, next(source)))
            except StopIteration:
                break
            except Exception as error:  # noqa: BLE001 (raised again behind the results)
                failed = error
            while len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
    if failed is not None:
        raise failed


class WriteBehind(Generic[Item]):
    """Hands items to a thread that writes them; signals never reach it in the middle of a write.

    Args:
        write: called in the thread, item by item, until it fails once.
        depth: most items that wait; ``put`` blocks beyond.
    """

    def __init__(self, write: Callable[[Item], None], depth: int = 4) -> None:
        self._write = write
        self._waiting: queue.Queue[tuple[Item] | None] = queue.Queue(depth)
        self._error: BaseException | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="write-behind", daemon=True)
        self._thread.start()

    def put(self, item: Item) -> None:
        """Queue an item.

        Raises:
            VmtError: what an earlier item failed with.
        """
        self._check()
        self._waiting.put((item,))

    def close(self) -> None:
        """Wait until everything is written.

        Raises:
            VmtError: what an item failed with, unless ``put`` raised it already.
        """
        if not self._closed:
            self._closed = True
            self._waiting.put(None)
            self._thread.join()
        self._check()

    def _check(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _run(self) -> None:
        failed = False
        while (entry := self._waiting.get()) is not None:
            if failed:
                continue
            try:
                self._write(entry[0])
            except BaseException as error:  # noqa: BLE001 (raised again in put or close)
                self._error = error
                failed = True
