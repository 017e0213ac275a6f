"""Pictures of the encoder's attention: what they show is what the layer reads."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from tests.synthetic import write_moving_shapes
from vmt.inference.load import load_model
from vmt.layers.ms_deform_attn import MSDeformAttn
from vmt.modeling.msts.encoder import SplitAttention
from vmt.visualization.encoder_attention import EncoderAttention, heat_of, tokens_at

REPO = Path(__file__).resolve().parents[2]
SMALL = ["INPUT.MIN_SIZE_TEST", "48", "INPUT.MAX_SIZE_TEST", "64"]


def test_a_point_reads_the_cells_around_it() -> None:
    """Two levels, 2x4 and 1x2: by hand."""
    points = torch.tensor([[[[[2.0 / 4, 0.5 / 2]], [[0.5 / 2, 0.5]]]]])  # (1, 1, 2, 1, 2) as (x, y)
    weights = torch.tensor([[[[0.6], [0.4]]]])
    heat = heat_of(points, weights, [(2, 4), (1, 2)])
    # 0.6 between columns 1 and 2 of row 0; 0.4 in the left coarse cell, 2 x 2 fine ones
    expected = torch.tensor([[0.1, 0.1 + 0.3, 0.3, 0.0], [0.1, 0.1, 0.0, 0.0]])
    torch.testing.assert_close(heat, expected)


def test_a_point_outside_reads_nothing() -> None:
    heat = heat_of(torch.full((1, 1, 1, 1, 2), -1.0), torch.ones(1, 1, 1, 1), [(2, 2)])
    assert not heat.any()


def test_an_uneven_level_gives_all_it_holds() -> None:
    points, weights = torch.full((1, 1, 2, 1, 2), 0.5), torch.full((1, 1, 2, 1), 0.5)
    assert heat_of(points, weights, [(5, 7), (3, 4)]).sum().item() == pytest.approx(1)


def test_tokens_of_a_place() -> None:
    assert tokens_at([(4, 6), (2, 3)], (0.99, 0.4)) == [3 * 6 + 2, 24 + 3 + 1]
    assert tokens_at([(4, 6)], (1.0, 1.0)) == [23]


@torch.no_grad()
def test_heat_is_what_the_operator_reads() -> None:
    """With values that stand for one cell each, the operator's output is the share it read."""
    torch.manual_seed(0)
    shapes = [(3, 4), (2, 2)]
    attn = MSDeformAttn(16, 2, 1, 2).double()
    attn.sampling_offsets.bias.normal_(0, 0.6)
    attn.attention_weights.bias.normal_()
    attn.value_proj.weight.copy_(torch.eye(16))
    query = torch.randn(1, 1, 16).double()
    reference = torch.rand(1, 1, 2, 2).double()
    value = torch.eye(16).double()[None]
    read = attn.sample(query, reference, value, shapes)[0, 0]  # (16,), a share per token
    points, weights = attn.places(query, reference, shapes)
    fine = heat_of(points[0, :, :, :1], weights[0, :, :, :1], shapes[:1])
    torch.testing.assert_close(fine.flatten(), read[:12])


@torch.no_grad()
def test_frames_read_each_other_as_the_branch_mixes_them() -> None:
    """What ``weights_of`` says is what the attention inside the block uses."""
    torch.manual_seed(0)
    cfg: Any = load_model(REPO / "configs/quick/msts_tiny.yaml", device="cpu")
    branch = cfg.encoder.layers[-1].branch
    assert isinstance(branch, SplitAttention)
    intra = branch.intra.double().eval()
    x = torch.randn(1, 3, 1, intra.norm.weight.shape[0]).double()
    weights = intra.weights_of(x[0, :, 0])
    assert weights.shape == (3, 3)
    torch.testing.assert_close(weights.sum(-1), torch.ones(3).double())
    query, key, _ = intra.qkv(x[0, :, 0]).chunk(3, -1)
    size = query.shape[-1] // intra.num_heads
    heads = [slice(h * size, (h + 1) * size) for h in range(intra.num_heads)]
    slow = [[(query[:, h] @ key[t, h]) / size**0.5 for t in range(3)] for h in heads]
    expected = torch.stack([torch.stack(s, -1).softmax(-1) for s in slow]).mean(0)
    torch.testing.assert_close(weights, expected)


@torch.no_grad()
@pytest.mark.parametrize("config", ["seqformer_tiny", "msts_tiny"])
def test_every_frame_has_its_attention(config: str) -> None:
    torch.manual_seed(0)
    model: Any = load_model(REPO / f"configs/quick/{config}.yaml", device="cpu")
    frames = torch.randint(0, 256, (5, 3, 64, 96), dtype=torch.uint8)
    with EncoderAttention(model.encoder) as attention:
        model.run_clip(model.normalise(frames))
    looked = attention.from_places([(0.5, 0.5)] * 5)
    assert looked.heat.shape == (5, 8, 12)
    share = looked.heat.sum((1, 2))  # of coarse levels many points lie outside such a frame
    assert ((share > 0.2) & (share < 1.001)).all()
    centre = looked.heat[0, 2:6, 4:8].sum() / share[0]
    assert centre > 0.25, "a sixth of the cells: untrained offsets reach few cells around the place"
    assert (looked.frames is None) == (config == "seqformer_tiny")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_moving_shapes(tmp_path_factory.mktemp("clip"), 1, 3, (48, 64), seed=0).parent


def test_the_tool_draws_both_networks(clip: Path, tmp_path: Path, capsys: Any) -> None:
    tool = importlib.import_module("tools.visualize_attention")
    data = ["--data", f"{clip / 'annotations.json'}@{clip / 'JPEGImages'}", "--video", "shapes_000"]
    configs = [str(REPO / f"configs/quick/{name}_tiny.yaml") for name in ("seqformer", "msts")]
    command = ["--config-file", configs[0], "--against", configs[1], *data, "--frames", "3"]
    assert tool.main([*command, "--output", str(tmp_path / "a"), *SMALL]) == 0
    assert capsys.readouterr().out.count("random weights: it shows nothing") == 2
    picture = cv2.imread(str(tmp_path / "a/attention.png"))
    assert picture.shape == (3 * (48 + 22), 2 * 64, 3)
    frame = cv2.imread(str(clip / "JPEGImages/shapes_000/00000.jpg"))
    assert np.abs(picture[22:70, :64].astype(int) - frame).max() > 50, "something is drawn"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([], "give --pixel Y X, or --data JSON@IMAGES"),
        (["--pixel", "0", "64"], "--pixel 0 64: frames are 48x64"),
        (["--pixel", "0", "0", "--frames", "9"], "has no frame 3"),
        (["--pixel", "0", "0", "--step", "0"], "--step must be at least 1"),
    ],
)
def test_bad_input_is_one_sentence(
    clip: Path, tmp_path: Path, options: list[str], sentence: str, capsys: Any
) -> None:
    tool = importlib.import_module("tools.visualize_attention")
    config = str(REPO / "configs/quick/seqformer_tiny.yaml")
    video = ["--video", str(clip / "JPEGImages/shapes_000"), "--output", str(tmp_path)]
    command = ["--config-file", config, "--against", config, *video, *options, "--"]
    assert tool.main([*command, *SMALL]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert len(error.strip().splitlines()) == 1
