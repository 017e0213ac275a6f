"""Names that options take; light, so that the console can list them at once."""

from __future__ import annotations

#: What ``vmt convert-annotations --from`` takes.
FORMATS = ("coco-video", "labelme", "cvat", "via", "png", "mots", "mots-txt")
#: What ``degrade_tube`` can do to a mask.
KINDS = ("paper", "halo", "low_res")
#: Input pixels per cell of the low resolution.
LOW_RES_STRIDE = 8
