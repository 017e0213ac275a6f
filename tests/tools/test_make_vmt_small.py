"""The recipe of the package's detector, with two steps instead of thousands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch

from tests.conftest import load_tool
from tests.tools.test_make_composites import photo_set
from tests.tools.test_make_mask_refiner import with_licences
from vmt.checkpoint.files import read_weights
from vmt.config.node import load_config
from vmt.data.datasets.coco import load_coco_json
from vmt.inference.load import load_model

SMALL = (
    "SOLVER.MAX_STEPS", "2", "SOLVER.MILESTONE_STEPS", "[]", "SOLVER.WARMUP_STEPS", "1",
    "SOLVER.CLIPS_PER_BATCH", "1", "SOLVER.FREEZE", "[backbone.body.conv_stem.]",
    "INPUT.MIN_SIZE_TRAIN", "[64]", "INPUT.CROP_PROB", "0.0",
    "MODEL.BACKBONE.NAME", "timm/test_efficientnet", "MODEL.MOTS.DIM", "32",
    "MODEL.MOTS.FC_DIM", "16", "MODEL.MOTS.EMBED_DIM", "16", "MODEL.MOTS.BOX_SAMPLES", "8",
)  # fmt: skip


def sources(folder: Path) -> list[str]:
    """Two photos with a disc each; in the second animals are not labelled."""
    images = [with_licences(photo_set(folder / name)) for name in ("photos", "more")]
    for number, image in enumerate(images):
        path = Path(image.partition("@")[0])
        content = json.loads(path.read_text())
        if number:
            content["images"][0]["annotated_categories"] = [3, 4, 6]
        content["categories"] += [
            {"id": key, "name": name, "supercategory": name}
            for key, name in enumerate(("person", "animal", "vehicle"), start=4)
        ]
        path.write_text(json.dumps(content))
    return images


@pytest.mark.slow
def test_from_photos_to_weights_in_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = load_tool("make_vmt_small")
    monkeypatch.setattr(tool, "HELD_OUT", 7)  # none of two
    torch.manual_seed(3)
    known = timm.create_model("test_efficientnet").state_dict()
    torch.save(known, tmp_path / "known.pth")
    out, weights = tmp_path / "out", tmp_path / "weights"
    arguments = ["--images", *sources(tmp_path), "--output", str(out)]
    arguments += ["--start", str(tmp_path / "known.pth"), "--ship", str(weights), *SMALL]
    assert tool.main([*arguments, "--data-only"]) == 0
    assert not (out / "training").exists()
    assert tool.main(arguments) == 0
    start = read_weights(out / "start.safetensors").ours()
    own = read_weights(out / "training/model_final.safetensors").ours()
    shipped = read_weights(weights / "vmt_small.safetensors").ours()
    assert all(value.dtype != torch.float32 for value in shipped.values())
    assert all(torch.equal(shipped[key].float(), own[key].half().float()) for key in own)
    frozen = "backbone.body.conv_stem.weight"
    assert torch.equal(own[frozen], start[frozen])
    assert any(not torch.equal(start[key], own[key]) for key in own)
    model = load_model(weights, device="cpu")
    assert model.label_space.names == ("person", "animal", "vehicle", "other thing")
    cfg = load_config(weights / "config.yaml")
    assert (cfg.INPUT.MIN_SIZE_TEST, cfg.TEST.QUASI_DENSE.INIT_SCORE) == (320, 0.5)
    assert cfg.DATASETS.TRAIN == []
    assert cfg.MODEL.DEVICE == "auto"  # not that of the training
    text = (weights / "ATTRIBUTION.md").read_text()
    assert "clips made of nine in ten of these 2 photographs" in text
    # Called again, it has nothing left to do but to ship.
    monkeypatch.setattr("vmt.apps.recipe.run_job", lambda *asked: pytest.fail(str(asked)))
    assert tool.main([*arguments, "TEST.QUASI_DENSE.INIT_SCORE", "0.25"]) == 0
    chosen = load_config(weights / "config.yaml").TEST.QUASI_DENSE
    assert chosen.INIT_SCORE == 0.25  # thresholds are chosen after the training


def test_the_photos_of_a_training(tmp_path: Path) -> None:
    """What is labelled in full goes apart, and every second photo is held out."""
    tool = load_tool("make_vmt_small")
    tool.HELD_OUT = 2
    images = sources(tmp_path)
    folder = tmp_path / "data"
    folder.mkdir()
    sets = tool.prepare([*images, *reversed(images)], folder)
    assert list(sets.values()) == [2, 3]
    counts = {}
    for reference in (*sets, f"{folder / 'held_out.json'}@{folder / 'JPEGImages'}"):
        path, _, photos = reference.partition("@")
        data = load_coco_json(Path(path), Path(photos), "photos")
        counts[Path(path).stem] = [(data[k].name, data[k].unlabelled) for k in range(len(data))]
    assert counts == {
        "full": [("0_a", ())],
        "partial": [("2_a", (2,))],
        "held_out": [("1_a", (2,)), ("3_a", ())],
    }
    before = (folder / "full.json").read_bytes()
    assert tool.prepare(["gone.json@gone"], folder) == sets
    assert (folder / "full.json").read_bytes() == before
