"""The script and the trainer: what ``vmt train`` would have made, step by step and to the bit."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import REPO, load_tool
from tests.engine.runs import TINY
from tests.plugins.detectron2.conftest import KEYS, reference
from vmt.checkpoint.files import read_weights
from vmt.cli.main import main as vmt
from vmt.engine.run import TrainingRun
from vmt.utils.errors import CheckpointError, ConfigError

pytestmark = pytest.mark.slow
METRICS = ("tube_mask", "tube_boundary")


@pytest.fixture(autouse=True)
def loggers() -> Iterator[None]:
    """detectron2 gives loggers handlers of its own and cuts them off from the root."""
    names = ("detectron2", "fvcore", "vmt")
    before = {
        n: (list(logging.getLogger(n).handlers), logging.getLogger(n).propagate) for n in names
    }
    yield
    for name, (handlers, propagate) in before.items():
        logging.getLogger(name).handlers[:] = handlers
        logging.getLogger(name).propagate = propagate


@pytest.fixture
def script(plugin: Any, videos: Path) -> Callable[..., int]:
    """tools/train_net_detectron2.py on ``videos``: ``(output, recipe, options, **keys)``."""
    tool = load_tool("train_net_detectron2")

    def run(output: Path, *options: str, recipe: str = "seqformer_tiny", **keys: str) -> int:
        words = ["--recipe", str(REPO / f"configs/quick/{recipe}.yaml"), "--num-gpus", "0"]
        given = KEYS | {
            "DATASETS.TRAIN": f"('{reference(videos / 'train')}',)",
            "DATASETS.TEST": f"('{reference(videos / 'val')}',)",
            "VMT.MODEL.LABEL_SPACE": str(videos / "train/annotations.json"),
            "OUTPUT_DIR": str(output),
            **{key.replace("__", "."): value for key, value in keys.items()},
        }
        pairs = [word for pair in given.items() for word in pair]
        return int(tool.main([*words, *options, *pairs]))

    return run


@pytest.fixture
def ours(videos: Path) -> Callable[..., int]:
    """``vmt train`` on the same."""

    def run(output: Path, *options: str, recipe: str = "seqformer_tiny", **keys: str) -> int:
        words = ["train", "--config-file", str(REPO / f"configs/quick/{recipe}.yaml")]
        for part, name in (("train", "train"), ("val", "val")):
            words += [f"--{part}", str(videos / name / "annotations.json")]
            words += [f"--{part}-images", str(videos / name / "JPEGImages")]
        words += ["--output", str(output), "--num-gpus", "0", *options]
        given = {**TINY, "SOLVER.MAX_STEPS": "10", "SOLVER.MILESTONE_STEPS": "[]"}
        given["TEST.WINDOW"] = "0"  # random weights find nothing that windows would keep
        given |= {key.replace("__", "."): value for key, value in keys.items()}
        return vmt([*words, *(word for pair in given.items() for word in pair)])

    return run


def weights(path: Path) -> dict[str, torch.Tensor]:
    return read_weights(path).ours()


def same_weights(one: Path, other: Path) -> None:
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    worst = max(float((a[name].double() - b[name].double()).abs().max()) for name in a)
    assert worst <= 1e-6, worst


def test_ten_steps_resume_and_evaluation(
    script: Callable[..., int], ours: Callable[..., int], videos: Path, tmp_path: Path
) -> None:
    assert ours(tmp_path / "ours") == 0
    assert script(tmp_path / "theirs") == 0
    final = tmp_path / "theirs/vmt/model_final.safetensors"
    same_weights(final, tmp_path / "ours/model_final.safetensors")
    same_weights(tmp_path / "theirs/model_final.pth", final)
    categories = json.loads(read_weights(final).metadata["categories"])
    assert [row["name"] for row in categories] == ["circle", "square", "triangle"]

    # broken off after six of ten, with a checkpoint after three
    assert script(tmp_path / "broken", SOLVER__CHECKPOINT_PERIOD="3", SOLVER__MAX_ITER="6") == 0
    assert (tmp_path / "broken/last_checkpoint").read_text() == "model_final.pth"
    (tmp_path / "broken/last_checkpoint").write_text("model_0000002.pth")
    assert script(tmp_path / "broken", "--resume") == 0
    same_weights(tmp_path / "broken/vmt/model_final.safetensors", final)
    assert script(tmp_path / "broken", "--resume") == 2, "complete"

    # the truth is what the network says, in part, so that AP is no 0
    results = tmp_path / "theirs/inference/annotations/results.json"
    truth = some_of_it_is_true(videos, results, tmp_path / "truth.json")
    test = f"('{truth}@{videos / 'val/JPEGImages'}',)"
    evaluated = tmp_path / "evaluated"
    keys = {"MODEL__WEIGHTS": str(final), "DATASETS__TEST": test}
    assert script(evaluated, "--eval-only", **keys) == 0
    again = evaluated / "inference/truth/results.json"
    assert json.loads(again.read_text()) == json.loads(results.read_text())
    numbers = json.loads((evaluated / "inference/truth/metrics.json").read_text())
    assert 0.05 < numbers["tube_mask/AP"] < 0.95
    options = ["--val", str(truth), "--weights", str(final), "--eval-only"]
    assert ours(tmp_path / "eval", *options) == 0
    of_vmt = json.loads((tmp_path / "eval/inference/truth/metrics.json").read_text())
    same = {k: v for k, v in of_vmt.items() if k not in ("data", "skipped")}
    assert {key: numbers[key] for key in same} == same
    command = ["eval", "--gt", str(truth), "--results", str(again), "--metric", *METRICS]
    assert vmt([*command, "--json", str(tmp_path / "scores.json")]) == 0
    scores = json.loads((tmp_path / "scores.json").read_text())
    for metric in METRICS:
        assert scores[metric]["AP"] == numbers[f"{metric}/AP"]


def some_of_it_is_true(videos: Path, results: Path, path: Path) -> Path:
    """Annotations: of each video the best entry, moved by some pixels, and the worst."""
    from cocoapi_hq.io import rle

    content = json.loads((videos / "val/annotations.json").read_text())
    entries = json.loads(results.read_text())
    annotations = []
    for video in content["videos"]:
        mine = sorted(
            (e for e in entries if e["video_id"] == video["id"]), key=lambda e: -e["score"]
        )
        for entry, shift in ((mine[0], 3), (mine[-1], 0)):
            masks = []
            for mask in entry["segmentations"]:
                dense = None if mask is None else rle.decode(mask)
                if dense is not None and shift:
                    dense[:, shift:] = dense[:, :-shift].copy()
                masks.append(None if dense is None or not dense.any() else rle.encode(dense))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "video_id": video["id"],
                    "category_id": entry["category_id"],
                    "segmentations": masks,
                    "iscrowd": 0,
                    "areas": [m and rle.area(m) for m in masks],
                }
            )
    path.write_text(json.dumps(content | {"annotations": annotations}))
    return path


@pytest.mark.parametrize(
    ("recipe", "keys", "theirs"),
    [
        ("msts_tiny", {}, {}),
        (
            "seqformer_tiny",
            {"SOLVER.ACCUMULATE": "2", "SOLVER.CLIP_GRADIENTS": "0.05"},
            {
                "VMT.SOLVER.ACCUMULATE": "2",
                "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": "0.05",
            },
        ),
        (
            "seqformer_tiny",
            {"SOLVER.WARMUP_STEPS": "1", "SOLVER.MILESTONE_STEPS": "[2]"},
            {"SOLVER.WARMUP_ITERS": "1", "SOLVER.STEPS": "(2,)"},
        ),
    ],
    ids=["adversary", "accumulated", "schedule"],
)
def test_losses_step_by_step(
    recipe: str,
    keys: dict[str, str],
    theirs: dict[str, str],
    make_config: Callable[..., Any],
    plugin: Any,
    tmp_path: Path,
) -> None:
    """Our engine and detectron2's, three steps: losses, gradient norms, the adversary, weights."""
    words = [word for pair in theirs.items() for word in pair]
    cfg = make_config(recipe, "SOLVER.MAX_ITER", 3, "DATASETS.TEST", (), *words)
    trainer = plugin.Trainer(cfg)
    trainer.resume_or_load(resume=False)
    seen = []
    steps = trainer._trainer
    whole = steps.run_step
    steps.run_step = lambda: (whole(), seen.append(steps.engine.last))
    trainer.train()

    config = plugin.vmt_config(cfg).clone()
    config.defrost()
    config.OUTPUT_DIR = str(tmp_path / "ours")
    config.ENGINE.TENSORBOARD = False
    for key, value in keys.items():
        node = config
        *path, leaf = key.split(".")
        for part in path:
            node = node[part]
        assert node[leaf] == type(node[leaf])(json.loads(value)), "the config says the same"
    run = TrainingRun(config)
    last = []
    make = run.trainer.run_step
    run.trainer.run_step = lambda batch: (make(batch), last.append(run.trainer.last))
    run.trainer.train()
    assert len(seen) == len(last) == 3
    for one, other in zip(seen, last, strict=True):
        assert one.losses.keys() == other.losses.keys()
        assert list(one.losses.values()) == pytest.approx(list(other.losses.values()), abs=1e-6)
        assert one.gradient_norm == pytest.approx(other.gradient_norm, abs=1e-6)
        assert one.adversary == pytest.approx(other.adversary, abs=1e-6)
    assert bool(seen[0].adversary) == (recipe == "msts_tiny")
    lines = [json.loads(x) for x in (tmp_path / "output/metrics.json").read_text().splitlines()]
    assert ("adversary/loss" in lines[-1]) == (recipe == "msts_tiny")
    assert "gradient_norm" in lines[-1]


