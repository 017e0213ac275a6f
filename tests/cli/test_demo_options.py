"""Each option of ``vmt demo`` changes what it says, through the command and the loader of weights.

Where a network must see something, one that finds coloured blobs takes its place (of score 0.91),
at the place where networks are built.
"""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import vmt.apps.segment
from tests.engine.runs import REPO, TINY
from tests.inference.fake_model import BlobModel, blob_video
from vmt.checkpoint.files import write_weights
from vmt.cli.main import main
from vmt.inference.load import load_model
from vmt.inference.video_file import VideoFile

SIZE, T = (48, 80), 12
QUICK = REPO / "configs" / "quick" / "seqformer_tiny.yaml"
KEYS = [word for pair in TINY.items() for word in pair]


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of frames with one red blob."""
    folder = tmp_path_factory.mktemp("frames")
    for t, frame in enumerate(blob_video(T, SIZE, blobs=1)):
        Image.fromarray(frame.numpy()).save(folder / f"{t:05d}.png")
    return folder


@pytest.fixture
def blobs(monkeypatch: pytest.MonkeyPatch) -> BlobModel:
    model = BlobModel()
    monkeypatch.setattr(vmt.apps.segment, "load_segmenter", lambda *args: model)
    return model


def demo(frames: Path, output: Path, *more: str, config: Path = QUICK) -> int:
    words = ["--config-file", str(config), "--input", str(frames), "--output", str(output)]
    return main(["demo", *words, *more])


def entries(output: Path) -> list[dict[str, Any]]:
    loaded: list[dict[str, Any]] = json.loads((output / "results.json").read_text())
    return loaded


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


@pytest.mark.parametrize(
    ("options", "clips"),
    [
        # frames 0-4, 4-8, then the last five
        (["--window", "5"], [5] * 3),
        # from 0, 2, 4 and 6, then the last five
        (["--window", "5", "--stride", "2"], [5] * 5),
        (["--window", "all"], [12]),
        (["--window", "1"], [1] * 12),
        # from 0, 3 and 6, then the last four
        (["--stride", "3", "TEST.WINDOW", "4"], [4] * 4),
        # frames 0-4 and 2-6
        (["--window", "5", "--max-frames", "7"], [5] * 2),
    ],
)
def test_windows_and_strides_are_those_asked_for(
    options: list[str], clips: list[int], frames: Path, tmp_path: Path, blobs: BlobModel
) -> None:
    assert demo(frames, tmp_path, "--no-overlay", *options) == 0
    assert blobs.clips == clips
    count = 7 if "--max-frames" in options else T
    assert {len(entry["segmentations"]) for entry in entries(tmp_path)} == {count}


@pytest.mark.parametrize("confidence", ["0.905", "0.915"])
def test_confidence_decides_what_every_file_shows(
    confidence: str, frames: Path, tmp_path: Path, blobs: BlobModel
) -> None:
    del blobs
    assert demo(frames, tmp_path, "--confidence", confidence, "--save-frames", "--save-masks") == 0
    shown = confidence == "0.905"
    assert [e["score"] for e in entries(tmp_path)] == pytest.approx([0.91])
    with (tmp_path / "tracks.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == (T if shown else 0)
    for name in ("00000.png", f"{T - 1:05d}.png"):
        original = pixels(frames / name)
        assert (pixels(tmp_path / "masks" / name) > 0).any() == shown
        assert (pixels(tmp_path / "frames" / name) != original).any() == shown
    first = next(iter(VideoFile(tmp_path / "overlay.mp4"))).astype(int)
    drawn = pixels(tmp_path / "frames" / "00000.png").astype(int)
    assert np.abs(first - drawn).mean() < 6


def test_files_that_nobody_asked_for_are_not_written(
    frames: Path, tmp_path: Path, blobs: BlobModel
) -> None:
    del blobs
    for more, names in (
        ((), {"overlay.mp4"}),
        (("--no-overlay",), set()),
        (("--no-overlay", "--save-masks"), {"masks"}),
        (("--no-overlay", "--save-frames"), {"frames"}),
    ):
        output = tmp_path / "-".join(["out", *more])
        assert demo(frames, output, "--max-frames", "2", *more) == 0
        assert {path.name for path in output.iterdir()} == names | {"results.json", "tracks.csv"}


def test_images_are_where_the_option_says(
    frames: Path, tmp_path: Path, blobs: BlobModel, capsys: pytest.CaptureFixture[str]
) -> None:
    """The JSON lies apart from its frames; as written it looks beside itself."""
    del blobs
    names = [f"{frames.name}/{t:05d}.png" for t in range(3)]
    spec = tmp_path / "valid.json"
    spec.write_text(json.dumps({"videos": [{"id": 7, "file_names": names}]}))
    assert demo(spec, tmp_path / "out", "--no-overlay") == 2
    assert "--images" in capsys.readouterr().err
    assert demo(spec, tmp_path / "out", "--no-overlay", "--images", str(frames.parent)) == 0
    assert [(e["video_id"], len(e["segmentations"])) for e in entries(tmp_path / "out")] == [(7, 3)]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a network that masks whole frames; its weights give every class 0.25, ``high`` 0.75."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    state = load_model(QUICK, None, KEYS, "cpu").state_dict()
    state["coarse.controller.layers.2.weight"].zero_()
    state["coarse.controller.layers.2.bias"].fill_(1.0)
    for name, probability in (("low", 0.25), ("high", 0.75)):
        for key, value in state.items():
            if key.startswith("heads.cls."):
                value.fill_(math.log(probability / (1 - probability)) if "bias" in key else 0.0)
        write_weights(state, folder / f"{name}.safetensors", {})
    path = folder / "config.yaml"
    text = f"_BASE_: {QUICK}\nMODEL: {{WEIGHTS: {folder / 'low.safetensors'}, DEVICE: 'cuda:99'}}\n"
    path.write_text(text)
    return path


def test_weights_and_device_overrule_the_config(
    config: Path, frames: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The config's device does not exist, and its weights need the keys that make it tiny."""
    common = ["--no-overlay", "--max-frames", "2", "--window", "all"]
    high = str(config.with_name("high.safetensors"))
    on_cpu = ["--device", "cpu"]
    for more, score, weights in (([], 0.25, "low"), (["--weights", high], 0.75, "high")):
        assert demo(frames, tmp_path, *common, *on_cpu, *more, *KEYS, config=config) == 0
        scores = [entry["score"] for entry in entries(tmp_path)]
        assert scores == pytest.approx([score] * len(scores))
        assert scores
        said = capsys.readouterr().out
        assert f"weights: {config.with_name(weights)}.safetensors" in said
        assert f"network: {config} on cpu" in said
    assert demo(frames, tmp_path, *common, *KEYS, config=config) == 2
    assert "cuda:99" in capsys.readouterr().err
    assert demo(frames, tmp_path, *common, *on_cpu, config=config) == 2
    assert "low.safetensors" in capsys.readouterr().err
