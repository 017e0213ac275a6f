"""``vmt train`` on one's own videos, from annotations to a demo; every misuse is one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.engine.runs import REPO, TINY, run, scalars, train_command
from tests.recipes import train
from tests.synthetic import CATEGORIES, write_moving_shapes
from vmt.checkpoint.files import read_weights
from vmt.cli.main import main
from vmt.config.node import load_config
from vmt.inference.load import load_model

QUICK = str(REPO / "configs" / "quick" / "seqformer_tiny.yaml")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_moving_shapes(folder / "train", 2, 4, (64, 96), 0)
    write_moving_shapes(folder / "val", 2, 4, (64, 96), 10)
    return folder


KEYS = {
    "SOLVER__MAX_STEPS": "4",
    "ENGINE__OVERLAY_PERIOD": "2",
    "ENGINE__TENSORBOARD": "true",
    "TEST__EVAL_PERIOD": "2",
    "TEST__WINDOW": "0",
}


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four steps on one's own data, from the console."""
    output = tmp_path_factory.mktemp("trained") / "out"
    status, said = run(train_command(data / "train", output, val=data / "val", **KEYS))
    assert status == 0, said
    assert f"vmt demo --config-file {output}/config.yaml" in said
    return output


@pytest.mark.slow
def test_the_output_folder_holds_everything(trained: Path) -> None:
    assert list(scalars(trained)) == [1, 2, 3, 4]
    assert list(scalars(trained, "tube_mask/AP")) == [2, 4]
    assert (trained / "checkpoints" / "step_00000004.pth").is_file()
    assert list((trained / "tensorboard").iterdir())
    log = (trained / "log.txt").read_text()
    assert "step 4/4" in log
    assert "eta 0:00:00" in log
    assert "clips/s" in log
    with Image.open(trained / "overlays" / "step_00000002.png") as picture:
        assert np.asarray(picture).shape[2] == 3
    for step in (2, 4):
        folder = trained / "inference" / f"step_{step:08d}" / "annotations"
        assert isinstance(json.loads((folder / "results.json").read_text()), list)
    assert not list(trained.rglob("*.part"))


def test_classes_come_from_the_json_and_stay_with_the_weights(trained: Path) -> None:
    config = yaml.safe_load((trained / "config.yaml").read_text())
    assert config["MODEL"]["LABEL_SPACE"] == "label_space.json"
    weights = read_weights(trained / "model_final.safetensors")
    assert [row["name"] for row in json.loads(weights.metadata["categories"])] == list(CATEGORIES)
    for name in ("model_final.safetensors", "model_best.safetensors"):
        model = load_model(trained / "config.yaml", trained / name, device="cpu")
        assert model.label_space.names == CATEGORIES
        assert model.label_space.category_ids == (1, 2, 3)
    load_model(trained / "config.yaml", trained / "checkpoints" / "step_00000004.pth", device="cpu")


def test_the_demo_runs_on_what_was_trained(trained: Path, data: Path, tmp_path: Path) -> None:
    words = ["demo", "--config-file", str(trained / "config.yaml"), "--device", "cpu"]
    words += ["--weights", str(trained / "model_final.safetensors"), "--output", str(tmp_path)]
    words += ["--input", str(data / "val" / "JPEGImages" / "shapes_000"), "--no-overlay"]
    assert main(words) == 0
    ids = {entry["category_id"] for entry in json.loads((tmp_path / "results.json").read_text())}
    assert ids <= {1, 2, 3}


@pytest.mark.slow
def test_eval_only_in_two_processes_equals_one(trained: Path, data: Path, tmp_path: Path) -> None:
    results = []
    for count in ("1", "2"):
        output = tmp_path / count
        options = ["--eval-only", "--num-processes", count]
        options += ["--weights", str(trained / "model_final.safetensors")]
        command = train_command(data / "train", output, *options, val=data / "val")
        status, said = run([*command, "TEST.WINDOW", "0", "TEST.ZIP", "true"])
        assert status == 0, said
        folder = output / "inference" / "annotations"
        assert (folder / "results.zip").is_file()
        assert "tube_mask/AP" in json.loads((folder / "metrics.json").read_text())
        results.append((folder / "results.json").read_bytes())
    assert results[0] == results[1]


