"""Names and values that options take; light, so that the console can list them at once."""

from __future__ import annotations

from vmt.utils.errors import ConfigError

#: What ``vmt convert-annotations --from`` takes.
FORMATS = ("coco-video", "labelme", "cvat", "via", "png", "mots", "mots-txt")
#: What ``degrade_tube`` can do to a mask, by how much if nothing is said, and what that counts; 0:
#: there is nothing to say.
KINDS = {
    "paper": (0, ""),
    "halo": (5, "pixels that the mask is too wide; too narrow if negative"),
    "low_res": (8, "pixels per cell of the low resolution"),
    "polygon": (15, "corners of a polygon drawn around the largest piece, on average"),
    "lag": (1, "frames by which the mask is late"),
    "holes": (3, "holes, and as many specks beside the object"),
    "matte": (4, "pixels of the blur after which the mask is cut at a drawn level"),
}
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
