"""Class heads by name: rows go where the network has the class of that name, or it is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.engine.clips import CONFIGS
from vmt.checkpoint.class_rows import classes_of_file
from vmt.checkpoint.files import read_weights, write_weights
from vmt.checkpoint.load import load_weights
from vmt.cli.main import main
from vmt.config.node import load_config
from vmt.data.datasets.categories import label_space
from vmt.modeling.meta_arch.build import build_network
from vmt.structures.labels import LabelSpace
from vmt.utils.errors import CheckpointError

DIM = 3


class Net(nn.Module):
    """Two class heads and one other layer, with the names of ours."""

    def __init__(self, space: LabelSpace) -> None:
        super().__init__()
        self.label_space = space
        self.heads = nn.ModuleDict(
            {"cls": nn.ModuleList(nn.Linear(DIM, len(space)) for _ in range(2))}
        )
        self.other = nn.Linear(2, 2)

    def fresh(self) -> dict[str, torch.Tensor]:
        return {name: value.clone() for name, value in self.state_dict().items()}


def own_space(*names: str) -> LabelSpace:
    return LabelSpace("own", names, tuple(range(1, len(names) + 1)))


def numbered(count: int, layer: int) -> dict[str, torch.Tensor]:
    """Row r of layer l holds 100 l + r, its bias 1000 more: rows can be told apart."""
    rows = torch.arange(count, dtype=torch.float32) + 100 * layer
    return {"weight": rows[:, None].repeat(1, DIM), "bias": rows + 1000}


def file_of(path: Path, count: int, names: tuple[str, ...] | None = None) -> Path:
    state = {
        f"heads.cls.{layer}.{part}": value
        for layer in range(2)
        for part, value in numbered(count, layer).items()
    }
    state |= {"other.weight": torch.ones(2, 2), "other.bias": torch.ones(2)}
    rows = [{"id": 7 * k, "name": name} for k, name in enumerate(names or (), start=1)]
    write_weights(state, path, {"categories": json.dumps(rows)} if names else None)
    return path


def biases(net: Net, layer: int = 1) -> list[float]:
    return (net.heads["cls"][layer].bias - 1000 - 100 * layer).tolist()


def test_published_rows_start_the_forty_classes(tmp_path: Path) -> None:
    net = Net(label_space("ytvis_2019"))
    report = load_weights(net, file_of(tmp_path / "a.safetensors", 42))
    assert report.complete
    assert biases(net, 0) == list(range(1, 41))  # label = category id - 1
    assert biases(net, 1) == list(range(1, 41))
    assert net.heads["cls"][1].weight[39].tolist() == [140.0] * DIM
    assert "40 of 40 from the file; of the file's, not used: unused_0, unused_41" in report.text()


def test_published_rows_start_ovis(tmp_path: Path) -> None:
    """By hand: Person is class 1 of the file, Cat 14, Giant_panda 2; Bird and Sheep it lacks."""
    net = Net(label_space("ovis"))
    before = net.fresh()
    path = file_of(tmp_path / "a.safetensors", 42)
    report = load_weights(net, path, new_classes=True)
    found = dict(zip(net.label_space.names, biases(net), strict=True))
    assert (found["Person"], found["Cat"], found["Giant_panda"], found["Turtle"]) == (1, 14, 2, 19)
    bird = net.label_space.names.index("Bird")
    for layer in range(2):
        name = f"heads.cls.{layer}.weight"
        assert torch.equal(net.state_dict()[name][bird], before[name][bird])
    assert report.classes is not None
    assert report.classes.new == ["Bird", "Sheep", "Poultry", "Bicycle", "Motorcycle", "Vehicle"]
    assert "19 of 25 from the file; newly initialised: Bird, Sheep" in report.text()


def test_a_network_that_is_run_must_know_all_its_classes(tmp_path: Path) -> None:
    net = Net(label_space("ovis"))
    before = net.fresh()
    with pytest.raises(CheckpointError, match=r"does not know Bird, Sheep, Poultry and 3 others"):
        load_weights(net, file_of(tmp_path / "a.safetensors", 42))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_equal_counts_are_no_reason_to_go_by_position(tmp_path: Path) -> None:
    """2019 and 2021 both have 40 classes, in another order."""
    names = label_space("ytvis_2019").names
    path = file_of(tmp_path / "a.safetensors", 40, names)
    net = Net(label_space("ytvis_2021"))
    load_weights(net, path, new_classes=True)
    found = dict(zip(net.label_space.names, biases(net), strict=True))
    assert (found["airplane"], found["zebra"], found["person"]) == (27, 29, 0)
    same = Net(label_space("ytvis_2019"))
    assert load_weights(same, path).classes is None
    assert biases(same) == list(range(40))


def test_own_classes_find_their_rows_however_they_are_spelt(tmp_path: Path) -> None:
    net = Net(own_space("Tennis Racket", "my thing", "DOG"))
    load_weights(net, file_of(tmp_path / "a.safetensors", 42), new_classes=True)
    assert [biases(net)[k] for k in (0, 2)] == [40, 8]


def test_nothing_in_common_needs_a_word(tmp_path: Path) -> None:
    path = file_of(tmp_path / "a.safetensors", 2, ("square", "circle"))
    net = Net(own_space("dog", "cat"))
    with pytest.raises(CheckpointError, match=r"does not know dog, cat; it knows square, circle"):
        load_weights(net, path, new_classes=True)
    before = net.fresh()
    report = load_weights(net, path, ["heads.cls."], new_classes=True)
    assert sorted(report.new) == [n for n in sorted(before) if n.startswith("heads.cls.")]
    assert torch.equal(net.heads["cls"][0].weight, before["heads.cls.0.weight"])
    assert torch.equal(net.other.weight, torch.ones(2, 2))


def test_heads_that_nobody_names(tmp_path: Path) -> None:
    """COCO's 91 rows of the file that trainings start from: dropped, as published."""
    net = Net(label_space("ytvis_2019"))
    path = file_of(tmp_path / "a.safetensors", 91)
    with pytest.raises(CheckpointError, match=r"shape \[91, 3\] in the file and \[40, 3\]"):
        load_weights(net, path, new_classes=True)
    report = load_weights(net, path, ["heads.cls."], new_classes=True)
    assert len(report.new) == 4


