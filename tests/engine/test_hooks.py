"""Hooks: what the log says, when evaluations happen, which weights are the best."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping

import pytest
import torch

from tests.engine.clips import make_trainer, quick_config
from vmt.engine.hooks import EvalHook, LogHook, peak_memory_mb
from vmt.engine.train_loop import Trainer

SMALL = ("MODEL.SEQFORMER.HIDDEN_DIM", "32", "MODEL.SEQFORMER.NUM_QUERIES", "6")


class Memory:
    """A writer that remembers."""

    def __init__(self) -> None:
        self.lines: list[tuple[int, dict[str, float]]] = []
        self.closed = 0

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        self.lines.append((step, dict(scalars)))

    def close(self) -> None:
        self.closed += 1


def test_the_log_holds_means_rates_and_what_is_left(caplog: pytest.LogCaptureFixture) -> None:
    memory = Memory()
    starts: list[int] = []

    def writers(first_step: int) -> list[Memory]:
        starts.append(first_step)
        return [memory]

    trainer = make_trainer(
        quick_config("seqformer_tiny", *SMALL), 5, clips=2, hooks=[LogHook(2, writers)]
    )
    with caplog.at_level(logging.INFO):
        trainer.train()
    assert starts == [0]
    assert [step for step, _ in memory.lines] == [2, 4, 5]
    assert memory.closed == 1
    for _, line in memory.lines:
        parts = [v for k, v in line.items() if k.startswith("loss_")]
        assert line["loss"] == pytest.approx(sum(parts))
        assert line["lr_rest"] == pytest.approx(2e-4)
        assert line["clips_per_second"] * line["seconds_per_step"] == pytest.approx(2.0)
        assert line["peak_memory_mb"] > 10
    text = caplog.text
    assert all(word in text for word in ("step 4/5", "s/step", "clips/s", "peak", "eta", "lr"))


def eval_hook(values: list[float | None], kept: list[int], period: int) -> EvalHook:
    answers = iter(values)

    def evaluate(trainer: Trainer) -> dict[str, float] | None:
        assert not trainer.model.training
        value = next(answers)
        return None if value is None else {"tube_mask/AP": value}

    return EvalHook(
        period,
        evaluate,
        "tube_mask/AP",
        lambda trainer, value: kept.append(trainer.step),
        lambda step, numbers: None,
    )


def test_the_best_weights_are_kept_also_across_a_resume() -> None:
    kept: list[int] = []
    hook = eval_hook([0.2, 0.5, 0.4], kept, 2)
    trainer = make_trainer(quick_config("seqformer_tiny", *SMALL), 5, 1, hooks=[hook])
    trainer.train()
    assert kept == [2, 4]  # and step 5, the last, was evaluated but no better
    assert trainer.model.training
    again = eval_hook([0.45, 0.6], kept, 2)
    again.load_state(hook.state())
    resumed = make_trainer(quick_config("seqformer_tiny", *SMALL), 8, 1, hooks=[again])
    resumed.step = 5
    resumed.train()
    assert kept == [2, 4, 8]


def test_an_evaluation_that_was_cut_short_is_made_up_for() -> None:
    kept: list[int] = []
    hook = eval_hook([None], kept, 2)
    make_trainer(quick_config("seqformer_tiny", *SMALL), 3, 1, hooks=[hook]).step = 2
    assert hook.state()["done"] == 0
    again = eval_hook([0.3, 0.1], kept, 2)
    again.load_state({"best": -math.inf, "done": 0})
    trainer = make_trainer(quick_config("seqformer_tiny", *SMALL), 3, 1, hooks=[again])
    trainer.step = 2
    trainer.train()
    assert kept == [2]


def test_memory_is_a_number() -> None:
    assert peak_memory_mb(torch.device("cpu")) > 10
