"""What ``TEST.PRECISION`` and ``ENGINE.PRECISION`` mean; nothing else sets torch's switches.

Left alone, torch computes convolutions on a GPU in TF32 (10 bits of mantissa) and calls it fp32.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from vmt.utils.errors import ConfigError

#: Precision -> type of autocast. Only "tf32" lets a GPU round the factors of fp32 products.
PRECISIONS = {"fp32": None, "tf32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def checked_precision(name: str, key: str) -> str:
    """``name``, if it is one of ``PRECISIONS``.

    Raises:
        ConfigError: it is not; the message names the config's ``key``.
    """
    if name not in PRECISIONS:
        raise ConfigError(f"{key} {name!r} is unknown; choose from {', '.join(PRECISIONS)}.")
    return name


@contextlib.contextmanager
def fp32_products(precision: str) -> Iterator[None]:
    """Products of fp32 numbers in fp32, or in TF32 for "tf32"; as before on leaving."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


@contextlib.contextmanager
def arithmetic(precision: str, device: torch.device) -> Iterator[None]:
    """``fp32_products``, and ``autocast``."""
    with fp32_products(precision), autocast(precision, device):
        yield


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """For "bf16" and "fp16"; all of ``arithmetic`` that a thread has for itself."""
    dtype = PRECISIONS[precision]
    return torch.autocast(device.type, dtype, enabled=dtype is not None)


def no_autocast(device: torch.device) -> torch.autocast:
    """For coordinates: in bf16, a place 300 pixels away is one of every second pixel."""
    return torch.autocast(device.type, enabled=False)
