"""Which part of the page calls what, and the server behind it.

Every event finds its session by a key that only that browser window has; nothing else tells
visitors apart, and nothing of them is kept here. This module and ``layout`` alone know gradio.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import gradio as gr

from vmt.apps.app import actions, downloads, view
from vmt.apps.app.clip import Limits
from vmt.apps.app.layout import CSS, NEW, SHAPES, SHOWN, Layout
from vmt.apps.app.networks import Networks
from vmt.apps.app.options import AppOptions
from vmt.apps.app.session import AppError, Job, Session, Sessions
from vmt.inference.video_file import VIDEO_SUFFIXES
from vmt.utils.errors import USER_ERRORS

#: No page of another host is asked for anything, fonts included.
_FONTS: Final = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
#: Where events wait for their turn: the networks do one thing at a time.
_NETWORK: Final = {"concurrency_id": "network", "concurrency_limit": 1}
_FILES: Final = {"concurrency_id": "files", "concurrency_limit": 2}
_PROGRESS: Final = gr.Progress()

#: Long work: what the visitor chose goes in, what it hears (or the file) comes out.
Work = Callable[[Session, Job, Any], str]
#: What the page shows afterwards, of the session, that choice, which masks, and that text.
Answer = Callable[[Session, Any, str, str], tuple[Any, ...]]


class Page:
    """The page for all visitors.

    Args:
        options: of the command.
        sessions: of the visitors.
        networks: shared by all.
    """

    def __init__(self, options: AppOptions, sessions: Sessions, networks: Networks) -> None:
        self._options = options
        self._sessions = sessions
        self._networks = networks
        self._limits = Limits(options.max_upload_mb, options.max_frames)
        self._offered = {path.name: path for path in offered_videos(options.videos)}
        with gr.Blocks(title="VMT", analytics_enabled=False) as self.blocks:
            self._parts = Layout(self._limits, list(self._offered))
            self._connect_work()
            self._connect_edits()
            self.blocks.unload(self._leave)

    # --- which part calls what -------------------------------------------------------------------

    def _connect_work(self) -> None:
        parts = self._parts
        everything = [parts.picture, parts.status, parts.table, parts.target, parts.object]
        video = [parts.upload, parts.frame, *everything]
        self._long(parts.upload.upload, self._take_upload, parts.upload, _new_video, video, _FILES)
        self._long(parts.offer.select, self._take_offer, parts.offer, _new_video, video, _FILES)
        buttons = (
            (parts.find, self._find),
            (parts.follow, self._follow),
            (parts.sharpen, self._sharpen),
        )
        for button, call in buttons:
            self._long(button.click, call, parts.frame, _everything, everything, _NETWORK)
        weights = Path(self._options.refiner).name
        makes: dict[str, Work] = {
            "ytvis": lambda session, job, _: str(downloads.ytvis_json(session, job)),
            "coco": lambda session, job, _: str(downloads.coco_json(session, job)),
            "png": lambda session, job, _: str(downloads.png_zip(session, job)),
            "overlay": lambda session, job, _: str(downloads.overlay(session, job)),
            "report": lambda session, job, _: str(downloads.report(session, job, weights)),
        }
        for key, button in parts.saves.items():
            outputs = [parts.file, parts.status]
            self._long(button.click, makes[key], parts.frame, _file, outputs, _FILES)
        self._on(parts.stop.click, self._stop, None, parts.status)

    def _connect_edits(self) -> None:
        parts = self._parts
        seen = [parts.frame, parts.shown]
        everything = [parts.picture, parts.status, parts.table, parts.target, parts.object]
        for event in (parts.frame.input, parts.shown.input):
            self._on(event, self._look, seen, parts.picture, trigger_mode="always_last")
        drawn = [parts.picture, parts.status]
        clicked = [*seen, parts.shape]
        self._on(parts.picture.select, self._click, clicked, drawn, trigger_mode="multiple")
        self._on(parts.undo.click, self._undo, seen, drawn)
        self._on(parts.add.click, self._add, [*seen, parts.label, parts.target], everything)
        edited = [*seen, parts.object, parts.new_label]
        self._on(parts.rename.click, self._rename, edited, everything)
        self._on(parts.delete.click, self._delete, [*seen, parts.object], everything)

    def _on(self, event: Any, call: Any, inputs: Any, outputs: Any, **options: Any) -> Any:
        """Answer an event at once."""
        options |= {"show_progress": "hidden", "concurrency_limit": None}
        return event(self._told(call), inputs, outputs, api_visibility="private", **options)

    def _long(
        self, event: Any, work: Work, value: Any, answer: Answer, outputs: Any, lane: dict[str, Any]
    ) -> None:
        """Do work that may wait for its turn, and whose visitor sees how far it is."""

        def run(
            value: Any, shown: str, request: gr.Request, progress: gr.Progress = _PROGRESS
        ) -> tuple[Any, ...]:
            def show(done: int, total: int, what: str) -> None:
                progress((done, total or None), desc=what, unit="frames")

            session = self._session(request)
            with session.work(show) as job:
                text = work(session, job, value)
            return answer(self._session(request), value, shown, text)

        self._on(event, self._ask, None, None).success(
            self._told(run),
            [value, self._parts.shown],
            outputs,
            show_progress_on=self._parts.status,
            api_visibility="private",
            **lane,
        )

    def _told(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """The same, but errors of a visitor are one sentence on the page."""

        @functools.wraps(call)
        def answer(*values: Any) -> Any:
            try:
                return call(*values)
            except USER_ERRORS as error:
                raise gr.Error(self._sentence(str(error)), print_exception=False) from None

        return answer

    def _sentence(self, text: str) -> str:
        """A message without the places of files on this machine."""
        return re.sub(rf"{re.escape(str(self._sessions.root))}/(\w+/)*", "", text)

    # --- sessions --------------------------------------------------------------------------------

    def _session(self, request: gr.Request) -> Session:
        if not request.session_hash:  # a program, not the page: it must not meet another one
            raise AppError("Open the page in a browser.")
        return self._sessions.get(request.session_hash)

    def _leave(self, request: gr.Request) -> None:
        self._sessions.end(str(request.session_hash))

    def _ask(self, request: gr.Request) -> None:
        self._session(request).ask()

    def _stop(self, request: gr.Request) -> str:
        session = self._session(request)
        session.stop.set()
        return "Stopping." if session.working else "Nothing is running."

    # --- work ------------------------------------------------------------------------------------

    def _take_upload(self, session: Session, job: Job, path: str) -> str:
        return actions.load_video(session, Path(path), self._limits, job)

    def _take_offer(self, session: Session, job: Job, name: str) -> str:
        if name not in self._offered:
            raise AppError("This video is not offered.")
        return actions.load_video(session, self._offered[name], self._limits, job, own=False)

    def _find(self, session: Session, job: Job, _: float) -> str:
        return actions.find(session, self._networks, job)

    def _follow(self, session: Session, job: Job, _: float) -> str:
        return actions.follow(session, self._networks, job)

    def _sharpen(self, session: Session, job: Job, _: float) -> str:
        return actions.sharpen(session, self._networks, job)

    # --- edits -----------------------------------------------------------------------------------

    def _look(self, frame: float, shown: str, request: gr.Request) -> str | None:
        return _picture(self._session(request), frame, shown)

    def _click(
        self, frame: float, shown: str, shape: str, request: gr.Request, event: gr.SelectData
    ) -> tuple[str | None, str]:
        session = self._session(request)
        x, y = (place / view.zoom_of(session.video()) for place in event.index)
        actions.add_corner(session, _index(session, frame), (x, y), box=shape == SHAPES[1])
        return _picture(session, frame, shown), _corners(session)

    def _undo(self, frame: float, shown: str, request: gr.Request) -> tuple[str | None, str]:
        session = self._session(request)
        actions.undo_corner(session)
        return _picture(session, frame, shown), _corners(session)

    def _add(
        self, frame: float, shown: str, label: str, target: int | None, request: gr.Request
    ) -> tuple[Any, ...]:
        session = self._session(request)
        track = actions.add_object(session, label, target or None)
        text = f"Object {track.track_id}, {track.label}, has a new mask."
        return _everything(session, frame, shown, text)

    def _rename(
        self, frame: float, shown: str, track_id: int | None, label: str, request: gr.Request
    ) -> tuple[Any, ...]:
        session = self._session(request)
        track = actions.rename(session, track_id, label)
        text = f"Object {track.track_id} is called {track.label}."
        return _everything(session, frame, shown, text)

    def _delete(
        self, frame: float, shown: str, track_id: int | None, request: gr.Request
    ) -> tuple[Any, ...]:
        session = self._session(request)
        track = actions.delete(session, track_id)
        return _everything(session, frame, shown, f"Object {track.track_id} is gone.")


def offered_videos(folder: Path | None) -> Sequence[Path]:
    """The videos of a folder, by name."""
    paths = folder.iterdir() if folder is not None else ()
    return sorted(path for path in paths if path.suffix.lower() in VIDEO_SUFFIXES)


def _index(session: Session, frame: float | None) -> int:
    """A frame of the video, whatever the slider says."""
    return min(max(int(frame or 0), 0), session.video().num_frames - 1)


def _picture(session: Session, frame: float | None, shown: str) -> str | None:
    """The picture of a frame; none without a video."""
    if session.clip is None:
        return None
    return str(view.draw_view(session, _index(session, frame), sharp=shown == SHOWN[1]))


def _corners(session: Session) -> str:
    number = len(session.drawing.corners)
    return f"The drawing has {number} {'corner' if number == 1 else 'corners'}."


def _everything(session: Session, frame: float | None, shown: str, text: str) -> tuple[Any, ...]:
    """Picture, status, table, and the two lists of objects."""
    objects = [(f"{t.track_id} {t.label}", t.track_id) for t in list(session.tracks.values())]
    return (
        _picture(session, frame, shown),
        text,
        view.table(session),
        gr.Dropdown([("new object", NEW), *objects], value=NEW),
        gr.Dropdown(objects, value=objects[-1][1] if objects else None),
    )


def _new_video(session: Session, _: Any, shown: str, text: str) -> tuple[Any, ...]:
    """An empty field for the next upload, the slider, and ``_everything``."""
    last = session.clip.num_frames - 1 if session.clip is not None else 1
    slider = gr.Slider(maximum=max(last, 1), value=0)
    return None, slider, *_everything(session, 0, shown, text)


def _file(session: Session, _: Any, shown: str, path: str) -> tuple[Any, ...]:
    """A file to take home, and the status."""
    return gr.File(value=path, visible=True), f"{Path(path).name} is ready."


def launch(page: Page, host: str, port: int, max_upload_mb: int) -> tuple[str, Callable[[], None]]:
    """Start the server in a thread of its own.

    Args:
        page: what it shows.
        host: address.
        port: TCP port.
        max_upload_mb: uploads beyond are cut off.

    Returns:
        Address of the page, and what stops the server.

    Raises:
        OSError: the port is taken.
    """
    _, url, _ = page.blocks.queue(api_open=False).launch(
        server_name=host,
        server_port=port,
        max_file_size=max_upload_mb * 10**6,
        theme=gr.themes.Default(**_FONTS),
        css=CSS,
        prevent_thread_lock=True,
        quiet=True,
        share=False,
        inbrowser=False,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
    )
    return url, page.blocks.close
