"""``vmt app`` from the command line, until somebody ends it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from vmt.apps.app.options import AppOptions
from vmt.apps.app.serve import running
from vmt.cli.main import main
from vmt.inference.package_detector import ships
from vmt.utils.errors import ConfigError

pytest.importorskip("gradio", reason="gradio is not installed: pip install 'vmt-vis[app]'")


def test_without_gradio(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["app", "--port", "0"]) == 2
    assert "needs gradio: pip install 'vmt-vis[app]'" in capsys.readouterr().err


def test_a_port_that_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"--port {port}.*another port"):
            running(AppOptions(port=port)).__enter__()
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_signal_ends_it_and_removes_the_files(tmp_path: Path, repo: Path) -> None:
    environment = os.environ | {"TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    server = subprocess.Popen(
        [sys.executable, "-m", "vmt.cli.main", "app", "--port", "0"],
        cwd=repo, env=environment, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        said = server.stdout.readline()
        address = said.removeprefix("the page is at ").split()[0]
        assert address.startswith("http://127.0.0.1:")
        if not ships():
            assert "without a network that finds objects" in server.stdout.readline()
        with urllib.request.urlopen(address, timeout=300) as answer:
            assert b"VMT" in answer.read()
        assert list(tmp_path.glob("vmt-app-*"))
        server.send_signal(signal.SIGTERM)
        assert "the files of all visitors are removed" in server.communicate(timeout=300)[0]
        assert server.returncode == 0
    finally:
        server.kill()
    assert not list(tmp_path.glob("vmt-app-*"))