def test_equal_counts_without_names(tmp_path: Path) -> None:
    """By position only where nothing says that the heads are new, and then aloud."""
    path = file_of(tmp_path / "a.safetensors", 3)
    net = Net(own_space("dog", "cat", "cow"))
    before = net.fresh()
    report = load_weights(net, path, ["heads.cls."], new_classes=True)
    assert torch.equal(net.heads["cls"][0].weight, before["heads.cls.0.weight"])
    assert len(report.new) == 4
    report = load_weights(net, path)
    assert biases(net) == [0, 1, 2]
    assert "class rows are taken by position: the file does not name its classes" in report.text()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_classes_stay_with_converted_weights(tmp_path: Path, suffix: str) -> None:
    cfg = load_config(CONFIGS / "quick/seqformer_tiny.yaml", ["MODEL.LABEL_SPACE", "ytvis_2021"])
    space = label_space("ytvis_2021")
    state = build_network(cfg, space).state_dict()
    rows = json.dumps([{"id": key, "name": name} for key, name in enumerate(space.names, start=1)])
    write_weights(state, tmp_path / "own.safetensors", {"categories": rows})
    again = tmp_path / f"again{suffix}"
    assert main(["convert", str(tmp_path / "own.safetensors"), str(again)]) == 0
    assert classes_of_file(read_weights(again), 40) == space.names


def test_a_row_for_no_object_is_the_last_of_both(tmp_path: Path) -> None:
    """Heads of a softmax have one row more than there are classes."""
    net = Net(own_space("fox", "owl"))
    net.heads = nn.ModuleDict({"cls": nn.ModuleList(nn.Linear(DIM, 3) for _ in range(2))})
    report = load_weights(net, file_of(tmp_path / "w.safetensors", 4, ("owl", "deer", "fox")))
    assert report.classes is not None
    assert dict(report.classes.rows) == {0: 2, 1: 0, 2: 3}
    assert net.heads["cls"][0].bias.tolist() == [1002, 1000, 1003]
