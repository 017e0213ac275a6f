"""Names and values that options take; light, so that the console can list them at once."""

from __future__ import annotations

from vmt.utils.errors import ConfigError

#: What ``vmt convert-annotations --from`` takes.
FORMATS = ("coco-video", "labelme", "cvat", "via", "png", "mots", "mots-txt")
#: What ``degrade_tube`` can do to a mask.
KINDS = ("paper", "halo", "low_res")
#: Input pixels per cell of the low resolution.
LOW_RES_STRIDE = 8
#: Pixels that nobody annotated, in the label maps of DAVIS and YouTube-VOS.
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
