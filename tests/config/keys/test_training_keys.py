"""Keys of solver and engine: what a training does, in real runs of one to four steps."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import pytest
import torch
from fvcore.common.config import CfgNode

from tests.config.keys.pairs import Pair, network, record_hidden_types, shows, shows_each
from vmt.engine import parallel
from vmt.engine.lr_schedule import Schedule
from vmt.engine.optimizer import build_optimizer
from vmt.engine.run import TrainingRun
from vmt.utils.errors import ConfigError
from vmt.utils.events import read_json_lines

#: Clips of 48x64, one step.
STEP = (
    "MODEL.NEW_PARAMETERS", "[backbone.]",  # random on purpose
    "MODEL.LABEL_SPACE", "object", "DATASETS.CLASS_MATCH", "any", "INPUT.CLIP_FRAMES", "2",
    "INPUT.MIN_SIZE_TRAIN", "[48]", "INPUT.CROP_PROB", "0.0", "SOLVER.CLIPS_PER_BATCH", "2",
    "INPUT.MIN_SIZE_TEST", "48", "SOLVER.MAX_STEPS", "1", "SOLVER.MILESTONE_STEPS", "[]",
    "ENGINE.LOG_PERIOD", "1", "TEST.METRICS", "[]",
)  # fmt: skip


def of(path: Path) -> str:
    return json.dumps([f"{path}@{path.parent / 'JPEGImages'}"])


def prepared(pair: Pair, shapes: Path, tmp_path: Path, *extra: str) -> list[TrainingRun]:
    """Runs that have not begun, each with a folder of its own."""
    runs = []
    for k in range(2):
        words = ("DATASETS.TRAIN", of(shapes), "OUTPUT_DIR", tmp_path / str(k), *extra)
        runs.append(TrainingRun(pair.configs(*words)[k]))
    return runs


def trained(pair: Pair, shapes: Path, tmp_path: Path, *extra: str) -> list[TrainingRun]:
    runs = prepared(pair, shapes, tmp_path, *extra)
    for run in runs:
        assert run.trainer.train()
    return runs


# --- learning rates -------------------------------------------------------------------------------


def rates(cfg: CfgNode) -> dict[str, float]:
    return {g["name"]: g["lr"] for g in build_optimizer(cfg, network(cfg)).param_groups}


@shows_each(
    {
        "SOLVER.BASE_LR": (4e-4, [4e-4, 4e-4, 4e-5]),
        "SOLVER.BACKBONE_FACTOR": (0.5, [2e-4, 1e-4, 2e-5]),
        "SOLVER.SAMPLING_FACTOR": (0.3, [2e-4, 2e-4, 6e-5]),
    },
    "expected",
)
def test_learning_rates(pair: Pair, expected: list[float]) -> None:
    """Of the rest, the backbone (whose factor is 1 here) and sampling."""
    found = [[rates(cfg)[g] for g in ("rest", "backbone", "sampling")] for cfg in pair]
    assert found == [pytest.approx([2e-4, 2e-4, 2e-5]), pytest.approx(expected)]


@shows("SOLVER.OPTIMIZER", "sgd")
def test_optimizer(pair: Pair) -> None:
    found = [build_optimizer(cfg, network(cfg)) for cfg in pair]
    assert [type(optimizer) for optimizer in found] == [torch.optim.AdamW, torch.optim.SGD]
    assert {g["momentum"] for g in found[1].param_groups} == {0.9}
    with pytest.raises(ConfigError, match=r"SOLVER.OPTIMIZER is 'adam'; choose adamw or sgd"):
        build_optimizer(pair.to("adam")[1], network(pair.to("adam")[1]))


@shows("SOLVER.WEIGHT_DECAY", 0.05)
def test_weight_decay(pair: Pair) -> None:
    found = [
        {g["weight_decay"] for g in build_optimizer(cfg, network(cfg)).param_groups} for cfg in pair
    ]
    assert found == [{1e-4}, {0.05}]


EPOCHS = ("SOLVER.MAX_STEPS", "0")


@shows("SOLVER.EPOCHS", 3, *EPOCHS)
def test_epochs(pair: Pair) -> None:
    assert [Schedule.from_config(cfg, 10).max_steps for cfg in pair] == [120, 30]


@shows("SOLVER.MAX_STEPS", 7, *EPOCHS)
def test_max_steps(pair: Pair) -> None:
    assert [Schedule.from_config(cfg, 10).max_steps for cfg in pair] == [120, 7]


@shows_each(
    {
        # steps 39, 40, 99 and 100 of 10 steps per epoch, milestones in epochs 4 and 10
        "SOLVER.MILESTONES": ([5, 10], "0", [1, 1, 0.1, 0.01]),
        "SOLVER.MILESTONE_STEPS": ([100], "200", [1, 1, 1, 0.1]),
        # half of the way: 0.001 and half of the rest
        "SOLVER.WARMUP_STEPS": (80, "0", [0.001 + 0.999 * 39 / 80, 0.05005, 0.1, 0.01]),
    },
    "steps,expected",
)
def test_factors(pair: Pair, steps: str, expected: list[float]) -> None:
    before = [1, 0.1, 0.1, 0.01]
    base, changed = pair.configs("SOLVER.MAX_STEPS", steps, *(
        ("SOLVER.MILESTONE_STEPS", "[40, 100]") if steps != "0" else ()
    ))  # fmt: skip
    for cfg, factors in ((base, before), (changed, expected)):
        schedule = Schedule.from_config(cfg, 10)
        assert [schedule.factor(s) for s in (39, 40, 99, 100)] == pytest.approx(factors)


# --- the step -------------------------------------------------------------------------------------


@shows("SOLVER.CLIP_GRADIENTS", 0.0, *STEP)
def test_gradient_limit(pair: Pair, shapes: Path, tmp_path: Path) -> None:
    limited, free = trained(pair, shapes, tmp_path)
    norms = []
    for run in (limited, free):
        gradients = [p.grad.flatten() for p in run.trainer.model.parameters() if p.grad is not None]
        norms.append(float(torch.cat(gradients).norm()))
    assert limited.trainer.last.gradient_norm == free.trainer.last.gradient_norm > 1
    assert norms == pytest.approx([0.1, free.trainer.last.gradient_norm], rel=1e-3)


@shows("SOLVER.ACCUMULATE", 2, *STEP)
def test_accumulate(pair: Pair, shapes: Path, tmp_path: Path) -> None:
    """Both clips at once, or one after the other."""
    calls: list[list[int]] = [[], []]
    runs = prepared(pair, shapes, tmp_path)
    for run, sizes in zip(runs, calls, strict=True):
        run.trainer.model.register_forward_pre_hook(lambda _, a, s=sizes: s.append(len(a[0])))
        run.trainer.train()
    assert calls == [[2], [1, 1]]
    norms = [run.trainer.last.gradient_norm for run in runs]
    assert norms[0] == pytest.approx(norms[1], rel=1e-3)


@shows("SOLVER.FREEZE", ["coarse.", "heads.cls"], *STEP,
       "MODEL.NEW_PARAMETERS", "[backbone., coarse., heads.cls]")  # fmt: skip
def test_freeze(pair: Pair, shapes: Path, tmp_path: Path) -> None:
    """What starts so stays as it is."""
    moved: list[set[str]] = []
    for run in prepared(pair, shapes, tmp_path):
        before = {name: v.clone() for name, v in run.trainer.model.state_dict().items()}
        run.trainer.train()
        after = run.trainer.model.state_dict()
        parts = {".".join(n.split(".")[:2]) for n in before if not torch.equal(before[n], after[n])}
        moved.append(parts)
    assert {"coarse.reduce", "heads.cls", "heads.box"} <= moved[0]
    assert moved[0] - moved[1] == {p for p in moved[0] if p.startswith(("coarse.", "heads.cls"))}


@shows("ENGINE.SEED", 7, *STEP)
def test_seed(pair: Pair, shapes: Path, tmp_path: Path) -> None:
    first, other = prepared(pair, shapes, tmp_path)
    again = prepared(pair, shapes, tmp_path / "again")[0]
    weights = [run.trainer.model.decoder.query_pos for run in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@shows_each(
    {
        "ENGINE.PRECISION": ("bf16", [(1, torch.float32)], [(1, torch.bfloat16)]),
        # once forward, once more for the gradient
        "ENGINE.ACTIVATION_CHECKPOINTING": (True, [(1, torch.float32)], [(2, torch.float32)]),
    },
    "before,after",
    *STEP,
)
def test_how_layers_compute(
    pair: Pair,
    before: Any,
    after: Any,
    shapes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """How often an encoder layer computes in a step, and in which type."""
    found = []
    for run in prepared(pair, shapes, tmp_path):
        types: list[torch.dtype] = []
        record_hidden_types(run.trainer.model.encoder.layers[0], types, monkeypatch)
        run.trainer.train()
        assert all(t.dtype == torch.float32 for t in run.trainer.model.parameters())
        found.append([(len(types), types[0])])
    assert found == [before, after]


@shows("ENGINE.COMPILE", True, *STEP)
def test_compile(pair: Pair, shapes: Path, tmp_path: Path) -> None:
    """Layers of encoder and decoder are handed to torch, which compiles at the first call."""
    for run, handed in zip(prepared(pair, shapes, tmp_path), (False, True), strict=True):
        model = run.trainer.model
        for layer in (*model.encoder.layers, *model.decoder.layers):
            assert (layer._compiled_call_impl is not None) == handed


@shows("ENGINE.PARALLEL", "fsdp", *STEP)
def test_parallel(
    pair: Pair, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which of torch's two ways is taken by a process of two."""
    taken: list[str] = []
    monkeypatch.setattr("vmt.utils.comm.world_size", lambda: 2)
    monkeypatch.setattr("vmt.utils.comm.barrier", lambda: None)

    class Whole:
        def __init__(self, module: Any, *, broadcast_buffers: bool = True, **_: Any) -> None:
            taken.append("ddp")

    monkeypatch.setattr(parallel, "DistributedDataParallel", Whole)
    monkeypatch.setattr(parallel, "init_device_mesh", lambda *_: None)
    monkeypatch.setattr(
        parallel, "fully_shard", lambda part, mesh: taken.append(type(part).__name__)
    )
    prepared(pair, shapes, tmp_path)
    layers = ["EncoderLayer", "DecoderLayer", "DecoderLayer"]
    assert taken == ["ddp", *layers, "SeqFormer"]


