"""The network of the package that finds objects, and what to say where its weights are missing.

Imports nothing heavy.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from vmt.utils.errors import CheckpointError

#: Its name, and that of its recipe among the configs.
DETECTOR: Final = "vmt_small"
RECIPE: Final = "small/vmt_small"
#: Its weights, with their config and attribution beside them; ``tools/make_vmt_small.py`` fills it.
FOLDER: Final = Path(__file__).parents[1] / "weights" / DETECTOR


def weights_file() -> Path:
    """Where its weights lie, if they do."""
    return FOLDER / f"{DETECTOR}.safetensors"


def ships() -> bool:
    """Whether its weights are in this package."""
    return weights_file().is_file()


def missing_weights() -> str:
    """What to say where they are not, without the full stop."""
    return (
        f"the weights of {DETECTOR} are not in this package; name another network with "
        "--config-file, and its weights with --weights (`vmt zoo` lists published ones)"
    )


def shipped_weights() -> Path:
    """The file of its weights.

    Raises:
        CheckpointError: this package has none.
    """
    if not ships():
        raise CheckpointError(f"{missing_weights()}.")
    return weights_file()
