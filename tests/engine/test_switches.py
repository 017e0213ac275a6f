"""Every network x every switch of a training, from the console: it works, or one sentence."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.engine.clips import CONFIGS, SHAPES, quick_config
from tests.engine.runs import TINY
from tests.synthetic import write_moving_shapes
from vmt.checkpoint.files import read_weights
from vmt.cli.main import main
from vmt.engine.parallel import compile_layers
from vmt.engine.switches import check_switches
from vmt.modeling.meta_arch.build import build_network
from vmt.modeling.video_model import VideoModel
from vmt.utils.errors import ConfigError

SMALL = {
    "INPUT.AUGMENTATION": "none",
    "INPUT.DEGRADE": "[halo]",
    "SOLVER.CLIPS_PER_BATCH": "1",
    "SOLVER.MAX_STEPS": "1",
    "TEST.WINDOW": "0",
    "TEST.METRICS": "[tube_mask]",
}
POOL = {
    "MODEL.BACKBONE.WIDTHS": "[8, 16, 16, 16]",
    "MODEL.MASK_REFINER.DIM": "16",
    "MODEL.MASK_REFINER.CROP_SIZES": "[32, 96]",
    "MODEL.REFINER.EMBED_DIM": "16",
}
DETECTOR = {
    "MODEL.META_ARCHITECTURE": "QueryMaskRefiner",
    "MODEL.NEW_PARAMETERS": "[backbone., neck., encoder., decoder., heads., coarse., refiner.]",
}
ADVERSARY = {"MODEL.ADVERSARY": "foreground_background"}
#: Name -> config and what makes it another network.
NETWORKS = {
    "seqformer": ("quick/seqformer_tiny", {}),
    "dense_band": ("quick/vmt_tiny_released", {}),
    "quadtree": ("quick/vmt_tiny", {}),
    "msts": ("quick/msts_tiny", {}),
    "mask_pool": ("refine/mask_refiner_frames", POOL),
    "detector": ("quick/vmt_tiny", DETECTOR),
    "idol": ("quick/idol_tiny", {}),
    "minvis": ("quick/minvis_tiny", {}),
    "maskdino": ("quick/maskdino_tiny", {}),
    "refinevis": ("quick/refinevis_tiny", {}),
    "refinevis_condinst": ("quick/refinevis_condinst_tiny", {}),
    "refinevis_mask2former": ("quick/refinevis_mask2former_tiny", {}),
    "qdtrack": ("quick/qdtrack_tiny", {}),
    "qdtrack_vmt": ("quick/qdtrack_vmt_tiny", {}),
}
SWITCHES = {
    "recompute": {"ENGINE.ACTIVATION_CHECKPOINTING": "true"},
    "adversary": ADVERSARY,
    "overlay": {"ENGINE.OVERLAY_PERIOD": "1"},
    "ema": {"ENGINE.EMA_DECAY": "0.9"},
    "bf16": {"ENGINE.PRECISION": "bf16", "TEST.PRECISION": "bf16"},
    "tf32": {"ENGINE.PRECISION": "tf32", "TEST.PRECISION": "tf32"},
    "validate": {},
    "no_degrade": {"INPUT.DEGRADE": "[]"},
    "compile": {"ENGINE.COMPILE": "true"},
    "fsdp": {"ENGINE.PARALLEL": "fsdp"},
    "accumulate": {"SOLVER.ACCUMULATE": "2", "SOLVER.CLIPS_PER_BATCH": "2"},
}
#: Switches that ``test_what_works_works_together`` leaves to tests of their own.
APART = ("tf32", "no_degrade", "compile", "fsdp")
#: What does not work, and what is said; everything else works.
REFUSED = {
    ("mask_pool", "adversary"): "MODEL.ADVERSARY foreground_background judges the masks",
    ("mask_pool", "overlay"): "ENGINE.OVERLAY_PERIOD draws the objects that a network finds",
    ("mask_pool", "validate"): "MaskRefiner finds no objects in videos",
    ("mask_pool", "no_degrade"): "INPUT.DEGRADE is empty, but MODEL.META_ARCHITECTURE MaskRefiner",
    ("mask_pool", "compile"): "ENGINE.COMPILE compiles a network's stages",
    ("mask_pool", "fsdp"): "ENGINE.PARALLEL fsdp spreads a network's stages",
    ("detector", "fsdp"): "ENGINE.PARALLEL fsdp spreads a network's stages",
    ("detector", "recompute"): "ENGINE.ACTIVATION_CHECKPOINTING has nothing to recompute",
    ("detector", "adversary"): "MODEL.ADVERSARY foreground_background judges the masks",
    ("idol", "adversary"): "MODEL.ADVERSARY foreground_background judges the masks",
    ("minvis", "adversary"): "MODEL.ADVERSARY foreground_background judges the masks",
    ("maskdino", "adversary"): "MODEL.ADVERSARY foreground_background judges the masks",
    ("refinevis", "adversary"): "MODEL.ADVERSARY foreground_background judges the masks",
    ("refinevis_condinst", "adversary"): "MODEL.ADVERSARY foreground_background judges the masks",
    (
        "refinevis_mask2former",
        "adversary",
    ): "MODEL.ADVERSARY foreground_background judges the masks",
    ("qdtrack", "adversary"): "MODEL.ADVERSARY foreground_background judges the masks",
    ("qdtrack_vmt", "adversary"): "MODEL.ADVERSARY foreground_background judges the masks",
    ("detector", "no_degrade"): "INPUT.DEGRADE is empty, but MODEL.META_ARCHITECTURE Query",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_moving_shapes(folder, 1, 2, (48, 64), 0)
    return folder


def train(data: Path, output: Path, network: str, switches: list[str]) -> int:
    config, own = NETWORKS[network]
    keys = TINY | SMALL | own
    for switch in switches:
        keys |= SWITCHES[switch]
    words = ["train", "--config-file", str(CONFIGS / f"{config}.yaml"), "--num-gpus", "0"]
    words += ["--train", str(data / "annotations.json"), "--output", str(output)]
    words += ["--train-images", str(data / "JPEGImages")]
    if "validate" in switches:
        words += ["--val", str(data / "annotations.json"), "--val-images", f"{data}/JPEGImages"]
    return main([*words, *(word for pair in keys.items() for word in pair)])


@pytest.mark.parametrize("network", NETWORKS)
def test_what_works_works_together(network: str, data: Path, tmp_path: Path) -> None:
    """In bf16, with everything else that is not refused."""
    switches = [s for s in SWITCHES if (network, s) not in REFUSED and s not in APART]
    assert {"ema", "accumulate"} <= set(switches)
    assert train(data, tmp_path, network, switches) == 0
    weights = read_weights(tmp_path / "model_final.safetensors").state
    assert all(value.isfinite().all() for value in weights.values())
    assert (tmp_path / "overlays" / "step_00000001.png").is_file() == ("overlay" in switches)
    results = tmp_path / "inference" / "step_00000001" / "annotations" / "results.json"
    assert results.is_file() == ("validate" in switches)


@pytest.mark.parametrize(("network", "switch"), [pair for pair in REFUSED if "fsdp" not in pair])
def test_what_does_not_is_one_sentence(
    network: str, switch: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(data, tmp_path, network, [switch]) == 2
    (said,) = [
        line for line in capsys.readouterr().err.splitlines() if line.startswith("vmt train: ")
    ]
    assert REFUSED[network, switch] in said


def built(network: str, *overrides: str) -> tuple[Any, VideoModel]:
    config, own = NETWORKS[network]
    words = [word for pair in (SMALL | own).items() for word in pair]
    cfg = quick_config(f"../{config}", *words, *overrides)
    return cfg, build_network(cfg, SHAPES)


@pytest.mark.parametrize("network", NETWORKS)
def test_compilation_reaches_every_stage(network: str) -> None:
    _, model = built(network)
    if said := REFUSED.get((network, "compile")):
        with pytest.raises(ConfigError, match=said):
            compile_layers(model)
        return
    compile_layers(model)
    assert len(model.stages()) >= 2
    assert all(stage._compiled_call_impl is not None for stage in model.stages())


@pytest.mark.parametrize("network", NETWORKS)
def test_sharding_is_for_networks_with_stages_that_learn(network: str) -> None:
    cfg, model = built(network, "ENGINE.PARALLEL", "fsdp")
    check_switches(cfg, model, 1)
    if said := REFUSED.get((network, "fsdp")):
        with pytest.raises(ConfigError, match=said):
            check_switches(cfg, model, 2)
    else:
        check_switches(cfg, model, 2)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [("PRECISION", "fp16", "does not scale losses"), ("OVERLAY_PERIOD", "1", "OVERLAY_PERIOD")],
)
def test_sharding_and_other_switches(key: str, value: str, said: str) -> None:
    cfg = quick_config("seqformer_tiny", "ENGINE.PARALLEL", "fsdp", f"ENGINE.{key}", value)
    with pytest.raises(ConfigError, match=said):
        check_switches(cfg, build_network(cfg, SHAPES), 2)


def test_a_mask_refiner_has_no_part_in_a_demo(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["demo", "--config-file", str(CONFIGS / "refine" / "mask_refiner_frames.yaml")]
    words += ["--input", str(data / "JPEGImages" / "shapes_000"), "--output", str(tmp_path)]
    assert main([*words, "--device", "cpu"]) == 2
    assert "vmt refine runs it" in capsys.readouterr().err


def test_refine_does_not_take_a_detector(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.yaml").write_text("MODEL: {BACKBONE: {NAME: timm/resnet10t}}\n")
    torch.save({"model": {"x": torch.ones(1)}}, tmp_path / "seqformer.pth")
    words = ["refine", "--weights", str(tmp_path / "seqformer.pth"), "--output", f"{tmp_path}/o"]
    words += ["--masks", str(data / "annotations.json"), "--images", str(data / "JPEGImages")]
    assert main(words) == 2
    assert "but a mask refiner is needed" in capsys.readouterr().err


def test_an_overlay_leaves_the_network_in_training_mode(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The step behind an overlay is that of a training without: dropout stays on."""
    keys = {"SOLVER.MAX_STEPS": "2", "MODEL.SEQFORMER.DROPOUT": "0.5"}
    SWITCHES["two"] = keys
    try:
        with caplog.at_level(logging.INFO):
            assert train(data, tmp_path / "plain", "seqformer", ["two"]) == 0
            assert train(data, tmp_path / "drawn", "seqformer", ["two", "overlay"]) == 0
    finally:
        del SWITCHES["two"]
    plain, drawn = (
        read_weights(tmp_path / name / "model_final.safetensors").state
        for name in ("plain", "drawn")
    )
    assert all(torch.equal(plain[name], drawn[name]) for name in plain)
