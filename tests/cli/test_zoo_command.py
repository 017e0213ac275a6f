from __future__ import annotations

import functools
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from vmt.checkpoint.zoo import ZOO
from vmt.cli.main import main


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[str]:
    folder = tmp_path / "mirror"
    folder.mkdir()
    (folder / "w.pth").write_bytes(b"weights")
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_address[1]}"
        httpd.shutdown()


def test_list_names_source_score_config_and_licence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["zoo"]) == 0
    text = capsys.readouterr().out
    for name, row in ZOO.items():
        assert name in text
        assert row.page in text
        assert row.config in text
    assert "AP^B 44.8" in text
    assert "not stated" in text
    assert "Offline:" in text
    fetch, by_hand = (
        next(line for line in text.splitlines() if line.startswith(head))
        for head in ("Fetch one:", "By hand:")
    )
    for name, row in ZOO.items():  # what is advised can work
        assert (name in fetch) == bool(row.url)
        assert (name in by_hand) == (not row.url)


def test_list_for_machines(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["zoo", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == list(ZOO)
    assert rows[0]["expected"]["AP^B"] == 30.7


def test_download_from_a_mirror(
    mirror: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["zoo", "--download", "vmt_r50", "--output", str(tmp_path / "w")]
    assert main([*arguments, "--url", f"{mirror}/w.pth"]) == 0
    out = capsys.readouterr().out
    assert (tmp_path / "w" / "checkpoint_r50_final.pth").read_bytes() == b"weights"
    assert "complete" in out
    assert "configs/hq_ytvis/vmt_R50_released.yaml" in out
    assert main(arguments) == 0
    assert "was there already" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--download", "vmt_r5"], "did you mean vmt_r50?"),
        (["--download", "seqformer_r101"], "no direct link"),
        (["--download", "vmt_r50", "--url", "http://127.0.0.1:9/w"], "cannot be reached"),
    ],
)
def test_what_cannot_be_fetched_is_one_sentence_and_status_2(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["zoo", *arguments, "--output", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1


def test_404_of_a_mirror(mirror: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["zoo", "--download", "vmt_r50", "--output", str(tmp_path / "w")]
    assert main([*arguments, "--url", f"{mirror}/gone.pth"]) == 2
    assert "HTTP 404" in capsys.readouterr().err
