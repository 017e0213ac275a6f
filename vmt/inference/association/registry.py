"""``TEST.ASSOCIATION`` -> what makes tracks of the frames of a network for frames.

A file of this folder registers a class with ``from_options(options, model)``; the model names the
one that it is published with.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from typing import TYPE_CHECKING

from fvcore.common.registry import Registry

from vmt.inference import association
from vmt.inference.association.base import ResumableAssociation
from vmt.inference.association.sharpened import SharpenedAssociation
from vmt.modeling.registry import lookup
from vmt.modeling.video_model import FrameModel, FrameOutputs

if TYPE_CHECKING:
    from vmt.inference.predictor import PredictorOptions

ASSOCIATIONS = Registry("ASSOCIATIONS")


@functools.cache
def _register_all() -> None:
    for module in pkgutil.iter_modules(association.__path__, f"{association.__name__}."):
        importlib.import_module(module.name)


def frame_association(
    options: PredictorOptions, model: FrameModel
) -> ResumableAssociation[list[FrameOutputs]]:
    """Build one for a video; where the network has a refiner, it sharpens the masks.

    Args:
        options: ``frame_association`` names it; "auto": that of the model.
        model: the network.

    Raises:
        ConfigError: an unknown name.
    """
    _register_all()
    name = options.frame_association
    entry = lookup(ASSOCIATIONS, model.association if name == "auto" else name, "TEST.ASSOCIATION")
    built: ResumableAssociation[list[FrameOutputs]] = entry.from_options(options, model)
    if model.refiner is not None:
        return SharpenedAssociation(built, model, options.refine_window)
    return built
