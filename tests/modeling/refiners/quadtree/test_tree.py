"""Quadtrees against a slow reference, and what holds for every tree."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.modeling.refiners.quadtree.reference import slow_limit, slow_tree, slow_write_back
from vmt.modeling.refiners.quadtree.grow import best_nodes, build_quadtree, rank_in_group
from vmt.modeling.refiners.quadtree.tree import ROOT, SequenceQuadtree, join_frames
from vmt.modeling.refiners.quadtree.write_back import to_next_level, write_back

THRESHOLDS = (0.5, 0.4, 0.6)
#: (height, width) of the finest level; the coarser ones are rounded up.
SIZES = [(12, 16), (11, 13), (9, 5), (1, 1)]


def random_scores(
    size: tuple[int, int], num: int = 3, frames: int = 2, seed: int = 0, steps: int = 0
) -> list[Tensor]:
    """Scores at three levels; ``steps`` > 0 rounds them, so that there are ties."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [size]
    for _ in range(2):
        sizes.insert(0, tuple(-(-side // 2) for side in sizes[0]))
    scores = [torch.rand(num, frames, h, w, generator=generator) for h, w in sizes]
    return [(s * steps).round() / steps if steps else s for s in scores]


def rows_of(tree: SequenceQuadtree) -> list[tuple[int, ...]]:
    columns = (tree.tracklet, tree.frame, tree.level, tree.y, tree.x)
    return list(zip(*(c.tolist() for c in columns), strict=True))


def in_sequence(tree: SequenceQuadtree) -> SequenceQuadtree:
    return tree.select(tree.sequence_order())


def limited(tree: SequenceQuadtree, max_points: int, priority: Tensor) -> SequenceQuadtree:
    return tree.select(best_nodes(tree, max_points, priority))


def with_parents(tree: SequenceQuadtree) -> dict:
    rows = rows_of(tree)
    parents = [None if p == ROOT else rows[p] for p in tree.parent.tolist()]
    return dict(zip(rows, parents, strict=True))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("frames", [1, 3])
def test_tree_is_the_slow_one(size: tuple[int, int], frames: int) -> None:
    scores = random_scores(size, frames=frames)
    tree = build_quadtree(scores, THRESHOLDS)
    assert with_parents(tree) == slow_tree(scores, THRESHOLDS)
    wanted = [scores[k][n, t, y, x].item() for n, t, k, y, x in rows_of(tree)]
    assert tree.score.tolist() == wanted


def test_every_child_lies_in_a_detected_parent() -> None:
    tree = build_quadtree(random_scores((24, 30), num=4, frames=3), THRESHOLDS)
    for part in (tree, in_sequence(tree)):
        child = part.parent >= 0
        parent = part.parent[child]
        assert child.any()
        assert torch.equal(part.level[~child], torch.zeros_like(part.level[~child]))
        assert torch.equal(part.level[parent], part.level[child] - 1)
        for axis in ("tracklet", "frame"):
            assert torch.equal(getattr(part, axis)[parent], getattr(part, axis)[child])
        assert torch.equal(part.y[parent], part.y[child] // 2)
        assert torch.equal(part.x[parent], part.x[child] // 2)
        threshold = torch.tensor(THRESHOLDS)[part.level]
        assert (part.score >= threshold).all()


def test_sequences_are_sorted_and_counted() -> None:
    tree = in_sequence(build_quadtree(random_scores((12, 16)), THRESHOLDS))
    rows = rows_of(tree)
    assert rows == sorted(rows)
    assert tree.lengths() == [sum(r[0] == n for r in rows) for n in range(3)]
    assert tree.lengths(per_frame=True) == [
        sum(r[:2] == (n, t) for r in rows) for n in range(3) for t in range(2)
    ]


@pytest.mark.parametrize("max_per_frame", [0, 9])
def test_counts_are_those_of_the_nodes(max_per_frame: int) -> None:
    generator = torch.Generator().manual_seed(0)
    tree = build_quadtree(random_scores((12, 16)), THRESHOLDS, max_per_frame, generator)
    some = torch.arange(0, len(tree), 3)
    cut = tree.select(some)  # its parents do not matter here
    for part in (tree, in_sequence(tree), join_frames([tree, tree]), cut):
        expected = torch.zeros(3, part.num_frames, 3, dtype=torch.int64)
        for n, t, level, _, _ in rows_of(part):
            expected[n, t, level] += 1
        assert torch.equal(part.counts, expected)
        for level in range(3):
            assert part.at_level(level).tolist() == (part.level == level).nonzero()[:, 0].tolist()


def test_nodes_of_some_tracklets() -> None:
    tree = in_sequence(build_quadtree(random_scores((12, 16), num=4), THRESHOLDS))
    for first, last in ((0, 1), (1, 3), (2, 4), (0, 4), (2, 2)):
        inside = ((tree.tracklet >= first) & (tree.tracklet < last)).nonzero()[:, 0]
        part, expected = tree.of_tracklets(first, last), tree.select(inside)
        assert with_parents(part) == with_parents(expected)
        assert torch.equal(part.parent, expected.parent)
        assert torch.equal(part.score, expected.score)
        assert torch.equal(part.counts, expected.counts)


def test_the_order_of_some_nodes() -> None:
    tree = build_quadtree(random_scores((12, 16)), THRESHOLDS)
    some = torch.randperm(len(tree), generator=torch.Generator().manual_seed(0))[:40]
    rows = rows_of(tree.select(some[tree.sequence_order(some)]))
    assert rows == sorted(rows)
    assert len(rows) == 40


def test_frames_join_to_the_whole_tree() -> None:
    scores = random_scores((11, 13), frames=5)
    whole = in_sequence(build_quadtree(scores, THRESHOLDS))
    parts = [
        build_quadtree([s[:, rows] for s in scores], THRESHOLDS)
        for rows in (slice(0, 2), slice(2, 4), slice(4, 5))
    ]
    joined = in_sequence(join_frames(parts))
    assert joined.num_frames == 5
    assert rows_of(joined) == rows_of(whole)
    assert with_parents(joined) == with_parents(whole)
    assert torch.equal(joined.score, whole.score)


@pytest.mark.parametrize("max_points", [1, 7, 40])
@pytest.mark.parametrize("joined", [False, True])
def test_limit_is_the_slow_one(max_points: int, joined: bool) -> None:
    scores = random_scores((12, 16), seed=3, steps=8)
    tree = build_quadtree(scores, THRESHOLDS)
    if joined:
        halves = [build_quadtree([s[:, t : t + 1] for s in scores], THRESHOLDS) for t in (0, 1)]
        tree = join_frames(halves)
    fewer = limited(tree, max_points, tree.score)
    priority = dict(zip(rows_of(tree), tree.score.tolist(), strict=True))
    kept = slow_limit(slow_tree(scores, THRESHOLDS), priority, max_points)
    assert set(rows_of(fewer)) == kept
    assert all(p is None or p in kept for p in with_parents(fewer).values())
    assert max(fewer.lengths()) <= max_points


def test_limit_keeps_small_trees_and_repeats_itself() -> None:
    tree = build_quadtree(random_scores((12, 16)), THRESHOLDS)
    assert rows_of(limited(tree, 0, tree.score)) == rows_of(tree)
    first = limited(tree, 20, tree.score)
    torch.manual_seed(7)
    second = limited(tree, 20, tree.score)
    assert rows_of(first) == rows_of(second)


def test_random_budget_of_training_is_seeded_and_keeps_parents() -> None:
    scores = random_scores((24, 30), num=2)

    def draw(seed: int) -> SequenceQuadtree:
        generator = torch.Generator().manual_seed(seed)
        return build_quadtree(scores, THRESHOLDS, max_per_frame=9, generator=generator)

    tree = draw(0)
    assert rows_of(tree) == rows_of(draw(0))
    assert rows_of(tree) != rows_of(draw(1))
    rows = rows_of(tree)
    groups = [r[:3] for r in rows]
    assert max(groups.count(g) for g in groups) == 9
    assert set(rows) <= set(slow_tree(scores, THRESHOLDS))
    assert all(p is None or p in set(rows) for p in with_parents(tree).values())


def test_rank_in_group() -> None:
    group = torch.tensor([2, 0, 2, 0, 2])
    priority = torch.tensor([0.1, 0.5, 0.9, 0.5, 0.1])
    assert rank_in_group(group, priority).tolist() == [1, 0, 0, 1, 2]
    assert rank_in_group(group[:0], priority[:0]).tolist() == []


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("frame_chunk", [0, 2])
@pytest.mark.parametrize("first", [0, 1])
def test_write_back_is_the_slow_one(size: tuple[int, int], frame_chunk: int, first: int) -> None:
    generator = torch.Generator().manual_seed(1)
    scores = random_scores(size, frames=3)
    tree = in_sequence(build_quadtree(scores, THRESHOLDS))
    # sixteenths: the sums below are exact, whatever their order
    coarse = torch.randint(-64, 64, scores[first].shape, generator=generator) / 16
    logits = torch.randint(-64, 64, (len(tree),), generator=generator) / 16
    actual = write_back(tree, logits, coarse, frame_chunk, first)
    node_logits = dict(zip(rows_of(tree), logits.tolist(), strict=True))
    assert [a.tolist() for a in actual] == slow_write_back(node_logits, coarse, tree.sizes, first)


def test_no_nodes_no_change() -> None:
    scores = [torch.zeros_like(s) for s in random_scores((11, 13))]
    tree = build_quadtree(scores, THRESHOLDS)
    assert len(tree) == 0
    assert tree.lengths() == [0, 0, 0]
    assert in_sequence(tree).share_of_cells() == [0, 0, 0, 0]
    assert len(limited(tree, 5, tree.score)) == 0
    coarse = torch.randn(scores[0].shape)
    maps = write_back(tree, torch.zeros(0), coarse)
    expected = coarse
    for size, actual in zip(tree.sizes, maps, strict=True):
        if actual is not maps[0]:
            expected = to_next_level(expected, size)
        assert torch.equal(actual, expected)


def test_gradients_of_write_back_reach_coarser_nodes() -> None:
    scores = random_scores((12, 16))
    tree = build_quadtree(scores, THRESHOLDS)
    logits = torch.randn(len(tree), dtype=torch.float64, requires_grad=True)
    coarse = torch.randn(scores[0].shape, dtype=torch.float64)
    write_back(tree, logits, coarse)[-1].sum().backward()
    finest = tree.level == 2
    assert torch.equal(logits.grad[finest], torch.ones_like(logits.grad[finest]))
    assert (logits.grad[tree.level == 0] > 0).any()


def test_no_tracklets() -> None:
    scores = random_scores((12, 16), num=0)
    tree = in_sequence(build_quadtree(scores, THRESHOLDS))
    assert len(tree) == 0
    assert tree.lengths() == []
    maps = write_back(tree, torch.zeros(0), scores[0])
    assert maps[-1].shape == (0, 2, 12, 16)


def test_one_pixel_object_is_one_path() -> None:
    scores = [torch.zeros_like(s) for s in random_scores((12, 16), num=1, frames=1)]
    for level, cell in ((0, (1, 2)), (1, (2, 5)), (2, (5, 11))):
        scores[level][0, 0, cell[0], cell[1]] = 1.0
    tree = build_quadtree(scores, THRESHOLDS)
    assert tree.parent.tolist() == [-1, 0, 1]
    assert tree.centres_px((8, 4, 2)).tolist() == [[20, 12], [22, 10], [23, 11]]


def test_share_of_cells() -> None:
    scores = [torch.zeros(1, 1, h, w) for h, w in ((2, 2), (4, 4), (8, 8))]
    scores[0][0, 0, 0, 0] = scores[1][0, 0, 0, 1] = 1.0
    tree = build_quadtree(scores, THRESHOLDS)
    assert tree.share_of_cells() == [1 / 4, 1 / 16, 0.0, 2 / 84]


def test_levels_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match="4 x 4 cells cannot hold the parents of 9 x 8"):
        build_quadtree([torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 9, 8)], (0.5, 0.5))
    with pytest.raises(ValueError, match="1 levels, but 2 thresholds"):
        build_quadtree([torch.zeros(1, 1, 4, 4)], (0.5, 0.5))
