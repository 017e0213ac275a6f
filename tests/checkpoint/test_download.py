"""Downloads from a server of our own that cuts, refuses and changes its mind."""

from __future__ import annotations

import errno
import hashlib
import http.server
import re
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from vmt.checkpoint import download
from vmt.checkpoint.download import DownloadError, Fetched, fetch
from vmt.checkpoint.methods.base import ZooFile
from vmt.checkpoint.zoo import ZOO
from vmt.utils.errors import CheckpointError, OutputError

CONTENT = bytes(range(256)) * 4096  # 1 MiB
FILE = replace(ZOO["vmt_r50"], file_name="w.pth")


@dataclass
class Server:
    """What the server does, and what it was asked."""

    url: str
    content: bytes = CONTENT
    etag: str | None = '"one"'
    cuts: list[int] = field(default_factory=list)  # bytes of each coming answer, then all
    ranges: bool = True
    status: int | None = None
    html: bool = False
    asked: list[str | None] = field(default_factory=list)  # Range headers

    def part_of(self, have: int, folder: Path, etag: str | None = '"one"') -> None:
        (folder / "w.pth.part").write_bytes(self.content[:have])
        if etag:
            (folder / "w.pth.part.etag").write_text(etag)


@pytest.fixture
def server() -> Iterator[Server]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers["Range"]
            state.asked.append(wanted)
            if state.status:
                self.send_error(state.status)
                return
            start = 0
            unchanged = self.headers["If-Range"] in (None, state.etag)
            if wanted and state.ranges and unchanged:
                start = int(re.match(r"bytes=(\d+)-", wanted)[1])
            total = len(state.content)
            if start >= total:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{total}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            body = state.content[start:]
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
            self.send_header("Content-Type", "text/html" if state.html else "application/zip")
            self.send_header("Content-Length", str(len(body)))
            if state.etag:
                self.send_header("ETag", state.etag)
            self.end_headers()
            self.wfile.write(body[: state.cuts.pop(0)] if state.cuts else body)

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        state = Server(f"http://127.0.0.1:{httpd.server_address[1]}/w.pth")
        thread = threading.Thread(target=httpd.serve_forever, daemon=True)
        thread.start()
        yield state
        httpd.shutdown()


def get(server: Server, folder: Path, file: ZooFile = FILE) -> Fetched:
    return fetch(file, folder, server.url, pause_s=0)


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_first_download_records_a_checksum_and_the_second_call_checks_it(
    server: Server, tmp_path: Path
) -> None:
    folder = tmp_path / "new" / "folder"
    seen: list[tuple[int, int | None]] = []
    first = fetch(FILE, folder, server.url, lambda done, total: seen.append((done, total)))
    assert first.path.read_bytes() == CONTENT
    assert first.sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert (first.downloaded, first.checked_against) == (True, "nothing")
    assert left(folder) == {"w.pth", "w.pth.sha256"}
    assert (folder / "w.pth.sha256").read_text() == f"{first.sha256}  w.pth\n"
    assert seen[-1] == (len(CONTENT), len(CONTENT))

    second = get(server, folder)
    assert (second.downloaded, second.checked_against) == (False, "recorded")
    assert len(server.asked) == 1


def test_a_cut_connection_goes_on_by_itself(server: Server, tmp_path: Path) -> None:
    server.cuts = [300_000, 0, 100_000]
    assert get(server, tmp_path).path.read_bytes() == CONTENT
    assert server.asked == [None, "bytes=300000-", "bytes=300000-", "bytes=400000-"]


def test_cuts_that_gain_ground_are_never_too_many(server: Server, tmp_path: Path) -> None:
    server.cuts = [100_000] * (download.ATTEMPTS + 3)
    assert get(server, tmp_path).path.read_bytes() == CONTENT


def test_a_later_call_goes_on_where_the_first_gave_up(server: Server, tmp_path: Path) -> None:
    server.cuts = [500_000] + [0] * download.ATTEMPTS
    with pytest.raises(DownloadError, match=r"500000 bytes are kept, run the same command again"):
        get(server, tmp_path)
    assert "w.pth" not in left(tmp_path)
    server.cuts, server.asked = [], []
    assert get(server, tmp_path).path.read_bytes() == CONTENT
    assert server.asked == ["bytes=500000-"]
    assert left(tmp_path) == {"w.pth", "w.pth.sha256"}


