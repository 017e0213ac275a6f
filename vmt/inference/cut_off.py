"""Whether a video file ends early, told from the structure of its container.

FFmpeg reads what is there and stops; in Matroska, WebM, MPEG-TS, AVI, FLV, GIF and fragmented MP4
nothing then tells a file that is cut off from a whole one. But these containers say how long their
parts are: a part that is longer than the file has been cut. What players show wholly passes: an
index or tags that are cut off, live recordings without lengths, transport streams that end between
packets. (A plain MP4 has a table of its frames, which ``video_file`` compares.)
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from vmt.utils.file_kinds import file_kind

_UNKNOWN = -1
_SEGMENT, _CLUSTER, _EBML = 0x18538067, 0x1F43B675, 0x1A45DFA3
#: Matroska's index, tags, chapters, attachments, list of places, padding and checksum.
_NO_FRAMES = frozenset((0x1C53BB6B, 0x1254C367, 0x1043A770, 0x1941A469, 0x114D9B74, 0xEC, 0xBF))
_ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")


class _Bytes:
    """A file by position."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = file.seek(0, os.SEEK_END)

    def at(self, position: int, count: int) -> bytes:
        self._file.seek(position)
        return self._file.read(count)

    def number(self, position: int, count: int) -> int:
        return int.from_bytes(self.at(position, count), "big")


def missing_end(path: Path, container: str) -> str | None:
    """What is missing at the end of a video file.

    Args:
        path: of the file.
        container: FFmpeg's name of its format, e.g. "matroska,webm".

    Returns:
        A clause for a message, e.g. "its last part needs 4,096 bytes more than the file has"; None
        where nothing is missing or the container does not tell.
    """
    walk = next((walk for name, walk in _WALKS.items() if name in container), None)
    if walk is None:
        return None
    with path.open("rb") as file:
        return walk(_Bytes(file))


def _lacks(end: int, data: _Bytes) -> str:
    return f"its last part needs {end - data.size:,} bytes more than the file has"


def _zeros(position: int, data: _Bytes) -> str | None:
    """For bytes that begin no part: a copy that broke off behind the allocation of its length."""
    if any(data.at(position, 64)):
        return None  # something else is appended
    return f"it is filled with zero bytes from byte {position:,} on"


def is_video(path: Path) -> bool:
    """False for what its first bytes show to be something else."""
    kind = file_kind(path)
    return kind is None or kind.family == "video"


def explain_unreadable(path: Path) -> str:
    """Why a file does not open as a video, and what to do: "cause; fix"."""
    kind = file_kind(path)
    if kind is None:
        return (
            "it is of no kind of video known here, or its beginning is damaged; convert it to MP4, "
            "or copy it again"
        )
    if kind.family != "video":
        return f"it is {kind.name}; {kind.fix or 'give it as an image'}"
    with path.open("rb") as file:
        data = _Bytes(file)
        if "MP4" in kind.name:
            return _explain_mp4(data)
        riff_end = 8 + int.from_bytes(data.at(4, 4), "little")
        if "AVI" in kind.name:
            missing = _lacks(riff_end, data) if riff_end > data.size else None
        else:
            missing = _matroska(data)
    cause = f"it is cut short ({missing})" if missing else "its header is damaged"
    return f"{cause}; copy or export it again"


def _explain_mp4(data: _Bytes) -> str:
    position = 0
    names = set()
    while 0 < position + 8 <= data.size:
        length, name = data.number(position, 4), data.at(position + 4, 4)
        names.add(name)
        length = data.number(position + 8, 8) if length == 1 else length
        position = position + length if length >= 8 else data.size
    if position > data.size:
        return f"it is cut short ({_lacks(position, data)}); copy or download it again"
    if b"moov" not in names:
        return (
            "its table of contents (moov) is missing, because the recording was not finished or "
            "the copy is cut off; copy it again, or rebuild the table with a tool such as untrunc"
        )
    return "its table of contents (moov) is damaged; copy or export it again"


# --- Matroska, WebM ------------------------------------------------------------------------------


def _matroska(data: _Bytes) -> str | None:
    """Elements one after the other; into the segment and into clusters of unknown length."""
    position = end = last = 0
    clusters = False
    while position < min(data.size, end or data.size):
        element = _element(data.at(position, 12))
        if element is None:
            if data.size - position < 12 and any(data.at(position, 12)):
                return "its last part has only half a header"
            return _zeros(position, data)
        last, header, length = element
        clusters |= last == _CLUSTER
        position += header
        if last == _SEGMENT:
            end = 0 if length == _UNKNOWN else position + length
        elif length != _UNKNOWN:
            position += length
    end = max(end, position)
    if end <= data.size or (clusters and last in _NO_FRAMES):
        return None
    return _lacks(end, data)


def _element(head: bytes) -> tuple[int, int, int] | None:
    """ID, length of the header, and length of the content of an element; None if it is none."""
    if not head or not head[0]:
        return None
    id_length = 9 - head[0].bit_length()
    if id_length > 4 or len(head) <= id_length or not head[id_length]:
        return None
    size_length = 9 - head[id_length].bit_length()
    if len(head) < id_length + size_length:
        return None
    mask = (1 << 7 * size_length) - 1
    size = int.from_bytes(head[id_length : id_length + size_length], "big") & mask
    number = int.from_bytes(head[:id_length], "big")
    return number, id_length + size_length, _UNKNOWN if size == mask else size


# --- MPEG-TS -------------------------------------------------------------------------------------


