"""Reading ahead and writing behind: order, errors, bounds, an end in every case."""

import threading
import time
from collections.abc import Iterator

import pytest

from vmt.inference.threads import ReadAhead, StalledError, WriteBehind
from vmt.utils.errors import OutputError, VideoError


def test_items_come_in_order_as_often_as_wanted() -> None:
    items = ReadAhead(range(50), depth=3)
    assert list(items) == list(range(50))
    assert list(items) == list(range(50))
    assert list(ReadAhead([])) == []


def test_the_error_comes_behind_the_items() -> None:
    def source() -> Iterator[int]:
        yield from range(5)
        raise VideoError("cut short")

    items = iter(ReadAhead(source(), depth=2))
    assert [next(items) for _ in range(5)] == list(range(5))
    with pytest.raises(VideoError, match="cut short"):
        next(items)


def test_it_reads_no_further_than_its_depth() -> None:
    read: list[int] = []

    def source() -> Iterator[int]:
        for k in range(100):
            read.append(k)
            yield k

    items = iter(ReadAhead(source(), depth=3))
    next(items)
    time.sleep(0.3)
    assert 2 <= len(read) <= 6
    before = threading.active_count()
    items.close()
    assert threading.active_count() == before - 1


def test_writes_are_in_order_and_complete() -> None:
    written: list[int] = []

    def write(k: int) -> None:
        time.sleep(0.002)
        written.append(k)

    writer = WriteBehind(write, depth=2)
    for k in range(20):
        writer.put(k)
    writer.close()
    writer.close()
    assert written == list(range(20))


def test_a_failed_write_is_raised_once_and_ends_writing() -> None:
    written: list[int] = []

    def write(k: int) -> None:
        if k == 3:
            raise OutputError("the disk is full")
        written.append(k)

    writer = WriteBehind(write, depth=1)

    def put_all() -> None:
        for k in range(50):
            writer.put(k)

    with pytest.raises(OutputError, match="full"):
        put_all()
    writer.close()
    assert written == [0, 1, 2]

    late = WriteBehind(write, depth=9)
    late.put(3)
    with pytest.raises(OutputError, match="full"):
        late.close()


def test_an_item_that_does_not_come_in_time() -> None:
    never = threading.Event()

    def source() -> Iterator[int]:
        yield 1
        never.wait(20)
        yield 2

    items = iter(ReadAhead(source(), patience=0.5))
    assert next(items) == 1
    started = time.monotonic()
    with pytest.raises(StalledError):
        next(items)
    assert 0.4 < time.monotonic() - started < 4.0
    never.set()