def test_an_adversary_goes_on(make_config: Callable[..., Any], plugin: Any, tmp_path: Path) -> None:
    """Four steps, and two and two with a checkpoint between them."""

    def train(folder: str, steps: int, resume: bool) -> Any:
        cfg = make_config("msts_tiny", "SOLVER.MAX_ITER", steps, "DATASETS.TEST", ())
        cfg.OUTPUT_DIR = str(tmp_path / folder)
        trainer = plugin.Trainer(cfg)
        trainer.resume_or_load(resume=resume)
        trainer.train()
        return trainer

    straight = train("straight", 4, False)
    train("parts", 2, False)
    broken = train("parts", 4, True)
    for a, b in ((straight, broken),):
        one, other = a._trainer.engine.adversary.state(), b._trainer.engine.adversary.state()
        for name, value in one["objective"].items():
            assert torch.equal(value, other["objective"][name]), name
        for name, value in a.model.state_dict().items():
            assert torch.equal(value, b.model.state_dict()[name]), name
    cfg = make_config("seqformer_tiny", "SOLVER.MAX_ITER", 6, "DATASETS.TEST", ())
    cfg.OUTPUT_DIR = str(tmp_path / "parts")
    other = plugin.Trainer(cfg)
    with pytest.raises(CheckpointError, match="belongs to another network, which has"):
        other.resume_or_load(resume=True)


