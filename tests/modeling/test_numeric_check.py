"""The published networks' outputs on hashed weights: a check that needs no file.

Expected values were computed with the published modules (CPU, eval, fp32); they hold between fp32
and fp64 to about 1e-6. |.| is the mean absolute value.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from tests.published_weights import hashed, published_state
from vmt.checkpoint.key_maps.released import RELEASED
from vmt.inference.load import load_model
from vmt.modeling.meta_arch.vmt import ClipForward, VideoMaskTransfiner
from vmt.modeling.refiners import dense_band
from vmt.ops.resize import aligned_upsample2
from vmt.structures.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh

EXPECTED = {
    "R50": {
        "maps": (0.770883, 0.908222, 1.107747, 0.896061),
        "stride2": 0.676886,
        "neck": (0.816610, 0.807582, 0.790244, 0.798227),
        "memory": (0.797890, -0.463252, 2.250498),
        "query": (0.808618, -0.728702, 1.607494),
        "mask_features": (0.128219, 0.126753),
        "fused": (0.970256, 0.968736),
        "top": [954, 2298, 6624, 9312, 12210, 744, 240, 996, 7590, 3600],
        "best": (0.965976, 0.960122, 0.881499),
        "points": (1053, 1050),
        "coarse": (0.140511, 0.113877),
        "stage": (0.699630, 0.644334),
        "refined": (0.182463, 0.150686),
        "size": (90, 122),
        "above_zero": ((841, 821), (5473, 5383), (108838, 108788)),
        "mean_per_query": {
            5: 0.191943, 17: 0.227223, 22: 0.339202, 23: 0.140780, 54: 0.140256,
            85: 0.099258, 157: 0.240296, 180: 0.169426, 221: 0.139366, 290: 0.135609,
        },
        "negative_corners": (0, 1),
        "clamp_changes": 0.0131,
    },
    "SwinL": {
        "maps": (0.799654, 0.798890, 0.795833, 0.801494),
        "stride2": None,
        "neck": (0.804530, 0.811505, 0.819008, 0.809552),
        "memory": (0.799454, 0.086399, 1.181422),
        "query": (0.822147, -1.126022, 1.162024),
        "mask_features": (0.091975, 0.079365),
        "fused": (0.940709, 0.951319),
        "top": [1475, 929, 2399, 6053, 2693, 5045, 4499, 1681, 11555, 6011],
        "best": (0.929704, 0.913246, 0.911612),
        "points": (1337, 1301),
        "coarse": (0.183562, 0.167228),
        "stage": (0.951739, 0.986345),
        "refined": (0.355219, 0.221747),
        "size": (92, 124),
        "above_zero": ((6454, 6423), (19172, 19547), (111777, 111950)),
        "mean_per_query": {
            22: 0.241093, 35: 0.404037, 40: 0.252622, 57: 0.387184, 64: 0.395471,
            107: 0.272468, 120: 0.400855, 143: 0.416233, 144: 0.278165, 275: 0.493053,
        },
        "negative_corners": (7, 6),
        "clamp_changes": 0.0236,
    },
}  # fmt: skip


@dataclass
class Run:
    model: VideoMaskTransfiner
    frames: Tensor
    out: ClipForward
    points: list[int]
    expected: dict


def magnitude(x: Tensor) -> float:
    return x.abs().mean().item()


@pytest.fixture(scope="module", params=["R50", pytest.param("SwinL", marks=pytest.mark.slow)])
def run(request: pytest.FixtureRequest, repo) -> Run:
    model = load_model(repo / f"configs/hq_ytvis/vmt_{request.param}_released.yaml", device="cpu")
    state = RELEASED.to_ours(published_state(model)).state
    model.load_state_dict({name: state[name] for name in model.state_dict()})
    frames = torch.from_numpy(hashed("input", 2 * 3 * 90 * 122).astype("float32")) * 1.5
    frames = frames.view(2, 3, 90, 122)
    points = []
    original = dense_band.band_points

    def counting(union: Tensor, band: Tensor, max_points: int, counts: list[int]) -> Tensor:
        points.extend(min(count, max_points) for count in counts)
        return original(union, band, max_points, counts)

    dense_band.band_points = counting
    try:
        out = model.run_clip(frames)
    finally:
        dense_band.band_points = original
    return Run(model, frames, out, points, EXPECTED[request.param])


def test_backbone_and_neck(run: Run) -> None:
    with torch.inference_mode():
        maps = run.model.backbone(run.frames)
        levels = run.model.neck(maps)
    actual = [magnitude(maps[stride]) for stride in (4, 8, 16, 32)]
    assert actual == pytest.approx(run.expected["maps"], abs=2e-6)
    assert [magnitude(level) for level in levels] == pytest.approx(run.expected["neck"], abs=2e-6)
    if run.expected["stride2"] is not None:
        assert magnitude(maps[2]) == pytest.approx(run.expected["stride2"], abs=2e-6)
    else:
        assert 2 not in maps


def test_memory_and_queries(run: Run) -> None:
    for name, x in (("memory", run.out.features.memory), ("query", run.out.query)):
        flat = x.flatten()
        actual = (magnitude(x), flat[0].item(), flat[-1].item())
        assert actual == pytest.approx(run.expected[name], abs=2e-5)


def test_selection(run: Run) -> None:
    scores, index = run.out.logits.sigmoid().flatten().topk(10)
    assert index.tolist() == run.expected["top"]
    assert run.out.selected.tolist() == sorted(run.expected["mean_per_query"])
    # the eleventh score counts among the pairs of the selected queries
    inside = run.out.logits[run.out.selected].sigmoid().flatten().topk(11).values
    actual = (scores[0].item(), scores[9].item(), inside[10].item())
    assert actual == pytest.approx(run.expected["best"], abs=2e-6)


def test_mask_features(run: Run) -> None:
    features = run.out.features
    for name, x in (("mask_features", features.mask_features), ("fused", features.fused)):
        assert [magnitude(f) for f in x] == pytest.approx(run.expected[name], abs=2e-6)


def test_number_of_refined_points(run: Run) -> None:
    assert tuple(run.points) == run.expected["points"]


def test_masks(run: Run) -> None:
    assert run.out.refined is not None
    stages = (
        ("coarse", run.out.coarse_logits),
        ("stage", run.out.refined.stage_logits),
        ("refined", run.out.refined.mask_logits),
    )
    for (name, logits), above in zip(stages, run.expected["above_zero"], strict=True):
        masks = aligned_upsample2(logits)
        actual = (magnitude(masks), masks.std().item())
        assert actual == pytest.approx(run.expected[name], abs=5e-6), name
        counts = (masks > 0).sum(dim=(0, 2, 3)).tolist()
        # a logit within rounding of zero may fall on either side
        assert counts == pytest.approx(above, abs=3), name
    refined = aligned_upsample2(run.out.refined.mask_logits)
    assert tuple(refined.shape[-2:]) == run.expected["size"]
    means = refined.mean(dim=(1, 2, 3)).tolist()
    assert means == pytest.approx(list(run.expected["mean_per_query"].values()), abs=1e-5)


def test_boxes_that_start_outside_wrap_as_published(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut at the frame instead, they would change the masks by as much as recorded."""
    boxes = run.out.boxes_cxcywh[:, run.out.selected]
    stride2 = run.out.refined.mask_logits.shape[-2:]
    scale = boxes.new_tensor([stride2[1], stride2[0]])
    corners = (boxes[..., :2] - boxes[..., 2:] / 2) * scale
    outside = (corners.trunc() < 0).any(-1).sum(-1)
    assert tuple(outside.tolist()) == run.expected["negative_corners"]
    fill = dense_band.box_masks

    def cut(boxes: Tensor, size: tuple[int, int]) -> Tensor:
        inside = xyxy_to_cxcywh(cxcywh_to_xyxy(boxes).clamp(min=0))
        leaves = (cxcywh_to_xyxy(boxes)[..., :2] < 0).any(-1, keepdim=True)
        return fill(torch.where(leaves, inside, boxes), size)

    monkeypatch.setattr(dense_band, "box_masks", cut)
    clamped = run.model.run_clip(run.frames).refined.mask_logits
    change = aligned_upsample2(clamped - run.out.refined.mask_logits).abs().max().item()
    assert change == pytest.approx(run.expected["clamp_changes"], abs=2e-4)
