"""The detector of the package: one sentence where its weights are missing, one place for it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import vmt
from tests.small_weights import TINY, ship
from vmt.apps.app.actions import find
from vmt.apps.app.networks import Networks
from vmt.apps.app.options import AppOptions
from vmt.apps.app.session import AppError, Job, Session
from vmt.cli.main import main
from vmt.inference import package_detector
from vmt.inference.pretrained import find_detector, find_pretrained
from vmt.utils.errors import CheckpointError, ConfigError

MISSING = "the weights of vmt_small are not in this package; name another network with"


@pytest.fixture
def empty(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(package_detector, "FOLDER", tmp_path / "nothing")


@pytest.mark.usefixtures("empty")
def test_one_sentence_where_the_weights_are_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["demo", "--input", "gone.mp4", "--output", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"vmt demo: {MISSING}")
    assert error.count("\n") == 1
    assert not out.exists()
    assert main(["zoo", "--download", "vmt_small"]) == 2
    assert MISSING in capsys.readouterr().err
    assert main(["zoo"]) == 0
    assert MISSING in capsys.readouterr().out
    assert main(["app", "MODEL.DEVICE", "cpu"]) == 2
    assert MISSING in capsys.readouterr().err
    with pytest.raises(CheckpointError, match=MISSING):
        vmt.load_model("vmt_small")
    with pytest.raises(CheckpointError, match=MISSING):
        find_detector(None, None)


@pytest.mark.usefixtures("empty")
def test_the_page_says_so_to_its_visitor(tmp_path: Path) -> None:
    networks = Networks(AppOptions())
    assert not networks.finds
    with pytest.raises(AppError, match="without a network that finds objects"):
        networks.detector()
    with pytest.raises(AppError, match="no video yet"):
        find(Session(tmp_path), networks, Job(lambda *_: None, None))  # type: ignore[arg-type]


def test_what_a_user_names_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ship(monkeypatch, tmp_path / "small")
    named = find_detector("quick/vmt_tiny", None)
    assert (str(named.config), named.weights) == ("quick/vmt_tiny", None)
    assert find_detector("quick/vmt_tiny", "own.pth").weights == Path("own.pth")
    with pytest.raises(ConfigError, match=r"--weights own\.pth: name their network too"):
        find_detector(None, "own.pth")


def test_weights_in_the_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = ship(monkeypatch, tmp_path / "small")
    assert find_detector(None, None).weights == file
    model = vmt.load_model("vmt_small", device="cpu")
    assert model.label_space.names == ("person", "animal", "vehicle", "other thing")
    assert main(["zoo"]) == 0
    assert f"shipped: {file}" in capsys.readouterr().out
    assert main(["zoo", "--download", "vmt_small"]) == 0
    assert "nothing is to be fetched" in capsys.readouterr().out
    options = AppOptions(overrides=("MODEL.MOTS.DETECTIONS", "2"), device="cpu")
    networks = Networks(options)
    assert networks.finds
    detector = networks.detector()
    assert detector.trained
    ours = detector.model.state_dict()
    assert all(torch.equal(value, ours[key]) for key, value in model.state_dict().items())


def test_own_weights_need_none_of_the_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = ship(monkeypatch, tmp_path / "small")
    monkeypatch.setattr(package_detector, "FOLDER", tmp_path / "nothing")
    where = find_pretrained("vmt_small", fetch_weights=False)
    assert where.config.name == "vmt_small.yaml"
    model = vmt.load_model("vmt_small", file, TINY)
    assert next(model.parameters()).device.type == "cpu"
