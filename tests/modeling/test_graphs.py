"""``TEST.GRAPH``: networks whose dense part is replayed say the same, and what must hold for it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.device_counts import DeviceCounts
from tests.recorded_graph import graphs_on_cpu
from vmt.modeling import video_model
from vmt.modeling.meta_arch.build import build_network
from vmt.modeling.video_model import ClipModel, VideoModel
from vmt.utils.errors import ConfigError

#: One of each kind of dense part; all frames of a clip in one pass.
NETWORKS = [
    "quick/vmt_tiny_released",
    "quick/msts_tiny",
    "quick/idol_tiny",
    "quick/minvis_tiny",
    "quick/refinevis_tiny",
]
WHOLE = ("TEST.FRAME_CHUNK", "0")


def answer(model: VideoModel, clip: Tensor) -> list[Tensor]:
    """All tensors of a prediction."""
    if isinstance(model, ClipModel):
        found = model.segment_clip(clip)
        return [found.class_probs, found.boxes_cxcywh, found.mask_logits, found.embeddings]
    return [
        value
        for frame in model.predict({"image": clip})["frames"]
        for value in (frame.logits, frame.boxes_cxcywh, frame.masks(), frame.embeddings)
        if value is not None
    ]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_replayed_network_says_the_same(
    name: str, tiny, clip, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, clips = tiny(name, *WHOLE), [clip[:2], clip[2:].flip(2), clip[1:3].flip(3)]
    expected = [answer(plain, x) for x in clips]
    made = graphs_on_cpu(monkeypatch)
    monkeypatch.setattr(video_model, "is_capturable", lambda device: True)
    model = tiny(name, *WHOLE, "TEST.GRAPH", "True")
    model.load_state_dict(plain.state_dict())
    given = [answer(model, x) for x in clips]
    assert [graph.replays for graph in made] == [2]
    for ours, theirs in zip(given, expected, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            # copies may lie otherwise in memory than what a head was given without
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    assert not torch.equal(given[0][0], given[1][0]), "other clips, other answers"


@pytest.mark.parametrize("name", NETWORKS)
def test_nothing_that_is_captured_waits_or_reads_the_host(name: str, tiny, clip) -> None:
    model, noted = tiny(name, *WHOLE), []
    parts = [part for part in model.modules() if isinstance(part, VideoModel)]

    def counted(function: Any, *args: Any) -> Any:
        with DeviceCounts() as counts:
            for arg in args:
                assert not (isinstance(arg, Tensor) and counts.is_on_host(arg))
            out = function(*args)
        noted.append(counts)
        return out

    for part in parts:
        part.replayed = counted
    for _ in range(2):
        answer(model, clip[:2])
    assert len(noted) == 2
    counts = noted[-1]  # constants are made in the first pass
    assert counts.launches.total() > 100
    assert not counts.waits
    assert not counts.uploads


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("quick/qdtrack_tiny", "non-maximum suppression"),
        ("refine/mask_refiner", "sizes of their own"),
    ],
)
def test_networks_without_such_a_part_say_so(
    name: str, why: str, config_of, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video_model, "is_capturable", lambda device: True)
    keys = ("MODEL.BACKBONE.PRETRAINED", "False", "TEST.GRAPH", "True")
    with pytest.raises(ConfigError, match=f"TEST.GRAPH: .* cannot be captured.*{why}.*False"):
        build_network(*config_of(name, *keys))


def test_a_cpu_has_no_graphs(config_of) -> None:
    with pytest.raises(ConfigError, match=r"TEST.GRAPH needs a GPU, and MODEL.DEVICE auto is cpu"):
        build_network(*config_of("quick/seqformer_tiny", "TEST.GRAPH", "True"))
