"""Switches of the quadtree refiner that the paper does not have."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.modeling.refiners.quadtree.test_refiner import clip_input, refiner_with
from vmt.modeling.refiners.quadtree.node_encoder import NodeEncoder
from vmt.modeling.refiners.quadtree.pixel_decoder import PixelDecoder
from vmt.modeling.refiners.quadtree.sequence_encoder import Blocks, NearAttention
from vmt.modeling.refiners.quadtree.write_back import to_next_level


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
            tokens, position, tree.lengths(), inputs.query, tree.tracklet, Blocks.of_keys([keys])
        )

    changed = x.clone()
    changed[7] += 1
    moved = (run(changed) - run(x)).abs().amax(1) > 0
    assert torch.equal(moved, keys == keys[7])
    assert 1 < moved.sum() < len(tree)


def test_blocks_of_keys() -> None:
    generator = torch.Generator().manual_seed(0)
    tracklet = torch.arange(3).repeat_interleave(torch.tensor([7, 0, 13]))
    keys = [5 * tracklet + torch.randint(0, 5, (20,), generator=generator) for _ in range(2)]
    blocks = Blocks.of_keys(keys)
    for key, block in zip(keys, blocks, strict=True):
        assert block.sizes == tuple(key.unique(return_counts=True)[1].tolist())
        assert torch.equal(key[block.order], key.sort().values)
        assert torch.equal(block.order[block.back], torch.arange(20))
        for tokens in (slice(0, 7), slice(7, 20), slice(0, 20)):
            part, (alone,) = block.part(tokens), Blocks.of_keys([key[tokens]])
            assert part.sizes == alone.sizes
            assert torch.equal(part.order, alone.order)
            assert torch.equal(part.back, alone.back)
    assert Blocks.of_keys([]) == []
    assert Blocks.of_keys([keys[0][:0]])[0].sizes == ()


@torch.no_grad()
@pytest.mark.parametrize("training", [True, False])
def test_given_roots_are_nodes(training: bool) -> None:
    inputs = replace(clip_input(), masks_gt=None)
    refiner = refiner_with(thresholds=(1.0, 2.0, 2.0), train_frame_points=0)
    refiner.train(training)
    assert len(refiner(inputs).tree) == 0
    roots = torch.zeros_like(inputs.coarse_logits, dtype=torch.bool)
    roots[1, 0, 2, 3] = roots[0, 2, 4, 1] = True
    tree = refiner(replace(inputs, given=(roots,))).tree
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


@torch.no_grad()
@pytest.mark.parametrize("context", [1, 3, 5])
def test_tokens_are_made_of_the_cells_around_a_node(context: int) -> None:
    """Against a loop; beyond the map the outermost cell stands."""
    encoder = NodeEncoder(4, 3, context)
    maps, probs = torch.randn(2, 4, 5, 6), torch.rand(3, 2, 5, 6)
    places = [(0, 0, 0, 0), (1, 1, 4, 5), (2, 0, 2, 3), (2, 1, 0, 4)]  # n, t, y, x
    n, t, y, x = torch.tensor(places).T
    rows, columns = encoder.around(y, x, (5, 6))
    found = encoder(
        maps[t[:, None], :, rows, columns], probs[n[:, None], t[:, None], rows, columns]
    )
    reach = context // 2
    for token, (n_, t_, y_, x_) in zip(found, places, strict=True):
        values = []
        for dy in range(-reach, reach + 1):
            for dx in range(-reach, reach + 1):
                at = (min(max(y_ + dy, 0), 4), min(max(x_ + dx, 0), 5))
                values += [*maps[t_, :, at[0], at[1]].tolist(), float(probs[n_, t_, at[0], at[1]])]
        wanted = encoder.token.weight @ torch.tensor(values) + encoder.token.bias
        torch.testing.assert_close(token, wanted)


@pytest.mark.parametrize("context", [1, 3])
def test_context_is_the_same_with_gradients_and_in_a_window(context: int) -> None:
    """With gradients cells are read from whole maps, without from a window around the roots."""
    inputs = clip_input()
    refiner = refiner_with(context=context)
    with torch.no_grad():
        expected = refiner(inputs)
    found = refiner(inputs)
    assert len(found.tree) == len(expected.tree) > 0
    torch.testing.assert_close(found.mask_logits, expected.mask_logits, atol=1e-4, rtol=1e-4)
    if context > 1:
        alone = refiner_with(context=1)(inputs).mask_logits
        assert (alone - found.mask_logits).abs().max() > 1e-2


@torch.no_grad()
def test_coarse_probabilities_of_finer_levels_are_those_given() -> None:
    inputs = clip_input()
    refiner = refiner_with()
    sizes = refiner.level_sizes(inputs)
    levels = [inputs.coarse_logits.sigmoid()]
    for size in sizes[1:]:
        levels.append(to_next_level(levels[-1], size))
    # a row and a column more than the map has, as padding leaves them
    padded = tuple(torch.nn.functional.pad(level, (0, 1, 0, 1)) for level in levels)
    same = refiner(replace(inputs, coarse_levels=padded))
    torch.testing.assert_close(same.mask_logits, refiner(inputs).mask_logits)
    other = refiner(replace(inputs, coarse_levels=(levels[0], levels[1], 1 - levels[2])))
    assert (other.mask_logits - same.mask_logits).abs().max() > 1e-2


@torch.no_grad()
def test_given_cells_of_a_finer_level_need_their_parents() -> None:
    inputs = clip_input()
    refiner = refiner_with(thresholds=(1.0, 1.0, 1.0))
    given = [torch.zeros(3, 3, *size, dtype=torch.bool) for size in refiner.level_sizes(inputs)]
    given[0][1, 0, 2, 3] = True
    given[1][1, 0, 4:6, 6:8] = True
    given[2][1, 0, 8, 12] = given[2][1, 0, 0, 0] = True  # the second without a parent
    tree = refiner(replace(inputs, given=tuple(given))).tree
    places = zip(tree.level.tolist(), tree.y.tolist(), tree.x.tolist(), strict=True)
    assert sorted(places) == [(0, 2, 3), (1, 4, 6), (1, 4, 7), (1, 5, 6), (1, 5, 7), (2, 8, 12)]


def test_a_shared_head_begins_as_nothing_and_adds_what_it_says_of_token_and_coarse_mask() -> None:
    inputs = clip_input()
    with torch.no_grad():
        plain, shared = (refiner_with(shared_head=on)(inputs) for on in (False, True))
    assert torch.equal(plain.node_logits, shared.node_logits)
    torch.manual_seed(0)
    decoder = PixelDecoder(8, shared=True)
    assert decoder.shared is not None
    x, offsets, coarse = torch.randn(5, 8), torch.randn(5, 2), torch.rand(5)
    given = (x, offsets, coarse, torch.randn(2, 177), (2, 3))
    before = decoder(*given)
    torch.nn.init.normal_(decoder.shared[-1].weight)
    added = []
    for token, share in zip(x, coarse, strict=True):
        hidden = decoder.shared[0](torch.cat([token, share[None]])).clamp(min=0)
        added.append(decoder.shared[-1](hidden))
    torch.testing.assert_close(decoder(*given), before + torch.cat(added))
    decoder(*given).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in decoder.shared.parameters())


@pytest.mark.parametrize("width", [8, 5])
def test_near_attention_is_attention_with_a_gaussian_of_distance(width: int) -> None:
    torch.manual_seed(0)
    heads, dim = 2, 2 * width
    layer = NearAttention(dim, heads, 0.0, reach_px=3.0)
    x, code, place = torch.randn(11, dim), torch.randn(11, dim), 20 * torch.rand(11, 2) - 10
    position = torch.cat([code, place], 1)
    query, key, value = ((x + code) @ w.T for w in layer.in_proj_weight.chunk(3))
    value = x @ layer.in_proj_weight[2 * dim :].T
    read, shares = [], []
    for m, reach in enumerate((3.0, 6.0)):
        own = slice(m * width, (m + 1) * width)
        scores = query[:, own] @ key[:, own].T / width**0.5
        distance = (place[:, None] - place[None]).square().sum(-1)
        weights = (scores - distance / (2 * reach**2)).softmax(-1)
        read.append(weights @ value[:, own])
        shares.append(weights[4])
    expected = layer.out_proj(torch.cat(read, 1))
    found = layer(x[None], position[None], [11])[0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    seen = layer.weights_of(x, position, 4)
    torch.testing.assert_close(seen, torch.stack(shares).mean(0), atol=1e-5, rtol=1e-4)
    found.square().sum().backward()
    assert layer.log_reach.grad is not None
    assert (layer.log_reach.grad != 0).all()


@torch.no_grad()
def test_a_reach_is_measured_on_the_object() -> None:
    """Far reach: plain attention. Short reach: only nodes at the same place of the object count."""
    inputs = clip_input()
    plain, far = (refiner_with(reach_px=reach) for reach in (0.0, 1e6))
    missing, unknown = far.load_state_dict(plain.state_dict(), strict=False)
    assert {name.rpartition(".")[2] for name in missing} == {"log_reach"}
    assert not unknown
    torch.testing.assert_close(
        far(inputs).node_logits, plain(inputs).node_logits, atol=1e-4, rtol=1e-4
    )
    short = refiner_with(reach_px=0.1, num_layers=1, guided=False)
    seen: list[torch.Tensor] = []
    short.encoder.layers[0].self_attn.register_forward_pre_hook(
        lambda _, args: seen.append(args[1][0])
    )
    tree = short(inputs).tree
    assert len(seen) == 1
    places = seen[0][:, -2:]
    centres = inputs.centres_px[tree.tracklet, tree.frame]
    torch.testing.assert_close(places, (centres - tree.centres_px((8, 4, 2))).flip(1))
    x = torch.randn(len(tree), 16)
    changed = x.clone()
    changed[7] += 1
    runs = [
        short.encoder(tokens, seen[0], tree.lengths(), inputs.query, tree.tracklet)
        for tokens in (x, changed)
    ]
    moved = (runs[1] - runs[0]).abs().amax(1) > 1e-6
    same = (places - places[7]).abs().amax(1) < 1.0
    assert moved[7]
    assert not moved[~same | (tree.tracklet != tree.tracklet[7])].any()


@torch.no_grad()
def test_distances_are_not_rounded_in_bf16() -> None:
    """Nodes 200 pixels from the centre of the object, a pixel from each other."""
    torch.manual_seed(0)
    layer = NearAttention(16, 2, 0.0, reach_px=2.0)
    x, place = torch.randn(40, 16), 200 + torch.arange(80.0).view(40, 2) % 9
    position = torch.cat([torch.zeros(40, 16), place], 1)
    exact = layer(x[None], position[None])
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(x[None], position[None])
    assert (found - exact).abs().max() < 0.03 * exact.abs().max()
    half = layer.to(torch.bfloat16)(x[None].bfloat16(), position[None])
    assert half.dtype == torch.bfloat16
    assert (half - exact).abs().max() < 0.05 * exact.abs().max()
