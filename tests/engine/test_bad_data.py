"""Data that is damaged, processes that die: one sentence and an end, never a hang."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path

import pytest

from tests.engine.clips import SHAPES, make_trainer, quick_config
from tests.engine.runs import TINY, run, scalars, train_command
from tests.recipes import REPO, train
from tests.synthetic import write_moving_shapes
from vmt.data.build import build_train_loader
from vmt.engine.train_loop import Hook, Trainer
from vmt.utils.errors import VmtError


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """Two videos; a frame of the first is cut off."""
    write_moving_shapes(tmp_path, 2, 3, (64, 96), 0)
    frame = tmp_path / "JPEGImages" / "shapes_000" / "00001.jpg"
    frame.write_bytes(frame.read_bytes()[:200])
    return tmp_path


@pytest.mark.slow
def test_a_damaged_frame_ends_the_training_or_is_counted(damaged: Path, tmp_path: Path) -> None:
    keys = {"SOLVER__MAX_STEPS": "6", "DATALOADER__NUM_WORKERS": "1"}
    command = train_command(damaged, tmp_path / "a", DATALOADER__ON_ERROR="fail", **keys)
    status, said = run(command)
    assert status == 2, said
    assert "shapes_000/00001.jpg" in said
    assert "Traceback" not in said
    command = train_command(damaged, tmp_path / "b", DATALOADER__ON_ERROR="skip", **keys)
    status, said = run(command)
    assert status == 0, said
    assert "shapes_000/00001.jpg" in said
    assert scalars(tmp_path / "b", "skipped_files")[6] > 0


@pytest.mark.parametrize("wait", [0.0, 0.2])
def test_a_loading_process_that_dies_ends_the_training(tmp_path: Path, wait: float) -> None:
    path = write_moving_shapes(tmp_path, 1, 3, (64, 96), 0)
    overrides = [word for pair in TINY.items() for word in pair]
    overrides += ["DATASETS.TRAIN", f'["{path}@{tmp_path / "JPEGImages"}"]']
    cfg = quick_config("seqformer_tiny", *overrides, "DATALOADER.NUM_WORKERS", "1")

    class Kill(Hook):
        def after_step(self, trainer: Trainer) -> None:
            for child in multiprocessing.active_children():
                child.kill()
            # The news of the death may come here already, or later in the midst of a step; it must
            # wait until the next batch is asked for.
            time.sleep(wait)

    trainer = make_trainer(
        cfg,
        1000,
        hooks=[Kill()],
        open_loader=lambda step: build_train_loader(cfg, SHAPES, start_step=step),
    )
    started = time.monotonic()
    with pytest.raises(VmtError, match="died"):
        trainer.train()
    assert trainer.step < 20
    assert time.monotonic() - started < 60


@pytest.mark.parametrize(
    ("test_set", "metrics", "sentence"),
    [
        ("no.json@nowhere", "[tube_mask]", "no.json does not exist"),
        ("hq_ytvis_val", "[image_mask]", "'image_mask', a metric of images; videos are scored by"),
        ("coco_2017_val", "[tube_mask]", "'tube_mask', a metric of videos; images are scored by"),
    ],
)
def test_a_set_that_cannot_be_evaluated_ends_a_training_before_it_begins(
    test_set: str,
    metrics: str,
    sentence: str,
    tmp_path: Path,
    tiny_datasets: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe = REPO / "configs/hq_ytvis/seqformer_R50.yaml"
    keys = {"DATASETS.TEST": f"['{test_set}']", "TEST.METRICS": metrics}
    assert train(recipe, tmp_path / "out", tiny_datasets, **keys) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out/metrics.jsonl").exists()
