"""Keys of tools/self_correct.py, whose loop is run around a made-up training and refinement."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest

from tests.config.keys.pairs import SHOWN
from tests.tools.test_self_correct import MadeUp, config, run, tool

__all__ = ["config", "tool"]  # fixtures

SHOWN.update(
    f"SELF_CORRECT.{key}"
    for key in ("COARSE", "VAL", "VAL_COARSE", "TRUTH", "INPUT", "ITERATIONS", "MIN_GAIN",
                "NEXT_STEPS", "ACCEPT", "WINDOW")
)  # fmt: skip


@pytest.fixture
def loop(tool: ModuleType, config: Path, tmp_path: Path):
    """Run with one key changed: what was called, and what was written."""

    def go(key: str, value: object, good: int = 9, **others: object) -> tuple[MadeUp, Path]:
        fake, out = MadeUp(good), tmp_path / f"{key}_{value}".replace("/", "_")[-60:]
        words = {"ITERATIONS": 2, "MIN_GAIN": -100.0} | others | {key: value}
        options = [w for k, v in words.items() for w in (f"SELF_CORRECT.{k}", str(v))]
        assert run(tool, config, out, fake, *options) == 0
        return fake, out

    return go


def calls(fake: MadeUp, command: str) -> list[dict[str, str]]:
    return [call for call in fake.calls if call["command"] == command]


@pytest.mark.parametrize(
    ("key", "option", "value"), [("ACCEPT", "--accept", 0.9), ("WINDOW", "--window", 3)]
)
def test_rules_reach_every_refinement(loop, key: str, option: str, value: float) -> None:
    fake, _ = loop(key, value)
    assert {call[option] for call in calls(fake, "refine")} == {str(value)}


def test_iterations(loop) -> None:
    assert [len(calls(loop("ITERATIONS", n)[0], "train")) for n in (1, 3)] == [1, 3]


def test_least_gain(loop) -> None:
    """The third iteration gains nothing."""
    counts = [
        len(calls(loop("MIN_GAIN", gain, good=2, ITERATIONS=4)[0], "train"))
        for gain in (-100.0, 0.2, 1000.0)
    ]
    assert counts == [4, 3, 2]


def test_steps_of_later_iterations(loop) -> None:
    steps = [
        [call.get("SOLVER.MAX_STEPS") for call in calls(loop("NEXT_STEPS", n)[0], "train")]
        for n in (0, 7)
    ]
    assert steps == [[None, None], [None, "7"]]


def test_what_is_corrected(loop, config: Path) -> None:
    coarse = str(config.parent / "coarse.json")
    given = [
        [call["--masks"] for call in calls(loop("INPUT", way)[0], "refine")]
        for way in ("original", "previous")
    ]
    assert given[0] == [coarse] * 4
    assert given[1][:2] == [coarse] * 2
    assert [Path(p).parent.name for p in given[1][2:]] == ["iteration_1"] * 2


def test_sets(loop, config: Path) -> None:
    """Each is read where it belongs: copies of the files under other names."""
    folder = config.parent
    images = folder / "set/JPEGImages"
    paths = {}
    truth, coarse = "set/annotations.json", "coarse.json"
    for name, source in {
        "COARSE": coarse,
        "VAL": truth,
        "VAL_COARSE": coarse,
        "TRUTH": truth,
    }.items():
        paths[name] = folder / f"{name}.json"
        paths[name].write_text((folder / source).read_text())
    sets = {n: f"{p}@{images}" if n != "VAL_COARSE" else str(p) for n, p in paths.items()}
    fake, out = loop("ITERATIONS", 1, **sets)
    refined = [call["--masks"] for call in calls(fake, "refine")]
    assert refined == [str(paths["COARSE"]), str(paths["VAL_COARSE"])]
    scores = json.loads((out / "scores.json").read_text())["iterations"]
    assert [set(row) for row in scores] == [{"val", "truth"}] * 2
    fake, out = loop("NEXT_STEPS", 5, **{**sets, "VAL": "", "TRUTH": ""}, ITERATIONS=1)
    assert len(calls(fake, "refine")) == 1
    assert json.loads((out / "scores.json").read_text())["iterations"] == [{}, {}]
