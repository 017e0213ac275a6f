"""Rules of mask refinement and the weights of the package; imports nothing heavy."""

from __future__ import annotations

from pathlib import Path

from vmt.utils.errors import ConfigError

#: Least IoU of a refined mask with its coarse mask; below it the frame is rejected
#: (docs/reference/released_code.md#reject). The truth itself is that far off where a small object
#: has a wide mask.
MIN_IOU = 0.25
#: And how many times as large it may be at most.
MAX_GROWTH = 2.0
#: Confidence above which a pixel takes its new label
#: (docs/reference/released_code.md#accept).
ACCEPT = 0.65
#: Frames whose nodes attend to each other. The weights of the package hear of other frames by votes
#: (docs/methods/mask_refiner.md).
WINDOW = 1
#: The weights that come with the package, and their file; the config lies beside it.
SHIPPED = "mask_refiner"
SHIPPED_FILE = Path(__file__).parents[1] / "weights" / f"{SHIPPED}.safetensors"
#: Weights that the package had once.
REMOVED = ("low_res",)


def weights_path(weights: str | Path) -> Path:
    """The file of weights that are given by the name ``SHIPPED`` or as a file.

    Raises:
        ConfigError: the name of weights that were removed.
    """
    if str(weights) in REMOVED and not Path(weights).is_file():
        raise ConfigError(
            f"the weights {weights} were removed: {SHIPPED}, the default, is for masks of any "
            "resolution. Leave it out."
        )
    return SHIPPED_FILE if str(weights) == SHIPPED else Path(weights)
