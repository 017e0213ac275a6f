"""Files that hold a frame model alone, or more layers than a network has."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.recipes import REPO
from vmt.checkpoint.class_rows import new_heads_key
from vmt.checkpoint.describe import describe, recognise
from vmt.checkpoint.files import read_weights, write_weights
from vmt.checkpoint.load import load_weights
from vmt.checkpoint.parts import extra_layers
from vmt.config.node import load_config
from vmt.data.datasets.categories import label_space
from vmt.modeling.meta_arch.build import build_network
from vmt.modeling.video_model import VideoModel
from vmt.structures.labels import LabelSpace
from vmt.utils.errors import CheckpointError

QUICK = REPO / "configs/quick"
NEW = ("refinement.", "frame_model.heads.cls.", "frame_model.denoising.")


def network(name: str, *words: str) -> VideoModel:
    cfg = load_config(QUICK / f"{name}_tiny.yaml", list(words))
    return build_network(cfg, label_space(cfg.MODEL.LABEL_SPACE))


class Around(nn.Module):
    """A frame model and something that refines it."""

    def __init__(self, frame_model: VideoModel) -> None:
        super().__init__()
        self.label_space: LabelSpace = frame_model.label_space
        self.frame_model = frame_model
        self.refinement = nn.Linear(3, 3)


def written(model: nn.Module, path: Path, names: tuple[str, ...] = ()) -> Path:
    rows = [{"id": k, "name": name} for k, name in enumerate(names, start=1)]
    write_weights(model.state_dict(), path, {"categories": json.dumps(rows)} if names else None)
    return path


@pytest.mark.parametrize("name", ["maskdino", "idol", "minvis"])
def test_a_frame_model_goes_to_its_place(name: str, tmp_path: Path) -> None:
    """With everything it has; IDOL's has an association head."""
    torch.manual_seed(0)
    source, target = network(name), Around(network(name))
    path = written(source, tmp_path / "w.safetensors", source.label_space.names)
    report = load_weights(target, path, NEW, new_classes=True)
    assert {name.split(".")[0] for name in report.new} == {"refinement"}
    assert "the file holds a frame model alone" in report.text()
    for key, value in source.state_dict().items():
        assert torch.equal(target.state_dict()[f"frame_model.{key}"], value), key
    association = [key for key in report.loaded if "association_head" in key]
    assert bool(association) == (name == "idol")


def test_what_refines_it_must_be_said_to_be_new(tmp_path: Path) -> None:
    path = written(network("maskdino"), tmp_path / "w.safetensors")
    with pytest.raises(
        CheckpointError, match=r"it holds MaskDINO alone, 2 entries are missing, first ref"
    ):
        load_weights(Around(network("maskdino")), path, new_classes=True)


def test_a_file_of_the_whole_network_goes_as_it_is(tmp_path: Path) -> None:
    source = Around(network("maskdino"))
    path = written(source, tmp_path / "w.safetensors")
    report = load_weights(Around(network("maskdino")), path)
    assert (report.new, report.unexpected) == ([], [])
    assert "frame model alone" not in report.text()


def test_rows_of_its_class_head_go_by_name(tmp_path: Path) -> None:
    """From YouTube-VIS 2019 to OVIS: heads and embeddings of labels."""
    torch.manual_seed(0)
    source = network("maskdino")
    target = Around(network("maskdino", "MODEL.LABEL_SPACE", "ovis"))
    path = written(source, tmp_path / "w.safetensors", source.label_space.names)
    before = {k: v.clone() for k, v in target.state_dict().items()}
    report = load_weights(target, path, NEW, new_classes=True)
    assert report.classes is not None
    assert 0 < len(report.classes.rows) < 25
    for key in ("heads.cls.weight", "heads.cls.bias", "denoising.labels.weight"):
        theirs, ours = source.state_dict()[key], target.state_dict()[f"frame_model.{key}"]
        for row in range(25):
            expected = before[f"frame_model.{key}"][row]
            if row in report.classes.rows:
                expected = theirs[report.classes.rows[row]]
            assert torch.equal(ours[row], expected)


def test_heads_of_unknown_classes_start_new_where_the_config_says_so(tmp_path: Path) -> None:
    path = written(network("maskdino"), tmp_path / "w.safetensors")  # 40 rows, of nobody knows what
    target = Around(network("maskdino", "MODEL.LABEL_SPACE", "ovis"))
    report = load_weights(target, path, NEW, new_classes=True)
    heads = {n for n in report.new if not n.startswith("refinement.")}
    assert heads == {
        "frame_model.heads.cls.weight", "frame_model.heads.cls.bias",
        "frame_model.denoising.labels.weight",
    }  # fmt: skip
    with pytest.raises(CheckpointError) as caught:
        load_weights(target, path, NEW[:1], new_classes=True)
    assert "has shape [40, 64] in the file and [25, 64] in the network" in str(caught.value)
    fix = "MODEL.NEW_PARAMETERS \"['frame_model.denoising.', 'frame_model.heads.cls.']\""
    assert f"set MODEL.LABEL_SPACE to its classes, or train new heads: {fix}" in str(caught.value)


