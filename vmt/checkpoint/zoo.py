"""Published weight files: where they are, what they score, and how to fetch them.

A download goes on where it broke off (HTTP ranges), appears under its final name only when it is
complete, and is held against a SHA-256. The authors publish no checksums, so the first download
records its own in ``NAME.sha256`` beside the file, in the format of ``sha256sum``; later downloads
and ``vmt zoo --download`` of a file that is there must agree with it.
"""

from __future__ import annotations

import difflib
import errno
import hashlib
import http.client
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from vmt.utils.atomic import write_text
from vmt.utils.errors import CheckpointError, ConfigError, OutputError, VmtError

NOT_STATED: Final = "not stated"
#: Seconds without a byte after which a connection counts as broken.
TIMEOUT_S: Final = 30.0
#: Broken connections in a row, without a byte gained, after which we give up.
ATTEMPTS: Final = 4
_BLOCK: Final = 1 << 20

#: (bytes so far, bytes in total or None)
Progress = Callable[[int, int | None], None]


class DownloadError(VmtError, OSError):
    """A file cannot be fetched; what has arrived of it is kept."""


@dataclass(frozen=True)
class ZooFile:
    """One published weight file.

    Args:
        name: what ``vmt zoo --download`` calls it.
        about: network, backbone, training data.
        file_name: its name on disk.
        config: our YAML file for it.
        page: web page of its authors, where a person can download it.
        url: direct link; None where we know the page only.
        evaluated_on: data set of ``expected``.
        expected: published metrics in percent, by name.
        licence: of the weights, as far as their authors say.
        sha256: published checksum; None where there is none.
        starts: backbone whose trainings start from it; empty: none.
        architecture: the one whose trainings do; empty: SeqFormer and what stands on it.
    """

    name: str
    about: str
    file_name: str
    config: str
    page: str
    url: str | None
    evaluated_on: str
    expected: Mapping[str, float] = field(default_factory=dict)
    licence: str = NOT_STATED
    sha256: str | None = None
    starts: str = ""
    architecture: str = ""


def _drive(file_id: str) -> tuple[str, str]:
    """Page and direct link of a file on Google Drive; ``confirm`` skips the virus-scan page."""
    return (
        f"https://drive.google.com/file/d/{file_id}/view",
        f"https://drive.usercontent.google.com/download?id={file_id}&export=download&confirm=t",
    )


def _vmt(size: str, backbone: str, file_id: str, scores: tuple[float, ...]) -> ZooFile:
    page, url = _drive(file_id)
    file = size.lower().replace("-", "")
    return ZooFile(
        name=f"vmt_{file}",
        about=f"VMT as released, {backbone}, trained on HQ-YTVIS train and COCO",
        file_name=f"checkpoint_{file}_final.pth",
        config=f"configs/hq_ytvis/vmt_{size.replace('-', '')}_released.yaml",
        page=page,
        url=url,
        evaluated_on="HQ-YTVIS test",
        expected=dict(zip(("AP^B", "AP^B_75", "AR^B_1", "AP^M", "AP^M_75"), scores, strict=True)),
    )


def _seqformer(
    size: str, backbone: str, scores: tuple[float, ...], suffix: str = "", data: str = " and COCO"
) -> ZooFile:
    file = size.lower().replace("-", "") + suffix
    return ZooFile(
        name=f"seqformer_{file}",
        about=f"SeqFormer, {backbone}, trained on YouTube-VIS 2019{data}",
        file_name=f"seqformer_{file}.pth",
        config=f"configs/ytvis_2019/seqformer_{size.replace('-', '')}.yaml",
        page="https://github.com/wjf5203/SeqFormer",
        url=None,
        evaluated_on="YouTube-VIS 2019 val",
        expected=dict(zip(("AP", "AP_50", "AP_75", "AR_1", "AR_10"), scores, strict=True)),
    )


