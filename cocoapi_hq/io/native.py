"""Door to the optional C++ kernel: finds it, declares its functions, tells once if it is absent."""

from __future__ import annotations

import ctypes
import importlib.machinery
import logging
import os
from functools import lru_cache
from pathlib import Path

logger = logging.getLogger(__name__)

_ABI = 1
#: Set to any text to use the numpy and OpenCV path although the kernel is there.
DISABLE_VARIABLE = "COCOAPI_HQ_NO_KERNEL"

_P = ctypes.c_void_p
_I64 = ctypes.c_int64
_I32 = ctypes.c_int32
_SIGNATURES: dict[str, tuple[object, list[object]]] = {
    "hq_abi_version": (_I32, []),
    "hq_store_new": (_P, [ctypes.c_char_p, _P, _I64, _P, _P, _P, _P, _P]),
    "hq_counts_to_text": (_I64, [_P, _I64, _P]),
    "hq_store_free": (None, [_P]),
    "hq_tube_sums": (_I32, [_P, _P, _I64, _P, _P, _P, _P, _P, _P]),
    "hq_eroded": (_I64, [_P, _I64, _I32, _I64, _P, _P]),
    "hq_match": (None, [_I64, _I64, _I64, _I64, _P, _P, _P, _P, _P, _P, _P]),
    "hq_json_elements": (_I64, [_P, _I64, _I32, _P, ctypes.c_char_p, _I64, _I64, _P, _P]),
    "hq_json_members": (_I64, [_P, _I64, _I32, _I64, _I64, _P, _P]),
}


@lru_cache(maxsize=1)
def _load() -> ctypes.CDLL | None:
    reason = "it was not built (no compiler at install time)"
    folder = Path(__file__).resolve().parents[1]
    # one for every Python comes before one of an earlier build, for this Python
    suffixes = reversed(importlib.machinery.EXTENSION_SUFFIXES)
    paths = [folder / f"_kernel{suffix}" for suffix in suffixes]
    for path in filter(Path.is_file, paths):
        try:
            library = ctypes.CDLL(str(path))
            for name, (result, arguments) in _SIGNATURES.items():
                function = getattr(library, name)
                function.restype = result
                function.argtypes = arguments
            if library.hq_abi_version() == _ABI:
                return library
            reason = f"{path.name} belongs to another version of the package"
        except (OSError, AttributeError) as error:
            reason = f"{path.name} cannot be loaded ({error})"
    logger.warning(
        "The scoring kernel is absent: %s. Scores are the same, boundary AP is several times "
        "slower. Reinstall the package on a machine with a C++ compiler to build it.",
        reason,
    )
    return None


def kernel() -> ctypes.CDLL | None:
    """The kernel, or None when it is absent or switched off by ``COCOAPI_HQ_NO_KERNEL``."""
    if os.environ.get(DISABLE_VARIABLE):
        return None
    return _load()
