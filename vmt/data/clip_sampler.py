"""Which T frames of a video make a training clip around its key frame."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from vmt.utils.errors import ConfigError

Sampler = Callable[[int, int, int, np.random.Generator], list[int]]

#: Greatest distance of a near neighbour, in frames [SeqFormer code].
_NEAR = 3


def build_sampler(name: str, frame_range: int) -> Sampler:
    """The sampler that a config names.

    Args:
        name: ``INPUT.SAMPLER``, or "released".
        frame_range: ``INPUT.SAMPLER_RANGE``, in frames, for "range" and "span".

    Returns:
        A function of key frame, length of the video, T and a generator, which gives T sorted
        indices, the key frame among them. In a video of fewer than T frames some repeat.

    Raises:
        ConfigError: unknown name, or a range below 1.
    """
    if frame_range < 1:
        raise ConfigError(f"INPUT.SAMPLER_RANGE is {frame_range}; give at least 1 frame.")
    if name == "local_global":
        return sample_local_global
    if name == "released":
        return sample_released
    if name not in ("range", "span"):
        raise ConfigError(f"INPUT.SAMPLER is {name!r}; choose local_global, range or span.")

    def sample_range(key: int, length: int, T: int, rng: np.random.Generator) -> list[int]:
        near = range(max(0, key - frame_range), min(length, key + frame_range + 1))
        return _complete([key], near, length, T, rng)

    def sample_span(key: int, length: int, T: int, rng: np.random.Generator) -> list[int]:
        frames = [key]
        for _ in range(T - 1):
            low, high = max(frames) - frame_range, min(frames) + frame_range
            near = range(max(0, low), min(length, high + 1))
            free = sorted(set(near) - set(frames)) or list(near)
            frames.append(int(rng.choice(free)))
        return sorted(frames)

    return sample_range if name == "range" else sample_span


def draw_times(T: int, frame_range: int, rng: np.random.Generator) -> list[int]:
    """Where the T views of an image would stand in a video: 0, then further ones, ascending.

    None is further from the first than ``frame_range``; with more views than that, some repeat.
    """
    later = rng.choice(np.arange(1, frame_range + 1), T - 1, replace=frame_range < T - 1)
    return [0, *sorted(int(t) for t in later)]


def sample_local_global(key: int, length: int, T: int, rng: np.random.Generator) -> list[int]:
    """Key frame, a neighbour within 3 frames on each side, the rest from outside these.

    The published idea without its repeats: at an end of the video both neighbours come from the
    other side, and no frame is drawn twice while the video has T frames.

    Args:
        key: index of the key frame.
        length: frames of the video.
        T: frames of the clip.
        rng: of this sample.

    Returns:
        T sorted indices.
    """
    before = list(range(max(0, key - _NEAR), key))
    after = list(range(key + 1, min(length, key + _NEAR + 1)))
    chosen = [key]
    sides = [side for side in (before, after) if side]
    for k in rng.permutation(len(sides)).tolist():
        if len(chosen) < min(T, 3):
            chosen.append(int(rng.choice(sides[k])))
    if len(sides) == 1 and T >= 3:
        rest = [t for t in sides[0] if t not in chosen]
        if rest:
            chosen.append(int(rng.choice(rest)))
    outside = [*range(min(chosen)), *range(max(chosen) + 1, length)]
    return _complete(chosen, outside, length, T, rng)


def sample_released(key: int, length: int, T: int, rng: np.random.Generator) -> list[int]:
    """The published draw with its repeats (docs/reference/released_code.md#sampler).

    At an end of the video the neighbour is the key frame again; of the far frames, the upper
    neighbour itself may be drawn again. Very short videos, at which the published code fails,
    repeat frames.

    Args:
        key: index of the key frame.
        length: frames of the video.
        T: frames of the clip; 2 has no published meaning.
        rng: of this sample.

    Returns:
        T sorted indices.
    """
    if T == 1:
        return [key]
    if T == 2:
        raise ConfigError(
            "COMPAT released gives three frames for INPUT.CLIP_FRAMES 2; use COMPAT none."
        )
    before, after = rng.integers(1, _NEAR + 1, 2).tolist()
    chosen = [key, max(0, key - before), min(length - 1, key + after)]
    count = T - 3
    outside = [*range(min(chosen)), *range(max(chosen), length)]
    if len(outside) > count:
        chosen += rng.choice(outside, count, replace=False).tolist()
    else:
        chosen += rng.choice(length, count, replace=length < count).tolist()
    return sorted(int(t) for t in chosen)


def _complete(
    chosen: Sequence[int], preferred: Sequence[int], length: int, T: int, rng: np.random.Generator
) -> list[int]:
    """Add frames up to T: preferred ones, then any unused, then repeats."""
    frames = list(chosen)
    for pool in (preferred, range(length)):
        free = sorted(set(pool) - set(frames))
        count = min(T - len(frames), len(free))
        if count > 0:
            frames += rng.choice(free, count, replace=False).tolist()
    while len(frames) < T:
        frames += rng.permutation(length)[: T - len(frames)].tolist()
    return sorted(int(t) for t in frames)
