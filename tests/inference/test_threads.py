"""Reading ahead and writing behind: order, errors, bounds, an end in every case."""

import threading
import time
from collections.abc import Iterator

import pytest

from vmt.inference.threads import ReadAhead, StalledError, WriteBehind, map_behind
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


@pytest.mark.parametrize("depth", [0, 1, 3, 99])
def test_work_behind_is_map(depth: int) -> None:
    here = threading.get_ident()
    found = list(map_behind(lambda k: (2 * k, threading.get_ident()), range(20), depth))
    assert [value for value, _ in found] == [2 * k for k in range(20)]
    assert {thread == here for _, thread in found} == {not depth}
    assert list(map_behind(abs, [], depth)) == []


def test_the_next_item_is_made_while_one_is_worked_on() -> None:
    made = [threading.Event() for _ in range(4)]

    def items() -> Iterator[int]:
        for k in range(3):
            made[k].set()
            yield k
        made[3].set()

    def work(k: int) -> bool:
        return made[k + 1].wait(20)

    results = map_behind(work, items(), depth=1)
    assert next(results)
    assert not made[2].is_set()  # one ahead, no more
    assert list(results) == [True, True]


@pytest.mark.parametrize("depth", [0, 2])
def test_errors_of_items_and_of_work_come_in_their_place(depth: int) -> None:
    def source() -> Iterator[int]:
        yield from range(3)
        raise VideoError("cut short")

    results = map_behind(lambda k: k, source(), depth)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(VideoError, match="cut short"):
        next(results)

    def inverse(k: int) -> float:
        return 1 / (2 - k)

    results = map_behind(inverse, range(9), depth)
    assert [next(results), next(results)] == [0.5, 1.0]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_no_thread_is_left_of_work_behind() -> None:
    before = threading.active_count()
    results = map_behind(lambda k: k, iter(int, 1), depth=3)
    next(results)
    assert threading.active_count() == before + 1
    results.close()
    assert threading.active_count() == before
