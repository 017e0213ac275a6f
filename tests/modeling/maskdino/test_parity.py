"""The published code's outputs and training step, and its parameter names."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch

from vmt.checkpoint.describe import describe
from vmt.checkpoint.files import read_weights
from vmt.checkpoint.key_maps.maskdino import MASKDINO
from vmt.config.node import load_config
from vmt.data.datasets.categories import label_space
from vmt.engine.parity import read_arrays
from vmt.engine.reference import run_network, write_outputs
from vmt.inference.load import load_model
from vmt.modeling.meta_arch.build import build_network

CONFIGS = {"low2high": "coco/maskdino_R50.yaml", "high2low": "coco/maskdino_R50_3s.yaml"}


def module_at(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["low2high_no", "low2high_mask2box", "high2low_bitmask", "training"]
)
def test_outputs_are_those_of_the_published_code(
    shared_data: Path, repo: Path, tmp_path: Path, name: str
) -> None:
    folder = shared_data / "parity_frame_models"
    golden = folder / f"golden_maskdino_r50_{name}.npz"
    inputs = read_arrays(golden)
    inputs["token_order"] = inputs["top_tokens"]
    order = "high2low" if name.startswith("high2low") else "low2high"
    keys = json.loads((folder / f"keys_maskdino_r50_{order}.json").read_text())
    drawn = module_at(folder / "synthetic_checkpoint.py").state_dict(
        keys, str(inputs["salt"]), float(inputs["mask_shift"])
    )
    drawn["criterion.empty_weight"] = torch.ones(81)  # published files hold it
    weights, output = tmp_path / "weights.pth", tmp_path / "produced.npz"
    torch.save({"model": drawn}, weights)
    model = load_model(repo / "configs" / CONFIGS[order], weights, [], "cpu")
    file = read_weights(weights)
    description = describe(file)
    assert description.config == f"configs/{CONFIGS[order]}"
    assert (description.method, description.num_classes) == ("MaskDINO", 80)
    write_outputs(output, *run_network(model, inputs, file.key_map))
    compare = module_at(folder / "compare.py")
    rows = compare.arrays(str(golden), str(output), [])
    if name == "training":
        rows += compare.numbers(str(golden.with_suffix(".json")), str(output.with_suffix(".json")))
        assert len(rows) > 150
    assert [row for row in rows if row[1] > 1] == []


@pytest.mark.parametrize(("order", "count"), [("low2high", 719), ("high2low", 715)])
def test_export_has_exactly_the_published_names(
    shared_data: Path, repo: Path, order: str, count: int
) -> None:
    path = shared_data / "parity_frame_models" / f"keys_maskdino_r50_{order}.json"
    published = json.loads(path.read_text())
    assert len(published) == count
    cfg = load_config(repo / "configs" / CONFIGS[order])
    with torch.device("meta"):
        ours = build_network(cfg, label_space(cfg.MODEL.LABEL_SPACE)).state_dict()
    released = MASKDINO.to_released(ours)
    assert released.unknown == []
    assert {name: list(value.shape) for name, value in released.state.items()} == {
        name: shape for name, (shape, _) in published.items()
    }


@pytest.mark.parametrize("config", ["R50_5levels", "SwinL"])
def test_names_of_larger_networks_go_both_ways(repo: Path, config: str) -> None:
    cfg = load_config(repo / f"configs/coco/maskdino_{config}.yaml")
    with torch.device("meta"):
        ours = build_network(cfg, label_space(cfg.MODEL.LABEL_SPACE)).state_dict()
    released = MASKDINO.to_released(ours)
    assert released.unknown == []
    assert released.state["sem_seg_head.pixel_decoder.transformer.level_embed"].shape == (5, 256)
    assert "sem_seg_head.predictor.bbox_embed.8.layers.2.bias" in released.state
    names = {name: torch.zeros(1) for name in released.state}  # values of meta tensors say nothing
    assert set(MASKDINO.to_ours(names).state) == set(ours)
