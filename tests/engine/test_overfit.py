"""A training works at all: one clip is learned by heart, through files, console and scoring."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.engine.runs import scalars, start
from tests.synthetic import write_moving_shapes

#: A clip whose two shapes (circle, square) are large and stay inside the frame.
SEED = 37


@pytest.mark.slow
@pytest.mark.parametrize("name", ["overfit_seqformer", "overfit_vmt_release"])
def test_one_clip_is_learned_by_heart(name: str, tmp_path: Path) -> None:
    write_moving_shapes(tmp_path, 1, 3, (128, 160), SEED)
    annotations, images = str(tmp_path / "annotations.json"), str(tmp_path / "JPEGImages")
    output = tmp_path / "out"
    command = [sys.executable, "tools/train_net.py"]
    command += ["--config-file", f"configs/quick/{name}.yaml", "--num-gpus", "0"]
    command += ["--train", annotations, "--train-images", images]
    command += ["--val", annotations, "--val-images", images, "--output", str(output)]
    process = start(command)
    out, err = process.communicate(timeout=580)
    assert process.returncode == 0, out + err
    (ap,) = scalars(output, "tube_mask/AP").values()
    assert ap >= 0.9, out + err
