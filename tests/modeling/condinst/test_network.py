"""What the network does with frames, levels and queries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from tests.synthetic import shape_clip
from vmt.layers.deformable_encoder import Encoder
from vmt.modeling.condinst.criterion import IDOLCriterion, MasksOf, Predictions
from vmt.modeling.condinst.encoder import CondInstEncoder
from vmt.modeling.criteria.ota import OtaMatch
from vmt.modeling.meta_arch.idol import IDOL
from vmt.modeling.video_model import ClipBatch
from vmt.structures.frame_targets import FrameTargets
from vmt.utils.errors import ConfigError

Build = Callable[..., IDOL]


def frames(count: int, height: int = 70, width: int = 102) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 255, (count, 3, height, width), generator=generator).float()


def test_what_a_frame_gives(tiny: Build) -> None:
    model = tiny()
    outputs = model.segment_frames(frames(2))
    assert len(outputs) == 2
    first = outputs[0]
    assert first.logits.shape == (20, len(model.label_space))
    assert first.boxes_cxcywh is not None
    assert first.boxes_cxcywh.shape == (20, 4)
    assert first.masks().shape == (20, 24, 32)  # 96 x 128, padded
    assert first.embeddings.shape == (20, 64)
    assert (first.mask_stride, first.input_size) == (4, (70, 102))
    assert (first.logits.std(0) > 0).all()  # queries differ
    # heads of the contract give the same again
    assert first.query is not None
    assert first.pixel is not None
    with torch.inference_mode():
        logits = model.class_head(first.query)
        masks = model.mask_head(first.query, first.pixel, first.refs)
    torch.testing.assert_close(logits, first.logits, atol=1e-5, rtol=1e-5)
    some = torch.tensor([7, 3])
    torch.testing.assert_close(first.masks(some), masks[some], atol=0.01, rtol=1e-3)


def test_frames_do_not_see_each_other(tiny: Build) -> None:
    clip = frames(2)
    both = tiny().segment_frames(clip)
    chunked = tiny("TEST.FRAME_CHUNK", "1").segment_frames(clip)
    for one, other in zip(both, chunked, strict=True):
        torch.testing.assert_close(one.logits, other.logits, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(one.boxes_cxcywh, other.boxes_cxcywh, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(one.embeddings, other.embeddings, atol=1e-4, rtol=1e-4)


def test_masks_move_with_their_reference_point(tiny: Build) -> None:
    """A cell of stride 8 further right and down, over features that are the same everywhere."""
    model = tiny()
    query, pixel = torch.randn(3, 64), torch.rand(8, 1, 1).expand(8, 9, 12)
    refs = torch.rand(3, 2) * 30 + 20
    with torch.no_grad():
        here, there = (model.mask_head(query, pixel, refs + step) for step in (0, 8))
    torch.testing.assert_close(here[:, 1:-2, 1:-2], there[:, 3:, 3:], atol=1e-3, rtol=1e-4)


def test_queries_may_come_in_any_order(tiny: Build) -> None:
    model, order = tiny(), torch.randperm(20)
    with torch.no_grad():
        straight = model.segment_frames(frames(1))[0]
        for name in ("query_pos", "query_content"):
            value = getattr(model.decoder, name)
            value.copy_(value[order].clone())
        shuffled = model.segment_frames(frames(1))[0]
    torch.testing.assert_close(shuffled.logits, straight.logits[order], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(shuffled.masks(), straight.masks(order), atol=0.02, rtol=1e-3)


def test_padding_of_a_coarse_level_follows_from_stride_8() -> None:
    """133 rows: valid cells of stride 64 are read off those of stride 8 at rows 0, 6 and 13."""
    size = {"dim": 32, "num_levels": 4, "num_heads": 4, "num_points": 1, "ffn_dim": 8}
    padding = torch.zeros(1, 160, 32, dtype=torch.bool)
    padding[:, 105:] = True  # stride 8: 14 of 20 rows are valid
    maps = [torch.zeros(1, 32, rows, 1) for rows in (20, 10, 5, 3)]
    valid = [
        kind(1, dropout=0.0, **size).valid_cells(padding, maps)
        for kind in (CondInstEncoder, Encoder)
    ]
    assert [int(v.sum()) for v in valid[0]] == [14, 7, 4, 3]
    assert [int(v.sum()) for v in valid[1]] == [14, 7, 4, 2]
    assert all(v.all() for v in CondInstEncoder(1, dropout=0.0, **size).valid_cells(None, maps))


# --- training -----------------------------------------------------------------------------------


def losses_of(model: IDOL, *clips: dict[str, Any]) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return model.train().losses(ClipBatch.from_inputs(clips))


def shown(clip: dict[str, Any], valid: list[list[bool]]) -> dict[str, Any]:
    """The clip with objects visible where ``valid`` (G, T) says so."""
    return {**clip, "targets": replace(clip["targets"], valid=torch.tensor(valid))}


def test_every_parameter_learns(tiny: Build) -> None:
    model = tiny()
    losses = losses_of(model, shape_clip(2, (64, 96), 0))
    assert len(losses) == 2 * 5 + 2
    assert all(torch.isfinite(value) for value in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


def test_weights_of_losses(tiny: Build) -> None:
    plain = losses_of(tiny(), shape_clip(2, (64, 96), 0))
    keys = "MODEL.IDOL.CONTRASTIVE_WEIGHT", "1.0", "MODEL.IDOL.COSINE_WEIGHT", "0.0"
    other = losses_of(tiny(*keys), shape_clip(2, (64, 96), 0))
    torch.testing.assert_close(other["loss_reid"] * 2, plain["loss_reid"])
    assert plain["loss_reid_aux"] > 0
    assert other["loss_reid_aux"] == 0
    torch.testing.assert_close(other["loss_ce_0"], plain["loss_ce_0"])


@pytest.mark.parametrize(
    ("valid", "learns"),
    [
        ([[False, False], [False, False]], set()),
        ([[True, False], [False, True]], {"bbox", "mask"}),  # no object in both frames
        ([[False, True], [False, True]], set()),  # none in the key frame
        ([[True, True], [True, True]], {"bbox", "mask", "reid", "reid_aux"}),
    ],
)
def test_objects_that_a_frame_does_not_show(
    tiny: Build, valid: list[list[bool]], learns: set[str]
) -> None:
    model = tiny()
    losses = losses_of(model, shown(shape_clip(2, (64, 96), 0), valid))
    assert len(losses) == 12
    positive = {name.removeprefix("loss_") for name, value in losses.items() if value > 0}
    assert positive & {"bbox", "mask", "reid", "reid_aux"} == learns
    assert {"ce", "ce_0"} <= positive
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    assert torch.isfinite(total)


def test_what_the_reference_frame_alone_shows_is_left_out(tiny: Build) -> None:
    """As published: an object that the key frame lacks is no target of the reference frame."""
    model, clip = tiny(), shape_clip(2, (64, 96), 0)
    first = {**clip, "targets": clip["targets"].select(torch.tensor([0]))}
    with_second = shown(clip, [[True, True], [False, True]])
    one, other = losses_of(model, first), losses_of(model, with_second)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


class Seen(IDOLCriterion):
    """Notes the masks of two queries of every key frame."""

    masks: ClassVar[list[Tensor]] = []

    def frame_losses(
        self,
        layers: Sequence[Predictions],
        matches: Sequence[Sequence[OtaMatch]],
        targets: Sequence[FrameTargets],
        masks_of: MasksOf,
    ) -> dict[str, Tensor]:
        query = torch.tensor([3, 7])
        self.masks[:] = [masks_of(len(layers) - 1, b, query) for b in range(len(targets))]
        return super().frame_losses(layers, matches, targets, masks_of)


def test_masks_in_training_are_those_of_inference(tiny: Build) -> None:
    """Of clips of different sizes, which are padded to one."""
    model = tiny()
    samples = [shape_clip(2, size, seed) for seed, size in enumerate([(64, 96), (90, 60)])]
    clips = [model.normalise(sample["image"]) for sample in samples]
    with torch.no_grad():
        out = model.forward_frames(*model.pad(clips))
        criterion = Seen(model.criterion.weights)
        model.forward_training(clips, [sample["targets"] for sample in samples], criterion)
        for b, sample in enumerate(samples):
            frame = model.outputs(out, sample["targets"].input_size)[2 * b]
            expected = frame.masks(torch.tensor([3, 7]))
            torch.testing.assert_close(criterion.masks[b], expected, atol=1e-3, rtol=1e-4)


def test_clips_of_one_frame_teach_frames_and_of_three_frames_two_pairs(tiny: Build) -> None:
    model = tiny()
    assert len(losses_of(model, shape_clip(1, (64, 96), 0))) == 10
    clip = shape_clip(3, (64, 96), 0)
    seen = shown(clip, [[True] * 3, [True] * 3])
    parts = []
    for t in (1, 2):
        pick = torch.tensor([0, t])
        target = seen["targets"]
        parts.append(
            {
                "image": seen["image"][pick],
                "targets": replace(
                    target,
                    boxes_cxcywh=target.boxes_cxcywh[:, pick],
                    masks=target.masks[:, pick],
                    valid=target.valid[:, pick],
                ),
            }
        )
    pairs = [losses_of(model, part)["loss_reid"] for part in parts]
    together = losses_of(model, seen)["loss_reid"]
    torch.testing.assert_close(together, (pairs[0] + pairs[1]) / 2, atol=1e-4, rtol=1e-4)


def test_the_count_is_that_of_objects_in_key_frames(tiny: Build) -> None:
    clip = shape_clip(2, (64, 96), 0)
    batch = ClipBatch.from_inputs([shown(clip, [[True, False], [False, True]])] * 3)
    assert tiny().loss_count(batch) == 3


def test_reference_points_learn_slowly(tiny: Build) -> None:
    groups = tiny().lr_groups()
    assert groups["decoder.reference."] == "SAMPLING_FACTOR"
    assert groups["decoder.layers.1.cross_attn.sampling_offsets."] == "SAMPLING_FACTOR"
    assert groups["backbone."] == "BACKBONE_FACTOR"


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("DIM", "48", "multiple of 32 and of NUM_HEADS, 4"),
        ("NUM_HEADS", "0", "at least 1"),
        ("NUM_LEVELS", "2", "at least 3"),
        ("DROPOUT", "1.0", "probability"),
        ("MASK_CHANNELS", "0", "at least 1"),
    ],
)
def test_impossible_values_are_named(tiny: Build, key: str, value: str, said: str) -> None:
    with pytest.raises(ConfigError, match=f"MODEL.CONDINST.{key} is .*{said}"):
        tiny(f"MODEL.CONDINST.{key}", value)
