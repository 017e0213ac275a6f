"""A visitor of the page: a folder of its own, a video, its objects, and the work that is running.

No name of a file comes from a visitor. Folders have names that nobody can guess; whoever closes the
page, or does nothing for an hour, has none left.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from cocoapi_hq.io.rle import Rle
from vmt.apps.app.clip import Clip
from vmt.data.mask_files.base import Change
from vmt.utils.atomic import make_folder
from vmt.utils.errors import VmtError

#: Called with frames done, frames in all, and what is done with them.
Report = Callable[[int, int, str], object]
#: Seconds after which an upload that no session took is removed.
UPLOAD_S = 300.0
#: Pictures and files that stay on disk: the browser may not have fetched the last ones yet.
_KEPT = 8


class AppError(VmtError):
    """What a visitor asked cannot be done now; the message says what to do first."""


@dataclass
class Track:
    """One object of the video.

    Args:
        track_id: from 1; no other object of the session gets it again.
        label: name of its class.
        score: probability of the class in [0, 1]; 1 for what was drawn.
        found: by a network, not drawn.
        masks: frame -> mask, as it was found or drawn; at least one pixel each.
        changes: frame -> what became of that mask when it was sharpened, or of a frame without one
            when the object was followed there.
    """

    track_id: int
    label: str
    score: float = 1.0
    found: bool = False
    masks: dict[int, Rle] = field(default_factory=dict)
    changes: dict[int, Change] = field(default_factory=dict)

    def put(self, frame: int, mask: Rle) -> None:
        """Give the object another mask, which is not sharpened yet."""
        self.masks[frame] = mask
        self.changes.pop(frame, None)

    def change(self, given: Rle | None, change: Change) -> None:
        """Note what became of a mask, or none, unless the frame has another one by now."""
        if self.masks.get(change.frame) is given:
            self.changes[change.frame] = change

    def mask(self, frame: int, *, sharp: bool = True) -> Rle | None:
        """The mask in a frame.

        Args:
            frame: index in the video.
            sharp: what was made of it, or of the frame, where something was.
        """
        change = self.changes.get(frame)
        if sharp and change is not None and change.mask is not None:
            return change.mask
        return self.masks.get(frame)

    def best(self) -> dict[int, Rle]:
        """Frame, ascending -> the best mask that there is."""
        frames = sorted({*self.masks, *self.changes})
        masks = ((t, self.mask(t)) for t in frames)
        return {t: mask for t, mask in masks if mask is not None}


@dataclass
class Drawing:
    """What is being drawn on a frame.

    Args:
        frame: on which.
        corners: (x, y) in pixels of the frame.
        box: two opposite corners of a box, not those of a polygon.
    """

    frame: int = 0
    corners: list[tuple[float, float]] = field(default_factory=list)
    box: bool = False

    def ring(self) -> list[tuple[float, float]]:
        """The outline, as far as it is drawn."""
        if not self.box or len(self.corners) < 2:
            return list(self.corners)
        (x1, y1), (x2, y2) = self.corners
        return [(x1, y1), (x2, y1), (x2, y2), (x1, y2)]


@dataclass(frozen=True)
class Job:
    """Work that takes a while, as it sees its visitor."""

    report: Report
    stop: threading.Event

    def step(self, done: int, total: int, what: str) -> bool:
        """Say how far the work is; True when it shall end here."""
        self.report(done, total, what)
        return self.stop.is_set()


class Session:
    """What the page knows of one visitor.

    Args:
        folder: its own, exists.

    Attributes:
        clip: the video; None before there is one.
        tracks: id -> object.
        drawing: what is being drawn.
        stop: set when running work shall end.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clip: Clip | None = None
        self.tracks: dict[int, Track] = {}
        self.drawing = Drawing()
        self.stop = threading.Event()
        self._ids = count(1)
        self._numbers = count()
        self._folders: dict[str, deque[Path]] = {}
        self._asked = threading.Lock()  # held from the click on
        self._working = threading.Lock()  # held from the first frame on

    def video(self) -> Clip:
        """The video; AppError before there is one."""
        if self.clip is None:
            raise AppError("There is no video yet: choose one first.")
        return self.clip

    def take(self, clip: Clip) -> None:
        """Start with another video; what was known of the one before goes."""
        old, self.clip = self.clip, clip
        self.tracks, self.drawing = {}, Drawing()
        if old is not None:
            old.remove()

    def add(self, label: str, *, found: bool = False, score: float = 1.0) -> Track:
        """A new object, without a mask."""
        track = Track(next(self._ids), label, score, found)
        self.tracks[track.track_id] = track
        return track

    def track(self, track_id: int | None) -> Track:
        """An object by its id; AppError when there is none."""
        track = None if track_id is None else self.tracks.get(track_id)
        if track is None:
            raise AppError("Choose an object first.")
        return track

    def view_path(self) -> Path:
        """Where the next picture of the page goes; those that nobody looks at any more are gone."""
        return self._numbered("views") / "frame.jpg"

    def file_path(self, name: str) -> Path:
        """Where the next file to take home goes; the last ones before it stay."""
        return self._numbered("files") / name

    def _numbered(self, kind: str) -> Path:
        """A new folder, so that no address of the page ever means two things."""
        number = next(self._numbers)
        folders = self._folders.setdefault(kind, deque())
        folders.append(make_folder(self.folder / kind / str(number)))
        if len(folders) > _KEPT:
            shutil.rmtree(folders.popleft(), ignore_errors=True)
        return folders[-1]

    @property
    def working(self) -> bool:
        """Whether work is running."""
        return self._working.locked()

    def ask(self) -> None:
        """Announce work, before it waits for its turn: a stop from now on is meant for it.

        Raises:
            AppError: other work of the session runs or waits.
        """
        if not self._asked.acquire(blocking=False):
            raise AppError("Something is still running: wait until it is done, or stop it.")
        self.stop.clear()

    @contextmanager
    def work(self, report: Report) -> Iterator[Job]:
        """Do the work that was announced; the files of the session stay until it ends."""
        with self._working:
            try:
                yield Job(report, self.stop)
            finally:
                if self._asked.locked():
                    self._asked.release()

    def close(self) -> None:
        """Stop the work and remove all files."""
        self.stop.set()
        with self._working:
            shutil.rmtree(self.folder, ignore_errors=True)


