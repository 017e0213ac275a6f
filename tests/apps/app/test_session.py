"""Visitors do not meet, and nothing of them stays."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from vmt.apps.app.session import UPLOAD_S, AppError, Drawing, Session, Sessions
from vmt.apps.app.view import draw_view


@pytest.fixture
def clock() -> list[float]:
    return [0.0]


@pytest.fixture
def sessions(tmp_path: Path, clock: list[float]) -> Sessions:
    root = tmp_path / "root"
    root.mkdir()
    return Sessions(root, keep_s=100.0, clock=lambda: clock[0])


def test_everybody_has_a_folder_of_a_name_that_nobody_guesses(sessions: Sessions) -> None:
    one, two = sessions.get("one"), sessions.get("two")
    assert sessions.get("one") is one
    assert one is not two
    assert one.folder.is_dir()
    assert one.folder.parent == two.folder.parent == sessions.root
    assert one.folder != two.folder
    assert all(len(s.folder.name) == 32 and "one" not in s.folder.name for s in (one, two))
    assert one.tracks is not two.tracks


def test_who_leaves_has_no_files_and_starts_anew(sessions: Sessions) -> None:
    one, two = sessions.get("one"), sessions.get("two")
    one.add("cup")
    (one.folder / "masks.json").write_text("[]")
    sessions.end("one")
    assert not one.folder.exists()
    assert one.stop.is_set()
    assert two.folder.is_dir()
    assert sessions.get("one").tracks == {}
    sessions.end("never there")


def test_who_is_idle_for_long_has_left(sessions: Sessions, clock: list[float]) -> None:
    one, two = sessions.get("one"), sessions.get("two")
    clock[0] = 90.0
    sessions.get("two")
    clock[0] = 101.0
    sessions.sweep()
    assert not one.folder.exists()
    assert two.folder.is_dir()
    clock[0] = 191.0
    sessions.sweep()
    assert not two.folder.exists()


def test_work_is_not_swept_away(sessions: Sessions, clock: list[float]) -> None:
    session = sessions.get("one")
    session.ask()
    with session.work(print):
        clock[0] = 1000.0
        sessions.sweep()
        assert session.folder.is_dir()
    sessions.sweep()
    assert not session.folder.exists()


def test_uploads_that_nobody_took_are_removed(sessions: Sessions) -> None:
    session = sessions.get("one")
    old, new, stray = (sessions.root / name for name in ("old", "new", "stray"))
    old.mkdir()
    new.mkdir()
    stray.touch()
    past = time.time() - UPLOAD_S - 10
    for path in (old, stray, session.folder):
        os.utime(path, (past, past))
    sessions.sweep()
    assert not old.exists()
    assert not stray.exists()
    assert new.is_dir()
    assert session.folder.is_dir()


def test_the_end_removes_everything(sessions: Sessions) -> None:
    sessions.get("one")
    (sessions.root / "upload").mkdir()
    sessions.close()
    assert not sessions.root.exists()


def test_one_work_at_a_time(sessions: Sessions) -> None:
    session = sessions.get("one")
    session.ask()
    with pytest.raises(AppError, match="still running"):
        session.ask()
    with session.work(print) as job:
        assert not job.step(1, 2, "x")
        with pytest.raises(AppError, match="still running"):
            session.ask()
    session.ask()  # the next may come
    with pytest.raises(RuntimeError), session.work(print):
        raise RuntimeError
    session.ask()


def test_a_stop_while_work_waits_for_its_turn_counts(sessions: Sessions) -> None:
    session = sessions.get("one")
    session.stop.set()  # of work that is over
    session.ask()
    with session.work(print) as job:
        assert not job.step(1, 9, "x")
    session.ask()
    session.stop.set()
    with session.work(print) as job:
        assert job.step(0, 9, "x")


def test_the_files_stay_until_the_work_has_ended(sessions: Sessions) -> None:
    session = sessions.get("one")
    session.ask()
    with session.work(print) as job:
        leaving = threading.Thread(target=sessions.end, args=("one",))
        leaving.start()
        assert session.stop.wait(5)
        assert job.step(1, 9, "x")
        leaving.join(0.05)
        assert session.folder.is_dir()
    leaving.join(5)
    assert not session.folder.exists()


def test_without_a_video_or_an_object(sessions: Sessions) -> None:
    session = sessions.get("one")
    with pytest.raises(AppError, match="no video yet"):
        session.video()
    for nobody in (None, 1):
        with pytest.raises(AppError, match="Choose an object"):
            session.track(nobody)


def test_numbers_of_objects_never_come_twice(sessions: Sessions) -> None:
    session = sessions.get("one")
    first = session.add("cup")
    del session.tracks[first.track_id]
    assert [session.add("a").track_id, session.add("b").track_id] == [2, 3]


def test_few_pictures_stay(session: Session) -> None:
    paths = [draw_view(session, 0, sharp=True) for _ in range(12)]
    assert len(set(paths)) == 12
    assert [path.is_file() for path in paths] == [False] * 4 + [True] * 8


def test_a_box_is_drawn_by_two_corners() -> None:
    assert Drawing(corners=[(5, 6), (1, 2)], box=True).ring() == [(5, 6), (1, 6), (1, 2), (5, 2)]
    assert Drawing(corners=[(5, 6)], box=True).ring() == [(5, 6)]
    assert Drawing(corners=[(5, 6), (1, 2)]).ring() == [(5, 6), (1, 2)]
