"""Hooks and the small parts of the step, by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from tests.config.keys.pairs import Pair
from tests.config.keys.test_training_keys import STEP
from tests.synthetic import write_moving_shapes
from vmt.checkpoint.training_state import CheckpointFolder
from vmt.engine.adversarial import build_adversary
from vmt.engine.ema import EmaHook
from vmt.engine.evaluate import SetResults, set_titles
from vmt.engine.hooks import CheckpointHook, EvalHook, LogHook
from vmt.engine.run import TrainingRun
from vmt.engine.train_loop import StepRecord, split_batch
from vmt.utils.errors import ConfigError


class Writer:
    """Remembers the scalars of every step."""

    def __init__(self) -> None:
        self.lines: list[tuple[int, dict[str, float]]] = []

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        self.lines.append((step, dict(scalars)))

    def close(self) -> None: ...


def trainer(**attributes: Any) -> Any:
    """What hooks look at of a trainer."""
    group = {"name": "rest", "lr": 0.5}
    plain = {
        "step": 0, "max_steps": 100, "skipped_files": 0, "device": torch.device("cpu"),
        "optimizer": SimpleNamespace(param_groups=[group]), "last": StepRecord(),
    }  # fmt: skip
    return SimpleNamespace(**(plain | attributes))


def test_the_average_forgets_its_start_at_first() -> None:
    """Decays 2/11, 3/12, ... up to the one that is asked for."""
    model = nn.Linear(1, 1, bias=False)
    run = trainer(model=model)
    with torch.no_grad():
        model.weight.fill_(1.0)
    hook = EmaHook(0.2)
    hook.before_train(run)
    expected = 1.0
    for step, (value, decay) in enumerate([(3.0, 2 / 11), (5.0, 0.2), (7.0, 0.2)], start=1):
        with torch.no_grad():
            model.weight.fill_(value)
        run.step = step
        hook.after_step(run)
        expected = decay * expected + (1 - decay) * value
        assert float(hook.weights()["weight"]) == pytest.approx(expected)


def test_lines_of_the_log_are_means_of_their_own_steps() -> None:
    writer = Writer()
    hook = LogHook(2, lambda _: [writer])
    run = trainer(max_steps=5)
    hook.before_train(run)
    for step, loss in enumerate([1.0, 3.0, 10.0, 20.0, 7.0], start=1):
        run.step = step
        run.last = StepRecord({"loss_a": loss, "loss_b": 1.0}, loss * 2, 0.25, 0.5, [{}, {}, {}])
        hook.after_step(run)
    found = {step: (line["loss_a"], line["loss"], line["gradient_norm"])
             for step, line in writer.lines}  # fmt: skip
    assert found == {2: (2, 3, 4), 4: (15, 16, 30), 5: (7, 8, 14)}
    assert all(line["clips_per_second"] == pytest.approx(6) for _, line in writer.lines)
    assert writer.lines[0][1]["lr_rest"] == 0.5


def test_the_best_number_outlives_a_restart() -> None:
    kept: list[float] = []

    def hook(values: Sequence[float]) -> EvalHook:
        answers = iter(values)
        return EvalHook(1, lambda _: {"ap": next(answers)}, "ap",
                        lambda _, value: kept.append(value), lambda *_: None)  # fmt: skip

    run = trainer(model=nn.Identity())
    first = hook([0.3, 0.5, 0.4])
    for run.step in (1, 2, 3):
        first.after_step(run)
    second = hook([0.45, 0.6])
    second.load_state(first.state())
    for run.step in (4, 5):
        second.after_step(run)
    assert kept == [0.3, 0.5, 0.6]
    assert second.state() == {"best": 0.6, "done": 5}


@pytest.mark.parametrize(("steps", "expected"), [(4, [2, 4]), (5, [2, 4, 5]), (1, [1])])
def test_what_was_not_saved_is_saved_at_the_end(
    steps: int, expected: list[int], tmp_path: Path
) -> None:
    run = trainer()
    run.state = lambda: {"step": run.step, "model": {}, "optimizer": {}, "rng": []}
    hook = CheckpointHook(CheckpointFolder(tmp_path, 9), 2, {"config": ""})
    hook.before_train(run)
    for run.step in range(1, steps + 1):
        hook.after_step(run)
    hook.after_train(run)
    assert [int(path.stem[5:]) for path in sorted(tmp_path.iterdir())] == expected
    times = [path.stat().st_mtime_ns for path in sorted(tmp_path.iterdir())]
    again = CheckpointHook(CheckpointFolder(tmp_path, 9), 2, {"config": ""})
    again.before_train(run)
    again.after_train(run)
    assert [path.stat().st_mtime_ns for path in sorted(tmp_path.iterdir())] == times


@pytest.mark.parametrize(
    ("clips", "parts", "sizes"),
    [(7, 3, [2, 2, 3]), (6, 3, [2, 2, 2]), (5, 1, [5]), (3, 3, [1] * 3)],
)
def test_parts_of_a_batch_lose_no_clip(clips: int, parts: int, sizes: list[int]) -> None:
    batch = [{"clip": k} for k in range(clips)]
    found = split_batch(batch, parts)
    assert [len(part) for part in found] == sizes
    assert [clip for part in found for clip in part] == batch
    with pytest.raises(ConfigError, match="more parts than clips"):
        split_batch(batch, clips + 1)


def test_the_adversary_follows_the_schedule() -> None:
    cfg, _ = Pair("OUTPUT_DIR", "x", ("MODEL.ADVERSARY", "foreground_background")).configs()
    adversary = build_adversary(cfg, torch.device("cpu"))
    assert adversary is not None
    rates = []
    for step, factor in enumerate((0.001, 1.0, 0.1)):
        adversary.begin_step(step, factor)
        rates.append(adversary.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([1e-7, 1e-4, 1e-5])


def test_titles_never_stand_twice() -> None:
    names = ["a/val.json@x", "b/val.json@x", "ovis_valid", "c/val.json@y"]
    titles = set_titles(names)
    assert titles["ovis_valid"] == "ovis_valid"
    assert titles["a/val.json@x"] == "val"
    assert len(set(titles.values())) == 4
    assert all(title.startswith(("val", "ovis")) for title in titles.values())


def test_the_first_data_set_decides_which_weights_are_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two sets: the first one's number falls, the second one's grows."""
    shapes = write_moving_shapes(tmp_path / "shapes", 1, 2, (48, 64), seed=0)
    sets = [f"{path}@{shapes.parent / 'JPEGImages'}" for path in (shapes, tmp_path / "other.json")]
    (tmp_path / "other.json").write_text(shapes.read_text())
    numbers = {sets[0]: iter([0.5, 0.4]), sets[1]: iter([0.1, 0.9])}

    def evaluated(cfg: Any, model: Any, name: str, folder: Path, stopping: Any) -> SetResults:
        assert not model.training
        return SetResults(folder, {"tube_mask/AP": next(numbers[name])}, ())

    monkeypatch.setattr("vmt.engine.run.evaluate_set", evaluated)
    words = (*STEP, "SOLVER.MAX_STEPS", "2", "SOLVER.CLIPS_PER_BATCH", "1", "TEST.EVAL_PERIOD", "1")
    cfg, _ = Pair("TEST.ZIP", True, words).configs(
        "DATASETS.TRAIN", [sets[0]], "DATASETS.TEST", sets, "OUTPUT_DIR", tmp_path / "out"
    )
    run = TrainingRun(cfg)
    kept: list[tuple[int, float]] = []
    run._keep_best = lambda trainer, value: kept.append((trainer.step, value))  # type: ignore[method-assign]
    run.trainer.hooks = run._hooks()
    assert run.trainer.train()
    assert run.trainer.model.training
    assert kept == [(1, 0.5)]
    assert run.results == {sets[0]: {"tube_mask/AP": 0.4}, sets[1]: {"tube_mask/AP": 0.9}}
