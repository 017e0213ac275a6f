"""What a training starts from: weights, ImageNet's backbone, or random weights that are meant."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.engine.clips import CONFIGS
from tests.recipes import train
from vmt.checkpoint.files import read_weights, write_weights
from vmt.checkpoint.zoo import ZOO
from vmt.config.node import load_config
from vmt.data.datasets.categories import label_space
from vmt.engine.optimizer import freeze
from vmt.engine.start_weights import check_random_start
from vmt.modeling.meta_arch.build import build_network
from vmt.utils.errors import ConfigError

RECIPE = CONFIGS / "hq_ytvis/seqformer_R50.yaml"
EXPECTING = {"MODEL.NEW_PARAMETERS": "['heads.cls.','refiner.']"}
LEARNS = {"MODEL.BACKBONE.NORM": "group"}


def refusal(tmp_path: Path, data: Path, capsys, config: Path = RECIPE, **keys: str) -> str:
    status = train(config, tmp_path / "out", data, **keys)
    assert status == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("vmt train: ")
    assert "Traceback" not in message
    return message


@pytest.mark.parametrize(
    "config",
    [
        *("hq_ytvis/vmt_R50", "ovis/seqformer_R101", "ovis/msts_SwinL", "ovis/idol_SwinL"),
        *("ytvis_2019/minvis_R50", "ovis/refinevis_R50", "coco/refinevis_SwinL"),
        *("ytvis_2021/refinevis_condinst_R50", "ytvis_2021/refinevis_mask2former_R50"),
    ],
)
def test_published_recipes_do_not_start_random(config: str) -> None:
    cfg = load_config(CONFIGS / f"{config}.yaml")
    with torch.device("meta"):
        model = build_network(cfg, label_space(cfg.MODEL.LABEL_SPACE))
    with pytest.raises(ConfigError, match="random, they learn nothing") as caught:
        check_random_start(cfg, model)
    method = config.split("/")[1].rpartition("_")[0]
    starts = {"idol": "idol_coco", "minvis": "mask2former", "refinevis": "maskdino"}
    starts |= {"refinevis_condinst": "idol_coco", "refinevis_mask2former": "mask2former"}
    start = starts.get(method, "seqformer_coco")
    file = ZOO[f"{start}_{config.rsplit('_', 1)[-1].lower()}"]
    assert f"vmt zoo --download {file.name}" in str(caught.value)
    assert f"--weights weights/{file.file_name}" in str(caught.value)
    backbone = f"[{model.backbone_path}.]"
    assert f"MODEL.NEW_PARAMETERS \"['{model.backbone_path}.']\"" in str(caught.value)
    for name, value in (("BACKBONE.PRETRAINED", "True"), ("NEW_PARAMETERS", backbone)):
        said = load_config(CONFIGS / f"{config}.yaml", [f"MODEL.{name}", value])
        check_random_start(said, model)


def test_a_frozen_backbone_is_refused_before_anything_is_trained(
    tmp_path: Path, tiny_datasets: Path, capsys
) -> None:
    """Frozen by its norms; a config that expects weights, by that alone."""
    message = refusal(tmp_path, tiny_datasets, capsys, **{"MODEL.NEW_PARAMETERS": "[]"})
    assert "but backbone.body.conv1.1. and others are frozen" in message
    assert "MODEL.NEW_PARAMETERS \"['backbone.']\"" in message
    message = refusal(tmp_path, tiny_datasets, capsys, **(EXPECTING | LEARNS))
    assert "this config trains from weights" in message


def test_norms_that_learn_may_start_random(tmp_path: Path, tiny_datasets: Path) -> None:
    keys = {"MODEL.NEW_PARAMETERS": "[]"} | LEARNS
    assert train(RECIPE, tmp_path / "out", tiny_datasets, **keys) == 0


def test_parts_that_are_frozen_by_key_need_weights(
    tmp_path: Path, tiny_datasets: Path, capsys
) -> None:
    message = refusal(tmp_path, tiny_datasets, capsys, **{"SOLVER.FREEZE": "['coarse.']"})
    assert "coarse.controller" in message
    message = refusal(tmp_path, tiny_datasets, capsys, **{"SOLVER.FREEZE": "['corse.']"})
    assert "no parameter of the network starts with 'corse.'" in message
    message = refusal(tmp_path, tiny_datasets, capsys, **{"SOLVER.FREEZE": "['']"})
    assert "leaves nothing to train" in message


def test_a_frozen_mask_head_stays_as_it_was(tmp_path: Path, tiny_datasets: Path, capsys) -> None:
    """Table 4: trained on HQ-YTVIS, then on OVIS with the mask head frozen, through the entry."""
    first, second = tmp_path / "first", tmp_path / "second"
    ablations = CONFIGS / "hq_ytvis/ablations", CONFIGS / "ovis/ablations"
    assert train(ablations[0] / "table4_vmt_hq.yaml", first, tiny_datasets) == 0
    start = first / "model_final.safetensors"
    keys = {"MODEL.NEW_PARAMETERS": "['heads.cls.']"}
    status = train(
        ablations[1] / "table4_vmt.yaml", second, tiny_datasets, "--weights", str(start), **keys
    )
    assert status == 0
    assert "class rows by name: 19 of 25" in (second / "log.txt").read_text()
    before = read_weights(start).state
    after = read_weights(second / "model_final.safetensors").state
    same = {
        name.split(".")[0] for name in after
        if name in before and torch.equal(before[name], after[name])
    }  # fmt: skip
    moved = {
        name.split(".")[0] for name in after
        if name in before and not torch.equal(before[name], after[name])
    }  # fmt: skip
    assert {"coarse", "refiner"} <= same
    assert not {"coarse", "refiner"} & moved
    assert {"encoder", "decoder", "heads", "neck", "backbone"} <= moved


def test_freeze_touches_what_it_names_alone() -> None:
    cfg = load_config(CONFIGS / "quick/seqformer_tiny.yaml")
    model = build_network(cfg, label_space(cfg.MODEL.LABEL_SPACE))
    freeze(model, ["coarse.controller.", "heads.box."])
    frozen = {name for name, value in model.named_parameters() if not value.requires_grad}
    assert frozen == {
        name for name, _ in model.named_parameters()
        if name.startswith("coarse.controller.") or name.startswith("heads.box.")
    }  # fmt: skip
    assert frozen


def test_new_parameters_are_for_trainings_alone(
    tmp_path: Path, tiny_datasets: Path, capsys
) -> None:
    """Evaluating SeqFormer's weights as VMT would run a random refiner."""
    out = tmp_path / "out"
    assert train(RECIPE, out, tiny_datasets) == 0
    weights = ["--weights", str(out / "model_final.safetensors")]
    vmt = CONFIGS / "hq_ytvis/vmt_R50_released.yaml"
    keys = {"MODEL.NEW_PARAMETERS": "['backbone.','refiner.']"}
    assert train(vmt, tmp_path / "trained", tiny_datasets, *weights, **keys) == 0
    capsys.readouterr()
    assert train(vmt, tmp_path / "run", tiny_datasets, "--eval-only", *weights, **keys) == 2
    assert "entries are missing, first refiner." in capsys.readouterr().err


def test_a_file_without_the_backbone_is_said(
    tmp_path: Path, tiny_datasets: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    assert train(RECIPE, out, tiny_datasets) == 0
    file = read_weights(out / "model_final.safetensors")
    path = tmp_path / "rest.safetensors"
    rest = {name: value for name, value in file.state.items() if not name.startswith("backbone")}
    write_weights(rest, path, {"categories": file.metadata["categories"]})
    caplog.clear()
    assert train(RECIPE, tmp_path / "again", tiny_datasets, "--weights", str(path)) == 0
    assert "has no backbone for this network; it starts random" in caplog.text
