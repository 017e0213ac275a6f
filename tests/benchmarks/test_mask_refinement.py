"""The benchmark of refined masks: what it makes coarse, counts and keeps."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from tests.benchmarks.test_dry_runs import load  # noqa: F401 (a fixture)
from tests.synthetic import write_moving_shapes


@pytest.fixture
def bench(load) -> ModuleType:  # noqa: F811
    return load("bench_mask_refinement")


def test_a_run_that_was_cut_short_goes_on(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    clips = write_moving_shapes(tmp_path / "clips", 1, 3, (48, 64), seed=0).parent
    words = ["--clips", str(clips), "--kinds", "paper", "clean", "--output", "r.json"]

    def asked(*more: str) -> list[tuple[str, str, tuple[str, ...]]]:
        pieces = []

        def watched(piece):
            pieces.append((piece.name, piece.kind, piece.methods))
            return measure(piece)

        monkeypatch.setattr(bench, "measure", watched)
        assert not bench.main([*words, *more])
        return pieces

    measure = bench.measure
    first = asked("--methods", "coarse")
    count = len(first) // 2
    assert [kind for _, kind, _ in first] == ["paper"] * count + ["clean"] * count
    assert {piece[1:] for piece in asked("--methods", "coarse", "ours")} == {
        ("paper", ("ours",)),
        ("clean", ("ours",)),
    }
    assert asked("--methods", "coarse", "ours") == []
    monkeypatch.setattr(bench, "fingerprint", lambda weights: "others")
    again = asked("--methods", "coarse", "ours")
    assert again
    assert {methods for *_, methods in again} == {("ours",)}
    assert all(kind == "paper" for _, kind, _ in asked("--methods", "coarse", "--seeds", "1")[:1])
    content = json.loads(Path("r.json").read_text())
    assert {row.get("weights") for row in content["tracklets"]} == {None, "others"}
    means = {(m["kind"], m["method"], m["seed"]): m for m in content["means"]}
    assert means["clean", "coarse", 0]["boundary_iou_2%"] == 1
    assert means["clean", "ours", 0]["tracklets"] == count
    assert bench.run(lambda: bench.main([*words, "--frames-per-clip", "2"])) == 2
    assert "r.json: made with" in capsys.readouterr().err


def test_what_is_worse_than_before_is_named(bench: ModuleType) -> None:
    def row(tracklet: str, method: str, value: float) -> dict:
        other = dict.fromkeys([*bench.SCORES, "cpu_seconds_per_mask"], 0.5)
        about = {"tracklet": tracklet, "kind": "halo", "method": method, "seed": 0}
        return about | other | {"boundary_iou_2%": value, "stability": None}

    rows = [row("a", "coarse", 0.5), row("b", "coarse", 0.7)]
    rows += [row("a", "ours", 0.6), row("b", "ours", 0.6)]
    given, ours = bench.means_of(rows)
    assert (given["worse"], ours["worse"]) == ([], ["b"])
    assert ours["boundary_iou_2%"] == 0.6
    assert ours["stability"] is None


def test_a_kind_and_its_amount(bench: ModuleType) -> None:
    clean = np.zeros((2, 40, 60), bool)
    clean[:, 10:20, 10:30] = clean[:, 20:25, 12:14] = True
    box = bench.coarse_masks(clean, "box", 0, 1)
    assert box.sum() == 2 * 15 * 20
    assert box[:, 10:25, 10:30].all()
    fine, rough = (bench.coarse_masks(clean, f"low_res:{n}", 0, 1) for n in (2, 12))
    assert (fine ^ clean).sum() < (rough ^ clean).sum()
    assert bench.coarse_masks(clean, "clean", 0, 1) is clean
    for text, said in (("fog", "fog: kind must be"), ("halo:x", "halo:x: "), ("paper:3", "no amo")):
        with pytest.raises(bench.BenchmarkError, match=said):
            bench.split_kind(text)


def test_pixels_that_two_objects_contest_or_lose(bench: ModuleType) -> None:
    before = np.zeros((2, 1, 12, 20), bool)
    before[0, 0, :, :10] = before[1, 0, :, 10:] = True
    assert bench.contested(before, before) == {"shared_px": 0, "lost_px": 0}
    after = before.copy()
    after[0, 0, :, 9] = False  # a gap of a column
    assert bench.contested(before, after) == {"shared_px": 0, "lost_px": 12}
    after = before.copy()
    after[1, 0, :, 8:] = True  # two columns that both have
    assert bench.contested(before, after) == {"shared_px": 24, "lost_px": 0}
