"""Switches of the quadtree refiner that the paper does not have."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.modeling.test_quadtree_refiner import clip_input, refiner_with


def slow_blocks(tree, side: int, shift: int, per_frame: bool) -> list[tuple[int, ...]]:
    """Block of every node by walking up to its root."""
    found = []
    for p in range(len(tree)):
        root = p
        while tree.parent[root] >= 0:
            root = int(tree.parent[root])
        block = [int(tree.tracklet[p]), int(tree.y[root] + shift) // side]
        block.append(int(tree.x[root] + shift) // side)
        found.append((*block, int(tree.frame[p]) if per_frame else 0))
    return found


@torch.no_grad()
@pytest.mark.parametrize(("side", "shift"), [(1, 0), (3, 0), (3, 1), (4, 2), (100, 50)])
@pytest.mark.parametrize("per_frame", [True, False])
def test_blocks_are_those_of_the_roots(side: int, shift: int, per_frame: bool) -> None:
    tree = refiner_with()(clip_input()).tree
    keys = tree.blocks(side, shift, per_frame).tolist()
    expected = slow_blocks(tree, side, shift, per_frame)
    assert len(set(zip(keys, expected, strict=True))) == len(set(keys)) == len(set(expected))


@torch.no_grad()
@pytest.mark.parametrize("grouped", [True, False])
def test_a_window_as_large_as_the_frame_is_full_attention(grouped: bool) -> None:
    inputs = clip_input()
    full, whole = (refiner_with(grouped=grouped, window=w)(inputs) for w in (0, 64))
    torch.testing.assert_close(full.node_logits, whole.node_logits, atol=1e-4, rtol=1e-4)
    small = refiner_with(grouped=grouped, window=2)(inputs)
    assert (full.node_logits - small.node_logits).abs().max() > 1e-2


@torch.no_grad()
def test_windows_are_attended_one_by_one() -> None:
    """With one layer a node changes only when something in its own window does."""
    refiner, inputs = refiner_with(window=3, num_layers=1, guided=False), clip_input()
    tree = refiner(inputs).tree
    x = torch.randn(len(tree), 16)
    position = refiner.node_encoder.position(tree, with_time=True)
    keys = tree.blocks(3)

    def run(tokens: torch.Tensor) -> torch.Tensor:
        return refiner.encoder(
            tokens, position, tree.lengths(), inputs.query, tree.tracklet, [keys]
        )

    changed = x.clone()
    changed[7] += 1
    moved = (run(changed) - run(x)).abs().amax(1) > 0
    assert torch.equal(moved, keys == keys[7])
    assert 1 < moved.sum() < len(tree)


@torch.no_grad()
@pytest.mark.parametrize("training", [True, False])
def test_given_roots_are_nodes(training: bool) -> None:
    inputs = clip_input()
    refiner = refiner_with(thresholds=(1.0, 2.0, 2.0), train_nodes="detected", train_frame_points=0)
    refiner.train(training)
    assert len(refiner(inputs).tree) == 0
    roots = torch.zeros_like(inputs.coarse_logits, dtype=torch.bool)
    roots[1, 0, 2, 3] = roots[0, 2, 4, 1] = True
    tree = refiner(replace(inputs, roots=roots)).tree
    places = torch.stack([tree.tracklet, tree.frame, tree.level, tree.y, tree.x], 1).tolist()
    assert sorted(places) == [[0, 2, 0, 4, 1], [1, 0, 0, 2, 3]]


@torch.no_grad()
def test_offsets_in_another_unit_are_offsets_divided() -> None:
    """What the decoder is told."""
    inputs = clip_input()
    seen: dict[float, torch.Tensor] = {}
    for unit in (1.0, 64.0):
        refiner = refiner_with(offset_unit_px=unit)
        kept = refiner.decoder.forward

        def watched(x, offsets, *rest, unit=unit, kept=kept):
            seen[unit] = offsets
            return kept(x, offsets, *rest)

        refiner.decoder.forward = watched
        refiner.thresholds = (0.0, 0.0, 0.0)
        refiner(inputs)
    torch.testing.assert_close(seen[1.0], seen[64.0] * 64)


@pytest.mark.parametrize("train_maps", [True, False])
def test_gradients_of_backbone_maps_are_a_switch(train_maps: bool) -> None:
    inputs = clip_input()
    assert inputs.stride2 is not None
    maps = [inputs.stride4.requires_grad_(), inputs.stride2.requires_grad_()]
    out = refiner_with(train_maps=train_maps).train()(inputs)
    out.node_logits.sum().backward()
    reached = [bool(m.grad is not None and m.grad.abs().sum() > 0) for m in maps]
    assert reached == [train_maps, train_maps]
