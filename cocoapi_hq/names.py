"""Names that options take: metrics, protocols and their rules; light, for consoles to list them."""

from __future__ import annotations

TUBE_METRICS = ("tube_mask", "tube_boundary")
#: Every name that ``metrics`` of ``cocoapi_hq.evaluate`` accepts.
METRICS = (*TUBE_METRICS, "bdd_mots", "hota", "frame_ap", "tracklet_quality")
#: Keys of ``cocoapi_hq.PROTOCOLS``.
PROTOCOL_NAMES = ("ytvis_2019", "ytvis_2021", "ytvis_2022", "hq_ytvis", "ovis")
#: Which ground-truth masks are read. ``auto``: ``segmentations_refined`` when an annotation has
#: it, for both terms. ``mixed``: the released HQ-YTVIS code, coarse masks for the mask term and
#: refined ones for the boundary term.
MASK_FIELDS = ("auto", "segmentations", "segmentations_refined", "mixed")
#: What happens when a list does not have one entry per frame: refuse the file, compare the common
#: part (YouTube-VIS and HQ-YTVIS code), or add missing frames at the end (VMT paper, Eq. 1).
LENGTH_RULES = ("refuse", "cut", "pad")
#: ``official``: min(tube mask IoU, tube boundary IoU), the released code, behind every published
#: number. ``paper``: boundary intersections over boundary unions alone, Eq. 1 of arXiv:2207.14012.
BOUNDARY_RULES = ("official", "paper")