def _start(size: str, backbone: str, starts: str, file_id: str) -> ZooFile:
    page, url = _drive(file_id)
    file = size.lower().replace("-", "")
    return ZooFile(
        name=f"seqformer_coco_{file}",
        about=f"SeqFormer, {backbone}, trained on COCO alone: what trainings on videos start from",
        file_name=f"seqformer_coco_{file}.pth",
        config=f"configs/ytvis_2019/seqformer_{size.replace('-', '')}.yaml",
        page=page,
        url=url,
        evaluated_on="",
        starts=starts,
    )


def _maskdino(
    name: str, network: str, config: str, published: str, scores: tuple[float, float]
) -> ZooFile:
    file = f"maskdino_{published}_mask{scores[0]}ap_box{scores[1]}ap.pth"
    return ZooFile(
        name=f"maskdino_{name}",
        about=f"MaskDINO, {network}, trained on COCO",
        file_name=file,
        config=f"configs/coco/maskdino_{config}.yaml",
        page="https://github.com/IDEA-Research/MaskDINO",
        url="https://github.com/IDEA-Research/detrex-storage/releases/download/maskdino-v0.1.0/"
        + file,
        evaluated_on="COCO val",
        expected={"mask AP": scores[0], "box AP": scores[1]},
        licence="Apache 2.0, that of the repository",
    )


def _idol(
    data: str, size: str, file_id: str, scores: tuple[float, ...], suffix: str = ""
) -> ZooFile:
    page, url = _drive(file_id)
    folder = data.lower().replace("youtube-vis", "ytvis").replace(" ", "_")
    file = f"idol_{folder}_{size.lower()}{suffix}"
    return ZooFile(
        name=file,
        about=f"IDOL, {_BACKBONES[size]}, trained on {data}",
        file_name=f"{file}.pth",
        config=f"configs/{folder}/idol_{size}.yaml",
        page=page,
        url=url,
        evaluated_on=f"{data} val",
        expected=dict(zip(("AP", "AP_50", "AP_75", "AR_1", "AR_10"), scores, strict=True)),
    )


def _idol_start(size: str, starts: str, file_id: str) -> ZooFile:
    page, url = _drive(file_id)
    return ZooFile(
        name=f"idol_coco_{size.lower()}",
        about=f"IDOL, {_BACKBONES[size]}, trained on pairs of views of COCO's images",
        file_name=f"idol_coco_{size.lower()}.pth",
        config=f"configs/coco/idol_{size}.yaml",
        page=page,
        url=url,
        evaluated_on="",
        starts=starts,
        architecture="IDOL",
    )


def _mask2former(name: str, starts: str, epochs: int, path: str, score: float) -> ZooFile:
    return ZooFile(
        name=f"mask2former_{name.lower()}",
        about=f"Mask2Former, {_BACKBONES[name]}, trained on COCO for {epochs} epochs",
        file_name=f"mask2former_{name.lower()}.pkl",
        config=f"configs/coco/mask2former_{name}.yaml",
        page="https://github.com/facebookresearch/Mask2Former/blob/main/MODEL_ZOO.md",
        url=f"https://dl.fbaipublicfiles.com/maskformer/mask2former/coco/instance/{path}",
        evaluated_on="COCO val",
        expected={"mask AP": score},
        licence="CC BY-NC 4.0",
        starts=starts,
        architecture="MinVIS",
    )


def _minvis(folder: str, data: str, name: str, file_id: str, score: float) -> ZooFile:
    page, url = _drive(file_id)
    file = f"minvis_{folder}_{name.lower()}"
    return ZooFile(
        name=file,
        about=f"MinVIS, {_BACKBONES[name]}, trained on {data}",
        file_name=f"{file}.pth",
        config=f"configs/{folder}/minvis_{name}.yaml",
        page=page,
        url=url,
        evaluated_on=f"{data} val",
        expected={"AP": score},
        licence="CC BY-NC-SA 4.0",
    )


