"""Weights in the wrapping of other frameworks: found, named plainly, never executed."""

from __future__ import annotations

import argparse
import json
import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.engine.clips import SHAPES, quick_config
from vmt.checkpoint.files import read_weights, write_weights
from vmt.checkpoint.load import load_weights
from vmt.cli.main import main
from vmt.modeling.meta_arch.build import build_network
from vmt.utils.errors import CheckpointError

STATE = {"backbone.a.weight": torch.arange(6.0).view(2, 3), "heads.cls.0.bias": torch.ones(2)}
AVERAGE = {name: value + 100 for name, value in STATE.items()}


def under(prefix: str, state: dict[str, Tensor] = STATE) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in state.items()}


class Settings:
    """What a framework keeps beside its weights; pickled by name."""

    def __init__(self) -> None:
        self.rate = 0.1


#: How frameworks wrap weights -> (content, words of a note).
WRAPPINGS: dict[str, tuple[Any, str]] = {
    "plain": (STATE, ""),
    "model": ({"model": STATE, "epoch": 3}, ""),
    "state_dict": ({"state_dict": STATE, "epoch": 3}, ""),
    "ordered": ({"model_state_dict": OrderedDict(STATE), "optimizer_state_dict": {}}, ""),
    "ddp": ({"model": under("module.")}, ""),
    "compiled": (under("_orig_mod."), ""),
    "compiled_parts": ({k.replace(".", "._orig_mod.", 1): v for k, v in STATE.items()}, ""),
    "compiled_ddp": ({"net": under("module._orig_mod.")}, ""),
    "lightning": (
        {
            "state_dict": under("model."),
            "hyper_parameters": {"path": Path("x"), "settings": Settings()},
            "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(2)}}}],
            "best": np.float64(0.5),
        },
        "",
    ),
    "lightning_average": (
        {"state_dict": under("model.") | under("ema_model.", AVERAGE)},
        "2 entries of an average of the weights are left",
    ),
    "timm": (
        {"state_dict": STATE, "state_dict_ema": AVERAGE, "args": argparse.Namespace(lr=1)},
        "'state_dict' is taken; an average of the weights is there too, state_dict_ema",
    ),
    "detr": ({"model": STATE, "ema": AVERAGE}, "average of the weights is there too, ema"),
    "ours": (
        {"model": STATE, "optimizer": {"state": {}}, "hooks": {"ema": AVERAGE}},
        "average of the weights is there too, hooks.ema",
    ),
    "average_alone": ({"model_ema": under("module."), "epoch": 1}, "there are no others"),
    "nested": ({"model": {"state_dict": STATE, "config": {}}}, ""),
    "unknown_key": ({"generator": STATE, "step": 4}, ""),
}


def same(state: dict[str, Tensor]) -> bool:
    return state.keys() == STATE.keys() and all(torch.equal(state[k], STATE[k]) for k in STATE)


@pytest.mark.parametrize("name", WRAPPINGS)
@pytest.mark.parametrize("zipped", [True, False])
def test_weights_are_found(name: str, zipped: bool, tmp_path: Path) -> None:
    content, words = WRAPPINGS[name]
    path = tmp_path / "w.ckpt"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    file = read_weights(path)
    assert same(file.state)
    assert words in "; ".join(file.notes)
    assert bool(file.notes) == bool(words)


def test_pickles_of_arrays_as_detectron2_has_them(tmp_path: Path) -> None:
    arrays = {name: value.numpy() for name, value in STATE.items()}
    content = {"model": arrays, "__author__": "MSRA", "matching_heuristics": True}
    for protocol in (2, 4):
        path = tmp_path / f"R-50.{protocol}.pkl"
        path.write_bytes(pickle.dumps(content, protocol))
        file = read_weights(path)
        assert same(file.state)
        assert file.metadata["__author__"] == "MSRA"


class Attack:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.target}",)


class Hidden(Attack):
    def __reduce__(self) -> Any:
        return eval, (f"open({str(self.target)!r}, 'w')",)


def harmless_name(path: Path) -> None:
    path.touch()


class Unknown(Attack):
    """Calls something that is not known to be dangerous."""

    def __reduce__(self) -> Any:
        return harmless_name, (self.target,)


@pytest.mark.parametrize("attack", [Attack, Hidden, Unknown])
@pytest.mark.parametrize("kind", ["zip", "legacy", "pkl"])
def test_nothing_is_executed(attack: type[Attack], kind: str, tmp_path: Path) -> None:
    target, path = tmp_path / "executed", tmp_path / f"w.{kind}"
    content = {"model": STATE, "x": attack(target)}
    if kind == "pkl":
        content["model"] = {name: value.numpy() for name, value in STATE.items()}
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
    if attack is Unknown:
        assert same(read_weights(path).state)
    else:
        with pytest.raises(CheckpointError, match=r"w\..*could run code"):
            read_weights(path)
    assert not target.exists()


def sharded(folder: Path) -> Path:
    folder.mkdir()
    places = {}
    for number, (name, value) in enumerate(STATE.items(), start=1):
        part = f"model-{number:05d}-of-00002.safetensors"
        save_file({name: value}, folder / part)
        places[name] = part
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return index


