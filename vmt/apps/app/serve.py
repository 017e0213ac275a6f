"""Starts the page, clears up behind its visitors, and ends it."""

from __future__ import annotations

import importlib.util
import os
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from vmt.apps.app.networks import NO_DETECTOR, Networks
from vmt.apps.app.options import AppOptions
from vmt.apps.app.session import Sessions
from vmt.utils.errors import ConfigError
from vmt.utils.signals import StopSignals

#: Seconds from one look at idle sessions to the next.
SWEEP_S = 30.0
_LOCAL = ("127.0.0.1", "localhost", "::1")


@contextmanager
def running(options: AppOptions) -> Iterator[str]:
    """Serve the page; at the end all files of visitors are removed.

    Args:
        options: of the command.

    Yields:
        Its address.

    Raises:
        ConfigError: gradio is not installed, or the port is taken.
    """
    if importlib.util.find_spec("gradio") is None:
        raise ConfigError("vmt app needs gradio: pip install 'vmt-vis[app]'.")
    root = Path(tempfile.mkdtemp(prefix="vmt-app-")).resolve()
    sessions = Sessions(root, 60.0 * options.keep_minutes)
    done = threading.Event()
    janitor = threading.Thread(target=_keep_clear, args=(sessions, done), daemon=True)
    try:
        with _environment(GRADIO_TEMP_DIR=str(root), GRADIO_ANALYTICS_ENABLED="False"):
            from vmt.apps.app.page import Page, launch

            page = Page(options, sessions, Networks(options))
            try:
                port = options.port or _free_port(options.host)
                url, close = launch(page, options.host, port, options.max_upload_mb)
            except OSError as error:
                raise ConfigError(
                    f"--host {options.host} --port {options.port}: cannot be listened on ({error});"
                    " give another port, or 0 for any that is free."
                ) from None
            janitor.start()
            try:
                yield url
            finally:
                close()
    finally:
        done.set()
        sessions.close()


def serve(options: AppOptions, say: Callable[[str], object]) -> str:
    """Do what ``vmt app`` does, until Ctrl-C.

    Args:
        options: of the command.
        say: hears the address.

    Returns:
        What happened at the end.

    Raises:
        ConfigError: see ``running``.
    """
    with StopSignals(), running(options) as url:
        say(f"the page is at {url} (Ctrl-C ends it)")
        if options.host not in _LOCAL:
            say("everyone who reaches this machine can use it: there is no password")
        if not options.finds:
            say(NO_DETECTOR)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            say("stopping: what runs ends with its frame")
    return "stopped; the files of all visitors are removed"


def _keep_clear(sessions: Sessions, done: threading.Event) -> None:
    while not done.wait(SWEEP_S):
        sessions.sweep()


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Variables of the environment for a while."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
