"""Rules of mask refinement and the weights of the package; imports nothing heavy."""

from __future__ import annotations

from pathlib import Path

#: Least IoU of a refined mask with its coarse mask; below it the frame is rejected
#: (docs/reference/released_code.md#reject).
MIN_IOU = 0.5
#: Confidence above which a pixel takes its new label
#: (docs/reference/released_code.md#accept).
ACCEPT = 0.65
#: Frames refined together. The weights of the package are best frame by frame
#: (docs/methods/mask_refiner.md).
WINDOW = 1
#: The weights that come with the package, by name: for masks of any source, and for masks of a
#: network's 1/8 resolution. Their config lies beside them.
ANY, LOW_RES = "mask_refiner", "low_res"
_FOLDER = Path(__file__).parents[1] / "weights"
SHIPPED = {name: _FOLDER / f"{name}.safetensors" for name in (ANY, LOW_RES)}


def weights_path(weights: str | Path) -> Path:
    """The file of weights that are given by a name of ``SHIPPED`` or as a file."""
    return SHIPPED.get(str(weights), Path(weights))
