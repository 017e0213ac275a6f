"""Reference outputs of the published code, through the command that users run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import load_module, load_tool
from vmt.checkpoint.key_maps.released import RELEASED
from vmt.modeling.meta_arch.build import build_model


@pytest.fixture(scope="module", params=["vmt_r50", "vmt_swin_l"])
def files(request, shared_data, tmp_path_factory) -> tuple[str, Path, Path]:
    """(config label, weights, reference)."""
    folder = shared_data / "parity"
    golden = folder / f"golden_{request.param}.npz"
    with np.load(golden) as arrays:
        salt, bias = str(arrays["salt"]), float(arrays["incoherence_bias"])
    keys = json.loads((folder / f"keys_{request.param}.json").read_text())
    drawn = load_module(folder / "synthetic_checkpoint.py").state_dict(keys, salt, bias)
    weights = tmp_path_factory.mktemp("weights") / f"{request.param}.pth"
    torch.save({"model": drawn}, weights)
    label = {"vmt_r50": "R50", "vmt_swin_l": "SwinL"}[request.param]
    return label, weights, golden


@pytest.mark.slow
def test_check_parity_passes(files, repo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    label, weights, golden = files
    check = load_tool("check_parity")
    command = ["--config", str(repo / f"configs/hq_ytvis/vmt_{label}_released.yaml")]
    command += ["--weights", str(weights), "--golden", str(golden)]
    assert check.main(command) == 0
    printed = capsys.readouterr().out
    for name in ("memory", "logits", "boxes", "masks_coarse", "masks_stride4", "masks_refined"):
        assert name in printed


@pytest.mark.parametrize(
    ("file", "label", "method", "count"),
    [
        ("keys_vmt_r50.json", "R50_released", "vmt", 819),
        ("keys_vmt_swin_l.json", "SwinL_released", "vmt", 913),
        ("keys_seqformer_r50.json", "R50", "seqformer", 733),
    ],
)
def test_export_has_exactly_the_published_names(
    shared_data, repo, config_of, file: str, label: str, method: str, count: int
) -> None:
    """A network of ours, exported, fits the published code's strict loading."""
    published = json.loads((shared_data / "parity" / file).read_text())
    assert len(published) == count
    state = exported(config_of(f"hq_ytvis/{method}_{label}"))
    assert {name: list(value.shape) for name, value in state.items()} == {
        name: shape for name, (shape, _) in published.items()
    }


def exported(cfg_and_labels) -> dict[str, torch.Tensor]:
    from vmt.checkpoint.key_maps.released import complete_released

    with torch.device("meta"):
        model = build_model(*cfg_and_labels)
    conversion = RELEASED.to_released(model.state_dict())
    assert not conversion.unknown
    complete_released(conversion.state)
    return conversion.state
