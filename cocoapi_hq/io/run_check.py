"""Finds run-length texts that do not describe a mask of their size, before a codec touches them."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np

from cocoapi_hq.io import native
from cocoapi_hq.io.runs import PRESENT, Int64, NativeMasks

_MAX_COUNT_CHARS = 7  # 7 groups of 5 bits hold every run of a frame below 2^34 pixels
_CHECK_CHUNK = 1 << 20  # characters of run lengths checked at once


def find_corrupt_counts(counts: Sequence[str], num_pixels: Sequence[int]) -> tuple[int, str] | None:
    """Look for run-length texts that do not describe a mask of their size.

    Such texts make compiled codecs read out of bounds or never return, so nothing else may touch
    a text before this check.

    Args:
        counts: N compressed run-length texts in COCO coding, ASCII.
        num_pixels: N values h * w.

    Returns:
        Position and description of the first defect, or None.
    """
    library = native.kernel()
    begin = size = 0
    for end in range(1, len(counts) + 1):
        size += len(counts[end - 1])
        if end < len(counts) and size < _CHECK_CHUNK:
            continue
        texts, pixels = counts[begin:end], np.array(num_pixels[begin:end], dtype=np.int64)
        # The kernel only tells which text is bad; a frame of one column serves it as well.
        if library is None or not _all_sound(library, texts, pixels):
            lengths = np.array([len(text) for text in texts], dtype=np.int64)
            found = _corrupt_chunk("".join(texts).encode("latin-1"), lengths, pixels)
            if found is not None:
                return begin + found[0], found[1]
        begin, size = end, 0
    return None


def _all_sound(library: ctypes.CDLL, texts: Sequence[str], num_pixels: Int64) -> bool:
    heights = num_pixels.astype(np.int32)
    status = NativeMasks(library, texts, heights, np.ones_like(heights)).status
    return bool((status == PRESENT).all())


def _corrupt_chunk(text: bytes, lengths: Int64, num_pixels: Int64) -> tuple[int, str] | None:
    """``find_corrupt_counts`` for one chunk of joined texts."""
    if (lengths == 0).any():
        return int(np.flatnonzero(lengths == 0)[0]), "the text is empty"
    codes = np.frombuffer(text, dtype=np.uint8).astype(np.int64) - 48  # (chars,)
    text_ends = np.cumsum(lengths)
    text_starts = text_ends - lengths

    def owner(char: int) -> int:
        return int(np.searchsorted(text_ends, char, side="right"))

    outside = np.flatnonzero((codes < 0) | (codes > 63))
    if len(outside):
        char = int(outside[0])
        return owner(char), f"character {chr(text[char])!r} is not part of the coding"
    more = (codes & 32) > 0
    if more[text_ends - 1].any():
        return int(np.flatnonzero(more[text_ends - 1])[0]), "the text ends inside a number"
    run_ends = np.flatnonzero(~more)
    run_starts = np.concatenate([[0], run_ends[:-1] + 1])
    chars = run_ends - run_starts + 1
    if (chars > _MAX_COUNT_CHARS).any():
        return owner(int(run_starts[chars > _MAX_COUNT_CHARS][0])), "a number is too long"
    shift = 5 * (np.arange(len(codes)) - np.repeat(run_starts, chars))
    values = np.add.reduceat((codes & 31) << shift, run_starts)
    values -= ((codes[run_ends] & 16) > 0) * (np.int64(1) << (5 * chars))  # sign
    # From the fourth on, a number is the difference from the one two places before.
    first_run = np.searchsorted(run_starts, text_starts)
    num_runs = np.diff(np.append(first_run, len(values)))
    place = np.arange(len(values)) - np.repeat(first_run, num_runs)
    runs = np.empty_like(values)
    for parity in (0, 1):
        chosen = np.flatnonzero((place % 2 == parity) & (place > 0))
        total = np.cumsum(values[chosen])
        head = place[chosen] <= 2
        base = np.where(head, total - values[chosen], 0)
        reset = np.maximum.accumulate(np.where(head, np.arange(len(chosen)), -1))
        runs[chosen] = total - base[reset] if len(chosen) else total
    runs[first_run] = values[first_run]
    negative = np.flatnonzero(runs < 0)
    if len(negative):
        run = int(negative[0])
        text_of_run = int(np.searchsorted(first_run, run, side="right")) - 1
        return text_of_run, f"run {int(place[run])} has the length {int(runs[run])}"
    totals = np.add.reduceat(runs, first_run)
    wrong = np.flatnonzero(totals != num_pixels)
    if len(wrong):
        bad = int(wrong[0])
        return bad, f"the runs cover {int(totals[bad])} pixels instead of {int(num_pixels[bad])}"
    return None
