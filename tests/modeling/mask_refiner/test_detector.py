"""Given masks with a detector's queries: who is matched, what is trained, what comes back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import vmt
from tests.engine.runs import train_command
from tests.modeling.mask_refiner.test_pooled import clip
from tests.synthetic import write_moving_shapes
from vmt.cli.main import main
from vmt.config.node import load_config
from vmt.inference.mask_refiner import MaskRefiner
from vmt.modeling.mask_refiner.detector import clip_prompt
from vmt.modeling.mask_refiner.prompt import looked_at_cells
from vmt.modeling.meta_arch.build import build_model, build_network
from vmt.modeling.meta_arch.query_mask_refiner import QueryMaskRefiner
from vmt.modeling.refiners.base import Refiner, RefinerOutput
from vmt.modeling.seqformer.decoder import LayerState
from vmt.structures.boxes import masks_to_boxes
from vmt.structures.clip import ClipTargets
from vmt.structures.labels import LabelSpace
from vmt.utils.errors import ConfigError

CONFIG = "configs/quick/vmt_tiny.yaml"
DETECTOR = ("MODEL.META_ARCHITECTURE", "QueryMaskRefiner")
SMALL = ("MODEL.SEQFORMER.NUM_QUERIES", "6", "MODEL.REFINER.NUM_LAYERS", "1")
THINGS = LabelSpace("things", ("round", "square"), (1, 2))


def network(*overrides: str) -> QueryMaskRefiner:
    torch.manual_seed(0)
    built = build_network(load_config(CONFIG, [*DETECTOR, *SMALL, *overrides]), THINGS)
    assert isinstance(built, QueryMaskRefiner)
    return built


def boxes_of(masks: torch.Tensor) -> torch.Tensor:
    """(G, T, H, W) -> (G, T, 4) cxcywh in [0, 1], by hand."""
    found = []
    for mask in masks.flatten(0, 1):
        y, x = mask.nonzero(as_tuple=True)
        size = (x.max() + 1 - x.min(), y.max() + 1 - y.min())
        box = [x.min() + size[0] / 2, y.min() + size[1] / 2, *size]
        found.append([float(v) / (masks.shape[-1], masks.shape[-2])[k % 2] for k, v in
                      enumerate(box)])  # fmt: skip
    return torch.tensor(found).view(*masks.shape[:2], 4)


class MadeUpBase(nn.Module):
    """A decoder that has found boxes (Q, T, 4); query q is all q."""

    def __init__(self, boxes: torch.Tensor, dim: int) -> None:
        super().__init__()
        self.boxes, self.dim, self.calls = boxes, dim, 0

    def forward(self, memory, levels, num_frames, box_heads):
        self.calls += 1
        query = torch.arange(len(self.boxes)).float()[None, :, None].expand(1, -1, self.dim)
        boxes = self.boxes.transpose(0, 1)[None]
        box_query = query[:, None].expand(-1, num_frames, -1, -1)
        return [LayerState(query, boxes, boxes[..., :2], box_query)]


def two_things() -> tuple[torch.Tensor, torch.Tensor]:
    """Frames (2, 3, 96, 128) and masks (2, 2, 96, 128)."""
    masks = torch.zeros(2, 2, 96, 128, dtype=torch.bool)
    masks[0, :, 10:43, 20:50] = True
    masks[1, 0, 50:90, 70:120] = True
    masks[1, 1, 50:90, 75:125] = True
    return torch.full((2, 3, 96, 128), 90, dtype=torch.uint8), masks


def test_every_mask_gets_the_query_whose_boxes_are_nearest():
    net = network().eval()
    frames, masks = two_things()
    boxes = boxes_of(masks)
    far = torch.tensor([0.9, 0.1, 0.1, 0.1]).expand(2, 4)
    first_frame_only = torch.stack([boxes[0, 0], far[0]])
    near = [boxes[k] + torch.tensor([0.03, -0.02, 0.04, 0.0]) for k in (0, 1)]
    found = [first_frame_only, near[1], far, near[0]]
    net.decoder = MadeUpBase(torch.stack(found), 64)
    inputs, kept = net.given_input(frames, masks)
    assert kept.tolist() == [0, 1]
    assert inputs.query[:, 0].tolist() == [3, 1]
    assert inputs.box_query[:, :, 0].tolist() == [[3, 3], [1, 1]]
    # where the masks are, not where the detector thinks
    assert torch.allclose(inputs.boxes_cxcywh, boxes)
    assert torch.allclose(inputs.centres_px, boxes[..., :2] * torch.tensor([128.0, 96.0]))


def test_classes_have_a_say_where_they_are_known():
    frames, masks = two_things()
    boxes = boxes_of(masks)
    off = torch.tensor([0.02, 0.0, 0.0, 0.0])
    targets = ClipTargets(torch.tensor([1, 0]), boxes, masks, torch.ones(2, 2, dtype=torch.bool))

    def matched(*overrides, targets=None):
        net = network(*overrides).eval()
        net.decoder = MadeUpBase(torch.stack([boxes[0], boxes[0] + off, boxes[1]]), 64)
        logits = torch.tensor([[8.0, -8.0], [-8.0, 8.0], [8.0, -8.0]])
        net.class_logits = lambda layer, query: logits[None]
        return net.given_input(frames, masks, targets)[0].query[:, 0].tolist()

    assert matched() == [0, 2]
    assert matched(targets=targets) == [1, 2]
    assert matched("DATASETS.CLASS_MATCH", "any", targets=targets) == [0, 2]


def test_the_mask_is_the_coarse_map_and_its_contour_is_refined():
    net = network().eval()
    frames, masks = two_things()
    masks[0, 1] = False
    inputs, _ = net.given_input(frames[..., :90, :125], masks[..., :90, :125])  # no multiples of 8
    assert inputs.coarse_logits.shape == inputs.given[0].shape == (2, 2, 12, 16)
    assert inputs.coarse_logits[0, 0, 3, 4] == 4
    assert inputs.coarse_logits[0, 0, 9, 10] == -4
    # rows 8..15 by columns 48..55: 6 of 8 rows, 2 of 8 columns
    assert inputs.coarse_logits[0, 0, 1, 6] == pytest.approx(8 * 12 / 64 - 4)
    assert (inputs.coarse_logits[0, 1] == -4).all()
    assert not inputs.given[0][0, 1].any()
    assert inputs.given[0][0, 0, 1:6, 2].all()
    assert not inputs.given[0][0, 0, 3, 4]
    # at the frame's edge there is no contour
    right = torch.zeros(1, 2, 90, 125, dtype=torch.bool)
    right[..., 40:] = True
    roots = clip_prompt(right, (90, 125)).given[0]
    assert not roots[..., 8:].any()


def test_only_the_refiner_learns():
    net = network().train()
    assert net.training
    assert net.refiner.training
    assert not any(part.training for part in net.backbone.modules())
    assert not any(part.training for part in net.decoder.modules())
    before = {name: value.clone() for name, value in net.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], 1e-2)
    losses = net([clip()])
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    optimizer.step()
    after = net.state_dict()
    moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"refiner"}
    without = {
        name for name, p in net.named_parameters()
        if name.startswith("refiner.") and (p.grad is None or not p.grad.any())
    }  # fmt: skip
    # one tracklet: a softmax over one key
    assert without == {n for n in without if "guidance" in n or n == "refiner.encoder.own"}


def test_frames_and_tracklets_without_masks():
    net = network().train()
    data = clip()
    data["coarse"] = torch.cat([torch.zeros_like(data["coarse"]), data["coarse"]])
    data["coarse"][1, 1] = False
    one = data["targets"]
    data["targets"] = ClipTargets(
        torch.zeros(2, dtype=torch.int64), one.boxes_cxcywh.repeat(2, 1, 1),
        one.masks.repeat(2, 1, 1, 1), one.valid.repeat(2, 1),
    )  # fmt: skip
    seen = []
    net.refiner.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    losses = net([data])
    assert all(loss.isfinite() for loss in losses.values())
    assert seen[0].masks_gt.flatten(2).any(2).tolist() == [[True, False, True]]
    net.eval()
    (tube,) = net.refine_tubes(data["image"], data["coarse"])
    assert (tube.tracklet, tube.frames) == (1, [0, 2])
    assert len(tube.probability) == len(tube.looked_at) == len(tube.places) == 2
    net.train()
    data["coarse"][:] = False
    total = sum(net([data]).values())
    total.backward()
    assert total == 0
    assert not list(net.eval().refine_tubes(data["image"], data["coarse"]))


def test_tracklets_without_a_query_are_left_out():
    net = network("MODEL.SEQFORMER.NUM_QUERIES", "2")
    data = clip(2)
    many = torch.stack([data["coarse"][0].roll(8 * k, -1) for k in range(3)])
    found = [tube.tracklet for tube in net.eval().refine_tubes(data["image"], many)]
    assert len(found) == 2
    assert found == sorted(found)
    data["targets"] = ClipTargets(
        torch.zeros(3, dtype=torch.int64), torch.full((3, 2, 4), 0.5), many,
        torch.ones(3, 2, dtype=torch.bool),
    )  # fmt: skip
    assert all(loss.isfinite() for loss in net.train()([data | {"coarse": many}]).values())


def test_order_of_tracklets_does_not_matter_and_the_base_runs_once():
    net = network().eval()
    frames, masks = two_things()
    calls = []
    net.decoder.register_forward_hook(lambda *_: calls.append(1))
    tubes = list(net.refine_tubes(frames, masks))
    assert len(calls) == 1
    swapped = {1 - tube.tracklet: tube for tube in net.refine_tubes(frames, masks.flip(0))}
    for tube in tubes:
        other = swapped[tube.tracklet]
        assert tube.places == other.places
        assert torch.allclose(tube.probability, other.probability, atol=1e-5)
        assert torch.equal(tube.looked_at, other.looked_at)


def test_cells_that_the_detector_found_are_looked_at_too():
    net = network().eval()
    frames, masks = two_things()
    inputs, _ = net.given_input(frames, masks)
    output = net.refiner(inputs)
    cells = looked_at_cells(inputs.given[0], output)
    tree = output.tree
    found = {row[1:] for row in zip(tree.level.tolist(), tree.tracklet.tolist(),
             tree.frame.tolist(), tree.y.tolist(), tree.x.tolist(), strict=True)
             if row[0] == 0}  # fmt: skip
    given = set(map(tuple, inputs.given[0].nonzero().tolist()))
    assert found - given
    assert set(map(tuple, cells.nonzero().tolist())) == found | given


class StandIn(Refiner):
    """A refiner that is put in place, not built."""

    @classmethod
    def from_config(cls, cfg, features):
        raise NotImplementedError

    @classmethod
    def criterion(cls, cfg):
        raise NotImplementedError


class Knows(StandIn):
    """A refiner that says what the masks are; stride 2, sharp."""

    def __init__(self, truth: torch.Tensor) -> None:
        super().__init__()
        self.truth = truth

    def forward(self, inputs):
        h, w = inputs.frame_size
        truth = nn.functional.interpolate(self.truth.float(), (h, w), mode="nearest-exact")
        truth = nn.functional.pad(truth, (0, w % 2, 0, h % 2), mode="replicate")
        logits = 16 * nn.functional.avg_pool2d(truth, 2) - 8
        return RefinerOutput(logits, 2, logits)


@pytest.mark.parametrize("side", ["96", "64", "150"])
def test_masks_come_back_at_the_size_of_the_frames(side):
    """Through the whole product: the coarse masks have a halo, the refiner knows better."""
    net = network("INPUT.MIN_SIZE_TEST", side).eval()
    data = clip()
    net.refiner = Knows(data["targets"].masks)
    frames = data["image"].permute(0, 2, 3, 1).numpy()
    done = MaskRefiner(net).refine(frames, data["coarse"].numpy(), window=4)
    truth = data["targets"].masks.numpy()
    iou = (done.masks & truth).sum() / (done.masks | truth).sum()
    before = (data["coarse"].numpy() & truth).sum() / (data["coarse"].numpy() | truth).sum()
    assert before < 0.7
    assert iou > 0.9
    assert not done.rejected.any()
    # no shift: errors on both sides alike
    boxes, wanted = (masks_to_boxes(torch.from_numpy(m)) for m in (done.masks, truth))
    assert (boxes - wanted).abs().max() <= 2


class Ramp(StandIn):
    """A refiner whose logit says how far down a pixel is, from -2 to 2."""

    def forward(self, inputs):
        self.frame_size = h, w = inputs.frame_size
        rows = (2 * torch.arange(-(-h // 2)) + 1.5) / h * 4 - 2
        logits = rows[:, None].expand(*inputs.given[0].shape[:2], -1, -(-w // 2))
        return RefinerOutput(logits, 2, logits)


def test_no_pixel_is_moved():
    """Frames of 96 rows, a network that sees 63 and gives 32 cells of 2."""
    net = network("INPUT.MIN_SIZE_TEST", "63").eval()
    net.refiner = Ramp()
    data = clip()
    (tube,) = net.refine_tubes(data["image"], data["coarse"])
    assert net.refiner.frame_size == (63, 84)
    for found, place in zip(tube.probability, tube.places, strict=True):
        rows = (torch.arange(96) + 0.5) / 96 * 4 - 2
        away = found.logit() - rows[place.rows, None]
        inner = slice(max(4 - place.rows.start, 0), None)  # the first cells have no neighbour
        assert away[inner].abs().max() < 0.002


@pytest.mark.slow
def test_it_learns_to_remove_a_halo():
    net = network("MODEL.REFINER.OFFSET_UNIT_PX", "64.0", "MODEL.REFINER.DROPOUT", "0.0").train()
    data = clip(2)
    optimizer = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], 3e-3)
    for _ in range(15):
        optimizer.zero_grad()
        sum(net([data]).values()).backward()
        optimizer.step()
    net.eval()
    net.min_size = 96
    done = MaskRefiner(net).refine(
        data["image"].permute(0, 2, 3, 1).numpy(), data["coarse"].numpy(), accept=0.5
    )
    truth = data["targets"].masks.numpy()
    assert (done.masks & truth).sum() / (done.masks | truth).sum() > 0.85


def test_weights_are_those_of_a_video_mask_transfiner():
    cfg = load_config(CONFIG, SMALL)
    assert list(build_network(cfg, THINGS).state_dict()) == list(network().state_dict())
    # and it finds objects like one
    cfg = load_config(CONFIG, [*DETECTOR, *SMALL])
    assert build_model(cfg, THINGS).eval().segment_clip(clip()["image"]).mask_logits.ndim == 4


def test_trained_from_the_console_and_loaded(tmp_path):
    write_moving_shapes(tmp_path / "data", 2, 4, (64, 96), 0)
    words = train_command(
        tmp_path / "data", tmp_path / "out", config="vmt_tiny", INPUT__DEGRADE='["halo", "paper"]',
        SOLVER__MAX_STEPS="2", ENGINE__CHECKPOINT_PERIOD="0", MODEL__REFINER__FFN_DIM="32",
        MODEL__NEW_PARAMETERS="['']",  # a random base is meant
        **{key.replace(".", "__"): value for key, value in zip(*[iter(DETECTOR)] * 2, strict=True)},
    )  # fmt: skip
    assert main(words[3:]) == 0
    refiner = vmt.MaskRefiner.from_pretrained(tmp_path / "out/model_final.safetensors", "cpu")
    assert isinstance(refiner.network, QueryMaskRefiner)
    assert refiner.network.label_space.names == ("circle", "square", "triangle")
    data = clip(2)
    frames = np.ascontiguousarray(data["image"].permute(0, 2, 3, 1).numpy())
    done = refiner.refine(frames, data["coarse"].numpy(), window=4)
    assert done.masks.shape == data["coarse"].shape


def test_values_that_do_not_fit():
    with pytest.raises(ConfigError, match=r"REFINER\.NAME is none.*quadtree"):
        network("MODEL.REFINER.NAME", "none")