# --- what is written ------------------------------------------------------------------------------

FOUR = (*STEP, "SOLVER.MAX_STEPS", "4", "ENGINE.CHECKPOINT_PERIOD", "2",
        "SOLVER.CLIPS_PER_BATCH", "1")  # fmt: skip


def checkpoints(run: TrainingRun) -> list[int]:
    return [int(p.stem[5:]) for p in sorted((run.output / "checkpoints").glob("step_*.pth"))]


def logged(run: TrainingRun) -> list[int]:
    return [line["step"] for line in read_json_lines(run.output / "metrics.jsonl")]


def overlays(run: TrainingRun) -> list[str]:
    return sorted(path.name for path in (run.output / "overlays").glob("*"))


def evaluations(run: TrainingRun) -> list[str]:
    return sorted(path.name for path in (run.output / "inference").glob("*"))


def curves(run: TrainingRun) -> bool:
    return any((run.output / "tensorboard").glob("events*"))


@shows_each(
    {
        "ENGINE.CHECKPOINT_PERIOD": (1, checkpoints, [2, 4], [3, 4]),
        "ENGINE.KEEP_CHECKPOINTS": (1, checkpoints, [2, 4], [4]),
        "ENGINE.LOG_PERIOD": (3, logged, [1, 2, 3, 4], [3, 4]),
        "ENGINE.OVERLAY_PERIOD": (3, overlays, [], ["step_00000003.png"]),
        "ENGINE.TENSORBOARD": (True, curves, False, True),
        "TEST.EVAL_PERIOD": (
            3, evaluations, ["step_00000004"], ["step_00000003", "step_00000004"]
        ),
    },
    "files,before,after",
    *FOUR,
)  # fmt: skip
def test_what_is_written_when(
    pair: Pair, files: Any, before: Any, after: Any, shapes: Path, tmp_path: Path
) -> None:
    extra = ("DATASETS.TEST", of(shapes)) if pair.key.startswith("TEST") else ()
    assert [files(run) for run in trained(pair, shapes, tmp_path, *extra)] == [before, after]


