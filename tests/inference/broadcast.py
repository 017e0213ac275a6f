"""Videos that arrive: bytes frame by frame, and threads that send them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np


def encoded(
    frames: Sequence[np.ndarray], form: str = "yuv4mpegpipe", codec: str = "rawvideo"
) -> list[bytes]:
    """A video in as many pieces as it has frames, each piece ending with its frame."""
    held: list[bytes] = []

    class Sink:
        def write(self, data: bytes) -> int:
            held.append(bytes(data))
            return len(data)

    options = {"tune": "zerolatency", "g": "5"} if codec == "libx264" else {}
    pieces = []
    with av.open(Sink(), "w", format=form, options={"flush_packets": "1"}) as container:
        stream = container.add_stream(codec, rate=10, options=options)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            container.mux(stream.encode(picture))
            pieces.append(b"".join(held))
            held.clear()
        container.mux(stream.encode())
    pieces[-1] += b"".join(held)
    return pieces


@contextmanager
def sent(
    path: Path, pieces: Sequence[bytes], before: Callable[[int], object] = lambda number: None
) -> Iterator[None]:
    """Write to a named pipe or file in a thread, ``before`` being called ahead of every piece."""

    def send() -> None:
        with path.open("ab" if path.is_file() else "wb", buffering=0) as file:
            try:
                for number, piece in enumerate(pieces):
                    before(number)
                    rest = memoryview(piece)
                    while rest:
                        rest = rest[file.write(rest) :]
            except BrokenPipeError:
                return

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    yield
    thread.join(timeout=20)
    assert not thread.is_alive()


def pipe(folder: Path) -> Path:
    """A named pipe."""
    path = folder / "pipe"
    os.mkfifo(path)
    return path
