"""docs/howto/new_method.md alone makes a method: four kinds of files, and no line elsewhere."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.blocks import files_of
from tests.engine.runs import REPO, TINY
from tests.synthetic import write_moving_shapes


@pytest.mark.slow
def test_the_recipe_trains_and_segments(tmp_path: Path) -> None:
    root = tmp_path / "clone"
    for name in ("vmt", "cocoapi_hq", "configs"):
        ignored = shutil.ignore_patterns("__pycache__", "*.safetensors")
        shutil.copytree(REPO / name, root / name, ignore=ignored)
    files = files_of("docs/howto/new_method.md")
    folders = sorted({str(Path(path).parent) for path in files})
    assert folders == [
        "configs/quick", "vmt/config/keys", "vmt/modeling/constant", "vmt/modeling/meta_arch",
    ]  # fmt: skip
    for path, text in files.items():
        assert not (root / path).exists(), "a method is new files"
        (root / path).parent.mkdir(exist_ok=True)
        (root / path).write_text(text)
    write_moving_shapes(tmp_path / "data", 1, 2, (48, 64), 0)
    data, output = tmp_path / "data", tmp_path / "output"
    settings = {k: v for k, v in TINY.items() if "SEQFORMER" not in k} | {"SOLVER.MAX_STEPS": "1"}
    keys = [word for pair in settings.items() for word in pair]
    vmt(root, "train", "--config-file", str(root / "configs/quick/constant.yaml"),
        "--train", str(data / "annotations.json"), "--train-images", str(data / "JPEGImages"),
        "--output", str(output), "--num-gpus", "0", *keys)  # fmt: skip
    vmt(root, "demo", "--config-file", str(output / "config.yaml"), "--device", "cpu",
        "--weights", str(output / "model_final.safetensors"), "--output", str(tmp_path / "demo"),
        "--input", str(next((data / "JPEGImages").iterdir())))  # fmt: skip
    results = json.loads((tmp_path / "demo" / "results.json").read_text())
    assert results, "it finds something"
    assert all(len(entry["segmentations"]) == 2 for entry in results)


def vmt(root: Path, *words: str) -> None:
    """The console of the copy in ``root``."""
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "vmt.cli.main", *words]
    done = subprocess.run(
        command, cwd=root, env=environment, text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
