"""Trainings on real users' data: odd annotations, classes numbered otherwise, bad weights."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests.engine.runs import REPO, TINY
from tests.real_inputs.conftest import Vmt
from tests.real_inputs.disk import read_json
from vmt.checkpoint.files import read_weights

TRAIN = ("train", "--config-file", REPO / "configs/quick/seqformer_tiny.yaml", "--num-gpus", 0)
DATA = ("--train", "a.json", "--train-images", "frames")
QUICKLY = [word for pair in TINY.items() for word in pair] + ["SOLVER.MAX_STEPS", "1"]


def train(vmt: Vmt, output: str) -> Path:
    """The weights after one step."""
    assert vmt(*TRAIN, *DATA, "--output", output, *QUICKLY).status == 0
    return Path(output) / "model_final.safetensors"


def test_50_train_one_class_null_boxes(vmt: Vmt) -> None:
    weights = train(vmt, "t")
    assert all(value.isfinite().all() for value in load_file(weights).values())
    assert read_json("t/label_space.json") == {"categories": [{"id": 0, "name": "ball"}]}
    checked = vmt("check-annotations", "a.json", "--images", "frames")
    assert checked.status == 1
    for row in (0, 1, 2):
        assert f"annotations[{row}].iscrowd = None: neither 0 nor 1." in checked.out
    assert "annotations[1].segmentations = '6 entries': the object is never visible." in checked.out
    assert "ground truth, 4 defects" in checked.out
    assert "7 of 7" in checked.out


def test_54_train_val_class_mismatch(vmt: Vmt) -> None:
    """The network calls everything a ball, class 1 of a.json; each file has its id of it."""
    weights = train(vmt, "t")
    state = load_file(weights)
    for key in state:
        if key.startswith("heads.cls") and key.endswith("bias"):
            state[key] = torch.tensor([4.0, -9.0])
    save_file(state, "ball.safetensors", metadata=dict(read_weights(weights).metadata))
    for name, ball in (("order", 2), ("more", 1), ("case", 1)):
        (said,) = [
            row["name"] for row in read_json(f"v_{name}.json")["categories"] if row["id"] == ball
        ]
        assert said.lower() == "ball"
        done = vmt(
            *(*TRAIN, *DATA, "--val", f"v_{name}.json", "--val-images", "frames", "--eval-only"),
            *("--weights", "ball.safetensors", "--output", name, *QUICKLY),
        )
        assert done.status == 0
        (path,) = Path(name).rglob("results.json")
        entries = read_json(path)
        assert {entry["category_id"] for entry in entries if entry["score"] > 0.5} == {ball}
        assert ("v_more: classes that the network cannot find: cup" in done.log) is (name == "more")


def test_61_checkpoint_class_head_nan(vmt: Vmt) -> None:
    state = load_file(train(vmt, "t"))
    wide = {
        key: value.repeat(40, *[1] * (value.dim() - 1)) if key.startswith("heads.cls") else value
        for key, value in state.items()
    }
    torch.save({"model": wide}, "head40.pth")
    first = min(key for key in state if key.startswith("heads"))
    torch.save({"model": {**state, first: state[first] * float("nan")}}, "nan.pth")
    torch.save({"model": state}, "whole.pth")
    content = Path("whole.pth").read_bytes()
    Path("truncated.pth").write_bytes(content[: len(content) * 2 // 3])
    Path("html.pth").write_text("<!DOCTYPE html><html><head><title>Quota</title></head></html>")

    demo = ("--input", "frames/v1", "--output", "d", "--no-overlay", "--device", "cpu")
    why = {
        "head40": "heads.cls.0.weight has shape [40, 32] in the file and [1, 32] in the network",
        "nan": f"NaN or infinity in {first}; the training that wrote it diverged",
        "truncated": f"begins as one and breaks off after {len(content) * 2 // 3:,} bytes",
        "html": "is a web page, not weights: open the link in a browser",
    }
    for name, said in why.items():
        weights = ("--weights", f"{name}.pth")
        assert said in vmt("demo", "--config-file", "t/config.yaml", *weights, *demo).sentence
        if name == "head40":
            assert vmt("inspect", "head40.pth").status == 0
        else:
            assert said in vmt("inspect", f"{name}.pth").sentence
    refused = vmt(*TRAIN, "--weights", "head40.pth", *DATA, "--output", "ft", *QUICKLY).sentence
    assert why["head40"] in refused
    assert "train new heads: MODEL.NEW_PARAMETERS" in refused
    assert not list(Path("d").rglob("*"))