def test_a_complete_part_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    server.part_of(len(CONTENT), tmp_path)
    assert get(server, tmp_path).path.read_bytes() == CONTENT
    assert len(server.asked) == 1


@pytest.mark.parametrize("ranges", [True, False])
def test_a_file_that_changed_meanwhile_or_a_server_without_ranges_starts_anew(
    server: Server, tmp_path: Path, ranges: bool
) -> None:
    server.part_of(400_000, tmp_path, etag='"one"')
    server.content = CONTENT[::-1]
    server.etag = '"two"' if ranges else None
    server.ranges = ranges
    assert get(server, tmp_path).path.read_bytes() == CONTENT[::-1]


def test_a_part_longer_than_the_file_is_dropped(server: Server, tmp_path: Path) -> None:
    server.part_of(len(CONTENT), tmp_path)
    server.content = CONTENT[:1000]
    assert get(server, tmp_path).path.read_bytes() == CONTENT[:1000]


def test_wrong_checksums(server: Server, tmp_path: Path) -> None:
    get(server, tmp_path)
    damaged = bytearray(CONTENT)
    damaged[7] ^= 1
    (tmp_path / "w.pth").write_bytes(damaged)
    with pytest.raises(CheckpointError, match=r"w\.pth: has SHA-256 .* recorded .* damaged"):
        get(server, tmp_path)

    (tmp_path / "w.pth").unlink()  # and now the server has another file than at the first time
    server.content = bytes(damaged)
    with pytest.raises(CheckpointError, match=r"w\.pth\.part: has SHA-256"):
        get(server, tmp_path)
    assert "w.pth" not in left(tmp_path)
    (tmp_path / "w.pth.sha256").unlink()  # the person accepts it, as the message says
    assert get(server, tmp_path).path.read_bytes() == bytes(damaged)

    published = replace(FILE, sha256="0" * 64)
    with pytest.raises(CheckpointError, match="the authors publish 0000"):
        get(server, tmp_path, published)


def test_an_unreadable_record_is_named(server: Server, tmp_path: Path) -> None:
    get(server, tmp_path)
    (tmp_path / "w.pth.sha256").write_text("nonsense")
    with pytest.raises(CheckpointError, match=r"w\.pth\.sha256: holds no SHA-256"):
        get(server, tmp_path)


def test_404_names_status_page_and_way_out(server: Server, tmp_path: Path) -> None:
    server.status = 404
    with pytest.raises(DownloadError, match=r"HTTP 404 Not Found; see https://drive.*--url"):
        get(server, tmp_path)
    assert len(server.asked) == 1


def test_server_errors_are_tried_again(server: Server, tmp_path: Path) -> None:
    server.status = 503
    with pytest.raises(DownloadError, match="HTTP 503"):
        get(server, tmp_path)
    assert len(server.asked) == download.ATTEMPTS


def test_a_web_page_is_not_taken_for_weights(server: Server, tmp_path: Path) -> None:
    server.html = True
    with pytest.raises(DownloadError, match=r"web page .* save the file as .*w\.pth\.$"):
        get(server, tmp_path)
    assert left(tmp_path) == set()


def closed_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/w.pth"


@pytest.mark.parametrize("url", [closed_port, lambda: "http://no-such-host.invalid/w.pth"])
def test_without_a_network_one_sentence_says_what_to_do(
    url: Callable[[], str], tmp_path: Path
) -> None:
    with pytest.raises(DownloadError) as error:
        fetch(FILE, tmp_path, url(), pause_s=0)
    message = str(error.value)
    assert "cannot be reached from here" in message
    assert f"copy the file to {tmp_path / 'w.pth'}" in message
    assert "\n" not in message


def test_unknown_links(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="no direct link is published; open https://github"):
        fetch(ZOO["seqformer_r50"], tmp_path)
    with pytest.raises(DownloadError, match="'weights' is no http or https address"):
        fetch(FILE, tmp_path, "weights")


def test_a_folder_that_cannot_be_and_a_full_disk(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match=r"cannot be written .* --output"):
        get(server, tmp_path / "file")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(download.os, "fsync", full)
    with pytest.raises(OutputError, match=r"No space left on device.*free some space"):
        get(server, tmp_path)
    assert "w.pth" not in left(tmp_path)
