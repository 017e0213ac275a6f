"""Frames of a clip lie side by side in axis 0: folding and unfolding them, and chunks of them."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor


def fold_frames(x: Tensor) -> Tensor:
    """(B, T, ...) -> (B*T, ...), batch-major."""
    return x.flatten(0, 1)


def unfold_frames(x: Tensor, num_frames: int) -> Tensor:
    """(B*T, ...) -> (B, T, ...); the frames of one clip lie side by side in axis 0."""
    unfolded: Tensor = x.unflatten(0, (-1, num_frames))
    return unfolded


def frame_chunks(num_frames: int, chunk: int) -> Iterator[slice]:
    """Slices that cover ``num_frames`` in order, each at most ``chunk`` long (0: one slice)."""
    if chunk <= 0:  # no range: a number of frames that an exported graph leaves open has none
        if num_frames:
            yield slice(0, num_frames)
        return
    for start in range(0, num_frames, chunk):
        yield slice(start, min(start + chunk, num_frames))
