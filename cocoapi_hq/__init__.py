"""Scores for video instance segmentation, computed as the official evaluators compute them.

Tube mask AP and tube boundary AP (YouTube-VIS, HQ-YTVIS, OVIS), BDD100K MOTS and HOTA. The package
stands alone: numpy, OpenCV, pycocotools' run-length codec and an optional C++ kernel.
"""

from __future__ import annotations

from cocoapi_hq.exceptions import ScoringError

__version__ = "0.1.0"

__all__ = ["ScoringError", "__version__"]
