"""Every key of ours has one home in a detectron2 config, and recipes come through unchanged."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import REPO
from vmt.config.node import load_config
from vmt.utils.errors import ConfigError

RECIPES = sorted(
    str(path.relative_to(REPO / "configs"))
    for path in (REPO / "configs").rglob("*.yaml")
    if "_base_" not in path.parts
)
#: Not the same in both: the device is looked up.
LOOKED_UP = {"MODEL.DEVICE"}


def leaves(node: Any, prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, dict):
            found |= leaves(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


def get_cfg() -> Any:
    from detectron2.config import get_cfg

    return get_cfg()


def test_every_key_has_one_home() -> None:
    from vmt.plugins.detectron2.config import ABSENT, SHARED

    ours, node = leaves(load_config()), leaves(get_cfg().VMT)
    shared = [entry.ours for entry in SHARED]
    homes = [*shared, *ABSENT, *node]
    assert sorted(homes) == sorted(ours)
    theirs = leaves(get_cfg())
    for entry in SHARED:
        assert entry.theirs in theirs or entry.theirs == "SOLVER.CLIP_GRADIENTS", entry.theirs


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_come_through(name: str, plugin: Any) -> None:
    from vmt.plugins.detectron2.config import ABSENT

    cfg = get_cfg()
    plugin.merge_recipe(cfg, REPO / "configs" / name)
    expected = leaves(load_config(REPO / "configs" / name))
    given = leaves(plugin.vmt_config(cfg))
    for key in expected.keys() - ABSENT.keys() - LOOKED_UP:
        value = expected[key]
        assert given[key] == (list(value) if isinstance(value, tuple) else value), key


def test_what_was_merged_can_be_dumped_and_read(plugin: Any, tmp_path: Path) -> None:
    cfg = get_cfg()
    plugin.merge_recipe(cfg, REPO / "configs/ytvis_2019/vmt_R50.yaml")
    (tmp_path / "config.yaml").write_text(cfg.dump())
    again = get_cfg()
    again.merge_from_file(str(tmp_path / "config.yaml"))
    assert plugin.vmt_config(again) == plugin.vmt_config(cfg)


def test_a_yaml_of_detectron2(plugin: Any, tmp_path: Path) -> None:
    content = {
        "MODEL": {"META_ARCHITECTURE": "VideoMaskTransfiner", "BACKBONE": {"FREEZE_AT": 0}},
        "SOLVER": {"IMS_PER_BATCH": 4, "BASE_LR": 0.001, "MAX_ITER": 7, "STEPS": [3]},
        "INPUT": {"MIN_SIZE_TRAIN": [64, 80], "MIN_SIZE_TEST": 64},
        "VMT": {
            "MODEL": {"BACKBONE": {"NAME": "resnet101"}, "SEQFORMER": {"NUM_QUERIES": 9}},
            "TEST": {"WINDOW": 5},
        },
    }
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content))
    cfg = get_cfg()
    cfg.merge_from_file(str(tmp_path / "mine.yaml"))
    cfg.merge_from_list(["VMT.MODEL.SEQFORMER.HIDDEN_DIM", "64"])
    ours = plugin.vmt_config(cfg)
    assert ours.MODEL.BACKBONE.NAME == "resnet101", "theirs names one of their functions"
    assert cfg.MODEL.BACKBONE.NAME == "build_resnet_backbone"
    assert ours.MODEL.BACKBONE.FREEZE_STAGES == 0
    assert (ours.MODEL.SEQFORMER.NUM_QUERIES, ours.MODEL.SEQFORMER.HIDDEN_DIM) == (9, 64)
    assert (ours.SOLVER.CLIPS_PER_BATCH, ours.SOLVER.BASE_LR) == (4, 0.001)
    assert (ours.SOLVER.MAX_STEPS, ours.SOLVER.MILESTONE_STEPS) == (7, [3])
    assert ours.INPUT.MIN_SIZE_TRAIN == [64, 80]
    assert ours.TEST.WINDOW == 5
    cfg.VMT.TEST.WINDOW = "five"
    with pytest.raises(ConfigError, match=r"VMT: TEST\.WINDOW must be int"):
        plugin.vmt_config(cfg)


def test_adding_the_node_twice_changes_nothing(plugin: Any) -> None:
    cfg = get_cfg()
    cfg.VMT.TEST.WINDOW = 3
    cfg.freeze()
    plugin.add_vmt_config(cfg)
    assert cfg.VMT.TEST.WINDOW == 3
    del cfg["VMT"]
    plugin.add_vmt_config(cfg)
    assert cfg.VMT.TEST.WINDOW == 0
    assert cfg.is_frozen()


@pytest.mark.parametrize(
    ("keys", "limit"),
    [
        ((), 0.0),
        (("ENABLED", True, "CLIP_TYPE", "full_model", "CLIP_VALUE", 0.25), 0.25),
        (("ENABLED", False, "CLIP_TYPE", "full_model", "CLIP_VALUE", 0.25), 0.0),
        (("ENABLED", True, "CLIP_TYPE", "norm", "CLIP_VALUE", 0.25), 0.0),  # by parameter
    ],
)
def test_clipping(keys: tuple[Any, ...], limit: float, plugin: Any) -> None:
    cfg = get_cfg()
    for name, value in zip(keys[::2], keys[1::2], strict=True):
        cfg.SOLVER.CLIP_GRADIENTS[name] = value
    clipped = plugin.vmt_config(cfg).SOLVER.CLIP_GRADIENTS
    assert clipped == limit


def test_presets(plugin: Any, tmp_path: Path) -> None:
    cfg = get_cfg()
    cfg.VMT.MODEL.REFINER.PRESET = "ours"
    expected = load_config(None, ["MODEL.REFINER.PRESET", "ours"]).MODEL.REFINER
    refiner = plugin.vmt_config(cfg).MODEL.REFINER
    assert refiner == expected
    cfg.VMT.MODEL.REFINER.REACH_PX = 0.0  # the paper's, on top of the preset
    assert plugin.vmt_config(cfg).MODEL.REFINER.REACH_PX == 0
    (tmp_path / "recipe.yaml").write_text("MODEL: {REFINER: {PRESET: ours}}")
    cfg = get_cfg()
    plugin.merge_recipe(cfg, tmp_path / "recipe.yaml")
    refiner = plugin.vmt_config(cfg).MODEL.REFINER
    assert refiner == expected
    cfg.merge_from_list(["VMT.MODEL.REFINER.PRESET", "paper"])  # the later word wins
    assert plugin.vmt_config(cfg).MODEL.REFINER == load_config().MODEL.REFINER


def test_switches_of_theirs(plugin: Any) -> None:
    cfg = get_cfg()
    assert plugin.vmt_config(cfg).INPUT.FLIP_PROB == 0.5
    assert plugin.vmt_config(cfg).ENGINE.SEED == 42, "-1: our default"
    cfg.merge_from_list(["INPUT.RANDOM_FLIP", "none", "SOLVER.AMP.ENABLED", "True", "SEED", "7"])
    ours = plugin.vmt_config(cfg)
    assert (ours.INPUT.FLIP_PROB, ours.ENGINE.PRECISION, ours.ENGINE.SEED) == (0.0, "fp16", 7)
    cfg.VMT.ENGINE.PRECISION = "bf16"
    assert plugin.vmt_config(cfg).ENGINE.PRECISION == "bf16"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("INPUT.FORMAT", "L", "choose RGB or BGR"),
        ("MODEL.PIXEL_MEAN", "[1.0, 2.0, 3.0]", "leave out both"),
        ("MODEL.PIXEL_STD", "[2.0, 2.0, 2.0]", "leave out both"),
        ("INPUT.RANDOM_FLIP", "vertical", "choose horizontal"),
        ("INPUT.MIN_SIZE_TRAIN_SAMPLING", "range", "set choice and list the sizes"),
        ("INPUT.CROP.ENABLED", "True", r"VMT\.INPUT\.CROP_PROB; set False"),
    ],
)
def test_refusals(key: str, value: str, message: str, plugin: Any) -> None:
    cfg = get_cfg()
    cfg.merge_from_list([key, value])
    with pytest.raises(ConfigError, match=f"{key.split('.')[-2]}.*{message}"):
        plugin.vmt_config(cfg)


def test_refused_norm(plugin: Any) -> None:
    cfg = get_cfg()
    cfg.SOLVER.CLIP_GRADIENTS.update({"ENABLED": True, "CLIP_TYPE": "full_model", "NORM_TYPE": 1.0})
    with pytest.raises(ConfigError, match=r"NORM_TYPE 1\.0 .* set 2\.0"):
        plugin.vmt_config(cfg)


def test_imagenets_statistics_are_no_mistake(plugin: Any) -> None:
    cfg = get_cfg()
    cfg.MODEL.PIXEL_MEAN = [123.675, 116.28, 103.53]
    cfg.MODEL.PIXEL_STD = [58.395, 57.12, 57.375]
    assert plugin.vmt_config(cfg)


def test_keys_of_a_recipe_without_effect_are_named(
    plugin: Any, caplog: pytest.LogCaptureFixture, make_config: Callable[..., Any]
) -> None:
    with caplog.at_level(logging.WARNING):
        plugin.merge_recipe(get_cfg(), REPO / "configs/refine/mask_refiner_frames.yaml")
    assert "ENGINE.EMA_DECAY 0.99 has no effect under detectron2" in caplog.text
    caplog.clear()
    make_config()
    assert not caplog.text