_BACKBONES: Final = {"R50": "ResNet-50", "R101": "ResNet-101", "SwinL": "Swin-L"}
_FILES: Final = (
    # https://github.com/SysCV/vmt, model zoo (its column "AR^M_75" is AP^M_75)
    _vmt("R50", "ResNet-50", "1e9hKCC-pAGB-wSO0_qyUNoEe-5XzRocz", (30.7, 24.2, 31.5, 50.5, 54.5)),
    _vmt("R101", "ResNet-101", "1TQs_meDaomLz56xCjAZKT1BNtS3K3sla", (33.0, 29.3, 33.3, 51.6, 55.8)),
    _vmt("Swin-L", "Swin-L", "13cDni9olYd6-xdURQMWstsW0VLbkgIKt", (44.8, 43.4, 43.0, 64.8, 70.1)),
    # https://github.com/wjf5203/SeqFormer, model zoo; X101 is left out: no config of ours fits it
    _seqformer("R50", "ResNet-50", (47.4, 69.8, 51.8, 45.5, 54.8)),
    _seqformer("R101", "ResNet-101", (49.0, 71.1, 55.7, 46.8, 56.9)),
    _seqformer("Swin-L", "Swin-L", (59.3, 82.1, 66.4, 51.7, 64.4)),
    _seqformer("R50", "ResNet-50", (45.1, 66.9, 50.5, 45.6, 54.6), "_ytvis_only", " alone"),
    # the same page, column "Pretrain"
    _start("R50", "ResNet-50", "resnet50", "1aWCeak2DY5arbUzYzbsAgrUfFnVkI8qi"),
    _start("R101", "ResNet-101", "resnet101", "1dxPfPQiTFoN-hfyGvVxpmF2cwFYjeJgI"),
    _start("Swin-L", "Swin-L", "swin_l_p4w12", "19A4mgRqq6b-TTFN_ntYLQ3dQcaHYOD_p"),
    # https://github.com/IDEA-Research/MaskDINO, table of COCO instance segmentation
    _maskdino("r50", "ResNet-50", "R50",
              "r50_50ep_300q_hid2048_3sd1_instance_maskenhanced", (46.3, 51.7)),
    _maskdino("r50_3s", "ResNet-50, three levels", "R50_3s",
              "r50_50ep_300q_hid1024_3sd1_instance_maskenhanced", (46.1, 51.5)),
    _maskdino("swinl", "Swin-L", "SwinL",
              "swinl_50ep_300q_hid2048_3sd1_instance_maskenhanced", (52.3, 59.0)),
    _maskdino("swinl_regressed", "Swin-L with MODEL.MASKDINO.BOX_INIT regressed", "SwinL",
              "swinl_50ep_300q_hid2048_3sd1_instance", (52.1, 58.3)),
    # https://github.com/wjf5203/VNext, projects/IDOL/IDOL.md
    _idol("YouTube-VIS 2019", "R50", "1FFbrfbK1oN4zTO5q_cw3zws2Z2Ppuzv7",
          (49.3, 74.0, 52.8, 47.6, 58.7)),
    _idol("YouTube-VIS 2019", "R50", "1BAZX99coA23RPrK8He3hDx59j11N7bUa",
          (50.2, 75.1, 53.6, 48.4, 59.3), "_second"),
    _idol("YouTube-VIS 2019", "R101", "1T8S3_tZRcMJ1c5ioe3MGUNwKg9UP5ROW",
          (50.1, 73.1, 56.1, 47.0, 57.9)),
    _idol("YouTube-VIS 2019", "SwinL", "1Otlq8eqb_xg0eRF5dQHyxKvuEceOgwBk",
          (64.3, 87.5, 71.0, 55.6, 69.1)),
    _idol("YouTube-VIS 2021", "R50", "1GqE7HEaJZCqUogsNi52vp_9NVEsiJwxL",
          (47.7, 71.5, 53.3, 41.1, 55.5)),
    _idol("YouTube-VIS 2021", "R101", "1hYu32qR95QiZLKz40tsXrM_vsC9dcLLe",
          (48.5, 71.4, 53.9, 41.4, 55.9)),
    _idol("YouTube-VIS 2021", "SwinL", "17CSYz31VvaD-3RjLo3x5JjD-wL3zcDSq",
          (60.8, 84.9, 67.1, 47.5, 65.3)),
    _idol("OVIS", "R50", "1CalS2qLNm1MRlNdWkKhAKvS4CyM7vHTv", (29.5, 50.1, 29.4, 14.9, 37.1)),
    _idol("OVIS", "SwinL", "1XXr5bx3CEwyurQvO4B8XMn2t6awYodGw", (41.4, 64.1, 44.0, 17.6, 48.4)),
    _idol_start("R50", "resnet50", "1ip-pxavMcyWOxfBcl_4cUIBKXRTA4wrO"),
    _idol_start("R101", "resnet101", "1Gm162LthxorsS6pMX_XoVTn5iDAAMWbU"),
    _idol_start("SwinL", "swin_l_p4w12", "1o-q4WIcMn_D5p1tSubJBWlPAnJLQ5Cbb"),
    # https://github.com/facebookresearch/Mask2Former/blob/main/MODEL_ZOO.md
    _mask2former("R50", "resnet50", 50, "maskformer2_R50_bs16_50ep/model_final_3c8ec9.pkl", 43.7),
    _mask2former("SwinL", "swin_l_p4w12", 100,
                 "maskformer2_swin_large_IN21k_384_bs16_100ep/model_final_e5f453.pkl", 50.1),
    # https://github.com/NVlabs/MinVIS/blob/main/MODEL_ZOO.md
    _minvis("ytvis_2019", "YouTube-VIS 2019", "R50", "1mdrL6QRVmoz-QizohZ7SnyGDlpAWFCVf", 47.3),
    _minvis("ytvis_2019", "YouTube-VIS 2019", "SwinL", "12yL72Qv8OBqapgvGmLHXAb6YZv4SS_6D", 62.0),
    _minvis("ytvis_2021", "YouTube-VIS 2021", "R50", "1efuTrDtaHKDY6924fCB2ROiY5LICt_ts", 43.9),
    _minvis("ytvis_2021", "YouTube-VIS 2021", "SwinL", "1j46M_NFGzpt2Ga4ptOumTRAjmr8eQb1Y", 55.4),
    _minvis("ovis", "OVIS", "R50", "1CaJhmej8ySruccKklDJcIK6lKuEskpXj", 26.7),
    _minvis("ovis", "OVIS", "SwinL", "1fkRrN8PCyhhMAb1YYOb--2K6JnpBk7oR", 41.7),
)  # fmt: skip