def test_schedules_and_clipping_of_detectron2(make_config: Callable[..., Any], plugin: Any) -> None:
    """Cosine, and gradients cut by value: its own code does both."""
    keys = ("SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR", "SOLVER.MAX_ITER", 4)
    clipping = ("SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "value")
    cfg = make_config("seqformer_tiny", *keys, *clipping, "DATASETS.TEST", ())
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = 1e-3
    trainer = plugin.Trainer(cfg)
    trainer.resume_or_load(resume=False)
    assert type(trainer.optimizer).__name__ == "AdamWWithGradientClip"
    groups, step = trainer.optimizer.param_groups, trainer.optimizer.step
    rates, largest = [], []

    def look() -> None:
        step()
        rates.append([group["lr"] / group["base_lr"] for group in groups])
        largest.append(max(float(p.grad.abs().max()) for g in groups for p in g["params"]))

    trainer.optimizer.step = look
    trainer.train()
    assert [r[0] for r in rates] == pytest.approx([1.0, 0.85355, 0.5, 0.14645], abs=1e-4)
    assert all(len({round(x, 9) for x in r}) == 1 for r in rates)
    assert max(largest) > 0.99e-3
    assert max(largest) <= 1e-3 + 1e-9
    assert trainer._trainer.engine.options.clip_gradients == 0


def test_epochs_of_a_recipe(make_config: Callable[..., Any], plugin: Any) -> None:
    from vmt.plugins.detectron2.trainer import with_steps

    cfg = make_config("seqformer_tiny", "SOLVER.MAX_ITER", 0, "VMT.SOLVER.EPOCHS", 3)
    cfg.VMT.SOLVER.MILESTONES = [1, 2]
    counted = with_steps(cfg)  # 12 frames, 2 clips a step
    assert (counted.SOLVER.MAX_ITER, counted.SOLVER.STEPS) == (18, (6, 12))
    assert cfg.SOLVER.MAX_ITER == 0
    assert with_steps(counted) is counted


def test_two_processes(script: Callable[..., int], tmp_path: Path, videos: Path) -> None:
    """On the CPU, by detectron2's own launch; weights are those of one process."""
    import os
    import subprocess
    import sys

    assert script(tmp_path / "one", SOLVER__MAX_ITER="3", DATASETS__TEST="()") == 0
    keys = KEYS | {
        "DATASETS.TRAIN": f"('{reference(videos / 'train')}',)",
        "DATASETS.TEST": f"('{reference(videos / 'val')}',)",
        "VMT.MODEL.LABEL_SPACE": str(videos / "train/annotations.json"),
        "OUTPUT_DIR": str(tmp_path / "two"),
        "SOLVER.MAX_ITER": "3",
        "VMT.MODEL.SEQFORMER.DROPOUT": "0.0",
    }
    recipe = str(REPO / "configs/quick/seqformer_tiny.yaml")
    words = [sys.executable, str(REPO / "tools/train_net_detectron2.py"), "--recipe", recipe]
    words += ["--num-gpus", "2", "--dist-url", "auto"]
    words += [word for pair in keys.items() for word in pair]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    keys = {"SOLVER__MAX_ITER": "3", "VMT__MODEL__SEQFORMER__DROPOUT": "0.0"}
    assert script(tmp_path / "alone", **keys) == 0
    a = weights(tmp_path / "two/vmt/model_final.safetensors")
    b = weights(tmp_path / "alone/vmt/model_final.safetensors")
    # AdamW's first steps divide small gradients by themselves, a rounding may show; a step is 2e-4
    apart = torch.cat([(a[name].double() - b[name].double()).abs().flatten() for name in a])
    assert apart.mean() < 1e-4 * 2e-4
    assert apart.max() < 1e-4
    results = [
        json.loads((tmp_path / f"{folder}/inference/annotations/results.json").read_text())
        for folder in ("two", "alone")
    ]
    assert len(results[0]) == len(results[1]) > 0


def test_errors_are_one_line(
    script: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(**keys: str) -> str:
        assert script(tmp_path / "out", **keys) == 2
        (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("train_net")]
        return line

    message = said(MODEL__META_ARCHITECTURE="VideoMaskTransfinder")
    assert "does not exist; did you mean VideoMaskTransfiner?" in message
    missing = str(tmp_path / "missing.pth")
    assert f"{missing}: no such weight file" in said(MODEL__WEIGHTS=missing)
    assert "MODEL.WEIGHTS is empty" in said(VMT__MODEL__NEW_PARAMETERS="[]")
    assert "unknown data set 'ytvis_2091_train'" in said(DATASETS__TRAIN="('ytvis_2091_train',)")


def test_a_checkpoint_of_another_trainer(
    make_config: Callable[..., Any], plugin: Any, tmp_path: Path
) -> None:
    from vmt.plugins.detectron2.trainer import _EngineSteps

    cfg = make_config("seqformer_tiny", "SOLVER.MAX_ITER", 2, "DATASETS.TEST", ())
    trainer = plugin.Trainer(cfg)
    assert isinstance(trainer._trainer, _EngineSteps)
    state = trainer._trainer.state_dict()
    del state["vmt"]
    with pytest.raises(CheckpointError, match=r"another trainer than .* starts a new training"):
        trainer._trainer.load_state_dict(state)
    cfg = make_config("minvis_tiny", "VMT.MODEL.ADVERSARY", "foreground_background")
    with pytest.raises(ConfigError, match=r"hands it none; set none\."):
        plugin.Trainer(cfg)
