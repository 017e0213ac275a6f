"""Holds a network against reference outputs of the published code, array by array."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from vmt.modeling.video_model import ClipModel
from vmt.utils.errors import AnnotationError

#: Arrays that a reference file must hold; masks are those of the ``selected`` queries.
NEEDED = ("images", "memory", "logits", "boxes", "selected", "masks_coarse")


@dataclass(frozen=True)
class ParityReport:
    """How far the network is from the reference.

    Args:
        errors: array name -> largest |ours - golden| / (1 + |golden|).
        selected_ours: query indices, ascending.
        selected_golden: the same of the reference.
    """

    errors: dict[str, float]
    selected_ours: list[int]
    selected_golden: list[int]

    def holds(self, tolerance: float) -> bool:
        """Same queries selected, and every error at most ``tolerance``."""
        same = self.selected_ours == self.selected_golden
        return same and all(error <= tolerance for error in self.errors.values())


def read_reference(path: str | Path) -> dict[str, NDArray[np.generic]]:
    """Arrays of a reference file.

    Raises:
        AnnotationError: unreadable, or an array is missing.
    """
    arrays = read_arrays(path)
    lacking = [name for name in NEEDED if name not in arrays]
    if lacking:
        raise AnnotationError(
            f"{path}: lacks the array {lacking[0]!r}; it holds {', '.join(arrays)}."
        )
    return arrays


def read_arrays(path: str | Path) -> dict[str, NDArray[np.generic]]:
    """Everything in a file of arrays.

    Raises:
        AnnotationError: unreadable.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise AnnotationError(f"{path}: not a readable .npz file ({error}).") from None


def compare(model: ClipModel, reference: dict[str, NDArray[np.generic]]) -> ParityReport:
    """Run the reference's input and compare what comes out.

    Args:
        model: in evaluation mode.
        reference: from ``read_reference``; ``images`` are normalised already.

    Raises:
        AnnotationError: an array has another shape than what the network gives.
    """
    frames = torch.from_numpy(np.asarray(reference["images"], dtype=np.float32))
    arrays = model.reference_arrays(frames)
    golden_queries = [int(i) for i in reference["selected"]]
    ours = [int(i) for i in arrays["selected"]]
    errors: dict[str, float] = {
        name: _error(name, arrays[name], reference[name])
        for name in ("memory", "query", "logits", "boxes")
        if name in reference
    }
    common = [query for query in golden_queries if query in ours]
    rows_golden = [golden_queries.index(query) for query in common]
    rows_ours = [ours.index(query) for query in common]
    for name in ("masks_coarse", "masks_stride4", "masks_refined"):
        if name in reference and name in arrays and common:
            golden = reference[name][rows_golden]
            errors[name] = _error(name, arrays[name][rows_ours], golden)
    return ParityReport(errors, sorted(ours), sorted(golden_queries))


def _error(name: str, ours: torch.Tensor, golden: NDArray[np.generic]) -> float:
    ours_array = ours.float().cpu().numpy()
    if ours_array.shape != golden.shape:
        raise AnnotationError(
            f"{name}: the network gives {ours_array.shape}, the reference has {golden.shape}."
        )
    target = golden.astype(np.float64)
    return float((np.abs(ours_array - target) / (1 + np.abs(target))).max())