#: Every published file by name.
ZOO: Final[Mapping[str, ZooFile]] = {file.name: file for file in _FILES}


def zoo_file(name: str) -> ZooFile:
    """The published file of a name.

    Raises:
        ConfigError: there is none; the message suggests the nearest and lists all.
    """
    if name not in ZOO:
        close = difflib.get_close_matches(name, ZOO, n=1, cutoff=0.4)
        hint = f"did you mean {close[0]}? " if close else ""
        raise ConfigError(f"no published file is called {name!r}; {hint}Known: {', '.join(ZOO)}.")
    return ZOO[name]


@dataclass(frozen=True)
class Fetched:
    """Outcome of ``fetch``.

    Args:
        path: the complete file.
        sha256: its checksum.
        downloaded: False if it was there already.
        checked_against: "published", "recorded" or, on the first download, "nothing".
    """

    path: Path
    sha256: str
    downloaded: bool
    checked_against: str


def fetch(
    file: ZooFile,
    folder: Path,
    url: str | None = None,
    progress: Progress | None = None,
    pause_s: float = 1.0,
) -> Fetched:
    """Bring a published file into a folder, or check the one that is there.

    Args:
        file: which.
        folder: made if it does not exist.
        url: a mirror; None for the authors' own link.
        progress: called while bytes arrive.
        pause_s: wait before a broken connection is tried again.

    Returns:
        Where it is and what it was checked against.

    Raises:
        DownloadError: no link is known, or the network, the server or the file refuses. What has
            arrived stays in ``FILE.part`` and the next call goes on from there.
        CheckpointError: the content differs from the published or recorded checksum.
        OutputError: the disk is full or the folder cannot be written.
    """
    target = folder / file.file_name
    try:
        if target.is_file():
            return _checked(file, target, target, downloaded=False)
        part = target.with_name(target.name + ".part")
        download = _Download(file, _link(file, target, url), part, progress, pause_s)
        folder.mkdir(parents=True, exist_ok=True)
        download.run()
        fetched = _checked(file, part, target, downloaded=True)
        part.replace(target)
        _validator(part).unlink(missing_ok=True)
    except VmtError:
        raise
    except OSError as error:
        raise _output_error(target, error) from None
    return fetched


