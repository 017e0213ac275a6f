"""Pictures of the quadtree refiner: what they say is what the refiner did."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
import torch

from tests.modeling.refiners.quadtree.test_refiner import clip_input, refiner_with
from tests.synthetic import write_moving_shapes
from vmt.layers.transformer import SelfAttention
from vmt.modeling.refiners.quadtree.refiner import STRIDES
from vmt.visualization.refinement import (
    ADDED,
    LEVEL_COLORS,
    REMOVED,
    LastAttention,
    Place,
    nearest_node,
    refinement_row,
    top_attended,
)


@torch.no_grad()
@pytest.mark.parametrize("heads", [1, 4])
def test_weights_of_one_token_are_those_of_the_layer(heads: int) -> None:
    torch.manual_seed(0)
    layer = SelfAttention(8, heads).double().eval()
    x, position = torch.randn(2, 11, 8).double()
    weights = layer.weights_of(x, position, 3)
    assert weights.shape == (11,)
    assert weights.sum().item() == pytest.approx(1)
    if heads == 1:
        values = x @ layer.in_proj_weight[16:].T + layer.in_proj_bias[16:]
        expected = layer(x[None], position[None])[0, 3]
        torch.testing.assert_close(layer.out_proj(weights @ values), expected)


@torch.no_grad()
@pytest.mark.parametrize("window", [0, 3])
@pytest.mark.parametrize("grouped", [True, False])
def test_a_node_reads_its_own_sequence(grouped: bool, window: int) -> None:
    refiner, inputs = refiner_with(grouped=grouped, window=window), clip_input()
    with LastAttention(refiner) as attention:
        tree = refiner(inputs).tree
    for node in (0, len(tree) // 2, len(tree) - 1):
        others, weights = top_attended(attention, node, 10**6)
        mine = tree.tracklet == tree.tracklet[node]
        if not grouped:
            mine &= tree.frame == tree.frame[node]
        if window:  # the second and last layer's squares are shifted by half
            mine &= tree.blocks(window, window // 2) == tree.blocks(window, window // 2)[node]
        assert torch.equal(others.sort().values, mine.nonzero()[:, 0])
        assert torch.equal(weights, weights.sort(descending=True).values)
    before = len(attention.sequences)
    refiner(inputs)
    assert len(attention.sequences) == before  # nothing is kept afterwards
    with pytest.raises(ValueError, match="not among"):
        attention.weights(len(tree))


@torch.no_grad()
def test_nearest_node_is_the_nearest() -> None:
    tree = refiner_with()(clip_input()).tree
    centres = tree.centres_px(STRIDES)
    for y, x in ((5, 5), (30, 44), (49, 0)):
        found = nearest_node(tree, 1, Place(2, y, x))
        inside = (tree.tracklet == 1) & (tree.frame == 2)
        distance = ((centres - torch.tensor([x, y])) ** 2).sum(1)
        assert inside[found]
        assert distance[found] == distance[inside].min()
    assert nearest_node(tree.select(torch.arange(0)), 1, Place(2, 5, 5)) is None


@torch.no_grad()
def test_a_row_shows_nodes_and_changes() -> None:
    tree = refiner_with()(clip_input()).tree
    frame = np.full((50, 66, 3), 100, dtype=np.uint8)
    coarse = np.zeros((50, 66), dtype=bool)
    coarse[10:20, 10:20] = True
    refined = np.zeros_like(coarse)
    refined[10:20, 15:25] = True
    row = refinement_row(frame, coarse, refined, tree, 1, 2)
    assert row.shape == (50 + 22, 4 * 66, 3)
    panels = np.split(row[22:], 4, axis=1)
    assert ((panels[3] == ADDED).all(-1) == (refined & ~coarse)).all()
    assert ((panels[3] == REMOVED).all(-1) == (coarse & ~refined)).all()
    chosen = (tree.tracklet == 1) & (tree.frame == 2)
    finest = chosen & (tree.level == 2)
    cells = torch.zeros(tree.sizes[2], dtype=torch.bool)
    cells[tree.y[finest], tree.x[finest]] = True
    painted = (panels[1] == LEVEL_COLORS[2]).all(-1)
    assert (painted == cells.numpy().repeat(2, 0).repeat(2, 1)[:50, :66]).all()
    assert (frame == 100).all()


@pytest.fixture
def draw(repo: Path) -> Any:
    return runpy.run_path(str(repo / "tools/visualize_refinement.py"))["main"]


@pytest.fixture
def words(repo: Path, tmp_path: Path) -> list[str]:
    data = write_moving_shapes(tmp_path / "data", 1, 4, (64, 96), 3)
    name = next((data.parent / "JPEGImages").iterdir()).name
    return [
        "--config-file", str(repo / "configs/quick/vmt_tiny.yaml"), "--output",
        str(tmp_path / "out"), "--data", f"{data}@{data.parent / 'JPEGImages'}", "--video", name,
        "--frames", "3", "INPUT.MIN_SIZE_TEST", "64", "MODEL.DEVICE", "cpu",
    ]  # fmt: skip


def test_tool_draws_an_annotated_clip(
    draw: Any, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert draw([*words[:-4], "--node", "1", "30", "40", "--top-k", "5", *words[-4:]]) == 0
    assert cv2.imread(str(tmp_path / "out/refinement.png")).shape == (3 * 86, 4 * 96, 3)
    assert cv2.imread(str(tmp_path / "out/attention.png")).shape == (86, 3 * 96, 3)
    with av.open(str(tmp_path / "out/refinement.mp4")) as video:
        assert sum(1 for _ in video.decode(video=0)) == 3
    said = capsys.readouterr().out
    assert "random weights" in said
    assert said.count("%\n") >= 5


def test_tool_draws_what_the_network_finds(draw: Any, words: list[str], tmp_path: Path) -> None:
    folder = next((tmp_path / "data/JPEGImages").iterdir())
    found = words[: words.index("--data")] + words[words.index("--video") :]
    found[found.index("--video") + 1] = str(folder)
    assert draw([*found, "MODEL.REFINER.MAX_POINTS", "300"]) == 0
    assert (tmp_path / "out/refinement.png").is_file()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--tracklet", "9"], "tracklets 0 to 1"),
        (["--node", "7", "1", "1"], "no nodes in frame 7"),
        (["--frames", "9"], "has no frame 4; lower"),
        (["--frames", "0"], "--frames must be at least 1"),
        (["--video", "nothing"], "no video 'nothing'; it has"),
        (["--data", "x.json"], "my.json@FOLDER_OF_IMAGES"),
    ],
)
def test_messages(
    draw: Any,
    words: list[str],
    change: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert draw([*words[:-4], *change, *words[-4:]]) == 2
    assert message in capsys.readouterr().err


def test_another_refiner_is_named(
    draw: Any, words: list[str], repo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words[1] = str(repo / "configs/quick/vmt_tiny_released.yaml")
    assert draw(words) == 2
    assert "'dense_band'" in capsys.readouterr().err
