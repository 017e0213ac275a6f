"""The recipe of the weights that ship, with two steps instead of thousands."""

from __future__ import annotations

import importlib.util
import json
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from tests.tools.test_make_composites import photo_set
from vmt.checkpoint.files import read_weights
from vmt.config.node import load_config
from vmt.inference.mask_refiner import MaskRefiner

TOOL = Path(__file__).parents[2] / "tools/make_mask_refiner.py"
SMALL = (
    "SOLVER.MAX_STEPS", "2", "SOLVER.MILESTONE_STEPS", "[]", "SOLVER.WARMUP_STEPS", "1",
    "SOLVER.CLIPS_PER_BATCH", "1", "INPUT.MIN_SIZE_TRAIN", "[64]",
    "MODEL.BACKBONE.WIDTHS", "[16, 16, 16, 16]", "MODEL.MASK_REFINER.DIM", "16",
    "MODEL.REFINER.EMBED_DIM", "16", "MODEL.REFINER.NUM_HEADS", "2",
)  # fmt: skip


@pytest.fixture
def tool(monkeypatch):
    spec = importlib.util.spec_from_file_location("make_mask_refiner", TOOL)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # its data classes look there
    spec.loader.exec_module(module)
    small = ("--clips", "2", "--frames", "4", "--size", "64", "64")
    monkeypatch.setattr(module, "COMPOSITES", dict.fromkeys(module.COMPOSITES, small))
    monkeypatch.setattr(module, "MIN_AREA", 50)
    return module


def with_licences(source: str) -> str:
    path = Path(source.partition("@")[0])
    content = json.loads(path.read_text())
    content["licenses"] = [{"id": 4, "name": "Attribution", "url": "https://example.org/by"}]
    content["images"][0] |= {"license": 4, "flickr_url": "https://example.org/photo"}
    path.write_text(json.dumps(content))
    return source


@pytest.mark.slow
def test_each_training_goes_on_from_the_last_and_what_ships_loads(tool, tmp_path, monkeypatch):
    images = with_licences(photo_set(tmp_path / "photos"))
    out, weights = tmp_path / "out", tmp_path / "weights"
    arguments = ["--images", images, "--output", str(out), "--ship", str(weights), *SMALL]
    assert tool.main(arguments) == 0
    for name, training in (("mask_refiner", "exact"), ("low_res", "low_res")):
        refiner = MaskRefiner.from_pretrained(weights / f"{name}.safetensors", device="cpu")
        assert refiner.network.label_space.names == ("object",)
        shipped = read_weights(weights / f"{name}.safetensors").ours()
        own = read_weights(out / training / "model_final.safetensors").ours()
        assert all((shipped[key] == own[key]).all() for key in own)
    assert "https://example.org/photo" in (weights / "ATTRIBUTION.md").read_text()
    trained = [
        read_weights(out / name / "model_final.safetensors").ours() for name in tool.TRAININGS
    ]
    for before, after in pairwise(trained):
        assert any((before[name] != after[name]).any() for name in before)
        assert not set(before) - set(after)
    configs = [load_config(out / name / "config.yaml") for name in tool.TRAININGS]
    assert [cfg.INPUT.CLIP_FRAMES for cfg in configs[:2]] == [3, 1]
    assert str(out / "begin" / "model_final.safetensors") == configs[1].MODEL.WEIGHTS
    assert not configs[1].MODEL.REFINER.SHARED_HEAD
    assert configs[-1].MODEL.REFINER.SHARED_HEAD
    assert "refiner.decoder.shared.0.weight" in trained[-1]
    # Called again, it has nothing left to do but to ship.
    for name in ("run", "run_job"):
        monkeypatch.setattr(tool, name, lambda *asked: pytest.fail(str(asked)))
    assert tool.main(arguments) == 0


def test_small_regions_and_crowds_are_left_out(tool, tmp_path):
    rows = [
        {"id": 1, "image_id": 1, "area": 60, "iscrowd": 0},
        {"id": 2, "image_id": 1, "area": 40, "iscrowd": 0},
        {"id": 3, "image_id": 2, "area": 60, "iscrowd": 1},
    ]
    source, target = tmp_path / "all.json", tmp_path / "large.json"
    source.write_text(json.dumps({"images": [{"id": 1}, {"id": 2}], "annotations": rows}))
    tool.large_regions(source, target)
    kept = json.loads(target.read_text())
    assert [row["id"] for row in kept["annotations"]] == [1]
    assert kept["images"] == [{"id": 1}]