def _transport_stream(data: _Bytes) -> str | None:
    """Packets of 188 bytes, each with byte 0x47 in front, at steps of 188, 192 or 204 bytes."""
    last, _ = _last_packet(data)
    if last is None:
        return None
    if data.at(last, 1) != b"\x47":
        zeros = data.size > 64 and not any(data.at(data.size - 64, 64))
        return "its end is filled with zero bytes" if zeros else None
    return _lacks(last + 188, data) if last + 188 > data.size else None


def _last_packet(data: _Bytes) -> tuple[int | None, int]:
    """Position of the last packet, which may be cut; and the step from one to the next."""
    head = data.at(0, 8 * 204)
    for step in (188, 192, 204):
        for start in range(step):
            if set(head[start : start + 5 * step : step]) == {0x47}:
                return start + (data.size - 1 - start) // step * step, step
    return None, 0


def ends_within_frame(path: Path, stream_id: int) -> bool:
    """Whether the last packet of a stream in a transport stream is full.

    The last packet of each frame is padded, unless by chance (1 in 184) the frame fills it. So this
    is a likelihood, not a proof, that a file was cut between two packets of a frame.
    """
    with path.open("rb") as file:
        data = _Bytes(file)
        position, step = _last_packet(data)
        while position is not None and position >= 0 and position > data.size - 2000 * step:
            head = data.at(position, 4)
            if len(head) == 4 and int.from_bytes(head[1:3], "big") & 0x1FFF == stream_id:
                return not head[3] & 0x20
            position -= step
    return False


# --- MP4, AVI, ASF, FLV, Ogg, GIF ----------------------------------------------------------------


def _fragmented_mp4(data: _Bytes) -> str | None:
    """Boxes of a length and a name; only fragments, as their frames are in no common table."""
    position, fragments = 0, False
    while position + 8 <= data.size:
        length, name = data.number(position, 4), data.at(position + 4, 4)
        if name == bytes(4):
            return _zeros(position, data) if fragments else None
        fragments |= name == b"moof"
        if length == 1:
            length = data.number(position + 8, 8)
        if length < 8:  # to the end of the file
            return None
        position += length
        if position > data.size and fragments and name in (b"moof", b"mdat"):
            return _lacks(position, data)
    return None


def _avi(data: _Bytes) -> str | None:
    """Chunks of a name and a length; the frames are in lists called movi."""
    position = 0
    while position + 12 <= data.size:
        head = data.at(position, 12)
        length = int.from_bytes(head[4:8], "little")
        if head[:4] == b"RIFF":
            position += 12
            continue
        if head[:4] == b"LIST" and head[8:] == b"movi" and length in (0, 0xFFFFFFFF):
            position += 12  # a recording that was not finished
            continue
        if head[:4] == bytes(4):
            return _zeros(position, data)
        position += 8 + length + length % 2
        frames = head[8:] == b"movi" or head[2:4] in (b"dc", b"db", b"wb")
        if position - length % 2 > data.size and frames:
            return _lacks(position, data)
    return None


def _asf(data: _Bytes) -> str | None:
    """Objects of a GUID and a length."""
    position = 0
    while position + 24 <= data.size:
        guid, length = data.at(position, 16), int.from_bytes(data.at(position + 16, 8), "little")
        if length < 24:
            return None
        position += length
        if guid in (_ASF_HEADER, _ASF_DATA) and position > data.size:
            return _lacks(position, data)
    return None


def _flv(data: _Bytes) -> str | None:
    """Tags of 11 bytes and a content, each followed by its length in 4 bytes."""
    position = data.number(5, 4) + 4
    while position < data.size:
        kind = data.at(position, 1)[0] & 0x1F
        if kind not in (8, 9, 18):
            return _zeros(position, data)
        end = position + 11 + data.number(position + 1, 3)
        if end > data.size:
            return _lacks(end, data)
        position = end + 4
    return None


def _ogg(data: _Bytes) -> str | None:
    """Pages that list the lengths of their segments."""
    position = 0
    while position < data.size:
        head = data.at(position, 27)
        if head[:4] != b"OggS"[: len(head)]:
            return _zeros(position, data)
        end = position + 27
        if len(head) == 27:
            lengths = data.at(end, head[26])
            end += head[26] + sum(lengths)
        if end > data.size:
            return _lacks(end, data)
        position = end
    return None


def _gif(data: _Bytes) -> str | None:
    """Blocks of chained pieces; pictures follow a comma."""
    position = 13 + _table(data.at(10, 1))
    while position < data.size:
        kind = data.at(position, 1)
        if kind == b"!":
            position += 2
        elif kind == b",":
            position += 11 + _table(data.at(position + 9, 1))
        else:
            return None if kind == b";" else _zeros(position, data)
        while length := data.at(position, 1)[:1].rjust(1, b"\0")[0]:
            position += 1 + length
        position += 1
        if position > data.size and kind == b",":
            return _lacks(position, data)
    return None


def _table(flags: bytes) -> int:
    """Bytes of the colour table that a byte of flags announces."""
    return 3 * 2 ** ((flags[0] & 7) + 1) if flags and flags[0] & 0x80 else 0


def _motion_jpeg(data: _Bytes) -> str | None:
    """JPEGs one after the other, each between two marks that occur nowhere in it."""
    tail = data.at(max(0, data.size - (1 << 20)), 1 << 20)
    whole = tail.rfind(b"\xff\xd9") > tail.rfind(b"\xff\xd8")
    return None if whole else "its last picture has no end mark"


_WALKS: dict[str, Callable[[_Bytes], str | None]] = {
    "matroska": _matroska,
    "mpegts": _transport_stream,
    "mp4": _fragmented_mp4,
    "avi": _avi,
    "asf": _asf,
    "flv": _flv,
    "ogg": _ogg,
    "gif": _gif,
    "mjpeg": _motion_jpeg,
}