@shows("ENGINE.EMA_DECAY", 0.1, *STEP)
def test_moving_average(pair: Pair, shapes: Path, tmp_path: Path) -> None:
    """Behind one step: a tenth of the start and nine tenths of what was learned."""
    name = "decoder.query_pos"
    written = []
    for run in prepared(pair, shapes, tmp_path):
        start = run.trainer.model.state_dict()[name].clone()
        run.trainer.train()
        written.append(
            (start, run.trainer.model.state_dict()[name], run.weights(run.trainer)[name])
        )
    (_, learned, plain), (start, again, mean) = written
    assert torch.equal(learned, plain)
    assert not torch.equal(start, again)
    torch.testing.assert_close(mean, 0.1 * start + 0.9 * again)


@shows("ENGINE.WANDB_PROJECT", "shapes", *STEP)
def test_wandb(pair: Pair, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of the package, which needs an account."""
    projects: list[str] = []
    steps: list[int] = []

    def init(project: str, **_: Any) -> SimpleNamespace:
        projects.append(project)
        return SimpleNamespace(log=lambda _, step: steps.append(step), finish=lambda: None)

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    trained(pair, shapes, tmp_path)
    assert projects == ["shapes"]
    assert steps == [1]


@shows("TEST.CONFIDENCE", 1.1, *STEP, "ENGINE.OVERLAY_PERIOD", "1", "TEST.TOP_K", "1")
def test_confidence_of_overlays(pair: Pair, shapes: Path, tmp_path: Path) -> None:
    """No score is above 1: the lower half of the picture shows the frames alone."""
    words = ("TEST.CONFIDENCE", "0.0")
    runs = trained(pair, shapes, tmp_path, *words)
    drawn = []
    for run in runs:
        picture = cv2.imread(str(run.output / "overlays" / "step_00000001.png"))[..., ::-1]
        frames = run.trainer.last.batch[0]["image"].permute(0, 2, 3, 1).numpy()
        below = picture[picture.shape[0] // 2 :]
        drawn.append(not (below[:, : frames.shape[2]] == frames[0]).all())
    assert drawn == [True, False]


@shows("TEST.BEST_METRIC", "tube_mask/nothing", *STEP, "TEST.METRICS", "[tube_mask]")
def test_best_metric(pair: Pair, shapes: Path, tmp_path: Path) -> None:
    """Weights are kept as the best by a number that is there."""
    runs = trained(pair, shapes, tmp_path, "DATASETS.TEST", of(shapes))
    assert [(r.output / "model_best.safetensors").is_file() for r in runs] == [True, False]


@shows("OUTPUT_DIR", "elsewhere", *STEP)
def test_output(pair: Pair, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for cfg in pair.configs("DATASETS.TRAIN", of(shapes)):
        TrainingRun(cfg)
    assert {path.name for path in tmp_path.iterdir()} == {"output", "elsewhere"}
    assert (tmp_path / "elsewhere" / "config.yaml").is_file()
