"""The published code's outputs, links and training step, and its parameter names."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch

from vmt.checkpoint.describe import describe
from vmt.checkpoint.files import read_weights
from vmt.checkpoint.key_maps import key_map_of
from vmt.checkpoint.key_maps.mask2former import MASK2FORMER
from vmt.config.node import load_config
from vmt.data.datasets.categories import label_space
from vmt.engine.parity import read_arrays
from vmt.engine.reference import run_network, write_outputs
from vmt.inference.load import load_model
from vmt.modeling.meta_arch.build import build_network

CONFIGS = {"mask2former": "coco/mask2former_R50", "minvis": "ytvis_2019/minvis_R50"}
CLASSES = {"mask2former": 80, "minvis": 40}


def module_at(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "rows"),
    [("mask2former_r50_odd", 11), ("minvis_r50", 10), ("mask2former_r50_training", 74)],
)
def test_outputs_are_those_of_the_published_code(
    shared_data: Path, repo: Path, tmp_path: Path, name: str, rows: int
) -> None:
    folder, network = shared_data / "parity_frame_models", name.split("_")[0]
    golden = folder / f"golden_{name}.npz"
    inputs = read_arrays(golden)
    keys = json.loads((folder / f"keys_{network}_r50.json").read_text())
    drawn = module_at(folder / "synthetic_checkpoint.py").state_dict(
        keys, str(inputs["salt"]), float(inputs["mask_shift"])
    )
    drawn["criterion.empty_weight"] = torch.ones(CLASSES[network] + 1)  # published files hold it
    weights, output = tmp_path / "weights.pth", tmp_path / "produced.npz"
    torch.save({"model": drawn}, weights)
    model = load_model(repo / f"configs/{CONFIGS[network]}.yaml", weights, [], "cpu")
    file = read_weights(weights)
    description = describe(file)
    assert description.config == f"configs/{CONFIGS[network]}.yaml"
    assert description.num_classes == CLASSES[network]
    write_outputs(output, *run_network(model, inputs, file.key_map))
    compare = module_at(folder / "compare.py")
    deviations = compare.arrays(str(golden), str(output), [])
    if name.endswith("_training"):
        numbers = golden.with_suffix(".json"), output.with_suffix(".json")
        deviations += compare.numbers(*map(str, numbers))
    assert len(deviations) == rows
    assert [row for row in deviations if row[1] > 1] == []


@pytest.mark.parametrize("network", ["mask2former", "minvis"])
def test_export_has_exactly_the_published_names(
    shared_data: Path, repo: Path, network: str
) -> None:
    path = shared_data / "parity_frame_models" / f"keys_{network}_r50.json"
    published = json.loads(path.read_text())
    assert len(published) == 557
    assert key_map_of(published) is MASK2FORMER
    released = MASK2FORMER.to_released(outline(repo, CONFIGS[network]))
    assert released.unknown == []
    assert {name: list(value.shape) for name, value in released.state.items()} == {
        name: shape for name, (shape, _) in published.items()
    }


@pytest.mark.parametrize("name", ["coco/mask2former_R50", "ovis/minvis_SwinL"])
def test_names_lead_back(repo: Path, name: str) -> None:
    ours = outline(repo, name)
    back = MASK2FORMER.to_ours(MASK2FORMER.to_released(ours).state)
    assert set(back.state) == set(ours)
    assert (back.unknown, back.conflicts) == ([], [])


def outline(repo: Path, name: str) -> dict[str, torch.Tensor]:
    cfg = load_config(repo / f"configs/{name}.yaml")
    with torch.device("meta"):
        model = build_network(cfg, label_space(cfg.MODEL.LABEL_SPACE))
    return model.state_dict()