def test_a_file_in_parts_and_its_folder(tmp_path: Path) -> None:
    index = sharded(tmp_path / "hub")
    assert same(read_weights(index).state)
    assert same(read_weights(index.parent).state)
    (index.parent / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"00002-of-00002.*part 2 of 2 .* is not there"):
        read_weights(index)
    other = json.loads(index.read_text())
    other["weight_map"]["x"] = other["weight_map"].pop("heads.cls.0.bias")
    other["weight_map"]["x"] = "model-00001-of-00002.safetensors"
    index.write_text(json.dumps(other))
    with pytest.raises(CheckpointError, match=r"names 'x' and 0 more entries"):
        read_weights(index)
    index.write_text("{}")
    with pytest.raises(CheckpointError, match="has no weight_map"):
        read_weights(index)


def test_a_folder_with_one_file_and_with_several(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="a folder without weights"):
        read_weights(tmp_path)
    write_weights(STATE, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    assert same(read_weights(tmp_path).state)
    write_weights(STATE, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match=r"2 weight files \(model\.safetensors, other"):
        read_weights(tmp_path)


def test_the_content_decides_not_the_suffix(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "w.pth")
    assert same(read_weights(tmp_path / "w.pth").state)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"teacher": STATE, "student": STATE}, r"under a key that stands for weights \('teacher'"),
        ({"epoch": 3}, r"holds no tensors under a key that stands for weights \('epoch'\)"),
        ({"model": Settings()}, "holds no tensors under a key"),
        (Settings(), "an object of another program"),
        (under("model.") | under("module."), r"'backbone\.a\.weight' twice"),
    ],
)
def test_what_is_unclear_is_refused(content: Any, said: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=said):
        read_weights(tmp_path / "w.pth")


def bad(kind: str, path: Path) -> None:
    torch.save({"model": {"a": torch.zeros(10_000)}}, path)
    content = path.read_bytes()
    if kind == "cut":
        path.write_bytes(content[: len(content) * 2 // 3])
    elif kind == "pointer":
        path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    elif kind == "page":
        path.write_text("\n<!DOCTYPE html><html><title>Quota exceeded</title></html>")
    elif kind == "text":
        path.write_text("hello")
    elif kind == "empty":
        path.write_bytes(b"")


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("cut", "begins as one and breaks off after"),
        ("pointer", "a pointer of Git LFS"),
        ("page", "a web page"),
        ("text", "not a torch, safetensors or pickle file"),
        ("empty", "is empty"),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_the_cause_is_what_the_file_is(
    kind: str, said: str, suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"w{suffix}"
    bad(kind, path)
    assert main(["inspect", str(path)]) == 2
    error = capsys.readouterr().err.strip()
    assert error.count("\n") == 0
    if suffix == ".safetensors" and kind in ("cut", "text"):
        said = "not a complete safetensors file"
    assert said in error
    assert "again" not in error
    assert "damaged" not in error


# --- numbers that are none ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def config() -> Any:
    small = ("MODEL.SEQFORMER.HIDDEN_DIM", "32", "MODEL.SEQFORMER.NUM_QUERIES", "6")
    return quick_config("seqformer_tiny", *small)


@pytest.fixture(scope="module")
def diverged(config: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A NaN in one parameter, an infinity in another."""
    state = build_network(config, SHAPES).state_dict()
    state["coarse.reduce.0.bias"][1] = float("nan")
    state["heads.cls.0.bias"][0] = float("-inf")
    path = tmp_path_factory.mktemp("diverged") / "w.pth"
    torch.save({"model": state}, path)
    return path


SAID = "NaN or infinity in heads.cls.0.bias, coarse.reduce.0.bias; the training that wrote it"


@pytest.mark.parametrize("command", ["inspect", "convert", "demo", "train", "eval_only"])
def test_nan_is_named_when_weights_are_read(
    command: str, diverged: Path, config: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.engine.runs import REPO, TINY
    from tests.synthetic import write_moving_shapes

    data = write_moving_shapes(tmp_path / "data", 1, 2, (48, 64), 0)
    images = tmp_path / "data" / "JPEGImages"
    words = ["--config-file", str(REPO / "configs" / "quick" / "seqformer_tiny.yaml")]
    words += ["--weights", str(diverged), "--output", str(tmp_path / "out")]
    keys = [word for pair in TINY.items() for word in pair]
    sets = ["--train", str(data), "--train-images", str(images), "--num-gpus", "0"]
    commands = {
        "inspect": ["inspect", str(diverged)],
        "convert": ["convert", str(diverged), str(tmp_path / "o.safetensors")],
        "demo": ["demo", *words, "--input", str(images / "shapes_000"), *keys],
        "train": ["train", *words, *sets, *keys],
        "eval_only": ["train", *words, *sets, "--eval-only", "--val", str(data)],
    }
    commands["demo"] += ["MODEL.LABEL_SPACE", str(data), "MODEL.DEVICE", "cpu"]
    commands["eval_only"] += ["--val-images", str(images), *keys]
    assert main(commands[command]) == 2
    error = capsys.readouterr().err
    assert SAID in error
    assert "Traceback" not in error


def test_nan_in_what_no_network_reads_is_no_matter(config: Any, tmp_path: Path) -> None:
    model = build_network(config, SHAPES)
    unused = {"unused.detr.x": torch.tensor([float("nan")])}
    write_weights(model.state_dict() | unused, tmp_path / "w.safetensors")
    assert load_weights(model, tmp_path / "w.safetensors").complete


def test_the_report_says_what_was_taken(config: Any, tmp_path: Path) -> None:
    model = build_network(config, SHAPES)
    state = dict(model.state_dict())
    torch.save({"state_dict": under("module.", state), "ema": state}, tmp_path / "w.pth")
    assert (
        "average of the weights is there too, ema" in load_weights(model, tmp_path / "w.pth").text()
    )
