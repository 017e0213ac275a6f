"""What a GPU is asked for by whole networks and their videos: launches, and waits of the host."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.device_counts import DeviceCounts
from tests.synthetic import moving_shapes
from tests.varlen_kernels import varlen_on_cpu
from vmt.inference import predictor as predictor_module
from vmt.inference.association.bisoftmax import BisoftmaxOptions
from vmt.inference.mask_refiner import MaskRefiner
from vmt.inference.predictor import PredictorOptions, VideoPredictor
from vmt.modeling.backbones.folding import fold_frozen_norms
from vmt.modeling.meta_arch import mask_refiner
from vmt.modeling.meta_arch.build import build_network
from vmt.modeling.refiners.quadtree import pixel_decoder
from vmt.modeling.refiners.quadtree import refiner as quadtree
from vmt.modeling.tracking.memory import MemoryOptions
from vmt.modeling.tracking.selection import SelectionOptions
from vmt.modeling.video_model import VideoModel
from vmt.ops import strips

#: Frames of a window, and (h, w) of them: counts do not depend on it.
FRAMES, SIZE = 36, (32, 64)
#: Widths on which no count depends; layers and their number are those of the recipe.
NARROW = ("MODEL.SEQFORMER.HIDDEN_DIM", "64", "MODEL.SEQFORMER.FFN_DIM", "64")
NARROW += ("MODEL.SEQFORMER.NUM_QUERIES", "20", "MODEL.REFINER.FFN_DIM", "64")
NARROW += ("MODEL.BACKBONE.PRETRAINED", "False", "TEST.FRAME_CHUNK", str(FRAMES))


@pytest.mark.parametrize(
    "name",
    [
        "quick/vmt_tiny_released",
        "quick/vmt_tiny",
        "quick/seqformer_tiny",
        "quick/msts_tiny",
        "quick/idol_tiny",
        "quick/minvis_tiny",
        "quick/maskdino_tiny",
        "quick/refinevis_tiny",
    ],
)
def test_a_second_pass_copies_no_constant_to_the_device(name: str, tiny, clip) -> None:
    model = tiny(name, "TEST.FRAME_CHUNK", "2")
    model.predict({"image": clip})
    with DeviceCounts() as counts:
        model.predict({"image": clip})
    assert counts.launches.total() > 100
    assert counts.waits["from Python"] == 0


def window(frames: int) -> Tensor:
    """(T, 3, H, W) uint8."""
    return torch.from_numpy(moving_shapes(frames, SIZE, 0).frames).permute(0, 3, 1, 2).contiguous()


def at_node_share(model: VideoModel, clip: Tensor, share: float = 0.04) -> None:
    """Let a quadtree with random weights refine as many cells as a trained one."""
    if not any(isinstance(part, quadtree.QuadtreeRefiner) for part in model.modules()):
        return
    noted: list[list[Tensor]] = []
    build = quadtree.build_quadtree

    def note(scores: list[Tensor], *args: Any, **kwargs: Any) -> Any:
        noted.append([level.flatten() for level in scores])
        return build(scores, *args, **kwargs)

    with mock.patch.object(quadtree, "build_quadtree", note):
        model.predict({"image": clip[:2]})
    for part in model.modules():
        if isinstance(part, quadtree.QuadtreeRefiner):
            levels = [torch.cat(level) for level in zip(*noted, strict=True)]
            part.thresholds = tuple(float(level.quantile(1 - share)) for level in levels)


@pytest.fixture
def network(config_of) -> Callable[[str], VideoModel]:
    """A recipe's network, narrow, with random weights."""

    def build(name: str) -> VideoModel:
        torch.manual_seed(0)
        model = build_network(*config_of(name, *NARROW)).eval()
        fold_frozen_norms(model)
        return model

    return build


#: Recipe -> most launches per frame and most waits per window of ``FRAMES``.
CEILINGS = {
    "hq_ytvis/vmt_R50_released": (32, 2),
    "hq_ytvis/vmt_R50": (42, 3),
    "hq_ytvis/refinevis_R50": (40, 0),
}