def _link(file: ZooFile, target: Path, url: str | None) -> str:
    link = url or file.url
    if link is None:
        raise DownloadError(
            f"{file.name}: no direct link is published; open {file.page}, save the file as "
            f"{target}, or name a mirror with --url."
        )
    if urlsplit(link).scheme not in ("http", "https") or not urlsplit(link).netloc:
        raise DownloadError(f"{file.name}: {link!r} is no http or https address; correct --url.")
    return link


def _checked(file: ZooFile, path: Path, target: Path, *, downloaded: bool) -> Fetched:
    """Compare ``path`` with the published or recorded checksum; record it if there is none."""
    actual = _sha256(path)
    record = target.with_name(target.name + ".sha256")
    kind, expected = "published", file.sha256
    if expected is None:
        kind, expected = "recorded", _read_record(record)
    if expected is None:
        kind = "nothing"
        write_text(record, f"{actual}  {target.name}\n")
    elif expected != actual:
        source = "the authors publish" if kind == "published" else f"{record} recorded"
        raise CheckpointError(
            f"{path}: has SHA-256 {actual}, but {source} {expected}; the file is damaged or its "
            f"source has changed: delete it{'' if kind == 'published' else f' (or {record})'} "
            "and download again."
        )
    return Fetched(target, actual, downloaded, kind)


def _read_record(record: Path) -> str | None:
    if not record.is_file():
        return None
    digest = re.match(r"([0-9a-f]{64})\b", record.read_text(encoding="ascii", errors="replace"))
    if digest is None:
        raise CheckpointError(
            f"{record}: holds no SHA-256 (64 hexadecimal digits first); delete it to record anew."
        )
    return digest[1]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


class _BrokenConnectionError(Exception):
    """The connection ended before the file did; trying again may help."""


