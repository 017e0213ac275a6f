"""Files that appear whole or not at all; the disk's reserve."""

from __future__ import annotations

from pathlib import Path

import pytest

from vmt.utils import atomic
from vmt.utils.atomic import AtomicFile, DiskReserve
from vmt.utils.errors import OutputError


def test_atomic_file(tmp_path: Path) -> None:
    with AtomicFile(tmp_path / "a") as file:
        file.write(b"content")
        assert not (tmp_path / "a").exists()
    assert (tmp_path / "a").read_bytes() == b"content"

    def broken() -> None:
        with AtomicFile(tmp_path / "a") as file:
            file.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        broken()
    assert (tmp_path / "a").read_bytes() == b"content"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_two_processes_may_write_a_shared_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    mine, theirs = AtomicFile(path, shared=True), AtomicFile(path)
    mine.write(b"mine")
    theirs.write(b"theirs is longer")
    theirs.commit()
    mine.commit()
    assert path.read_bytes() == b"mine"
    assert list(tmp_path.iterdir()) == [path]


def test_the_reserve_takes_real_blocks(tmp_path: Path) -> None:
    reserve = DiskReserve(tmp_path, 3 << 20)
    (path,) = tmp_path.iterdir()
    assert path.stat().st_blocks * 512 >= 3 << 20
    reserve.grow(1)
    assert path.stat().st_size == 4 << 20
    assert reserve.release() is True
    assert reserve.release() is False
    assert list(tmp_path.iterdir()) == []


def test_an_output_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(OutputError, match="out: cannot be written"):
        atomic.make_folder(tmp_path / "out")
