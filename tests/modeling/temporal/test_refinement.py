"""Losses of refinement, against loops in double precision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.modeling.temporal.worlds import (
    CLASSES,
    DIM,
    LABELS,
    SIZE,
    Heads,
    associated,
    frame_of,
    with_refs,
)
from vmt.modeling.frame_training import NoisyEmbeddings, TrainedFrame
from vmt.modeling.temporal import refinement
from vmt.modeling.temporal.criterion import Tracklets, labels_of, tracklet_losses
from vmt.modeling.temporal.options import LearningOptions, TrackletOptions
from vmt.modeling.temporal.refinement import (
    positive_count,
    refined,
    refinement_losses,
    with_gaps,
)
from vmt.modeling.temporal.tar import TAR, TAROptions
from vmt.modeling.temporal.tracklets import tracked_queries

GT = TrackletOptions("gt", num_negatives=2)
JOINT = LearningOptions(GT, recurrent=False)
RECURRENT = LearningOptions(GT, recurrent=True)
TIMES = torch.tensor([3, 7, 12])


@pytest.fixture
def tar() -> TAR:
    """One whose last matrices are not zero."""
    torch.manual_seed(0)
    tar = TAR(TAROptions(DIM, 2, 12, 3)).double()
    for value in tar.parameters():
        torch.nn.init.normal_(value, std=0.5)
    return tar


@pytest.fixture
def frames() -> list[TrainedFrame]:
    """Tracklet 0 is missed in the second frame, 1 is there in the second alone."""
    frames = [frame_of([0, 2], 1), frame_of([0, 1, 2], 2), frame_of([2, 0], 3)]
    frames[1].logits[frames[1].best[0]] = -9.0
    return frames


def slow_refined(
    tar: TAR, embeds: Tensor, times: Tensor, begun: Tensor | None, recurrent: bool
) -> Tensor:
    """Tracklet by tracklet; a tracklet that has not begun has no past."""
    out = embeds.clone()
    for n, row in enumerate(embeds):
        if not recurrent:
            for first in range(0, len(row), tar.options.window):
                clip = slice(first, first + tar.options.window)
                out[n, clip] = tar(row[None, clip], times[clip])[0]
            continue
        for t in range(len(row)):
            past = [
                s
                for s in range(max(0, t - tar.options.window + 1), t)
                if begun is None or begun[n, s]
            ]
            sequence = torch.stack([*(out[n, s] for s in past), row[t]])
            out[n, t] = tar(sequence[None], times[[*past, t]])[0, -1]
    return out


@pytest.mark.parametrize("recurrent", [True, False])
@pytest.mark.parametrize("window", [2, 3, 9])
def test_refined_embeddings_are_those_of_the_loops(tar: TAR, recurrent: bool, window: int) -> None:
    tar.options = replace(tar.options, window=window)
    embeds = torch.randn(3, 5, DIM).double()
    begun = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1], [0, 0, 0, 0, 1]]).bool()
    times = torch.tensor([3, 7, 12, 13, 20])
    for start in (begun, None):
        with torch.no_grad():
            found = refined(tar, embeds, times, start, recurrent)
            wanted = slow_refined(tar, embeds, times, start, recurrent)
        there = begun if start is not None and recurrent else torch.ones_like(begun)
        torch.testing.assert_close(found[there], wanted[there], rtol=1e-9, atol=1e-9)


def test_one_frame_reads_itself(tar: TAR) -> None:
    embeds = torch.randn(2, 1, DIM).double()
    once, joint = (refined(tar, embeds, TIMES[:1], None, recurrent) for recurrent in (True, False))
    torch.testing.assert_close(once, joint)


def slow_losses(
    heads: Heads, tar: TAR, clips: list[list[TrainedFrame]], options: LearningOptions
) -> dict[str, float]:
    """The table of section 3 of the paper's reading in docs/methods/refinevis.md, row by row."""
    sums = {"loss_ce": 0.0, "loss_mask": 0.0, "loss_dice": 0.0}
    count = 0
    for frames in clips:
        embeddings = [frame.embeds for frame in frames]
        tracks = tracked_queries(heads, frames, embeddings, options.tracklets)  # type: ignore
        for query, slot in zip(tracks.query.tolist(), tracks.slots.tolist(), strict=True):
            rows = [
                frame.embeds[q] if q >= 0 else torch.zeros(DIM).double()
                for frame, q in zip(frames, query, strict=True)
            ]
            begun = torch.tensor([[any(q >= 0 for q in query[: t + 1]) for t in range(3)]])
            embeds = torch.stack(rows)[None]
            embeds = slow_refined(tar, embeds, TIMES, begun, options.recurrent)[0]
            for t, frame in enumerate(frames):
                if options.recurrent and not begun[0, t]:
                    continue
                classes, mask = torch.zeros(CLASSES).double(), torch.zeros(SIZE).double()
                if slot in frame.target.slots.tolist():
                    count += 1
                    mask = frame.target.masks[frame.target.slots.tolist().index(slot)].double()
                    classes[LABELS[slot]] = 1
                elif slot >= 0 and options.absent_class:
                    classes[LABELS[slot]] = 1
                sums["loss_ce"] += float((heads.classes(embeds[t]) - classes).square().sum())
                if slot < 0:
                    continue
                found = torch.einsum("c,chw->hw", embeds[t], frame.pixel)
                error = float((found - mask).square().sum())
                sums["loss_mask"] += error
                sums["loss_dice"] += 2 * error
    return {f"{name}_refine": value / max(count, 1) for name, value in sums.items()}