class _Download:
    """Fills a ``.part`` file, over as many connections as it takes."""

    def __init__(
        self, file: ZooFile, url: str, part: Path, progress: Progress | None, pause_s: float
    ) -> None:
        self.file = file
        self.url = url
        self.part = part
        self.progress = progress
        self.pause_s = pause_s

    def run(self) -> None:
        failures = 0
        while True:
            before = self._size()
            try:
                self._connect()
                return
            except _BrokenConnectionError as error:
                failures = 1 if self._size() > before else failures + 1
                if failures >= ATTEMPTS:
                    raise self._error(str(error)) from None
                time.sleep(self.pause_s * failures)

    def _size(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _connect(self) -> None:
        """One connection: from what is there to the end of the file."""
        request = urllib.request.Request(self.url, headers={"User-Agent": "vmt"})
        have = self._size()
        if have:
            request.add_header("Range", f"bytes={have}-")
            if _validator(self.part).is_file():
                request.add_header("If-Range", _validator(self.part).read_text(encoding="latin-1"))
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
                self._receive(response, have)
        except urllib.error.HTTPError as error:
            self._refused(error, have)
        except urllib.error.URLError as error:
            raise self._unreachable(error) from None
        except (ConnectionError, TimeoutError, http.client.HTTPException) as error:
            raise _BrokenConnectionError(_reason(error)) from None

    def _receive(self, response: http.client.HTTPResponse, have: int) -> None:
        if response.headers.get_content_type() == "text/html":
            raise DownloadError(
                f"{self.file.name}: {_host(self.url)} answered with a web page in place of the "
                f"file (a quota or a sign-in page); open {self.file.page} in a browser and save "
                f"the file as {_final(self.part)}."
            )
        start = 0
        if response.status == http.HTTPStatus.PARTIAL_CONTENT:
            span = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
            start = int(span[1]) if span else have
        if start not in (0, have):
            raise self._error(f"the server sent bytes from {start} on, we asked for {have}")
        length = response.headers.get("Content-Length")
        total = start + int(length) if length is not None and length.isdigit() else None
        if start == 0:  # a new file, or the server's has changed since, or it knows no ranges
            self._remember(response)
        done = start
        with self.part.open("r+b" if start else "wb") as part:
            part.seek(start)
            while block := response.read(_BLOCK):
                part.write(block)
                done += len(block)
                if self.progress is not None:
                    self.progress(done, total)
            part.flush()
            os.fsync(part.fileno())
        if total is not None and done < total:
            raise _BrokenConnectionError(f"the connection ended after {done} of {total} bytes")

    def _remember(self, response: http.client.HTTPResponse) -> None:
        """Keep what tells this version of the file from another, for ``If-Range``."""
        mark = response.headers.get("ETag") or response.headers.get("Last-Modified")
        if mark is None or mark.startswith("W/"):
            _validator(self.part).unlink(missing_ok=True)
        else:
            _validator(self.part).write_text(mark, encoding="latin-1")

    def _refused(self, error: urllib.error.HTTPError, have: int) -> None:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            if error.headers.get("Content-Range", "") == f"bytes */{have}":
                return  # it was complete already
            self.part.unlink(missing_ok=True)
            raise _BrokenConnectionError("the file on the server has changed") from None
        if error.code >= http.HTTPStatus.INTERNAL_SERVER_ERROR or error.code == 429:
            raise _BrokenConnectionError(f"HTTP {error.code} {error.reason}") from None
        raise DownloadError(
            f"{self.file.name}: {_host(self.url)} says HTTP {error.code} {error.reason}; see "
            f"{self.file.page} for where the file is now, and pass it with --url or save it as "
            f"{_final(self.part)}."
        ) from None

    def _unreachable(self, error: urllib.error.URLError) -> Exception:
        cause = error.reason
        if isinstance(cause, ConnectionResetError | TimeoutError):
            return _BrokenConnectionError(_reason(cause))
        reason = _reason(cause) if isinstance(cause, BaseException) else str(cause)
        return DownloadError(
            f"{self.file.name}: {_host(self.url)} cannot be reached from here ({reason}); on a "
            f"machine with a network open {self.file.page}, and copy the file to "
            f"{_final(self.part)}, or name a mirror with --url."
        )

    def _error(self, reason: str) -> DownloadError:
        return DownloadError(
            f"{self.file.name}: the download from {_host(self.url)} broke off ({reason}); "
            f"{self._size()} bytes are kept, run the same command again to go on."
        )


def _validator(part: Path) -> Path:
    return part.with_name(part.name + ".etag")


def _final(part: Path) -> Path:
    return part.with_suffix("")


def _host(url: str) -> str:
    return urlsplit(url).netloc or url


def _reason(error: BaseException) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text or type(error).__name__


def _output_error(target: Path, error: OSError) -> OutputError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        fix = "free some space and run the same command again, it goes on from there"
    else:
        fix = "choose another folder with --output"
    return OutputError(f"{target}: cannot be written ({_reason(error)}); {fix}.")
