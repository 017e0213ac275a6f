"""MinVIS's association: every query is a track, aligned from frame to frame."""

from __future__ import annotations

import io
import itertools

import pytest
import torch
from torch import Tensor

from vmt.inference.association.embedding_hungarian import EmbeddingHungarianAssociation
from vmt.modeling.video_model import FrameOutputs


def outputs(embeddings: Tensor, logits: Tensor) -> FrameOutputs:
    """Frame of Q queries; the mask of query i is positive in column i."""
    masks = 8 * torch.eye(len(logits))[:, None].expand(-1, 3, -1) - 4
    return FrameOutputs(
        logits, None, masks, embeddings, mask_stride=4, input_size=(12, 16), no_object=True
    )


@pytest.fixture
def clip() -> list[FrameOutputs]:
    generator = torch.Generator().manual_seed(3)
    return [
        outputs(torch.randn(4, 6, generator=generator), torch.randn(4, 4, generator=generator))
        for _ in range(5)
    ]


def test_alignment_is_the_best_of_all_permutations(clip: list[FrameOutputs]) -> None:
    association = EmbeddingHungarianAssociation()
    before = None
    for frame in clip:
        order = association.align(frame.embeddings)
        if before is None:
            assert order.tolist() == [0, 1, 2, 3]
        else:
            similar = torch.cosine_similarity(frame.embeddings[:, None], before[None], dim=-1)
            sums = {
                tuple(p): sum(similar[p[slot], slot] for slot in range(4))
                for p in itertools.permutations(range(4))
            }
            assert tuple(order.tolist()) == max(sums, key=sums.get)
        before = frame.embeddings[order]


def test_scores_and_masks_follow_the_slots(clip: list[FrameOutputs]) -> None:
    aligned = EmbeddingHungarianAssociation()
    orders = [aligned.align(frame.embeddings) for frame in clip]
    association = EmbeddingHungarianAssociation(top_k=3)
    association.add(0, clip[:2])
    association.add(2, clip[2:])
    mean = torch.stack([f.logits[o] for f, o in zip(clip, orders, strict=True)]).mean(0)
    torch.testing.assert_close(association.mean_logits(), mean)
    records = association.pop_frames(5)
    for record, order in zip(records, orders, strict=True):
        assert record.track_ids == (1, 2, 3, 4)
        assert record.logits[:, 0].argmax(1).tolist() == order.tolist()
    assert association.pop_closed() == []
    probs = mean.softmax(1)[:, :-1]
    best = probs.flatten().topk(3)
    pairs = {
        (s.track_id - 1, c.label): c.score
        for s in association.pop_closed(everything=True)
        for c in s.classes
    }
    assert pairs == {
        divmod(int(i), 3): pytest.approx(float(p))
        for i, p in zip(best.indices, best.values, strict=True)
    }
    assert association.pop_closed(everything=True) == []


def test_permuting_the_queries_of_a_frame_changes_nothing(clip: list[FrameOutputs]) -> None:
    shuffle = torch.tensor([2, 0, 3, 1])
    frame = clip[3]
    moved = FrameOutputs(
        frame.logits[shuffle], None, frame.masks(shuffle), frame.embeddings[shuffle],
        mask_stride=4, input_size=(12, 16), no_object=True,
    )  # fmt: skip
    found = []
    for frames in (clip, [*clip[:3], moved, *clip[4:]]):
        association = EmbeddingHungarianAssociation()
        association.add(0, frames)
        found.append((association.pop_frames(5), association.mean_logits()))
    torch.testing.assert_close(found[0][1], found[1][1])
    for one, other in zip(found[0][0], found[1][0], strict=True):
        assert torch.equal(one.logits, other.logits)


def test_the_state_survives_a_file(clip: list[FrameOutputs]) -> None:
    straight, before, after = (EmbeddingHungarianAssociation() for _ in range(3))
    straight.add(0, clip)
    before.add(0, clip[:2])
    file = io.BytesIO()
    torch.save(before.state(), file)
    file.seek(0)
    after.load_state(torch.load(file, weights_only=True))
    after.add(2, clip[2:])
    assert torch.equal(straight.mean_logits(), after.mean_logits())
    assert len(straight.pop_frames(5)) == len(after.pop_frames(5)) == 5
    assert straight.pop_closed(everything=True) == after.pop_closed(everything=True)


def test_an_empty_video() -> None:
    association = EmbeddingHungarianAssociation()
    association.add(0, [])
    assert association.pop_frames(0) == []
    assert association.pop_closed(everything=True) == []
