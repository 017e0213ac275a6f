"""Every script of benchmarks/ runs with ``--dry-run``, and says what is wrong in one sentence."""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from cocoapi_hq.io import rle

REPO = Path(__file__).resolve().parents[2]
FOLDER = REPO / "benchmarks"
#: Not scripts, or scripts of another kind that have tests of their own below.
OTHERS = {
    *("common", "run_all", "baseline_mots", "driving_clips", "run_gpu"),
    "classical_refinement",
}
SCRIPTS = sorted(
    path.stem
    for path in FOLDER.glob("*.py")
    if path.stem not in OTHERS and not path.stem.startswith("gpu_")
)


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Imports a script by name, as if python had been started on it, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(FOLDER))
    before = set(sys.modules)

    def script(name: str) -> ModuleType:
        return importlib.import_module(name)

    yield script
    for name in set(sys.modules) - before:  # "common" and "run" are words of others, too
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(FOLDER)):
            del sys.modules[name]


def state_of_tracked_folders() -> dict[Path, tuple[int, int]]:
    files = [p for folder in (FOLDER, REPO / "docs") for p in folder.rglob("*") if p.is_file()]
    stats = {path: path.stat() for path in files if "__pycache__" not in path.parts}
    return {path: (stat.st_mtime_ns, stat.st_size) for path, stat in stats.items()}


@pytest.mark.parametrize("name", SCRIPTS)
def test_dry_run(name: str, load, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = load(name)
    if name == "bench_mots":
        pytest.importorskip("motmetrics")
    if name == "bench_export":
        pytest.importorskip("onnxruntime", reason="pip install 'vmt-vis[export]'")
    before = state_of_tracked_folders()
    status = script.main(["--dry-run"])
    printed = capsys.readouterr()
    assert not status
    assert "wrote " in printed.out
    assert state_of_tracked_folders() == before
    assert not list(tmp_path.iterdir()), "a dry run leaves nothing behind"


def test_a_long_driving_video(load, tmp_path: Path) -> None:
    script, output = load("bench_long_video"), tmp_path / "long.json"
    script.DRIVING = (3, (32, 48), 2)
    words = ["--frames=7", "--window=2", "--min-size=32", f"--output={output}"]
    script.TOLERANCE = 1.0  # so few frames say nothing about memory
    assert script.main(["--driving", "--config-file=quick/qdtrack_tiny", *words]) == 0
    record = json.loads(output.read_text())
    assert (record["network"], record["driving"], record["frames"]) == ("QDTrack", True, 7)


def test_perfect_masks_and_what_is_wrong_with_others(load, tmp_path: Path) -> None:
    """A square that lacks one row of its eight, and another that meets no object."""
    study = load("study_mots")
    square, cut, far = (np.zeros((16, 16), bool) for _ in range(3))
    square[4:12, 4:12] = cut[4:11, 4:12] = far[:3, :3] = True
    masks = [rle.encode(mask) for mask in (square, cut, far)]
    truth, folder = tmp_path / "truth.json", tmp_path / "base"
    names = [f"a/{t}.jpg" for t in range(3)]
    video = {"id": 1, "file_names": names, "length": 3, "height": 16, "width": 16}
    own = {"id": 1, "video_id": 1, "category_id": 1, "iscrowd": 0, "segmentations": [masks[0]] * 3}
    content = {"videos": [video], "annotations": [own], "categories": [{"id": 1, "name": "car"}]}
    truth.write_text(json.dumps(content))
    found = {"video_id": 1, "category_id": 1, "score": 0.9, "segmentations": [*masks[1:], None]}
    results = folder / "small" / study.INFERENCE / "results.json"
    results.parent.mkdir(parents=True)
    results.write_text(json.dumps([found]))
    better = study.perfect(folder, "small", truth) / "small" / study.INFERENCE / "results.json"
    assert json.loads(better.read_text())[0]["segmentations"] == [masks[0], masks[2], None]
    numbers = study.near_contour(folder / "small", truth)
    assert numbers["iou"] == round(7 / 8, 3)
    assert numbers["within_1_px"] == numbers["within_4_px"] == 1.0
    assert numbers["iou_at_stride_2"] == 1.0
    before, after = (
        study.quality(folder, place, "small", truth) for place in (folder, folder / "perfect")
    )
    assert before["found"] == after["found"] == 0, "one frame of three is not half of the tube"


def test_the_released_arithmetic_is_the_same_network(
    load, capsys: pytest.CaptureFixture[str]
) -> None:
    load("bench_model").main(["--dry-run"])
    out = capsys.readouterr().out
    agreement = json.loads(out[out.index("{\n") : out.rindex("}") + 1])
    assert agreement["ours"]["queries_in_common"] == agreement["ours"]["of"] > 0
    assert agreement["ours"]["pixels_that_flip"] == 0
    assert agreement["ours"]["largest_relative"] < 1e-4


@pytest.mark.parametrize("name", [name for name in SCRIPTS if name.startswith("bench_")])
def test_results_go_to_a_scratch_file_unless_recorded(name: str, load) -> None:
    script = load(name)
    common = load("common")
    parser = common.benchmark_parser("", "x.json")
    assert common.parse(parser, [], {}).output == Path("output/benchmarks/x.json")
    assert common.parse(parser, ["--record"], {}).output == FOLDER / "results/x.json"
    with pytest.raises(SystemExit):
        script.main(["--record", "--output", "y.json"])


@pytest.mark.parametrize("name", [*SCRIPTS, "run_all", "run_gpu", "baseline_mots"])
def test_help_has_an_example(name: str, load, capsys: pytest.CaptureFixture[str]) -> None:
    if name in ("bench_mots", "baseline_mots"):
        pytest.importorskip("motmetrics")
    with pytest.raises(SystemExit) as end:
        load(name).main(["--help"])
    assert end.value.code == 0
    assert re.search(rf"python benchmarks/{name}\.py ", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("name", "words", "sentence"),
    [
        (
            "bench_mask_refinement",
            ["--clips", "DAVIS"],
            "--clips DAVIS: there is no annotations.json",
        ),
        ("study_training", ["--output", "o", "--images", "i"], "--images i: there is no instances"),
        ("study_msts", ["--output", "o"], "--images FOLDER is needed"),
        ("study_refinement", ["--output", "o", "--clips", "c"], "--clips c: there is no annot"),
        ("bench_model", ["--config-file", "none.yaml"], "none.yaml"),
    ],
)
def test_bad_input_is_one_sentence(
    name: str,
    words: list[str],
    sentence: str,
    load,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    script, common = load(name), load("common")
    monkeypatch.setattr(sys, "argv", [f"benchmarks/{name}.py", *words])
    if name == "bench_model":  # each variant is a process of its own: take one
        monkeypatch.setattr(sys, "argv", [*sys.argv, "--variant", "ours"])
    assert common.run(script.main) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"{name}: ")
    assert sentence in error
    assert len(error.strip().splitlines()) == 1


def test_run_all_passes_the_dry_run_on(load, capfd: pytest.CaptureFixture[str]) -> None:
    assert load("run_all").main(["--dry-run", "--only", "deform_attn"]) == 0
    assert "wrote " in capfd.readouterr().out
