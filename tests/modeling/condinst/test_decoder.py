"""The decoder, layer by layer."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vmt.layers.deformable_encoder import Levels
from vmt.modeling.condinst.decoder import QueryStates
from vmt.modeling.meta_arch.idol import IDOL

Build = Callable[..., IDOL]
SHAPES = ((12, 16), (6, 8), (3, 4), (2, 2))
TOKENS = 12 * 16 + 6 * 8 + 3 * 4 + 2 * 2


def world(share: float = 1.0) -> tuple[Tensor, Levels]:
    """Memory of one frame, of which ``share`` of every level's width is no padding."""
    memory = torch.randn(1, TOKENS, 64, generator=torch.Generator().manual_seed(0))
    ratios = torch.ones(1, 4, 2)
    ratios[..., 0] = share
    return memory, Levels(SHAPES, ratios, None)


def decode(model: IDOL, share: float = 1.0) -> list[QueryStates]:
    states: list[QueryStates] = model.decoder(*world(share), model.heads["box"])
    return states


def test_masks_are_placed_by_the_box_that_entered(tiny: Build) -> None:
    model = tiny()
    first, second = decode(model)
    start = model.decoder.reference(model.decoder.query_pos).sigmoid()
    torch.testing.assert_close(first.centres[0], start)
    torch.testing.assert_close(second.centres, first.boxes[..., :2])
    pixels = first.centres_px((30, 50))
    torch.testing.assert_close(pixels[0, :, 0], start[:, 0] * 50)
    torch.testing.assert_close(pixels[0, :, 1], start[:, 1] * 30)


def test_boxes_move_in_log_odds(tiny: Build) -> None:
    """The first layer moves a point and makes its size; later ones move all four."""
    model = tiny()
    first, second = decode(model)
    start = model.decoder.reference(model.decoder.query_pos)
    moves = [
        head(state.embeds) for head, state in zip(model.heads["box"], (first, second), strict=True)
    ]
    size = torch.zeros_like(start)
    torch.testing.assert_close(
        first.boxes[0], (torch.cat([start, size], -1) + moves[0][0]).sigmoid()
    )
    expected = (torch.logit(first.boxes) + moves[1]).sigmoid()
    torch.testing.assert_close(second.boxes, expected, atol=1e-5, rtol=1e-5)


def test_a_layer_does_not_teach_the_boxes_before_it(tiny: Build) -> None:
    model = tiny()
    first, second = decode(model)
    head = list(model.heads["box"][0].parameters())
    gradients = torch.autograd.grad(second.boxes.sum(), head, allow_unused=True, retain_graph=True)
    assert all(gradient is None for gradient in gradients)
    assert all(g is not None for g in torch.autograd.grad(first.boxes.sum(), head))


def test_places_are_of_the_frame_before_padding(tiny: Build) -> None:
    """With half the width padding, queries look where halved references would."""
    model = tiny()
    seen: list[Tensor] = []
    for layer in model.decoder.layers:
        layer.cross_attn.register_forward_pre_hook(lambda _, given: seen.append(given[1]))
    first, _ = decode(model, share=0.5)
    half = torch.tensor([0.5, 1.0])
    for level in range(4):
        torch.testing.assert_close(seen[0][:, :, level], first.centres * half)
        torch.testing.assert_close(seen[1][:, :, level], first.boxes * half.repeat(2))
