"""Weight files: read without executing anything, written atomically, renamed where needed.

Two layouts exist. *Published*: ``torch.save({"model": state_dict, ...})`` with the names of a
release, see ``key_maps``. *Ours*: safetensors with the names of our modules. Both may come in the
wrapping of other frameworks, see ``wrappers``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor

from vmt.checkpoint.key_maps import key_map_of
from vmt.checkpoint.key_maps.rows import UNUSED, KeyMap
from vmt.checkpoint.unpickle import read_pickle, read_torch
from vmt.checkpoint.wrappers import unwrap
from vmt.checkpoint.zoo import ZOO
from vmt.utils.atomic import AtomicFile, make_folder
from vmt.utils.errors import CheckpointError, OutputError

SAFETENSORS = ".safetensors"
#: End of the name of the index of a safetensors file in parts.
INDEX = ".safetensors.index.json"


@dataclass(frozen=True)
class WeightFile:
    """The content of a weight file.

    Args:
        path: where it was.
        key_map: from its names to ours; None where they are ours.
        state: entries as in the file.
        metadata: what stands beside the weights (epoch, format, ...), as text.
        notes: what was taken of several things in the file.
    """

    path: Path
    key_map: KeyMap | None
    state: dict[str, Tensor]
    metadata: dict[str, str]
    notes: tuple[str, ...] = ()

    @property
    def published(self) -> bool:
        """Whether its names are those of a release."""
        return self.key_map is not None

    def ours(self) -> dict[str, Tensor]:
        """Entries under our names, unused ones included.

        Raises:
            CheckpointError: a published name that the key map does not know, a box head that is
                stored twice with different content, or numbers that are none.
        """
        state = self._renamed()
        broken = [
            name
            for name, value in state.items()
            if not name.startswith(UNUSED) and not bool(torch.isfinite(value).all())
        ]
        if broken:
            more = f" and {len(broken) - 3} more" if len(broken) > 3 else ""
            raise CheckpointError(
                f"{self.path}: NaN or infinity in {', '.join(broken[:3])}{more}; the training that "
                "wrote it diverged: take one of its earlier checkpoints."
            )
        return state

    def _renamed(self) -> dict[str, Tensor]:
        if self.key_map is None:
            return self.state
        conversion = self.key_map.to_ours(self.state)
        if conversion.unknown:
            raise CheckpointError(
                f"{self.path}: {len(conversion.unknown)} entries are no {self.key_map.name} "
                f"weights, first {conversion.unknown[0]!r}; is it a file of another network?"
            )
        if conversion.conflicts:
            raise CheckpointError(
                f"{self.path}: {conversion.conflicts[0]!r} should repeat the box head but differs; "
                "whoever wrote it changed one of the two."
            )
        return conversion.state


def read_weights(path: str | Path) -> WeightFile:
    """Read weights; no pickled code is ever executed.

    Args:
        path: a file that torch or safetensors wrote, the index of a safetensors file in parts, a
            pickle of arrays as detectron2 has them, or a folder with one of them. The content
            says which, not the suffix.

    Raises:
        CheckpointError: missing, cut off, not weights, or a pickle that would run code.
    """
    path = Path(path)
    if path.is_dir():
        path = _in_folder(path)
    if not path.is_file():
        known = [file.name for file in ZOO.values() if file.file_name == path.name]
        hint = f"`vmt zoo --download {known[0]}` fetches it" if known else "`vmt zoo` lists some"
        raise CheckpointError(f"{path}: no such weight file; {hint}.")
    with _readable(path):
        with path.open("rb") as file:
            head = file.read(64)
        notes: list[str] = []
        if path.name.endswith(INDEX):
            state, metadata = _read_parts(path)
        elif head[8:9] == b"{" or path.suffix == SAFETENSORS:
            state, metadata = _read_safetensors(path)
        else:
            state, metadata, notes = unwrap(_read_pickled(path, head), str(path))
    if not state:
        raise CheckpointError(f"{path}: holds no tensors; it is not a weight file.")
    return WeightFile(path, key_map_of(state), state, metadata, tuple(notes))


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error}).") from None


def _in_folder(folder: Path) -> Path:
    """The weights in a folder, as model hubs lay them out: an index, or the only file."""
    for pattern in (f"*{INDEX}", f"*{SAFETENSORS}", "*.bin", "*.pth", "*.pt", "*.ckpt", "*.pkl"):
        files = sorted(folder.glob(pattern))
        if len(files) > 1:
            raise CheckpointError(
                f"{folder}: a folder with {len(files)} weight files ({files[0].name}, "
                f"{files[1].name}, ...); name one of them."
            )
        if files:
            return files[0]
    raise CheckpointError(f"{folder}: a folder without weights; name a weight file.")


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
            return state, dict(file.metadata() or {})
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(
            f"{path}: {_what_it_is(path) or f'not a complete safetensors file ({error})'}."
        ) from None


def _read_parts(index: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The parts that an index names, together."""
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        parts = sorted(set(places.values()))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise CheckpointError(f"{index}: has no weight_map from names to files.") from None
    state: dict[str, Tensor] = {}
    metadata: dict[str, str] = {}
    for number, name in enumerate(parts, start=1):
        part = index.parent / name
        if not part.is_file():
            raise CheckpointError(
                f"{part}: part {number} of {len(parts)} of {index.name} is not there; put it "
                "beside the index."
            )
        entries, beside = _read_safetensors(part)
        state |= entries
        metadata |= beside
    lacking = sorted(set(places) - set(state))
    if lacking:
        raise CheckpointError(
            f"{index}: names {lacking[0]!r} and {len(lacking) - 1} more entries that its parts do "
            "not have; they belong to another index."
        )
    return state, metadata


