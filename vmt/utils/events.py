"""Scalars of a training run: collected per step, written as JSON lines, TensorBoard or W&B."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from vmt.utils.atomic import write_text
from vmt.utils.errors import ConfigError, OutputError


class ScalarWriter(Protocol):
    """Takes in the scalars of a step."""

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Keep the scalars of one step; steps come in ascending order."""
        ...

    def close(self) -> None:
        """Finish whatever is open."""
        ...


class JsonLines:
    """One JSON object per line, flushed at once: ``{"step": 20, "loss": 3.5, ...}``.

    Args:
        path: appended to; made if need be.
        first_step: lines of an earlier run from this step on are dropped, as a resumed run
            repeats them. NaN and infinity are written as null.
    """

    def __init__(self, path: Path, first_step: int = 0) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _drop_lines(path, first_step)
            self._file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise OutputError(f"{path}: cannot be written ({error}).") from None

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Append a line."""
        numbers = {name: v if math.isfinite(v) else None for name, v in scalars.items()}
        try:
            self._file.write(json.dumps({"step": step, **numbers}) + "\n")
            self._file.flush()
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written ({error}); free space.") from None

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of such a file; a last line that was cut off is left out."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return lines


def _drop_lines(path: Path, first_step: int) -> None:
    if not path.is_file():
        return
    earlier = [line for line in read_json_lines(path) if line.get("step", 0) < first_step]
    write_text(path, "".join(json.dumps(line) + "\n" for line in earlier))


class TensorBoard:
    """TensorBoard event files.

    Args:
        folder: made if need be.
        first_step: points of an earlier run from this step on are hidden.
    """

    def __init__(self, folder: Path, first_step: int = 0) -> None:
        module = importlib.import_module("torch.utils.tensorboard")
        self._writer: Any = module.SummaryWriter(str(folder), purge_step=first_step or None)

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Add a point to every curve."""
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Close the file."""
        self._writer.close()


class WeightsAndBiases:
    """A run on Weights & Biases.

    Args:
        project: its name.
        folder: where W&B keeps its files; its name becomes the name of the run.
        settings: shown beside the curves.

    Raises:
        ConfigError: the package is not installed.
    """

    def __init__(self, project: str, folder: Path, settings: Mapping[str, Any]) -> None:
        try:
            wandb = importlib.import_module("wandb")
        except ImportError:
            raise ConfigError(
                f"ENGINE.WANDB_PROJECT {project!r} needs the package wandb; "
                "`pip install wandb`, or leave the key empty."
            ) from None
        self._run: Any = wandb.init(
            project=project,
            name=folder.resolve().name,
            id=folder.resolve().name,
            resume="allow",
            dir=str(folder),
            config=dict(settings),
        )

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Log the scalars."""
        self._run.log(dict(scalars), step=step)

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()