def losses_of(
    heads: Any, tar: TAR, clips: list[list[TrainedFrame]], options: LearningOptions
) -> dict[str, Tensor]:
    return refinement_losses(heads, tar, associated, clips, [TIMES] * len(clips), options)


@pytest.mark.parametrize(
    "options", [JOINT, RECURRENT, replace(JOINT, absent_class=True)], ids=["joint", "eq4", "class"]
)
def test_losses_are_those_of_the_loops(
    tar: TAR, frames: list[TrainedFrame], options: LearningOptions
) -> None:
    """Of two clips, divided by the frames of both that show a tracklet's object."""
    other = [frame_of([1], 11), frame_of([1, 2], 12), frame_of([], 13)]
    heads, clips = Heads(), [frames, other]
    with torch.no_grad():
        found = losses_of(heads, tar, clips, options)
        wanted = slow_losses(heads, tar, clips, options)
    assert {name: float(loss) for name, loss in found.items()} == pytest.approx(wanted, rel=1e-6)


def test_the_divisor_counts_what_is_shown_and_there(frames: list[TrainedFrame]) -> None:
    slots = torch.tensor([0, 1, -1])
    tracklets = Tracklets(torch.zeros(3, 3, DIM), slots, slots >= 0)
    assert positive_count([tracklets], [frames]) == 3 + 1
    counts = torch.tensor([[0, 1, 1], [0, 1, 1], [1, 1, 1]]).bool()
    assert positive_count([replace(tracklets, counts=counts)], [frames]) == 2 + 1
    assert positive_count([replace(tracklets, slots=slots * 0 - 1)], [frames]) == 1


def test_classes_of_tracklets_are_known_in_all_frames(frames: list[TrainedFrame]) -> None:
    assert labels_of(frames, torch.tensor([1, -1, 0, 2])).tolist() == [0, -1, 2, 1]
    assert labels_of(frames[:1], torch.tensor([1])).tolist() == [-1]


def test_frames_that_do_not_count_have_no_part(frames: list[TrainedFrame]) -> None:
    heads: Any = Heads()
    slots = torch.tensor([0, 2])
    embeds = torch.randn(2, 3, DIM).double().requires_grad_()
    counts = torch.tensor([[0, 1, 1], [1, 1, 0]]).bool()
    tracklets = Tracklets(embeds, slots, slots >= 0, counts=counts)
    sum(tracklet_losses(heads, tracklets, frames, 1.0).values()).backward()
    assert embeds.grad is not None
    assert torch.equal(embeds.grad.abs().sum(-1) > 0, counts)


def test_gradients_reach_all_frames_and_decisions_have_none(
    tar: TAR, frames: list[TrainedFrame]
) -> None:
    """Recurrent or not, a frame teaches the embeddings of the others."""
    for options in (RECURRENT, JOINT):
        for frame in frames:
            frame.embeds.grad = None
        sum(losses_of(Heads(), tar, [frames], options).values()).backward()
        for frame in frames:
            assert frame.embeds.grad is not None
            assert frame.embeds.grad.abs().sum() > 0
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in tar.parameters())
        assert all(not frame.logits.requires_grad for frame in frames)


def test_finite_differences(tar: TAR, frames: list[TrainedFrame]) -> None:
    """The gradient with respect to an embedding is the slope of the loss."""
    heads = Heads()

    def total(value: Tensor) -> Tensor:
        first = replace(frames[0], embeds=value)
        losses = losses_of(heads, tar, [[first, *frames[1:]]], RECURRENT)
        return torch.stack(list(losses.values())).sum()

    assert torch.autograd.gradcheck(total, frames[0].embeds, atol=1e-5)


