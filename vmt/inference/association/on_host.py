"""What associations read of frames, in the memory of the host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from vmt.modeling.video_model import FrameOutputs
from vmt.utils.device import to_host


def on_host(frames: Sequence[FrameOutputs]) -> list[FrameOutputs]:
    """The same frames with classes, boxes and embeddings as float32 in the memory of the host.

    All of them come in one copy. What masks are cut out of stays where it is.
    """
    tables = [(f.logits, f.embeddings, f.boxes_cxcywh) for f in frames]
    copies = iter(to_host([table for three in tables for table in three if table is not None]))
    return [
        replace(
            frame,
            logits=next(copies),
            embeddings=next(copies),
            boxes_cxcywh=None if frame.boxes_cxcywh is None else next(copies),
        )
        for frame in frames
    ]