@pytest.fixture
def like_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As much at once as on a GPU, where a CPU would spare its caches, and its kernels."""
    monkeypatch.setattr(strips, "STRIP_VALUES", 2**30)
    monkeypatch.setattr(quadtree, "CPU_FRAMES", FRAMES)
    monkeypatch.setattr(quadtree, "CPU_NODES", 2**30)
    monkeypatch.setattr(pixel_decoder, "_one_by_one", pixel_decoder._together)
    gpu = partial(predictor_module.masks_of_frames, together=True)
    monkeypatch.setattr(predictor_module, "masks_of_frames", gpu)
    with varlen_on_cpu():
        yield


@pytest.mark.parametrize("name", CEILINGS)
@pytest.mark.usefixtures("like_gpu")
def test_a_window_stays_below_the_ceilings(name: str, network) -> None:
    model, clip = network(name), window(FRAMES)
    at_node_share(model, clip)
    model.predict({"image": clip})
    with DeviceCounts() as counts:
        model.predict({"image": clip})
    launches, waits = CEILINGS[name]
    per_frame = counts.launches.total() / FRAMES
    assert 0.5 * launches < per_frame <= launches, counts.launches.most_common(20)
    assert counts.waits.total() <= waits, counts.waits


@pytest.mark.parametrize("window", [1, 4])
def test_refined_masks_stay_below_the_ceilings(
    window: int, like_gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda = torch.device("cuda")
    worth_it = quadtree.is_worth_it
    monkeypatch.setattr(quadtree, "is_worth_it", lambda x, device: worth_it(x, cuda))
    monkeypatch.setattr(mask_refiner, "map_on_cores", map)  # counts are of one thread
    refiner = MaskRefiner.from_pretrained()
    clip = moving_shapes(4, (96, 128), 0)
    masks = np.stack([mask for mask in clip.masks if mask.any((1, 2)).all()])
    windows = len(clip.frames) / window
    tracklets = len(masks) * windows
    assert len(masks) >= 2
    refiner.refine(clip.frames, masks, window=window)
    with DeviceCounts() as counts:
        refiner.refine(clip.frames, masks, window=window)
    # a hundred convolutions of two backbones among them
    assert 500 < counts.launches.total() / tracklets <= 1270, counts.launches.most_common(20)
    # how many nodes, how many in each block; and the masks of all tracklets, together
    assert counts.waits.total() <= 2 * tracklets + windows, counts.waits


#: Recipe -> most launches per frame and waits per window behind the network.
TRACKED = {
    "quick/idol_tiny": (99, 3),
    "quick/minvis_tiny": (20, 2),
    "quick/refinevis_tiny": (99, 4),
}


@pytest.mark.parametrize("name", TRACKED)
@pytest.mark.usefixtures("like_gpu")
def test_tracks_of_a_video_stay_below_the_ceilings(name: str, tiny) -> None:
    count = 8
    model = tiny(name, "TEST.FRAME_CHUNK", str(count))
    frames = list(moving_shapes(count, (64, 96), 0).frames)
    everything = BisoftmaxOptions(
        SelectionOptions(score=0.0, mask_iou=1.0), MemoryOptions(first_score=0.0, birth_score=0.0)
    )
    options = PredictorOptions(min_size=64, window=count, bisoftmax=everything)
    with DeviceCounts() as network_alone:
        model.predict({"image": torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)})
    with DeviceCounts() as counts:
        results = list(VideoPredictor(model, options).stream(frames))
    assert sum(len(result.tracks) for result in results) > count
    most_launches, most_waits = TRACKED[name]
    launches = (counts.launches.total() - network_alone.launches.total()) / count
    waits = counts.waits - network_alone.waits
    assert 0.5 * most_launches < launches <= most_launches, counts.launches - network_alone.launches
    assert waits.total() <= most_waits, waits


@pytest.mark.usefixtures("like_gpu")
def test_masks_of_a_video_stay_below_the_ceilings(tiny) -> None:
    model = tiny("quick/vmt_tiny_released", "TEST.FRAME_CHUNK", str(FRAMES))
    frames = list(moving_shapes(FRAMES, (64, 96), 0).frames)
    predictor = VideoPredictor(model, PredictorOptions(min_size=64))
    with DeviceCounts() as network_alone:
        model.predict({"image": torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)})
    with DeviceCounts() as counts:
        results = list(predictor.stream(frames))
    tracks = sum(len(result.tracks) for result in results) / FRAMES
    assert tracks > 2
    launches = (counts.launches.total() - network_alone.launches.total()) / FRAMES
    assert launches <= 3, counts.launches - network_alone.launches
    assert counts.waits.total() - network_alone.waits.total() <= 2, counts.waits