def _read_pickled(path: Path, head: bytes) -> Any:
    """What ``torch.save`` or pickle wrote."""
    zipped = zipfile.is_zipfile(path)
    try:
        if not zipped:
            content = read_pickle(path)
            return read_torch(path) if content is None else content
        # Published training files hold their command line as an argparse.Namespace: plain data.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError:
        pass  # objects beside the weights
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except (RuntimeError, EOFError, ValueError, zipfile.BadZipFile, KeyError) as error:
        raise CheckpointError(f"{path}: {_cut_off(path, head, str(error))}.") from None
    try:
        return read_torch(path)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except ValueError as error:
        raise CheckpointError(f"{path}: {_cut_off(path, head, str(error))}.") from None


def _cut_off(path: Path, head: bytes, reason: str) -> str:
    """What is known of a file that cannot be read as pickled weights."""
    known = _what_it_is(path)
    if known is not None:
        return known
    size = f"{path.stat().st_size:,} bytes"
    if head[:2] in (b"PK", b"\x80\x02", b"\x80\x04"):
        return (
            f"not a complete torch weight file: it begins as one and breaks off after {size} "
            "(compare with the size at its source)"
        )
    first = reason.split("\n", 1)[0]
    return f"not a torch, safetensors or pickle file ({first}), whatever its {size} are"


def _what_it_is(path: Path) -> str | None:
    """Things that come under the name of a weight file."""
    with path.open("rb") as file:
        head = file.read(512).lstrip()
    if not head:
        return "is empty (0 bytes): the copy or download ended before it began"
    if head[:1] == b"<":
        return "is a web page, not weights: open the link in a browser and see what it asks"
    if head.startswith(b"version https://git-lfs"):
        return "is a pointer of Git LFS, not the weights; `git lfs pull` fetches them"
    return None


def write_weights(
    state: Mapping[str, Tensor], path: str | Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Write weights atomically: the old file stays until the new one is complete.

    Args:
        state: our names for ``.safetensors``, published names for anything else.
        path: its suffix chooses the format.
        metadata: text beside the weights.

    Raises:
        OutputError: the disk is full or the folder cannot be written.
    """
    path = Path(path)
    entries = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    try:
        make_folder(path.parent)
        with AtomicFile(path, shared=True) as file:
            if path.suffix == SAFETENSORS:
                # one storage per entry: safetensors refuses views
                entries = {name: value.clone() for name, value in entries.items()}
                file.write(serialize(entries, metadata={"format": "vmt", **(metadata or {})}))
            else:
                torch.save({"model": entries, **(metadata or {})}, cast("IO[bytes]", file))
    except OutputError:
        raise
    except (OSError, RuntimeError, SafetensorError) as error:
        raise OutputError(
            f"{path}: could not be written ({error}); free space or choose another folder."
        ) from None