class Sessions:
    """All visitors, each behind a key that only its browser knows.

    Args:
        root: folder of their folders and of uploads that nobody took yet; nothing else is in it.
        keep_s: seconds without a sign of life after which a session ends.
        clock: monotonic, in seconds.
    """

    def __init__(
        self, root: Path, keep_s: float = 3600.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.root = root
        self._keep_s = keep_s
        self._clock = clock
        self._lock = threading.Lock()
        self._sessions: dict[str, tuple[Session, float]] = {}

    def get(self, key: str) -> Session:
        """The session of a key; a new one, if it has none."""
        with self._lock:
            known = self._sessions.get(key)
            session = known[0] if known else Session(make_folder(self.root / secrets.token_hex(16)))
            self._sessions[key] = session, self._clock()
            return session

    def end(self, key: str) -> None:
        """End a session; its files are gone when this returns."""
        with self._lock:
            session, _ = self._sessions.pop(key, (None, 0.0))
        if session is not None:
            session.close()

    def sweep(self) -> None:
        """End sessions that nobody uses, and remove uploads that nobody took."""
        with self._lock:
            now = self._clock()
            idle = [
                key
                for key, (session, seen) in self._sessions.items()
                if now - seen > self._keep_s and not session.working
            ]
        for key in idle:
            self.end(key)
        folders = {session.folder for session, _ in self._snapshot().values()}
        for path in self.root.iterdir():
            if path not in folders and _age(path) > UPLOAD_S:
                _remove(path)

    def close(self) -> None:
        """End all sessions and remove the root."""
        for key in self._snapshot():
            self.end(key)
        shutil.rmtree(self.root, ignore_errors=True)

    def _snapshot(self) -> Mapping[str, tuple[Session, float]]:
        with self._lock:
            return dict(self._sessions)


def _age(path: Path) -> float:
    """Seconds since a file, or what is in a folder, was written; 0 where it is gone."""
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()
