"""Training checkpoints: everything a run needs to go on as if it had never stopped.

A checkpoint is one ``.pth`` file of tensors, numbers, text, lists and dictionaries, written under a
temporary name, forced to the disk and renamed; it is read with ``weights_only=True``, so nothing in
it is executed. Its entry ``model`` makes it a weight file too.
"""

from __future__ import annotations

import logging
import pickle
import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import torch

from vmt.utils.atomic import AtomicFile, make_folder
from vmt.utils.errors import CheckpointError, OutputError

logger = logging.getLogger(__name__)

#: Grows when old readers could not understand a new file.
FORMAT = 1
REQUIRED = ("format", "step", "model", "optimizer", "rng", "config")
_NAME = re.compile(r"step_(\d+)\.pth")


def save_state(state: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint; the file appears whole or not at all.

    Args:
        state: ``REQUIRED`` entries but ``format``, and any others made of tensors, numbers, text,
            lists and dictionaries.
        path: its name.

    Raises:
        OutputError: the disk is full or the folder cannot be written.
    """
    try:
        make_folder(path.parent)
        with AtomicFile(path, shared=True) as file:
            torch.save({"format": FORMAT, **state}, cast("IO[bytes]", file))
    except OutputError:
        raise
    except (OSError, RuntimeError) as error:
        raise OutputError(
            f"{path}: could not be written ({error}); free space or choose another OUTPUT_DIR."
        ) from None


def load_state(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU.

    Raises:
        CheckpointError: missing, cut short, no training checkpoint, or of a newer format.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).split("\n", 1)[0]
        raise CheckpointError(f"{path}: not a complete training checkpoint ({reason}).") from None
    lacking = [k for k in REQUIRED if k not in state] if isinstance(state, dict) else REQUIRED
    if lacking:
        raise CheckpointError(
            f"{path}: lacks {', '.join(lacking)}; it is a weight file, not a training checkpoint. "
            "MODEL.WEIGHTS starts a new training from it."
        )
    if state["format"] > FORMAT:
        raise CheckpointError(
            f"{path}: format {state['format']} is newer than {FORMAT}; update VMT to resume it."
        )
    return dict(state)


class CheckpointFolder:
    """The checkpoints of one run: ``step_00001000.pth`` and so on.

    Args:
        folder: need not exist yet.
        keep: newest checkpoints that stay when a new one is saved, at least 1.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder = folder
        self.keep = max(keep, 1)

    def paths(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        if not self.folder.is_dir():
            return []
        return sorted(path for path in self.folder.iterdir() if _NAME.fullmatch(path.name))

    def save(self, state: Mapping[str, Any]) -> Path:
        """Write the checkpoint of ``state["step"]``, then remove those beyond ``keep``."""
        path = self.folder / f"step_{state['step']:08d}.pth"
        save_state(state, path)
        for old in self.paths()[: -self.keep]:
            old.unlink(missing_ok=True)
        for left in self.folder.glob("step_*.pth.*"):  # of a writer that was killed
            left.unlink(missing_ok=True)
        return path

    def load_newest(self) -> tuple[Path, dict[str, Any]] | None:
        """The newest readable checkpoint; None when there is none at all.

        Raises:
            CheckpointError: there are checkpoints, but not one can be read.
        """
        failure: CheckpointError | None = None
        for path in reversed(self.paths()):
            try:
                return path, load_state(path)
            except CheckpointError as error:
                logger.warning("%s Trying the one before it.", error)
                failure = failure or error
        if failure is not None:
            raise failure
        return None


def random_state() -> dict[str, Any]:
    """The random number generators of this process: Python, NumPy, torch on CPU and GPU."""
    version, numbers, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": [version, list(numbers), gauss],
        "numpy": [str(name), np.asarray(keys).tolist(), int(position), int(has_gauss), cached],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
    }


def restore_random_state(state: Mapping[str, Any]) -> None:
    """Put the generators where ``random_state`` found them."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def seed_everything(seed: int) -> None:
    """Start the generators of this process from one number."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def changed_keys(
    old: Mapping[str, Any], new: Mapping[str, Any], ignore: Sequence[str] = ()
) -> list[str]:
    """``KEY: old -> new`` of nested settings that differ, but for keys that start as ``ignore``."""
    flat_old, flat_new = _flat(old), _flat(new)
    return [
        f"{name}: {flat_old.get(name)!r} -> {flat_new.get(name)!r}"
        for name in flat_old | flat_new
        if flat_old.get(name) != flat_new.get(name) and not name.startswith(tuple(ignore))
    ]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
