"""Masks of other tools in, ours out: supervision, SAM 2, SAM 3, Ultralytics, COCO results.

None of them is imported or needed here: their results are known by what they hold.
docs/howto/other_tools.md has an example of each. ``vmt.interop.hub`` is for model hubs.
"""

from __future__ import annotations

from vmt.inference.detections import to_coco, to_supervision
from vmt.interop.mask_tracks import MaskTracks, mask_tracks

__all__ = ["MaskTracks", "mask_tracks", "to_coco", "to_supervision"]
