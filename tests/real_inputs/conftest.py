"""One test per case of ``tests/data/real_inputs``, which bears the name of the case's folder."""

from __future__ import annotations

import functools
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from vmt.apps.refine import job
from vmt.cli.main import main

CASES = Path(__file__).resolve().parents[1] / "data" / "real_inputs"


@dataclass(frozen=True)
class Outcome:
    """What a command returned and wrote; `log` are the warnings."""

    status: int
    out: str
    err: str
    log: str

    @property
    def sentence(self) -> str:
        """The one line of a refusal."""
        assert self.status == 2, (self.status, self.out, self.err)
        assert "Traceback" not in self.err
        return self.err.strip().splitlines()[-1]

    @property
    def said(self) -> str:
        """Everything that the user reads, of a command that went well."""
        assert self.status == 0, (self.status, self.out, self.err)
        return self.out + self.err + self.log


class Vmt:
    """Runs commands as a user does, within the process, in a copy of the case's folder."""

    def __init__(self, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture):
        self.capsys = capsys
        self.caplog = caplog

    def __call__(self, *argv: object) -> Outcome:
        self.capsys.readouterr()
        self.caplog.clear()
        status = main([*map(str, argv)])
        out, err = self.capsys.readouterr()
        return Outcome(status, out, err, self.caplog.text)


@functools.cache
def _loaded(weights: object, device: object):
    return job.MaskRefiner.from_pretrained(weights, device=device)


@pytest.fixture
def vmt(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> Vmt:
    """Commands in a copy of the folder that the test is named after; weights are read once."""
    folder = tmp_path / "case"
    shutil.copytree(CASES / request.node.originalname.removeprefix("test_"), folder)
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(
        job, "load_refiner", lambda options: _loaded(options.weights, options.device)
    )
    monkeypatch.setitem(os.environ, "COLUMNS", "200")
    return Vmt(capsys, caplog)
