"""Weight files: both layouts, what is refused and how it is said."""

from __future__ import annotations

import argparse
import os
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.published_weights import published_state
from vmt.checkpoint.files import read_weights, write_weights
from vmt.checkpoint.key_maps.released import RELEASED, relative_position_index
from vmt.checkpoint.key_maps.rows import UNUSED
from vmt.checkpoint.load import load_weights
from vmt.cli.main import main
from vmt.inference.load import load_model
from vmt.utils.errors import CheckpointError, OutputError

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
#: a published layout in a size that tests can afford
SMALL = [
    "MODEL.SEQFORMER.HIDDEN_DIM", "64", "MODEL.SEQFORMER.NUM_HEADS", "4",
    "MODEL.SEQFORMER.ENCODER_LAYERS", "1", "MODEL.SEQFORMER.DECODER_LAYERS", "2",
    "MODEL.SEQFORMER.NUM_QUERIES", "5",
]  # fmt: skip


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return load_model(CONFIGS / "hq_ytvis/vmt_R50_released.yaml", None, SMALL, "cpu")


@pytest.fixture(scope="module")
def published(model: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "vmt.pth"
    args = argparse.Namespace(lr=2e-4, backbone="resnet50")  # as published training files hold it
    torch.save({"model": published_state(model), "epoch": 11, "args": args}, path)
    return path


def test_key_map_is_invertible(published: Path) -> None:
    file = read_weights(published)
    assert file.published
    assert file.metadata == {"epoch": "11"}
    ours = file.ours()
    back = RELEASED.to_released(ours)
    assert back.unknown == []
    assert set(back.state) == set(file.state)
    assert all(torch.equal(back.state[name], file.state[name]) for name in file.state)


def test_every_name_is_covered_by_exactly_one_row_each_way(model: nn.Module) -> None:
    released = RELEASED.to_released(model.state_dict())
    assert released.unknown == []
    ours = RELEASED.to_ours(released.state)
    assert ours.unknown == []
    assert set(ours.state) == set(model.state_dict())


def test_loading_fills_the_network(model: nn.Module, published: Path) -> None:
    report = load_weights(model, published)
    assert report.complete
    assert report.unexpected == []
    state = published_state(model)
    assert torch.equal(model.decoder.query_pos, state["detr.query_embed.weight"][:, :64])
    assert torch.equal(model.decoder.query_content, state["detr.query_embed.weight"][:, 64:])
    name = "detr.transformer.decoder.layers.1.norm2_box.weight"
    assert torch.equal(model.decoder.layers[1].box_norm2.weight, state[name])


def test_convert_there_and_back(published: Path, tmp_path: Path, capsys) -> None:
    ours, again = tmp_path / "vmt.safetensors", tmp_path / "again.pth"
    assert main(["convert", str(published), str(ours)]) == 0
    assert main(["convert", str(ours), str(again)]) == 0
    assert "published names" in capsys.readouterr().out
    before, after = read_weights(published).state, read_weights(again).state
    assert set(before) == set(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert any(name.startswith(UNUSED) for name in read_weights(ours).state)
    assert read_weights(ours).metadata["epoch"] == read_weights(again).metadata["epoch"] == "11"
    assert main(["convert", str(published), str(tmp_path / "x.bin")]) == 2


def test_inspect_says_what_a_file_is(published: Path, capsys) -> None:
    assert main(["inspect", str(published)]) == 0
    printed = capsys.readouterr().out
    for words in ("published", "dense_band", "resnet50", "42", "vmt_R50_released.yaml"):
        assert words in printed
    assert main(["inspect", str(CONFIGS / "quick/seqformer_tiny.yaml")]) == 0
    assert "NUM_QUERIES: 20" in capsys.readouterr().out


def test_seqformer_file_initialises_vmt_only_when_the_config_says_so(
    model: nn.Module, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = {k: v for k, v in model.state_dict().items() if not k.startswith("refiner.")}
    path = tmp_path / "seqformer.pth"
    write_weights(RELEASED.to_released(state).state, path)
    with pytest.raises(CheckpointError, match="missing") as caught:
        load_weights(model, path)
    assert "\n" not in str(caught.value)
    assert "refiner.branches" in caplog.text
    report = load_weights(model, path, ["refiner."])
    assert report.complete
    assert len(report.new) == sum(k.startswith("refiner.") for k in model.state_dict())
    assert "newly initialised" in report.text()


def test_vmt_file_in_seqformer_lists_what_is_left_over(published: Path) -> None:
    base = load_model(CONFIGS / "hq_ytvis/seqformer_R50.yaml", None, SMALL, "cpu")
    report = load_weights(base, published)
    assert report.complete
    assert "in the file but not in the network" in report.text()


def test_nothing_is_loaded_when_something_does_not_fit(published: Path) -> None:
    other = load_model(
        CONFIGS / "hq_ytvis/vmt_R50_released.yaml",
        None,
        [*SMALL[:-1], "6"],  # one query more
        "cpu",
    )
    before = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"query_pos has shape \[5, 64\]"):
        load_weights(other, published)
    assert all(torch.equal(before[k], v) for k, v in other.state_dict().items())


class Payload:
    def __reduce__(self):
        return os.system, ("touch /tmp/vmt_pickle_was_executed",)


def bad_file(kind: str, good: Path, folder: Path) -> Path:
    path = folder / f"{kind}.pth"
    if kind == "truncated":
        path.write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("<html>quota exceeded</html>")
    elif kind == "pickle_with_code":
        torch.save({"model": {"a": torch.zeros(1)}, "x": Payload()}, path)
    elif kind == "plain_pickle_with_code":
        path.write_bytes(pickle.dumps(Payload()))
    elif kind == "other_network":
        torch.save({"model": {"detr.nonsense.weight": torch.zeros(2)}}, path)
    elif kind == "no_tensors":
        torch.save({"model": {}}, path)
    elif kind == "a_list":
        torch.save([torch.zeros(2)], path)
    elif kind == "box_heads_differ":
        state = dict(read_weights(good).state)
        state["detr.transformer.decoder.bbox_embed.0.layers.0.bias"] = torch.ones(64)
        torch.save({"model": state}, path)
    elif kind == "safetensors":
        path = path.with_suffix(".safetensors")
        path.write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00not json at all.")
    return path


@pytest.mark.parametrize(
    ("kind", "cause"),
    [
        ("truncated", "not a complete torch weight file"),
        ("empty", r"is empty \(0 bytes\)"),
        ("text", "is a web page, not weights"),
        ("pickle_with_code", "could run code"),
        ("plain_pickle_with_code", "could run code|not a complete"),
        ("other_network", "no published SeqFormer / VMT weights"),
        ("no_tensors", "holds no tensors"),
        ("a_list", "holds a list"),
        ("box_heads_differ", "should repeat the box head"),
        ("safetensors", "not a complete safetensors file"),
        ("missing", "no such weight file"),
    ],
)
def test_bad_files_end_in_one_sentence(
    kind: str, cause: str, published: Path, tmp_path: Path, capsys
) -> None:
    path = bad_file(kind, published, tmp_path)
    assert main(["inspect", str(path)]) == 2
    said = capsys.readouterr().err.strip()
    assert said.count("\n") == 0
    assert path.name in said
    with pytest.raises(CheckpointError, match=cause):
        read_weights(path).ours()
    assert not Path("/tmp/vmt_pickle_was_executed").exists()


def test_full_disk_keeps_the_old_file(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "w.safetensors"
    write_weights({"a": torch.zeros(3)}, path)

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vmt.checkpoint.files.serialize", full)
    with pytest.raises(OutputError, match=r"w\.safetensors.*No space left"):
        write_weights({"a": torch.ones(3)}, path)
    assert torch.equal(read_weights(path).state["a"], torch.zeros(3))
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


def test_relative_position_index_is_swins() -> None:
    index = relative_position_index(3)
    assert index.shape == (9, 9)
    assert index[0, 0] == 12
    assert index[8, 0] == (2 + 2) * 5 + 4  # query (2, 2), key (0, 0)
    assert index[0, 8] == 0
