"""Pickles read as data: arrays, tensors and plain values come out, nothing is ever executed.

Training files of other frameworks hold their settings as objects beside the weights. Every class or
function that a file names, but for those that build tensors and arrays, becomes a ``Placeholder``.
"""

from __future__ import annotations

import pickle
import struct
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import torch
import torch.serialization

from vmt.utils.errors import CheckpointError

#: What a file may name: nothing here does more than build a value.
_BUILDERS = {
    *(("collections", name) for name in ("OrderedDict", "defaultdict")),
    *(("torch", name) for name in ("Size", "device")),
    *(("torch._utils", f"_rebuild_{name}") for name in ("tensor", "tensor_v2", "parameter")),
    *(
        (f"{core}.multiarray", name)
        for core in ("numpy.core", "numpy._core")
        for name in ("_reconstruct", "scalar")
    ),
    *(("numpy", name) for name in ("ndarray", "dtype")),
    ("_codecs", "encode"),  # how Python 2 wrote bytes
}
#: No training needs these in its file; one that names them wants to run something.
_ATTACKS = {"os", "posix", "nt", "subprocess", "sys", "shutil", "socket", "importlib", "runpy"}
_ATTACKS |= {"builtins", "__builtin__", "ctypes", "webbrowser", "pty", "platform", "commands"}
#: How a pickle can fail to build its values.
_FAILURES = (
    *(AttributeError, EOFError, ImportError, LookupError, RuntimeError, TypeError, ValueError),
    *(pickle.UnpicklingError, struct.error, zipfile.BadZipFile),
)
_HARMLESS = {"set", "frozenset", "slice", "complex", "bytearray", "object", "range"}


class Placeholder:
    """Stands for an object that was not made; takes whatever a pickle does to it."""

    def __init__(self, *args: object, **kwargs: object) -> None: ...

    def __call__(self, *args: object, **kwargs: object) -> Placeholder:
        """As a function: another placeholder."""
        return self

    def __setstate__(self, state: object) -> None: ...

    def __setitem__(self, key: object, value: object) -> None: ...

    def append(self, item: object) -> None:
        """As a list."""

    def extend(self, items: object) -> None:
        """As a list."""

    def add(self, item: object) -> None:
        """As a set."""


class DataUnpickler(pickle.Unpickler):
    """Makes arrays, tensors and plain values; placeholders for all else."""

    def __init__(self, file: IO[bytes], **options: Any) -> None:
        super().__init__(file, encoding="latin1")

    def find_class(self, module: str, name: str) -> Any:
        """Builders as they are; everything else a placeholder, and attacks an error."""
        if (module, name) in _BUILDERS:
            return super().find_class(module, name)
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if module.partition(".")[0] in _ATTACKS and name not in _HARMLESS:
            raise CheckpointError(
                f"refused, because it calls {module}.{name}: that could run code; ask its author "
                "for the state dict alone or a safetensors file."
            )
        return Placeholder


def read_pickle(path: Path) -> Any:
    """The first object of a pickle that is no torch file; None for a torch file.

    Raises:
        CheckpointError: it would run code.
        ValueError: it is no pickle, or is cut off.
    """
    try:
        with path.open("rb") as file:
            content = DataUnpickler(file).load()
    except CheckpointError:
        raise
    except _FAILURES as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None
    of_torch = isinstance(content, int) and content == torch.serialization.MAGIC_NUMBER
    return None if of_torch else content


def read_torch(path: Path) -> Any:
    """What ``torch.save`` wrote, objects as placeholders.

    Raises:
        CheckpointError: it would run code.
        ValueError: it is cut off.
    """
    module = SimpleNamespace(
        __name__="vmt.checkpoint.unpickle",
        Unpickler=DataUnpickler,
        load=lambda file, **options: DataUnpickler(file).load(),
    )
    try:
        return torch.load(path, map_location="cpu", pickle_module=module, weights_only=False)
    except CheckpointError:
        raise
    except _FAILURES as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None
