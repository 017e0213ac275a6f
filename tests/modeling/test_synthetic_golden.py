"""Every kind of network gives what it gave before the tree was rebuilt; see ``golden.py``."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.modeling import golden
from vmt.engine.parity import compare, read_reference


@pytest.fixture(scope="module", params=golden.NETWORKS)
def case(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any], torch.nn.Module]:
    """Name, recorded arrays, network; the training step comes first."""
    with np.load(golden.FOLDER / f"{request.param}.npz") as file:
        return request.param, dict(file), golden.network(request.param)


def test_a_training_step(case: Any) -> None:
    _, recorded, model = case
    ours = golden.training(model)
    assert set(ours) == {name for name in recorded if "/" in name}
    largest = max(float(recorded[name]) for name in ours)
    for name, value in ours.items():
        rel = 1e-4 if name.startswith("loss/") else 1e-3
        expected = pytest.approx(float(recorded[name]), rel=rel, abs=1e-6 * largest)
        assert value.item() == expected, name


def test_a_clip(case: Any) -> None:
    name, recorded, model = case
    if name not in golden.REFINERS:
        report = compare(model.eval(), read_reference(golden.FOLDER / f"{name}.npz"))
        assert report.holds(1e-3), report
        assert ("masks_refined" in report.errors) == (name in ("dense_band", "quadtree"))
        return
    ours = golden.inference(name, model)
    assert set(ours) == {key for key in recorded if key.startswith("tube_")}
    for key, tube in ours.items():
        expected = torch.from_numpy(recorded[key]).float()
        torch.testing.assert_close(tube, expected, rtol=1e-3, atol=1e-3)


def test_the_files_are_small() -> None:
    assert sum(path.stat().st_size for path in golden.FOLDER.iterdir()) <= 1_000_000
