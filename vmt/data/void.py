"""The pixel value of label maps that means "not annotated"; imports nothing heavy."""

from __future__ import annotations

from vmt.utils.errors import ConfigError

#: In the maps of DAVIS and YouTube-VOS.
VOID = 255


def read_void(text: str | None) -> tuple[int | None, bool]:
    """``--void`` as (``MaskOptions.void``, ``MaskOptions.guess_void``).

    Raises:
        ConfigError: neither a pixel value nor ``none``.
    """
    if text is None:
        return VOID, True
    if text != "none" and not text.isdecimal():
        raise ConfigError(f"--void {text}: give a pixel value, or none.")
    return None if text == "none" else int(text), False
