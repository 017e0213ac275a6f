"""Parts that a method adds: a file holds all of one, or nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from vmt.checkpoint.files import write_weights
from vmt.checkpoint.load import load_weights
from vmt.layers.adapter import Adapter
from vmt.utils.errors import CheckpointError


class Gate(Adapter):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))
        self.bias = nn.Parameter(torch.zeros(2))


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(2, 2)
        self.first, self.second = Gate(), Gate()


@pytest.mark.parametrize(
    ("entries", "missing", "new"),
    [
        ([], None, ["first.bias", "first.weight", "second.bias", "second.weight"]),
        (["first.weight", "first.bias"], None, ["second.bias", "second.weight"]),
        (["first.weight"], r"1 entries are missing, first first\.bias", []),
        (["second.bias", "first.weight", "first.bias"], r"first second\.weight", []),
    ],
)
def test_half_an_addition_is_a_mistake(
    entries: list[str], missing: str | None, new: list[str], tmp_path: Path
) -> None:
    state = {f"base.{name}": torch.ones_like(v) for name, v in nn.Linear(2, 2).state_dict().items()}
    path = tmp_path / "some.safetensors"
    write_weights(state | {name: torch.ones(2) for name in entries}, path)
    model = Network()
    if missing is not None:
        with pytest.raises(CheckpointError, match=missing):
            load_weights(model, path)
        return
    report = load_weights(model, path)
    assert sorted(report.new) == new
    filled = {name for name, value in model.state_dict().items() if bool(value.all())}
    assert filled == set(state) | set(entries)
