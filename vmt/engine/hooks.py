"""Everything that happens beside the training step: log, checkpoints, evaluation, overlays."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vmt.checkpoint.training_state import CheckpointFolder
from vmt.engine.train_loop import Hook, Trainer
from vmt.inference.predictor import PredictorOptions, VideoPredictor
from vmt.inference.video_writer import write_png
from vmt.utils import comm
from vmt.utils.atomic import make_folder
from vmt.utils.events import ScalarWriter
from vmt.utils.memory import peak_mb
from vmt.utils.signals import handle_stop
from vmt.visualization.draw import draw_tracks

logger = logging.getLogger(__name__)


#: Seconds in which a second signal is an echo of the first: Ctrl-C reaches every process by itself
#: and once more through the process that started them.
_ECHO = 2.0


class SignalHook(Hook):
    """SIGTERM and SIGINT end the training after the running step; a later one ends it at once."""

    def __init__(self) -> None:
        self._heard = 0.0
        self._give_back: Callable[[], None] = lambda: None
        self._trainer: Trainer | None = None

    def before_train(self, trainer: Trainer) -> None:
        """Listen; outside the main thread signals are left alone."""
        self._trainer = trainer
        self._give_back = handle_stop(self._stop)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        assert self._trainer is not None, "signals are heard during training only"
        if not self._trainer.stop_asked:
            self._heard = time.monotonic()
            self._trainer.request_stop(number)
        elif time.monotonic() - self._heard > _ECHO:
            raise KeyboardInterrupt

    def close(self) -> None:
        """Leave signals to whom they belonged."""
        self._give_back()
        self._give_back = lambda: None


class LogHook(Hook):
    """Means over the last steps and all processes, to the log and the writers.

    Args:
        period: steps between lines.
        writers: used in process 0 only.
    """

    def __init__(self, period: int, writers: Callable[[int], Sequence[ScalarWriter]]) -> None:
        self.period = max(period, 1)
        self._open_writers = writers
        self._writers: Sequence[ScalarWriter] = ()
        self._sums: dict[str, float] = {}
        self._count = 0
        self._started = (0, 0.0)

    def before_train(self, trainer: Trainer) -> None:
        """Open the writers."""
        if comm.is_main():
            self._writers = self._open_writers(trainer.step)
        self._started = (trainer.step, time.perf_counter())

    def after_step(self, trainer: Trainer) -> None:
        """Add up; at the end of a period, report."""
        last = trainer.last
        numbers = {
            "loss": sum(last.losses.values()),
            **last.losses,
            **last.adversary,
            "gradient_norm": last.gradient_norm,
            "seconds_per_step": last.seconds,
            "seconds_for_data": last.data_seconds,
            "clips": float(len(last.batch)),
            "skipped_files": float(trainer.skipped_files),
        }
        for name, value in numbers.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._count += 1
        if trainer.step % self.period == 0 or trainer.step == trainer.max_steps:
            self._report(trainer)

    def _report(self, trainer: Trainer) -> None:
        sums = torch.tensor(list(self._sums.values()), dtype=torch.float64) / self._count
        scalars = dict(zip(self._sums, comm.mean(sums).tolist(), strict=True))
        clips = scalars.pop("clips") * comm.world_size()
        scalars["clips_per_second"] = clips / max(scalars["seconds_per_step"], 1e-9)
        for group in trainer.optimizer.param_groups:
            scalars[f"lr_{group['name']}"] = group["lr"]
        scalars["peak_memory_mb"] = peak_memory_mb(trainer.device)
        self._sums, self._count = {}, 0
        for writer in self._writers:
            writer.write(trainer.step, scalars)
        if comm.is_main():
            logger.info(self._line(trainer, scalars))

    def _line(self, trainer: Trainer, scalars: Mapping[str, float]) -> str:
        first, started = self._started
        done = max(trainer.step - first, 1)
        left = (trainer.max_steps - trainer.step) * (time.perf_counter() - started) / done
        parts = [
            f"{name} {value:.4g}"
            for name, value in scalars.items()
            if name.startswith("loss") and not name[-1].isdigit()
        ]
        lr = max(group["lr"] for group in trainer.optimizer.param_groups)
        waiting = scalars["seconds_for_data"] / max(scalars["seconds_per_step"], 1e-9)
        return (
            f"step {trainer.step}/{trainer.max_steps}  {'  '.join(parts)}  "
            f"gradient {scalars['gradient_norm']:.3g}  lr {lr:.3g}  "
            f"{scalars['seconds_per_step']:.3g} s/step ({waiting:.0%} data)  "
            f"{scalars['clips_per_second']:.3g} clips/s  "
            f"peak {scalars['peak_memory_mb']:.0f} MB  eta {timedelta(seconds=round(left))}"
        )

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Let other hooks add scalars to the same writers."""
        for writer in self._writers:
            writer.write(step, scalars)

    def close(self) -> None:
        """Finish the writers."""
        for writer in self._writers:
            writer.close()
        self._writers = ()


