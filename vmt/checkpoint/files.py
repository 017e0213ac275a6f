"""Weight files: read without executing anything, written atomically, renamed where needed.

Two layouts exist. *Published*: ``torch.save({"model": state_dict, ...})`` with the names of the
SeqFormer and VMT releases. *Ours*: safetensors with the names of our modules.
"""

from __future__ import annotations

import argparse
import os
import pickle
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vmt.checkpoint.key_maps.released import RELEASED
from vmt.utils.errors import CheckpointError, OutputError

SAFETENSORS = ".safetensors"
#: Every published file has entries with this beginning, none of ours has.
PUBLISHED_PREFIX = "detr."


@dataclass(frozen=True)
class WeightFile:
    """The content of a weight file.

    Args:
        path: where it was.
        published: whether its names are those of the releases.
        state: entries as in the file.
        metadata: what stands beside the weights (epoch, format, ...), as text.
    """

    path: Path
    published: bool
    state: dict[str, Tensor]
    metadata: dict[str, str]

    def ours(self) -> dict[str, Tensor]:
        """Entries under our names, unused ones included.

        Raises:
            CheckpointError: a published name that the key map does not know, or a box head that is
                stored twice with different content.
        """
        if not self.published:
            return self.state
        conversion = RELEASED.to_ours(self.state)
        if conversion.unknown:
            raise CheckpointError(
                f"{self.path}: {len(conversion.unknown)} entries are no SeqFormer or VMT weights, "
                f"first {conversion.unknown[0]!r}; is it a file of another network?"
            )
        if conversion.conflicts:
            raise CheckpointError(
                f"{self.path}: {conversion.conflicts[0]!r} should repeat the box head but differs; "
                "the file is damaged."
            )
        return conversion.state


def read_weights(path: str | Path) -> WeightFile:
    """Read a ``.pth`` or ``.safetensors`` file; no pickled code is ever executed.

    Raises:
        CheckpointError: missing, truncated, not a weight file, or a pickle that would run code.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such weight file; `vmt zoo` lists published ones.")
    if path.suffix == SAFETENSORS:
        state, metadata = _read_safetensors(path)
    else:
        state, metadata = _read_torch(path)
    if not state:
        raise CheckpointError(f"{path}: holds no tensors; it is not a weight file.")
    published = any(name.startswith(PUBLISHED_PREFIX) for name in state)
    return WeightFile(path, published, state, metadata)


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
            return state, dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: not a complete safetensors file ({error}); copy or download it again."
        ) from None


def _read_torch(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        # Published training files hold their command line as an argparse.Namespace: plain data.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(
                path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
            )
    except pickle.UnpicklingError as error:
        if "Unsupported global" in str(error) or "GLOBAL" in str(error):
            raise CheckpointError(
                f"{path}: refused, because it holds pickled Python objects that could run code; "
                "ask its author for the state dict alone or a safetensors file."
            ) from None
        raise CheckpointError(
            f"{path}: not a complete torch weight file; copy or download it again."
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, zipfile.BadZipFile, KeyError) as error:
        reason = str(error).split("\n", 1)[0]
        raise CheckpointError(
            f"{path}: not a complete torch weight file ({reason}); copy or download it again."
        ) from None
    return _split_content(path, content)


def _split_content(path: Path, content: Any) -> tuple[dict[str, Tensor], dict[str, str]]:
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"{path}: holds a {type(content).__name__}, not a state dict or {{'model': ...}}."
        )
    model = content.get("model", content)
    if not isinstance(model, Mapping):
        raise CheckpointError(f"{path}: its entry 'model' is a {type(model).__name__}.")
    state = {
        str(name).removeprefix("module."): value
        for name, value in model.items()
        if isinstance(value, Tensor)
    }
    rest = content if model is not content else {}
    metadata = {
        str(key): str(value)
        for key, value in rest.items()
        if isinstance(value, str | int | float | bool)
    }
    return state, metadata


def write_weights(
    state: Mapping[str, Tensor], path: str | Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Write weights atomically: the old file stays until the new one is complete.

    Args:
        state: our names for ``.safetensors``, published names for anything else.
        path: its suffix chooses the format.
        metadata: text beside the weights; safetensors only.

    Raises:
        OutputError: the disk is full or the folder cannot be written.
    """
    path = Path(path)
    entries = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name + ".")
        os.close(handle)
        if path.suffix == SAFETENSORS:
            # one storage per entry: safetensors refuses views
            entries = {name: value.clone() for name, value in entries.items()}
            save_file(entries, temporary, metadata={"format": "vmt", **(metadata or {})})
        else:
            torch.save({"model": entries}, temporary)
        with Path(temporary).open("rb+") as file:
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)  # mkstemp lets nobody else read it
        Path(temporary).replace(path)
    except (OSError, RuntimeError, SafetensorError) as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise OutputError(
            f"{path}: could not be written ({error}); free space or choose another folder."
        ) from None
