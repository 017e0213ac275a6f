"""Scores for video instance segmentation, computed as the official evaluators compute them.

Tube mask AP and tube boundary AP (YouTube-VIS, HQ-YTVIS, OVIS), BDD100K MOTS and HOTA. The package
stands alone: numpy, OpenCV, pycocotools' run-length codec and an optional C++ kernel.

    import cocoapi_hq
    scores = cocoapi_hq.evaluate("gt.json", "results.json", metrics=["tube_mask", "tube_boundary"])
    print(scores.table())
    scores.to_dict()["tube_boundary"]["AP"]  # a fraction; -1 where undefined
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cocoapi_hq.exceptions import ScoringError
from cocoapi_hq.names import METRICS

if TYPE_CHECKING:
    from cocoapi_hq.results import Results, TubeScores
    from cocoapi_hq.scoring import evaluate
    from cocoapi_hq.tubes.protocol import PROTOCOLS, TubeProtocol

__version__ = "0.2.0"

__all__ = [
    "METRICS",
    "PROTOCOLS",
    "Results",
    "ScoringError",
    "TubeProtocol",
    "TubeScores",
    "__version__",
    "evaluate",
]

_LAZY = {
    "evaluate": "cocoapi_hq.scoring",
    "Results": "cocoapi_hq.results",
    "TubeScores": "cocoapi_hq.results",
    "PROTOCOLS": "cocoapi_hq.tubes.protocol",
    "TubeProtocol": "cocoapi_hq.tubes.protocol",
}


def __getattr__(name: str) -> Any:
    """Names that take numpy along come when they are asked for."""
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'cocoapi_hq' has no attribute {name!r}")