def test_without_tracklets_losses_are_zero_and_reach_everything(tar: TAR) -> None:
    none = LearningOptions(replace(GT, num_negatives=0))
    clip = [frame_of([], seed) for seed in (1, 2, 3)]
    losses = losses_of(Heads(), tar, [clip], none)
    assert [loss.item() for loss in losses.values()] == [0, 0, 0]
    sum(losses.values()).backward()
    assert all(frame.embeds.grad is not None for frame in clip)
    assert all(value.grad is not None for value in tar.parameters())


def test_reference_points_reach_the_heads(tar: TAR, frames: list[TrainedFrame]) -> None:
    seen = []

    class Points(Heads):
        def embedding_losses(self, embeds, refs, *args) -> dict[str, Tensor]:
            seen.append(len(refs) == len(embeds))
            return super().embedding_losses(embeds, refs, *args)

    losses_of(Points(), tar, [[with_refs(frame) for frame in frames]], RECURRENT)
    assert seen == [True] * 3


def test_denoising_is_a_switch(
    tar: TAR, frames: list[TrainedFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its tracklets are refined as the others, and are there from the first frame on."""
    seen: list[Any] = []
    original: Callable[..., Tensor] = refinement.refined

    def noted(tar: TAR, embeds: Tensor, times: Tensor, begun: Any, recurrent: bool) -> Tensor:
        seen.append((len(embeds), begun is None, recurrent))
        return original(tar, embeds, times, begun, recurrent)

    monkeypatch.setattr(refinement, "refined", noted)
    noisy = []
    for frame in frames:
        present = torch.zeros(3, dtype=torch.bool)
        present[frame.target.slots] = True
        embeds = torch.randn(2, 2, 3, DIM).double()
        noisy.append(replace(frame, noisy=NoisyEmbeddings(embeds, present)))

    class Denoised(Heads):
        denoising_kind = "contrastive"

    with torch.no_grad():
        both = losses_of(Denoised(), tar, [noisy], RECURRENT)
        alone = losses_of(Denoised(), tar, [noisy], replace(RECURRENT, temporal_denoising=False))
    assert both.keys() - alone.keys() == {
        f"loss_{kind}_refine_dn" for kind in ("ce", "mask", "dice")
    }
    assert all(torch.equal(both[name], alone[name]) for name in alone)
    assert seen[1] == (2 * 2 * 3, True, True)
    assert "loss_ce_refine_dn" not in losses_of(Heads(), tar, [noisy], RECURRENT)


def test_gaps_are_matches_behind_the_first() -> None:
    torch.manual_seed(0)
    embeds = torch.randn(4000, 4, DIM).requires_grad_()
    missed = torch.zeros(4000, 4, dtype=torch.bool)
    missed[1000:2000, 0] = missed[2000:3000, 1] = True
    given = embeds.masked_fill(missed[..., None], 0)
    hidden = with_gaps(given, 0.3)
    gap = (hidden == 0).all(-1) & ~missed
    first = torch.tensor([0, 1, 0, 0]).repeat_interleave(1000)
    for t in range(4):
        later = ~missed[:, t] & (first < t)
        assert not gap[~later, t].any()
        if later.any():
            assert abs(float(gap[later, t].float().mean()) - 0.3) < 0.04
    assert torch.equal(hidden[~gap], given[~gap])
    hidden.sum().backward()
    assert torch.equal(embeds.grad.abs().sum(-1) > 0, ~gap & ~missed)
    assert with_gaps(given, 0.0) is given


def test_both_kinds_of_tracklets_have_gaps(
    tar: TAR, frames: list[TrainedFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The losses are those of embeddings with gaps."""
    seen: list[tuple[int, float]] = []

    def noted(embeds: Tensor, share: float) -> Tensor:
        seen.append((len(embeds), share))
        return embeds * 0

    class Denoised(Heads):
        denoising_kind = "contrastive"

    noisy = NoisyEmbeddings(torch.randn(2, 2, 3, DIM).double(), torch.ones(3).bool())
    clip = [replace(frame, noisy=noisy) for frame in frames]
    options = replace(RECURRENT, gaps=0.4)
    with torch.no_grad():
        plain = losses_of(Denoised(), tar, [clip], replace(options, gaps=0.0))
        monkeypatch.setattr(refinement, "with_gaps", noted)
        empty = losses_of(Denoised(), tar, [clip], options)
    assert [share for _, share in seen] == [0.4, 0.4]
    assert seen[1][0] == 2 * 2 * 3
    assert all(not torch.isclose(plain[name], empty[name]) for name in plain)