@pytest.mark.parametrize(
    ("holds", "asks", "sentence"),
    [
        ("idol", "maskdino", "it holds IDOL, the network is RefineVIS on MaskDINO"),
        ("maskdino", "idol", "it holds MaskDINO, the network is RefineVIS on IDOL"),
        ("seqformer", "minvis", "it holds SeqFormer, the network is RefineVIS on Mask2Former"),
    ],
)
def test_another_frame_model_is_named(holds: str, asks: str, sentence: str, tmp_path: Path) -> None:
    path = written(network(holds), tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError) as caught:
        load_weights(Around(network(asks)), path, NEW, new_classes=True)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_one_network_in_place_of_another_is_named(tmp_path: Path) -> None:
    path = written(network("maskdino"), tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match="it holds MaskDINO, the network is IDOL; take the"):
        load_weights(network("idol"), path)


def test_a_training_starts_from_the_first_layers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nine decoder layers are published, RefineVIS has six with R50: heads are shared."""
    caplog.set_level(logging.INFO)
    source = network("maskdino", "MODEL.MASKDINO.DECODER_LAYERS", "3")
    path = written(source, tmp_path / "w.safetensors")
    target = Around(network("maskdino"))
    report = load_weights(target, path, NEW, new_classes=True)
    sentence = "the first 2 of the 3 layers of its frame_model.decoder are taken"
    assert sentence in report.text()
    for name, value in source.decoder.layers[:2].state_dict().items():
        assert torch.equal(target.frame_model.decoder.layers.state_dict()[name], value)
    with pytest.raises(CheckpointError, match="its decoder has 3 layers, the network's 2; set the"):
        load_weights(network("maskdino"), path)


def test_layers_are_counted_in_encoders_and_decoders_alone() -> None:
    theirs = ["a.decoder.layers.0.x", "a.decoder.layers.4.x", "encoder.layers.1.y", "b.layers.9.z"]
    ours = ["a.decoder.layers.0.x", "encoder.layers.1.y", "b.layers.0.z", "c.decoder.layers.0.x"]
    assert extra_layers(theirs, ours) == {"a.decoder": (5, 1)}
    assert extra_layers(ours, theirs) == {}


def test_files_of_the_whole_network_are_described(tmp_path: Path) -> None:
    path = written(Around(network("minvis")), tmp_path / "w.safetensors")
    description = describe(read_weights(path))
    assert description.method == "RefineVIS on Mask2Former or MinVIS"
    assert (description.num_classes, description.config) == (40, "")
    assert recognise({"frame_model.x": torch.zeros(1)}).method.startswith("no video")


@pytest.mark.parametrize(
    ("name", "space", "config"),
    [
        ("maskdino", "ovis", "ovis/refinevis_R50"),
        ("maskdino", "coco", "coco/refinevis_R50"),
        ("maskdino", "ytvis_2021", "ytvis_2019/refinevis_R50"),  # 40 classes in both
        ("idol", "ytvis_2021", "ytvis_2021/refinevis_condinst_R50"),
        ("minvis", "ytvis_2021", "ytvis_2021/refinevis_mask2former_R50"),
    ],
)
def test_the_config_that_is_named_is_there(name: str, space: str, config: str) -> None:
    words = ["MODEL.BACKBONE.NAME", "resnet50", "MODEL.LABEL_SPACE", space]
    with torch.device("meta"):
        state = Around(network(name, *words)).state_dict()
    assert recognise(state).config == f"configs/{config}.yaml"
    assert (REPO / f"configs/{config}.yaml").is_file()


@pytest.mark.parametrize(("layers", "name"), [("9", "maskdino"), ("6", "refinevis_images")])
def test_six_decoder_layers_are_those_of_refinevis(layers: str, name: str, tmp_path: Path) -> None:
    words = ["MODEL.BACKBONE.NAME", "resnet50", "MODEL.MASKDINO.DECODER_LAYERS", layers]
    path = written(network("maskdino", *words), tmp_path / "w.safetensors")
    assert describe(read_weights(path)).config == f"configs/coco/{name}_R50.yaml"


def test_keys_of_new_heads_are_prefixes() -> None:
    names = ["heads.cls.0.weight", "heads.cls.1.bias", "frame_model.denoising.labels.weight"]
    expected = "MODEL.NEW_PARAMETERS \"['heads.cls.', 'frame_model.denoising.']\""
    assert new_heads_key(names) == expected
