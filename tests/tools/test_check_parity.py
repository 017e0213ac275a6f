"""``tools/check_parity.py`` without a network: what associations and matchers make of fixtures."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import load_tool

FIXTURES = {
    "idol_tracker_a": "idol_tracker",
    "idol_tracker_b": "idol_tracker",
    "idol_simota": "idol_simota",
    "minvis_linking": "minvis_linking",
}


@pytest.fixture
def check():
    return load_tool("check_parity").main


@pytest.mark.parametrize("golden", FIXTURES)
def test_fixtures_agree_with_the_published_code(
    golden: str, shared_data: Path, tmp_path: Path, check
) -> None:
    folder = shared_data / "parity_frame_models"
    compare = [sys.executable, str(folder / "compare.py")]
    reference = str(folder / f"golden_{golden}.npz")
    inputs, produced = str(tmp_path / "inputs.npz"), str(tmp_path / "produced.npz")
    subprocess.run([*compare, "--inputs-only", reference, inputs], check=True)
    assert not set(np.load(inputs).files) & {"permutation", "t_ids_ytvis", "0_best"}
    command = ["--fixture", FIXTURES[golden], "--inputs", inputs, "--output", produced]
    assert check(command) == 0
    done = subprocess.run([*compare, reference, produced], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", ["a", "b"])
def test_the_quasi_dense_tracker_agrees_with_the_published_one(
    name: str, shared_data: Path, tmp_path: Path, check
) -> None:
    golden = np.load(shared_data / f"quasi_dense/golden_{name}.npz")
    given = ("frame", "num_frames", "boxes", "scores", "labels", "embeds")
    inputs, produced = tmp_path / "inputs.npz", tmp_path / "produced.npz"
    np.savez(inputs, **{key: golden[key] for key in given})
    command = ["--fixture", "quasi_dense", "--inputs", str(inputs), "--output", str(produced)]
    assert check(command) == 0
    found = np.load(produced)
    assert set(found.files) == set(golden.files) - set(given)
    for key in found.files:
        tolerance = 1e-5 if "embed" in key else 0
        np.testing.assert_allclose(found[key], golden[key], rtol=0, atol=tolerance, err_msg=key)


def test_what_is_lacking_is_said(tmp_path: Path, check, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "empty.npz")
    files = ["--inputs", str(tmp_path / "empty.npz"), "--output", str(tmp_path / "out.npz")]
    for command, message in (
        (["--fixture", "idol_tracker"], "give --golden, or --inputs and --output"),
        (files, "give --config and --weights, or --fixture"),
    ):
        with pytest.raises(SystemExit):
            check(command)
        assert message in capsys.readouterr().err
    assert check(["--fixture", "sort", *files]) == 2
    assert (
        "choose idol_simota, idol_tracker, minvis_linking, quasi_dense" in capsys.readouterr().err
    )
