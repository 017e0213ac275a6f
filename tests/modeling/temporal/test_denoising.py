"""Denoising across frames, against loops."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vmt.modeling.frame_training import NoisyEmbeddings, TrainedFrame
from vmt.modeling.temporal.criterion import LOSSES
from vmt.modeling.temporal.denoising import (
    association_denoising,
    association_roles,
    noisy_tracklets,
    temporal_count,
    temporal_denoising,
)
from vmt.structures.frame_targets import FrameTargets

DIM, CLASSES, GROUPS, SIZE = 8, 3, 2, (6, 5)
#: Class of each tracklet of the clip.
LABELS = [2, 0, 1, 1]


def frame_of(shown: list[int], seed: int, slots: int = 5, queries: int = 7) -> TrainedFrame:
    """A frame that shows some of the clip's four tracklets; another clip of the batch has five."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    target = FrameTargets(
        torch.tensor([LABELS[i] for i in shown], dtype=torch.int64),
        draw(len(shown), 4).sigmoid(),
        draw(len(shown), *SIZE) > 0,
        f"frame {seed}",
        torch.tensor(shown, dtype=torch.int64),
        len(LABELS),
    )
    present = torch.zeros(slots, dtype=torch.bool)
    present[shown] = True
    return TrainedFrame(
        draw(queries, DIM).requires_grad_(),
        draw(queries, CLASSES),
        draw(queries, 4).sigmoid(),
        draw(DIM, *SIZE),
        None,
        torch.arange(len(shown)),
        torch.zeros(queries, dtype=torch.bool),
        target,
        NoisyEmbeddings(draw(GROUPS, 2, slots, DIM).requires_grad_(), present),
    )


@pytest.fixture
def frames() -> list[TrainedFrame]:
    """Tracklet 1 is in the first frame alone, 3 in the last, 2 in both, 0 in no frame but that."""
    return [frame_of([1, 2], 1), frame_of([2], 2), frame_of([0, 2, 3], 3)]


@pytest.fixture
def head() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(DIM, DIM).double()


# --- association --------------------------------------------------------------------------------


def slow_association(pairs, head) -> float:
    total, count = 0.0, 0
    for key, reference in pairs:
        shown = [[int(slot) for slot in frame.target.slots] for frame in (key, reference)]
        for group in range(GROUPS):
            for i in shown[0]:
                if i not in shown[1]:
                    continue
                count += 1
                anchor = head(key.noisy.embeds[group, 0, i])
                inner = 0.0
                for near in range(GROUPS):
                    positive = anchor @ head(reference.noisy.embeds[near, 0, i])
                    for far in range(GROUPS):
                        for j in shown[1]:
                            for kind in range(2):
                                if j != i:
                                    other = head(reference.noisy.embeds[far, kind, j])
                                    inner += math.exp(float(anchor @ other - positive))
                total += math.log(1 + inner)
    return total / max(count, 1)


def test_association_is_its_sum_over_pairs(frames, head) -> None:
    pairs = [(frames[0], frames[1]), (frames[0], frames[2]), (frames[2], frames[0])]
    with torch.no_grad():
        wanted = slow_association(pairs, head)
        # in the first pair there is no other tracklet: its anchors cost nothing, and count
        assert wanted * 6 == pytest.approx(4 * slow_association(pairs[1:], head))
    assert wanted > 0
    assert association_denoising(pairs, head).item() == pytest.approx(wanted, rel=1e-6)


def test_roles() -> None:
    key, reference = torch.tensor([[1, 1, 0, 1], [1, 0, 1, 1]]).bool()
    anchors, like, unlike = association_roles(key, reference, GROUPS)
    assert anchors.tolist() == [0, 3, 8, 11]
    for anchor, near, far in zip(anchors.tolist(), like, unlike, strict=True):
        for query in range(len(near)):
            slot, kind = query % 4, query // 4 % 2
            shown, same = bool(reference[slot]), slot == anchor % 4
            assert bool(near[query]) == (shown and same and kind == 0)
            assert bool(far[query]) == (shown and not same)


def test_negatives_of_an_object_are_no_pairs_of_it(frames, head) -> None:
    pair = frames[0], frames[2]
    association_denoising([pair], head).backward()
    # tracklet 2 alone is in both: it is every anchor, 0 and 3 are the others
    key, reference = (frame.noisy.embeds.grad.abs().sum(-1) > 0 for frame in pair)
    assert key.tolist() == [[[False, False, True, False, False], [False] * 5]] * GROUPS
    others = [True, False, False, True, False]
    assert reference.tolist() == [[[True, False, True, True, False], others]] * GROUPS


def test_matched_queries_and_absent_tracklets_play_no_part(frames, head) -> None:
    pair = frames[0], frames[2]
    before = association_denoising([pair], head).item()
    changed = []
    for frame in pair:
        embeds = frame.noisy.embeds.detach().clone()
        embeds[:, :, ~frame.noisy.present] = 1e3
        noisy = replace(frame.noisy, embeds=embeds)
        changed.append(replace(frame, embeds=frame.embeds * 3, noisy=noisy))
    assert association_denoising([tuple(changed)], head).item() == before


def test_nothing_to_associate_costs_nothing_and_keeps_the_graph(frames, head) -> None:
    without = [replace(frame, noisy=None) for frame in frames]
    loss = association_denoising([(without[0], without[1])], head)
    loss.backward()
    assert float(loss) == 0
    assert without[0].embeds.grad is not None
    lonely = association_denoising([(frame_of([1], 5), frame_of([2], 6))], head)
    lonely.backward()
    assert float(lonely) == 0
    assert all(part.grad is not None for part in head.parameters())


