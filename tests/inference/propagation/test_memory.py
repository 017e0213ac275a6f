"""What is remembered of a tracklet, and what memory says of a frame."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from vmt.inference.propagation.memory import AWAY, GIVEN, RECENT, Memory, _near


def write(memory: Memory, number: int, *, given: bool = False) -> None:
    """A frame whose only cell has ``number`` as its place."""
    place = torch.tensor([[float(number), 0.0]])
    memory.write(torch.ones(1, 1), torch.ones(1), place, given=given)


def numbers(memory: Memory) -> list[int]:
    return [int(shot.place[0, 0]) for shot in memory.shots]


def test_the_given_frame_the_last_and_spaced_ones_are_kept() -> None:
    memory = Memory()
    write(memory, 0, given=True)
    seen = []
    for t in range(1, 30):
        write(memory, t)
        assert len(memory.shots) <= 1 + RECENT
        seen.append(numbers(memory))
    assert all(kept[0] == 0 and kept[-1] == t for t, kept in enumerate(seen, start=1))
    assert seen[-1] == [0, 24, 28, 29]


def test_of_many_given_frames_the_first_and_the_last_are_kept() -> None:
    memory = Memory()
    for t in range(9):
        write(memory, t, given=True)
        assert len(memory.shots) <= GIVEN
    assert numbers(memory) == [0, 7, 8]


def test_a_cell_is_what_the_most_similar_cells_were() -> None:
    memory = Memory()
    features = F.normalize(torch.eye(4)[:, :3] + 0.1, dim=0)  # object, ground, ground
    memory.write(features, torch.tensor([1.0, 0.0, 0.0]), torch.zeros(3, 2), given=True)
    asked = F.normalize(torch.eye(4)[:, [1, 0, 2]] + 0.1, dim=0)
    assert (memory.read(asked, None) > 0.9).tolist() == [False, True, False]


def test_of_equal_cells_the_near_ones_decide() -> None:
    memory = Memory()
    alike = torch.ones(1, 20)
    place = torch.arange(20.0)[:, None] * torch.tensor([[1.0, 0.0]])
    memory.write(alike, (place[:, 0] < 10).float(), place, given=True)
    share = memory.read(torch.ones(1, 2), torch.tensor([[2.0, 0.0], [17.0, 0.0]]))
    assert share[0] > 0.9
    assert share[1] < 0.1


def test_distance_costs_what_it_should() -> None:
    generator = torch.Generator().manual_seed(1)
    asked, known = (torch.randn(5, 2, generator=generator) for _ in range(2))
    product = _near(asked, given=False).T @ _near(known, given=True)
    expected = -AWAY * torch.cdist(asked, known).square()
    off = product - expected
    assert torch.allclose(off, off[:, :1].expand(-1, 5), atol=1e-6)
