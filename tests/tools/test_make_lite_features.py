"""The weights by which propagation recognises objects are those of the package."""

from __future__ import annotations

import timm
import torch
from safetensors.torch import load_file

from tests.conftest import REPO, load_module
from vmt.inference.propagation.features import NAME, WEIGHTS, lite_body


def test_weights_are_written_by_their_order(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(REPO / "tools"))
    tool = load_module(REPO / "tools/make_lite_features.py")
    torch.manual_seed(0)
    known = timm.create_model(NAME).state_dict()
    torch.save({f"other.{key}": value for key, value in known.items()}, tmp_path / "known.pth")
    out = tmp_path / "made.safetensors"
    assert tool.main(["--start", str(tmp_path / "known.pth"), "--output", str(out)]) == 0
    made = load_file(out)
    assert all(torch.equal(value, known[key].half()) for key, value in made.items())
    counts = {key for key in lite_body().state_dict() if key.endswith("num_batches_tracked")}
    assert set(made) == set(lite_body().state_dict()) - counts
    shipped = load_file(WEIGHTS)
    assert {key: value.shape for key, value in shipped.items()} == {
        key: value.shape for key, value in made.items()
    }
    assert "1.4 MB" in capsys.readouterr().out
