"""Frames that go through a network together."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from vmt.config.node import load_config
from vmt.modeling import frame_chunk as module
from vmt.modeling.frame_chunk import frame_chunk


@pytest.mark.parametrize(("asked", "frames"), [(-1, 2), (0, 0), (7, 7)])
def test_on_a_cpu(asked: int, frames: int) -> None:
    cfg = load_config(None, ["TEST.FRAME_CHUNK", str(asked), "MODEL.DEVICE", "cpu"])
    assert frame_chunk(cfg) == frames


@pytest.mark.parametrize(
    ("gigabytes", "min_size", "frames"),
    [(80, 360, 54), (8, 360, 5), (80, 720, 13), (1, 720, 1)],
)
def test_on_a_gpu(gigabytes: int, min_size: int, frames: int, monkeypatch) -> None:
    """A quarter of the memory over 1600 bytes a pixel of 360x640 or 720x1280."""
    monkeypatch.setattr(module, "resolve_device", lambda _: torch.device("cuda"))
    card = SimpleNamespace(total_memory=gigabytes * 10**9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: card)
    words = ["INPUT.MIN_SIZE_TEST", str(min_size), "INPUT.MAX_SIZE_TEST", "0"]
    assert frame_chunk(load_config(None, words)) == frames
    assert frame_chunk(load_config(None, [*words, "TEST.FRAME_CHUNK", "3"])) == 3
