"""What the network does with frames, levels and queries."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.synthetic import shape_clip
from vmt.inference.association.embedding_hungarian import EmbeddingHungarianAssociation
from vmt.layers.position import sine_position_2d
from vmt.layers.transformer import MaskedAttention
from vmt.modeling.mask2former.decoder import visible_tokens
from vmt.modeling.meta_arch.minvis import MinVIS
from vmt.modeling.video_model import ClipBatch
from vmt.utils.errors import ConfigError

Build = Callable[..., MinVIS]


def frames(count: int, height: int = 70, width: int = 102) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 255, (count, 3, height, width), generator=generator).float()


def test_what_a_frame_gives(tiny: Build) -> None:
    model = tiny()
    outputs = model.segment_frames(frames(2))
    assert len(outputs) == 2
    first = outputs[0]
    assert first.logits.shape == (20, len(model.label_space) + 1)
    assert first.class_probs().shape == (20, len(model.label_space))
    assert first.boxes_cxcywh is None
    assert first.masks().shape == (20, 24, 32)  # 96 x 128, padded
    assert first.embeddings.shape == (20, 64)
    assert (first.mask_stride, first.input_size) == (4, (70, 102))
    assert model.association == "embedding_hungarian"
    # heads of the contract give the same again
    assert first.query is not None
    assert first.pixel is not None
    with torch.inference_mode():
        logits = model.class_head(first.query)
        masks = model.mask_head(first.query, first.pixel, None)
    torch.testing.assert_close(logits, first.logits, atol=1e-5, rtol=1e-5)
    some = torch.tensor([7, 3])
    torch.testing.assert_close(first.masks(some), masks[some], atol=1e-4, rtol=1e-4)


def test_frames_do_not_see_each_other(tiny: Build) -> None:
    both, clip = tiny(), frames(2)
    chunked = tiny("TEST.FRAME_CHUNK", "1")
    for one, other in zip(both.segment_frames(clip), chunked.segment_frames(clip), strict=True):
        torch.testing.assert_close(one.logits, other.logits, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(one.masks(), other.masks(), atol=1e-3, rtol=1e-3)


def slow_attention(part: MaskedAttention, query: Tensor, tokens: Tensor, see: Tensor) -> Tensor:
    """One query, one frame, one head after another; without the output projection."""
    dim = len(query)
    weights = part.in_proj_weight.view(3, part.num_heads, -1, dim)
    biases = part.in_proj_bias.view(3, part.num_heads, -1)
    reads = []
    for head in range(part.num_heads):
        q = weights[0, head] @ query + biases[0, head]
        scores, values = [], []
        for token, place in tokens[see]:
            k = weights[1, head] @ (token + place) + biases[1, head]
            scores.append((q @ k) / len(q) ** 0.5)
            values.append(weights[2, head] @ token + biases[2, head])
        share = torch.stack(scores).softmax(0)
        reads.append(sum(s * v for s, v in zip(share, values, strict=True)))
    return torch.cat(reads)


@torch.no_grad()
def test_decoder_layers_against_loops(tiny: Build) -> None:
    """Levels take turns, coarse to fine; a query sees the cells where its resized mask is on."""
    model = tiny("MODEL.MASK2FORMER.DECODER_LAYERS", "4")
    decoder, heads = model.decoder, model.heads
    generator = torch.Generator().manual_seed(5)
    levels = [torch.randn(1, 64, h, w, generator=generator) for h, w in ((2, 3), (4, 6), (8, 12))]
    pixel = torch.randn(1, 64, 16, 24, generator=generator)
    embeds = decoder(levels, pixel, heads)
    x, position = decoder.content.weight, decoder.position.weight
    some_hidden = False
    for index, layer in enumerate(decoder.layers):
        torch.testing.assert_close(embeds[index][0], heads.norm(x), atol=1e-4, rtol=1e-4)
        level = levels[index % 3]
        tokens = level[0].flatten(1).T + decoder.level_embed.weight[index % 3]
        cells = torch.ones(1, *level.shape[-2:], dtype=torch.bool)
        places = sine_position_2d(cells, 32, 0.0).flatten(0, 2)
        pairs = torch.stack([tokens, places], 1)
        masks = torch.einsum("qc,chw->qhw", heads.mask(heads.norm(x)), pixel[0])
        masks = F.interpolate(masks[None], level.shape[-2:], mode="bilinear")[0].flatten(1)
        rows = []
        for query, where, mask in zip(x, position, masks, strict=True):
            see = mask.sigmoid() >= 0.5
            some_hidden |= not bool(see.all())
            see = see if see.any() else torch.ones_like(see)
            rows.append(slow_attention(layer.cross_attn, query + where, pairs, see))
        x = layer.cross_norm(x + layer.cross_attn.out_proj(torch.stack(rows)))
        x = layer.self_norm(x + layer.self_attn(x[None], position)[0])
        x = layer.ffn_norm(x + layer.linear2(layer.linear1(x).relu()))
    torch.testing.assert_close(embeds[-1][0], heads.norm(x), atol=1e-4, rtol=1e-4)
    assert some_hidden


def test_an_empty_mask_hides_nothing(tiny: Build) -> None:
    heads = tiny().heads
    pixel = torch.randn(1, 64, 1, 1) * torch.tensor([1.0, 2.0, 3.0])
    pixel = torch.cat([pixel, -pixel])  # on everywhere in one frame, nowhere in the other
    visible = visible_tokens(heads, torch.randn(1, 20, 64).expand(2, -1, -1), pixel)
    assert visible.shape == (2, 20, 3)
    assert visible.all()


def losses_of(model: MinVIS, *clips: dict) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return model.train().losses(ClipBatch.from_inputs(clips))


def test_every_parameter_learns(tiny: Build) -> None:
    model = tiny()
    losses = losses_of(model, shape_clip(2, (64, 96), 0))
    assert len(losses) == 3 * (3 + 1)  # layers and learned queries
    assert all(torch.isfinite(value) for value in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


def test_a_clip_without_objects_gives_the_same_losses(tiny: Build) -> None:
    model, clip = tiny(), shape_clip(2, (64, 96), 0)
    full = losses_of(model, clip)
    empty = dict(clip, targets=clip["targets"].select(torch.zeros(0, dtype=torch.int64)))
    losses = losses_of(model, empty)
    assert set(losses) == set(full)
    assert losses["loss_ce"] > 0
    assert all(float(losses[f"loss_{name}"].detach()) == 0 for name in ("mask", "dice"))
    torch.stack(list(losses.values())).sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


def test_it_counts_objects_of_frames(tiny: Build) -> None:
    clip = shape_clip(3, (64, 96), 0)
    batch = ClipBatch.from_inputs([clip, clip])
    assert tiny().loss_count(batch) == 2 * int(clip["targets"].valid.sum())


def test_norms_and_embeddings_keep_their_size(tiny: Build) -> None:
    model = tiny()
    undecayed = model.undecayed()
    assert {"decoder.content.weight", "decoder.level_embed.weight"} < undecayed
    assert {"heads.norm.bias", "neck.0.norm.weight"} < undecayed
    assert not {"encoder.level_embed", "heads.cls.weight"} & undecayed
    assert model.lr_groups() == {"backbone.": "BACKBONE_FACTOR"}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("DIM", "48", "a multiple of 32"),
        ("NUM_HEADS", "0", "at least 1"),
        ("NUM_QUERIES", "0", "at least 1"),
        ("DROPOUT", "1.0", r"\[0, 1\)"),
    ],
)
def test_impossible_values_are_named(tiny: Build, key: str, value: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"MODEL.MASK2FORMER.{key} is .*{message}"):
        tiny(f"MODEL.MASK2FORMER.{key}", value)


@pytest.mark.slow
def test_it_learns_a_clip_and_links_its_frames(tiny: Build) -> None:
    model = tiny().train()
    clip = shape_clip(2, (96, 128), 0)
    optimizer = torch.optim.AdamW(model.parameters(), 5e-4)
    for _ in range(45):
        loss = torch.stack(list(model.losses(ClipBatch.from_inputs([clip])).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    targets = clip["targets"]
    linking = EmbeddingHungarianAssociation()
    slots = []
    for t, output in enumerate(model.eval().segment_frames(clip["image"])):
        order = linking.align(output.embeddings)
        probs = output.class_probs()[order]
        logits = output.masks(order)
        masks = F.interpolate(logits[None], scale_factor=4.0, mode="bilinear")[0] > 0
        slots.append(probs[:, targets.labels].argmax(0).tolist())
        for slot, truth in zip(slots[-1], targets.masks[:, t], strict=True):
            assert float((masks[slot] & truth).sum() / (masks[slot] | truth).sum()) > 0.8
    assert slots[0] == slots[1]
