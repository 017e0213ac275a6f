"""Which device a name means."""

from __future__ import annotations

import torch

from vmt.utils.errors import ConfigError


def resolve_device(name: str) -> torch.device:
    """``auto`` or a torch device name -> a device that works.

    Raises:
        ConfigError: no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split("\n", 1)[0]
        raise ConfigError(
            f"MODEL.DEVICE: {name!r} cannot be used ({reason}); `vmt doctor` shows what can."
        ) from None
    return device
