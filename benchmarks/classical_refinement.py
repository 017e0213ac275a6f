"""Two methods without learning that sharpen masks, for `bench_mask_refinement.py`."""

from __future__ import annotations

import cv2
import numpy as np

#: Pixels around the coarse contour that GrabCut decides about. Of 6, 8 and 12, the best for it on
#: the clips of the benchmark: a baseline should not lose by its settings.
BAND_PX = 6


def guided_filter(
    frame: np.ndarray, mask: np.ndarray, radius: int = 8, eps: float = 1e-3
) -> np.ndarray:
    """He, Sun, Tang, "Guided Image Filtering", with the grey frame as guide; cut at 0.5."""
    guide = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    values = mask.astype(np.float32)

    def mean(x: np.ndarray) -> np.ndarray:
        return cv2.blur(x, (2 * radius + 1, 2 * radius + 1))

    mean_guide, mean_values = mean(guide), mean(values)
    covariance = mean(guide * values) - mean_guide * mean_values
    slope = covariance / (mean(guide * guide) - mean_guide**2 + eps)
    offset = mean_values - slope * mean_guide
    return mean(slope) * guide + mean(offset) > 0.5


def grab_cut(frame: np.ndarray, mask: np.ndarray, rounds: int = 3) -> np.ndarray:
    """OpenCV's GrabCut, free within ``BAND_PX`` of the coarse contour, around the object only."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not rows.size:
        return mask
    margin = 3 * BAND_PX
    part = (
        slice(max(rows[0] - margin, 0), rows[-1] + margin + 1),
        slice(max(columns[0] - margin, 0), columns[-1] + margin + 1),
    )
    coarse = mask[part].astype(np.uint8)
    kernel = np.ones((2 * BAND_PX + 1, 2 * BAND_PX + 1), np.uint8)
    labels = np.where(coarse, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    labels[cv2.erode(coarse, kernel) > 0] = cv2.GC_FGD
    labels[cv2.dilate(coarse, kernel) == 0] = cv2.GC_BGD
    if not (labels & 1).any() or (labels & 1).all():
        return mask
    cv2.setRNGSeed(0)
    image = np.ascontiguousarray(frame[part][..., ::-1])
    models = np.zeros((1, 65)), np.zeros((1, 65))
    labels, *_ = cv2.grabCut(image, labels, None, *models, rounds, cv2.GC_INIT_WITH_MASK)
    found = mask.copy()
    found[part] = (labels & 1) > 0
    return found
