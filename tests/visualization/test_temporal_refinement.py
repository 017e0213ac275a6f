"""Pictures of refined tracklets: masks, and bars as high as the weights."""

from __future__ import annotations

import importlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from tests.synthetic import write_moving_shapes
from vmt.modeling.temporal.tar import TAR, TAROptions
from vmt.visualization.temporal_refinement import (
    CHART_PX,
    COLUMNS,
    ITSELF,
    MISSED,
    SEEN,
    TrackletFrame,
    chart,
    frames_read,
    tracklet_picture,
)

REPO = Path(__file__).resolve().parents[2]
SIZE = (40, 60)


def mask(left: int) -> np.ndarray:
    inside = np.zeros(SIZE, dtype=bool)
    inside[10:30, left : left + 20] = True
    return inside


def frames(count: int, missed: int = 1) -> list[TrackletFrame]:
    picture = np.full((*SIZE, 3), 100, np.uint8)
    weights = np.array([0.5, 0.25, *[0.25 / (count - 2)] * (count - 2)], np.float32)
    return [
        TrackletFrame(7 + t, picture, None if t == missed else mask(10), mask(12), 0.5, weights)
        for t in range(count)
    ]


def heights(panel: np.ndarray, color: tuple[int, int, int]) -> list[int]:
    """Of the bars of a colour, from left to right."""
    counts = (panel == np.array(color)).all(2).sum(0)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], counts > 0, [0]]).astype(int)))
    return [int(counts[a:b].max()) for a, b in edges.reshape(-1, 2)]


def test_bars_are_as_high_as_the_weights() -> None:
    panel = chart(frames(4), 0)
    assert panel.shape == (CHART_PX, SIZE[1], 3)
    (own,), (lost,), others = (heights(panel, color) for color in (ITSELF, MISSED, SEEN))
    assert own > 40
    assert lost / own == pytest.approx(0.5, abs=0.05)
    assert [other / own for other in others] == pytest.approx([0.25, 0.25], abs=0.05)
    assert heights(chart(frames(4), 2), ITSELF)[0] < own / 3, "frame 2 reads itself less"


def test_a_frame_that_was_not_refined_has_no_bars() -> None:
    one = frames(3)[0]
    empty = TrackletFrame(0, one.picture, None, None, 0.0, np.zeros(3, np.float32))
    panel = chart([empty] * 3, 0)
    assert all(not heights(panel, color) for color in (ITSELF, MISSED))


@pytest.mark.parametrize("count", [3, COLUMNS, COLUMNS + 2])
def test_a_column_per_frame(count: int) -> None:
    picture = tracklet_picture(frames(count))
    rows, columns = -(-count // COLUMNS), min(count, COLUMNS)
    assert picture.shape[0] % rows == picture.shape[1] % columns == 0
    height, width = picture.shape[0] // rows, picture.shape[1] // columns
    assert height > 2 * SIZE[0] + CHART_PX
    first, missed = picture[:height, :width], picture[:height, width : 2 * width]
    top = slice(22, 22 + SIZE[0])
    assert len(np.unique(first[top].reshape(-1, 3), axis=0)) > 2, "a mask and its contour"
    gap = missed[top, SIZE[1] :]
    assert (gap == 255).all()
    assert len(np.unique(missed[top, : SIZE[1]].reshape(-1, 3), axis=0)) == 1, "no mask"
    assert len(np.unique(missed[44 + SIZE[0] :][: SIZE[0], : SIZE[1]].reshape(-1, 3), axis=0)) > 1


def refinement(window: int = 3) -> TAR:
    torch.manual_seed(0)
    tar = TAR(TAROptions(16, 2, 32, window, norm="post")).eval()
    return tar.double()


@pytest.mark.parametrize("online", [True, False])
def test_which_frames_are_read(online: bool) -> None:
    torch.manual_seed(1)
    embeds = torch.randn(7, 16).double()
    embeds[:2] = 0  # the tracklet begins in frame 2
    weights = frames_read(refinement(), embeds, 3, online)
    assert not weights[:2].any()
    torch.testing.assert_close(weights[2:].sum(1), torch.ones(5).double())
    read = [row.nonzero()[:, 0].tolist() for row in weights]
    past = [[], [], [2], [2, 3], [2, 3, 4], [3, 4, 5], [4, 5, 6]]
    clips = [[], [], [2], [3, 4, 5], [3, 4, 5], [3, 4, 5], [6]]
    assert read == (past if online else clips)


def test_online_the_past_is_read_refined() -> None:
    """Frame 1 reads frame 0 as it was refined: its weights are those of that embedding."""
    torch.manual_seed(1)
    tar, embeds = refinement(), torch.randn(2, 16).double()
    refined = tar(embeds[None, :1], torch.tensor([0]))[0, 0]
    times = torch.arange(2)
    expected = tar.attention_weights(torch.stack([refined, embeds[1]])[None], times)[0, :, 1]
    torch.testing.assert_close(frames_read(tar, embeds, 3, True)[1], expected.mean(0))
    raw = tar.attention_weights(embeds[None], times)[0, :, 1].mean(0)
    assert not torch.allclose(frames_read(tar, embeds, 3, True)[1], raw)
    torch.testing.assert_close(frames_read(tar, embeds, 3, False)[1], raw)


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("clip")
    data = write_moving_shapes(folder / "data", 1, 5, (64, 96), 3)
    video = next((data.parent / "JPEGImages").iterdir())
    return [
        "--config-file", str(REPO / "configs/quick/refinevis_tiny.yaml"), "--video", str(video),
        "--frames", "4", "INPUT.MIN_SIZE_TEST", "64", "MODEL.DEVICE", "cpu",
    ]  # fmt: skip


@pytest.mark.parametrize("mode", ["online", "offline"])
def test_tool_draws_a_tracklet(
    mode: str, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw = importlib.import_module("tools.visualize_tracklets").main
    words = [*words, "TEST.REFINEVIS.MODE", mode]
    assert draw([*words[:4], "--output", str(tmp_path), *words[4:]]) == 0
    picture = cv2.imread(str(tmp_path / "tracklet.png"))
    assert picture.shape[1] == 4 * (96 + 6)
    assert picture.std() > 10
    said = capsys.readouterr().out
    assert "random weights" in said
    assert "of 4 frames" in said


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--track", "999"], "--track 999: there is no such track"),
        (["--step", "0"], "--step must be at least 1"),
        (["--config-file", str(REPO / "configs/quick/idol_tiny.yaml")], "nothing is refined"),
    ],
)
def test_tool_says_what_is_wrong(
    change: list[str], message: str, words: list[str], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    draw = importlib.import_module("tools.visualize_tracklets").main
    assert draw([*words[:6], *change, "--output", str(tmp_path), *words[6:]]) == 2
    assert message in capsys.readouterr().err