# --- refinement ---------------------------------------------------------------------------------


class Heads:
    """The losses of a frame model: squared errors, of classes and of dense masks."""

    def __init__(self) -> None:
        torch.manual_seed(1)
        self.classes = nn.Linear(DIM, CLASSES).double()
        self.calls: list[int] = []

    def embedding_losses(
        self, embeds, refs, frame, labels, masks, with_mask, count
    ) -> dict[str, Tensor]:
        assert refs is None
        self.calls.append(len(embeds))
        wanted = F.one_hot(labels + 1, CLASSES + 1)[:, 1:]
        errors = (torch.einsum("nc,chw->nhw", embeds, frame.pixel) - masks.double()).square()
        masked = errors[with_mask].sum() / count
        ce = (self.classes(embeds) - wanted).square().sum() / count
        return {"loss_ce": ce, "loss_mask": masked, "loss_dice": 2 * masked}


def refine(embeds: Tensor) -> Tensor:
    """Something that depends on all frames."""
    return embeds + embeds.cumsum(1).tanh()


def slow_temporal(heads: Heads, frames, count: float) -> dict[str, float]:
    sums = dict.fromkeys(LOSSES, 0.0)
    anywhere = sorted({int(slot) for frame in frames for slot in frame.target.slots})
    for group in range(GROUPS):
        for kind in range(2):
            for slot in anywhere:
                rows = []
                for frame in frames:
                    shown = slot in frame.target.slots.tolist()
                    rows.append(frame.noisy.embeds[group, kind, slot] * (1.0 if shown else 0.0))
                refined = refine(torch.stack(rows)[None])[0]
                for frame, embed in zip(frames, refined, strict=True):
                    classes = torch.zeros(CLASSES).double()
                    mask = torch.zeros(SIZE).double()
                    if kind == 0 and slot in frame.target.slots.tolist():
                        g = frame.target.slots.tolist().index(slot)
                        classes[LABELS[slot]] = 1
                        mask = frame.target.masks[g].double()
                    sums["loss_ce"] += float((heads.classes(embed) - classes).square().sum())
                    for y in range(SIZE[0]):
                        for x in range(SIZE[1]):
                            error = embed @ frame.pixel[:, y, x] - mask[y, x]
                            sums["loss_mask"] += float(error) ** 2
                            sums["loss_dice"] += 2 * float(error) ** 2
    return {name: value / count for name, value in sums.items()}


@pytest.mark.parametrize("chunk", [0, 5, 64])
def test_tracklets_want_what_the_table_says(frames, chunk) -> None:
    heads = Heads()
    losses = temporal_denoising(heads, frames, refine, 3.0, chunk)
    with torch.no_grad():
        wanted = slow_temporal(heads, frames, 3.0)
    assert {name: float(loss) for name, loss in losses.items()} == pytest.approx(wanted, rel=1e-6)
    assert max(heads.calls) == (5 if chunk == 5 else 16)


def test_tracklets_of_groups_slots_and_kinds(frames) -> None:
    tracklets = noisy_tracklets(frames)
    assert tracklets.slots.tolist() == [0, 1, 2, 3, -1, -1, -1, -1] * GROUPS
    assert tracklets.with_mask.all()
    assert tracklets.embeds.shape == (16, 3, DIM)
    shown = tracklets.embeds.abs().sum(-1) > 0
    assert shown[:4].tolist() == [
        [False, False, True],
        [True, False, False],
        [True, True, True],
        [False, False, True],
    ]
    assert torch.equal(shown, shown[:4].repeat(4, 1))


def test_recomputed_chunks_have_the_same_gradients(frames) -> None:
    gradients = []
    for chunk in (0, 3):
        heads = Heads()
        parts = [frame.noisy.embeds for frame in frames] + list(heads.classes.parameters())
        loss = sum(temporal_denoising(heads, frames, refine, 3.0, chunk).values())
        gradients.append(torch.autograd.grad(loss, parts))
        forward = len(heads.calls)
        assert forward == (3 if chunk == 0 else 2 * 3 * 6)
    for whole, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(whole, recomputed, rtol=1e-9, atol=1e-12)


def test_absent_tracklets_are_nowhere(frames) -> None:
    heads = Heads()
    sum(temporal_denoising(heads, frames, refine, 3.0).values()).backward()
    for frame in frames:
        touched = frame.noisy.embeds.grad.abs().sum((0, 1, 3)) > 0
        assert torch.equal(touched, frame.noisy.present)


def test_without_denoising_queries_there_are_no_tracklets(frames) -> None:
    heads = Heads()
    without = [replace(frame, noisy=None) for frame in frames]
    losses = temporal_denoising(heads, without, refine, 1.0)
    assert [float(loss) for loss in losses.values()] == [0, 0, 0]
    sum(losses.values()).backward()
    empty = [frame_of([], 7), frame_of([], 8)]
    assert len(noisy_tracklets(empty)) == 0


def test_the_divisor_counts_positives_that_are_shown(frames) -> None:
    assert temporal_count([frames, frames[:1]]) == GROUPS * (2 + 1 + 3 + 2)
    assert temporal_count([[replace(frames[0], noisy=None)]]) == 1
