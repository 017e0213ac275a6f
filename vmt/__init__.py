"""Video Mask Transfiner: high-quality video instance segmentation.

``vmt.load_model(name)`` builds a network, ``vmt.VideoPredictor(model).stream(frames)``
runs it over a video of any length; ``vmt.MaskRefiner.from_pretrained().refine(frames, masks)``
sharpens masks that are there, ``vmt.MaskPropagator.from_pretrained().propagate(frames, given)``
makes those of all frames from those of some. They load lazily, so that ``import vmt`` stays quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmt.version import __version__

if TYPE_CHECKING:
    from vmt.inference.load import load_model
    from vmt.inference.mask_refiner import MaskRefiner
    from vmt.inference.predictor import VideoPredictor
    from vmt.inference.propagation.propagator import MaskPropagator
    from vmt.interop.hub import PretrainedModel

__all__ = [
    "MaskPropagator",
    "MaskRefiner",
    "PretrainedModel",
    "VideoPredictor",
    "__version__",
    "load_model",
]

_LAZY = {
    "load_model": "vmt.inference.load",
    "MaskPropagator": "vmt.inference.propagation.propagator",
    "MaskRefiner": "vmt.inference.mask_refiner",
    "PretrainedModel": "vmt.interop.hub",
    "VideoPredictor": "vmt.inference.predictor",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'vmt' has no attribute {name!r}")
