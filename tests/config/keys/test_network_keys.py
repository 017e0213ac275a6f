"""Keys of backbone and detector: what is built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

from tests.config.keys.pairs import LATER, Pair, dropouts, network, outline, shows, shows_each
from vmt.checkpoint.files import write_weights
from vmt.engine.start_weights import start_training
from vmt.inference.load import model_from_config
from vmt.utils.errors import CheckpointError


@shows("MODEL.META_ARCHITECTURE", "MaskRefiner", "MODEL.REFINER.NAME", "quadtree")
def test_architecture(pair: Pair) -> None:
    names = [type(outline(cfg)).__name__ for cfg in pair]
    assert names == ["VideoMaskTransfiner", "PooledMaskRefiner"]


@shows("MODEL.DEVICE", "meta")
def test_device(pair: Pair) -> None:
    assert [model_from_config(cfg).device.type for cfg in pair] == ["cpu", "meta"]


@shows("MODEL.WEIGHTS", LATER)
def test_weights(pair: Pair, tmp_path: Path) -> None:
    path = tmp_path / "seven.safetensors"
    base, changed = pair.to(str(path))
    state = {name: torch.full_like(v, 7) for name, v in network(base).state_dict().items()}
    write_weights(state, path)
    filled = [
        float(model_from_config(c).decoder.query_pos[0, 0].detach()) == 7 for c in (base, changed)
    ]
    assert filled == [False, True]


@shows("MODEL.NEW_PARAMETERS", ["heads.cls"])
def test_new_parameters(pair: Pair, tmp_path: Path) -> None:
    path = tmp_path / "headless.safetensors"
    base, changed = pair.configs("MODEL.WEIGHTS", path)
    state = {n: v for n, v in network(base).state_dict().items() if not n.startswith("heads.cls")}
    write_weights(state, path)
    with pytest.raises(CheckpointError, match=r"heads\.cls\.0"):
        start_training(base, network(base))
    start_training(changed, network(changed))


@shows("MODEL.LABEL_SPACE", "ovis")
def test_label_space(pair: Pair) -> None:
    models = [model_from_config(cfg) for cfg in pair]
    assert [m.heads["cls"][0].out_features for m in models] == [40, 25]
    assert [m.label_space.names[0] for m in models] == ["person", "Person"]


@shows_each(
    {
        # (100 - 123.675) / 58.395, and what the other mean or deviation makes of it
        "MODEL.PIXEL_MEAN": ([90.0, 80.0, 70.0], (100 - 90) / 58.395),
        "MODEL.PIXEL_STD": ([2.0, 3.0, 4.0], (100 - 123.675) / 2),
    },
    "red",
)
def test_pixel_statistics(pair: Pair, red: float) -> None:
    frame = torch.full((1, 3, 1, 1), 100, dtype=torch.uint8)
    values = [float(network(cfg).normalise(frame)[0, 0]) for cfg in pair]
    assert values == pytest.approx([(100 - 123.675) / 58.395, red])


# --- backbone -----------------------------------------------------------------------------------


@shows("MODEL.BACKBONE.NAME", "timm/resnet18")
def test_backbone_name(pair: Pair) -> None:
    assert [len(outline(cfg).backbone.body.layer1) for cfg in pair] == [1, 2]


@shows("MODEL.BACKBONE.PRETRAINED", True)
def test_pretrained_asks_timm(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    create = timm.create_model

    def without_network(name: str, pretrained: bool = False, **options: Any) -> nn.Module:
        asked.append(pretrained)
        return create(name, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", without_network)
    for cfg in pair:
        outline(cfg)
    assert asked == [False, True]


@shows("MODEL.BACKBONE.FREEZE_STAGES", 3, "MODEL.BACKBONE.NAME", "resnet50",
       "MODEL.BACKBONE.WIDTHS", "[]")  # fmt: skip
def test_frozen_stages(pair: Pair) -> None:
    found = []
    for cfg in pair:
        body = outline(cfg).backbone.body
        stages = {s: any(p.requires_grad for p in body.get_submodule(s).parameters())
                  for s in ("conv1", "layer1", "layer2", "layer3", "layer4")}  # fmt: skip
        found.append([stage for stage, trained in stages.items() if not trained])
    assert found == [["conv1", "layer1"], ["conv1", "layer1", "layer2"]]


@shows("MODEL.BACKBONE.DROP_PATH", 0.1, "MODEL.BACKBONE.NAME", "swin_l_p4w12",
       "MODEL.BACKBONE.WIDTHS", "[]")  # fmt: skip
def test_drop_path_grows_linearly_to_its_value(pair: Pair) -> None:
    for cfg, last in zip(pair, (0.3, 0.1), strict=True):
        stages = outline(cfg).backbone.stages
        rates = [float(block.drop_path.drop_prob) for stage in stages for block in stage.blocks]
        assert rates == pytest.approx([last * i / 23 for i in range(24)])


@shows("MODEL.BACKBONE.NORM", "group")
def test_norm(pair: Pair) -> None:
    for cfg, grouped in zip(pair, (False, True), strict=True):
        norms = [m for m in outline(cfg).backbone.modules() if isinstance(m, nn.GroupNorm)]
        assert bool(norms) == grouped
        assert all(norm.num_groups == 8 for norm in norms)


@shows("MODEL.BACKBONE.WIDTHS", [8, 16, 24, 32])
def test_widths(pair: Pair) -> None:
    found = [outline(cfg).backbone.channels for cfg in pair]
    assert [[c[s] for s in (4, 8, 16, 32)] for c in found] == [[16] * 4, [8, 16, 24, 32]]


# --- SeqFormer ----------------------------------------------------------------------------------


def _dim(net: Any) -> list[int]:
    return [net.encoder.level_embed.shape[1], net.decoder.query_pos.shape[1],
            net.neck[0].conv.out_channels, net.coarse.fpn["s8"].in_channels]  # fmt: skip


def _heads(net: Any) -> list[int]:
    layer = net.decoder.layers[0]
    return [net.encoder.layers[0].attn.num_heads, layer.cross_attn.num_heads,
            layer.instance_attn.num_heads, layer.box_attn.num_heads]  # fmt: skip


def _ffn(net: Any) -> list[int]:
    layer = net.decoder.layers[0]
    return [net.encoder.layers[0].linear1.out_features, layer.instance_linear1.out_features,
            layer.box_linear1.out_features]  # fmt: skip


def _dropout(net: Any) -> list[Any]:
    return [dropouts(net.encoder), dropouts(net.decoder), net.decoder.layers[0].box_attn.dropout]


def _points(net: Any) -> list[int]:
    attentions = (net.encoder.layers[0].attn, net.decoder.layers[0].cross_attn)
    return [a.sampling_offsets.out_features // (4 * 4 * 2) for a in attentions]


def _levels(net: Any) -> list[int]:
    offsets = net.encoder.layers[0].attn.sampling_offsets.out_features
    return [len(net.neck), len(net.encoder.level_embed), offsets // (4 * 2 * 2)]


@shows_each(
    {
        "MODEL.SEQFORMER.HIDDEN_DIM": (64, _dim, [32] * 4, [64] * 4),
        "MODEL.SEQFORMER.NUM_HEADS": (8, _heads, [4] * 4, [8] * 4),
        "MODEL.SEQFORMER.FFN_DIM": (48, _ffn, [32] * 3, [48] * 3),
        "MODEL.SEQFORMER.DROPOUT": (0.25, _dropout, [{0.0}, {0.0}, 0.0], [{0.25}, {0.25}, 0.25]),
        "MODEL.SEQFORMER.ENCODER_LAYERS": (3, lambda n: len(n.encoder.layers), 1, 3),
        "MODEL.SEQFORMER.DECODER_LAYERS": (
            3, lambda n: [len(x) for x in (n.decoder.layers, n.heads["cls"], n.heads["box"])],
            [2] * 3, [3] * 3,
        ),
        "MODEL.SEQFORMER.NUM_LEVELS": (3, _levels, [4] * 3, [3] * 3),
        "MODEL.SEQFORMER.NUM_POINTS": (3, _points, [2] * 2, [3] * 2),
        "MODEL.SEQFORMER.NUM_QUERIES": (9, lambda n: len(n.decoder.query_content), 6, 9),
        # the dynamic layers: (2 + channels, 8, 8, 1)
        "MODEL.SEQFORMER.MASK_CHANNELS": (
            5, lambda n: [n.coarse.reduce[1].out_channels,
                          n.coarse.controller.layers[2].out_features],
            [8, 169], [5, 145],
        ),
        "MODEL.SEQFORMER.ENCODER_ADAPTER": (
            "msts", lambda n: type(n.encoder.layers[0].branch).__name__,
            "NoneType", "SplitAttention",
        ),
        "MODEL.SEQFORMER.DECODER_ADAPTER": (
            "temporal_attention", lambda n: [type(x.mixer).__name__ for x in n.decoder.layers],
            ["NoneType", "NoneType"], ["NoneType", "TemporalAttention"],
        ),
    },
    "measure,before,after",
)  # fmt: skip
def test_detector_sizes(pair: Pair, measure: Any, before: Any, after: Any) -> None:
    assert [measure(outline(cfg)) for cfg in pair] == [before, after]


# --- MS-STS -------------------------------------------------------------------------------------


def _branch(net: Any) -> Any:
    return net.encoder.layers[0].branch


@shows_each(
    {
        # lean: 64 inside attention, of a level and between levels; full: 256
        "MODEL.MSTS.PRESET": (
            "full", lambda n: [_branch(n).intra.qkv.out_features,
                               _branch(n).inter.ffn[0].out_features,
                               n.decoder.layers[1].mixer.qkv.out_features],
            [192, 64, 192], [768, 1024, 768],
        ),
    },
    "measure,before,after",
    "MODEL.SEQFORMER.ENCODER_ADAPTER", "msts",
    "MODEL.SEQFORMER.DECODER_ADAPTER", "temporal_attention",
)  # fmt: skip
def test_msts_sizes(pair: Pair, measure: Any, before: Any, after: Any) -> None:
    assert [measure(outline(cfg)) for cfg in pair] == [before, after]
