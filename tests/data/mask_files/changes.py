"""Changes of one mask each, for codecs."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cocoapi_hq.io import rle
from vmt.data.mask_files.base import Change


def change(mask: npt.NDArray[np.bool_] | None, confidence: float = 0.9) -> Change:
    """An object's new mask; None: as it was."""
    new = None if mask is None else rle.encode(mask)
    return Change(0, "", 0, "", 0, 0, confidence, False, new)
