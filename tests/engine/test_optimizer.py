"""Groups of learning rates and the schedule: published values."""

from __future__ import annotations

import pytest
import torch

from tests.engine.clips import SHAPES, quick_config
from vmt.config.node import load_config
from vmt.engine.lr_schedule import Schedule
from vmt.engine.optimizer import build_optimizer, parameter_groups, parameter_names, set_factor
from vmt.modeling.meta_arch.build import build_model
from vmt.utils.errors import ConfigError


def test_groups_of_a_network_are_the_published_ones() -> None:
    cfg = quick_config("seqformer_tiny", "SOLVER.BACKBONE_FACTOR", "0.1")  # the default
    model = build_model(cfg, SHAPES)
    frozen = model.get_submodule("backbone.body.layer1")
    frozen.requires_grad_(False)
    optimizer = build_optimizer(cfg, model)
    lr = {g["name"]: g["lr"] for g in optimizer.param_groups}
    assert lr == pytest.approx({"backbone": 2e-5, "rest": 2e-4, "sampling": 2e-5})
    names = {g["name"]: set(g["param_names"]) for g in optimizer.param_groups}
    assert names["sampling"] == {
        name
        for name, _ in model.named_parameters()
        if "sampling_offsets" in name or name.startswith("decoder.reference.")
    }
    assert names["sampling"]
    assert all(name.startswith("backbone.") for name in names["backbone"])
    assert not any(name.startswith("backbone.body.layer1") for name in names["backbone"])
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert set(parameter_names(optimizer)) == trainable
    assert all(g["weight_decay"] == 1e-4 for g in optimizer.param_groups)
    assert isinstance(optimizer, torch.optim.AdamW)


def test_a_model_declares_its_groups_and_the_first_that_fits_counts() -> None:
    cfg = quick_config("seqformer_tiny", "SOLVER.BACKBONE_FACTOR", "0.5")
    model = build_model(cfg, SHAPES)
    declared = {"backbone.": "BACKBONE_FACTOR", "": "SAMPLING_FACTOR"}
    model.lr_groups = lambda: declared  # type: ignore[method-assign]
    model.undecayed = lambda: {"coarse.controller.layers.0.bias"}  # type: ignore[method-assign]
    groups = {g["name"]: g for g in parameter_groups(model, cfg.SOLVER)}
    assert set(groups) == {"backbone", "sampling", "sampling_undecayed"}, "none is empty"
    assert groups["backbone"]["lr"] == pytest.approx(1e-4)
    assert groups["sampling_undecayed"]["param_names"] == ["coarse.controller.layers.0.bias"]
    assert groups["sampling_undecayed"]["weight_decay"] == 0.0


def test_factor_multiplies_every_group() -> None:
    cfg = quick_config("seqformer_tiny", "SOLVER.BACKBONE_FACTOR", "0.1")  # the default
    optimizer = build_optimizer(cfg, build_model(cfg, SHAPES))
    set_factor(optimizer, 0.1)
    set_factor(optimizer, 0.5)
    lr = {g["name"]: g["lr"] for g in optimizer.param_groups}
    assert lr == pytest.approx({"backbone": 1e-5, "rest": 1e-4, "sampling": 1e-5})


def test_published_schedule_drops_in_the_fifth_and_eleventh_epoch() -> None:
    schedule = Schedule.from_config(load_config(), steps_per_epoch=100)
    assert schedule.max_steps == 1200
    factors = [schedule.factor(epoch * 100 + 50) for epoch in range(12)]
    assert factors == pytest.approx([1.0] * 4 + [0.1] * 6 + [0.01] * 2)
    assert [schedule.factor(s) for s in (399, 400)] == pytest.approx([1.0, 0.1])


def test_steps_replace_epochs() -> None:
    overrides = ["SOLVER.MAX_STEPS", "12000", "SOLVER.MILESTONE_STEPS", "[8000]"]
    schedule = Schedule.from_config(load_config(None, overrides), None)
    assert schedule == Schedule(12000, (8000,))
    assert [schedule.factor(s) for s in (7999, 8000)] == pytest.approx([1.0, 0.1])


def test_warm_up_is_linear() -> None:
    schedule = Schedule(100, (), warmup_steps=10)
    assert [schedule.factor(s) for s in (0, 5, 10, 50)] == pytest.approx([0.001, 0.5005, 1.0, 1.0])


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"max_steps": 0}, "at least 1"),
        ({"max_steps": 5, "milestones": (4, 2)}, "must ascend"),
        ({"max_steps": 5, "warmup_steps": -1}, "give 0 or more"),
    ],
)
def test_contradictions_are_named(values: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Schedule(**values)  # type: ignore[arg-type]