def peak_memory_mb(device: torch.device) -> float:
    """Largest memory so far: of the GPU's tensors, else of this process; MB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return peak_mb()


class CheckpointHook(Hook):
    """A checkpoint every period, at the end, and after a stop.

    Args:
        folder: of the checkpoints.
        period: steps between them.
        extra: goes into every checkpoint beside the state of the trainer.
    """

    def __init__(self, folder: CheckpointFolder, period: int, extra: Mapping[str, Any]) -> None:
        self.folder = folder
        self.period = period
        self.extra = dict(extra)
        self._saved = -1

    def before_train(self, trainer: Trainer) -> None:
        """What was loaded need not be saved again."""
        self._saved = trainer.step if trainer.step else -1

    def after_step(self, trainer: Trainer) -> None:
        """Save when it is time."""
        if self.period > 0 and trainer.step % self.period == 0:
            self._save(trainer)

    def after_train(self, trainer: Trainer) -> None:
        """Save what is not saved yet."""
        if self._saved != trainer.step:
            self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        state = trainer.state()
        if comm.is_main():
            path = self.folder.save({**state, **self.extra})
            logger.info("checkpoint %s", path)
        comm.barrier()
        self._saved = trainer.step


class EvalHook(Hook):
    """Evaluates every period and at the end; keeps the best weights.

    Args:
        period: steps between evaluations; 0: at the end only.
        evaluate: (trainer) -> numbers by name; None when a signal came in between.
        best_metric: the number that decides; may be absent from the numbers.
        keep_best: called in every process when the trainer's weights are the best so far.
        report: takes in (step, numbers), for the log's writers.
    """

    name = "eval"

    def __init__(
        self,
        period: int,
        evaluate: Callable[[Trainer], dict[str, float] | None],
        best_metric: str,
        keep_best: Callable[[Trainer, float], None],
        report: Callable[[int, Mapping[str, float]], None],
    ) -> None:
        self.period = period
        self.results: dict[str, float] = {}
        self._evaluate = evaluate
        self._best_metric = best_metric
        self._keep_best = keep_best
        self._report = report
        self._best = -math.inf
        self._done = 0

    def before_train(self, trainer: Trainer) -> None:
        """Make up for an evaluation that a signal or a crash cut short."""
        if trainer.step and self._due(trainer) and self._done < trainer.step:
            self._run(trainer)

    def after_step(self, trainer: Trainer) -> None:
        """Evaluate when it is time."""
        if self._due(trainer):
            self._run(trainer)

    def _due(self, trainer: Trainer) -> bool:
        at_period = self.period > 0 and trainer.step % self.period == 0
        return at_period or trainer.step == trainer.max_steps

    def _run(self, trainer: Trainer) -> None:
        trainer.model.eval()
        try:
            results = self._evaluate(trainer)
        finally:
            trainer.model.train()
        if results is None:
            return
        self.results, self._done = results, trainer.step
        self._report(trainer.step, results)
        value = results.get(self._best_metric, math.nan)
        if value > self._best:
            self._best = value
            self._keep_best(trainer, value)

    def state(self) -> dict[str, Any]:
        """Best score so far, and the step of the last evaluation."""
        return {"best": self._best, "done": self._done}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take both back."""
        self._best, self._done = float(state["best"]), int(state["done"])


class OverlayHook(Hook):
    """Draws what the network sees in a clip that it is trained on: truth above, prediction below.

    Args:
        period: steps between pictures.
        folder: gets ``step_00000100.png``.
        confidence: lowest score that is drawn.
        names: of the classes.
    """

    def __init__(self, period: int, folder: Path, confidence: float, names: Sequence[str]) -> None:
        self.period = period
        self.folder = folder
        self.confidence = confidence
        self.names = names

    def after_step(self, trainer: Trainer) -> None:
        """Draw when it is time."""
        if trainer.step % self.period or not comm.is_main():
            return
        trainer.model.eval()
        try:
            picture = self._picture(trainer)
        finally:
            trainer.model.train()
        write_png(make_folder(self.folder) / f"step_{trainer.step:08d}.png", picture)

    def _picture(self, trainer: Trainer) -> np.ndarray[Any, np.dtype[np.uint8]]:
        clip = trainer.last.batch[0]
        image: Tensor = clip["image"].detach().cpu().clamp(0, 255)
        frames = list(image.to(torch.uint8).permute(0, 2, 3, 1).numpy())
        options = PredictorOptions(min_size=min(frames[0].shape[:2]))
        model: Any = trainer.model
        predicted = []
        for result in VideoPredictor(model, options).stream(frames):
            tracks = [track for track in result.tracks if track.score >= self.confidence]
            predicted.append(draw_tracks(frames[result.index], tracks, self.names))
        masks = clip["targets"].masks.cpu().numpy()
        truth = [_painted(frame, masks[:, t]) for t, frame in enumerate(frames)]
        return np.concatenate([np.concatenate(truth, 1), np.concatenate(predicted, 1)], 0)


def _painted(
    frame: np.ndarray[Any, np.dtype[np.uint8]], masks: np.ndarray[Any, np.dtype[np.bool_]]
) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Masks (G, H, W) in half-transparent white."""
    painted = frame.copy()
    inside = masks.any(axis=0) if len(masks) else np.zeros(frame.shape[:2], dtype=bool)
    painted[inside] = painted[inside] // 2 + 127
    return painted