@pytest.mark.slow
@pytest.mark.parametrize(("value", "status"), [("0.0", 0), ("0.9", 1)])
def test_expected_results_decide_the_status(
    trained: Path, data: Path, tmp_path: Path, value: str, status: int
) -> None:
    name = f"{(data / 'val' / 'annotations.json')}@{data / 'val' / 'JPEGImages'}"
    row = json.dumps([[name, "tube_mask/AP", float(value), 0.5]])
    options = ["--eval-only", "--weights", str(trained / "model_final.safetensors")]
    command = train_command(data / "train", tmp_path / "out", *options, val=data / "val")
    found, said = run([*command, "TEST.EXPECTED_RESULTS", row])
    assert found == status, said
    assert ("expected 0.9 within 0.5" in said) == bool(status)


@pytest.mark.slow
def test_own_videos_take_the_place_of_a_recipes_sets(data: Path, tmp_path: Path) -> None:
    """Two sets with a map of COCO, a test set and their classes do not stay behind --train."""
    recipe, out = REPO / "configs/hq_ytvis/vmt_R50.yaml", tmp_path / "out"
    own = ["--train", str(data / "train/annotations.json")]
    own += ["--train-images", str(data / "train/JPEGImages")]
    assert train(recipe, out, tmp_path / "no_data_sets", *own) == 0
    assert list(scalars(out)) == [1]
    assert not (out / "inference").exists()
    sets = load_config(out / "config.yaml").DATASETS
    assert sets.TEST == sets.CATEGORY_MAPS == []
    val = ["--val", str(data / "val/annotations.json")]
    val += ["--val-images", str(data / "val/JPEGImages")]
    assert train(recipe, tmp_path / "run", tmp_path / "no_data_sets", *own, *val) == 0
    assert (tmp_path / "run/inference/step_00000001/annotations/metrics.json").is_file()


@pytest.mark.slow
def test_two_processes_train_from_the_console(data: Path, tmp_path: Path) -> None:
    command = train_command(
        data / "train", tmp_path / "out", "--num-processes", "2", SOLVER__MAX_STEPS="2"
    )
    status, said = run(command)
    assert status == 0, said
    assert list(scalars(tmp_path / "out")) == [1, 2]


def options(data: Path, **changes: str | None) -> list[str]:
    values: dict[str, Any] = {
        "config-file": QUICK,
        "train": str(data / "train" / "annotations.json"),
        "train-images": str(data / "train" / "JPEGImages"),
        "output": str(data / "unused"),
        "num-gpus": "0",
    }
    values |= {key.replace("_", "-"): value for key, value in changes.items()}
    words = [w for k, v in values.items() if v is not None for w in (f"--{k}", v)]
    return ["train", *words, *(word for pair in TINY.items() for word in pair)]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train": "missing.json"}, "--train missing.json: no such file"),
        ({"train_images": None}, "--train and --train-images go together"),
        ({"train_images": "nowhere"}, "--train-images nowhere: no such folder"),
        ({"val": "x.json"}, "--val and --val-images go together"),
        ({"num_machines": "2"}, "several machines need --dist-url"),
        ({"config_file": "missing.yaml"}, "missing.yaml: no such config file"),
        ({"weights": "missing.pth"}, "missing.pth: no such weight file"),
    ],
)
def test_misuse_is_one_sentence(
    data: Path, changes: dict[str, str | None], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(options(data, **changes)) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["SOLVER.CLIPS_PER_BATCH", "0"], "SOLVER.CLIPS_PER_BATCH"),
        (["SOLVER.MAX_STEP", "3"], "did you mean SOLVER.MAX_STEPS?"),
        (["ENGINE.PRECISION", "fp8"], "'fp8' is unknown"),
        (["SOLVER.ACCUMULATE", "3"], "SOLVER.ACCUMULATE 3"),
        (["ENGINE.EMA_DECAY", "1.5"], "ENGINE.EMA_DECAY 1.5"),
    ],
)
def test_bad_settings_are_one_sentence(
    data: Path, overrides: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*options(data), *overrides]) == 2
    assert said in capsys.readouterr().err
