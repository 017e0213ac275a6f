"""Which key frame each training sample has: a pure function of the seed and the sample's number."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from vmt.utils.errors import ConfigError

IntArray = npt.NDArray[np.int64]

#: Words that keep the random streams of one seed apart.
_EPOCH, _SET, SAMPLE = 1, 2, 3


class SampleOrder:
    """An endless order over the key frames of several data sets.

    Without ratios an epoch is every key frame of every set once, all shuffled together
    (docs/reference/released_code.md#epoch). With ratios an epoch has as many samples, divided by
    the ratios; each set is gone through in its own shuffled order, which goes on from one epoch to
    the next.

    Args:
        sizes: key frames of each set, at least 1.
        ratios: one positive number per set, or none.
        seed: of the order.

    Raises:
        ConfigError: not one ratio per set, or one that is not positive.
    """

    def __init__(self, sizes: Sequence[int], ratios: Sequence[float], seed: int) -> None:
        self.sizes = tuple(int(n) for n in sizes)
        self.seed = seed
        self.epoch_size = sum(self.sizes)
        if not ratios:
            self.counts = self.sizes
        else:
            if len(ratios) != len(sizes) or not all(float(r) > 0 for r in ratios):
                raise ConfigError(
                    f"DATASETS.RATIOS is {list(ratios)}; give one positive number for each of "
                    f"the {len(sizes)} sets of DATASETS.TRAIN."
                )
            self.counts = _apportion(self.epoch_size, [float(r) for r in ratios])
        self._epoch = lru_cache(maxsize=2)(self._draw_epoch)
        self._permutation = lru_cache(maxsize=2 * len(self.sizes))(self._draw_permutation)

    def __reduce__(self) -> tuple[object, ...]:
        ratios = () if self.counts == self.sizes else self.counts
        return SampleOrder, (self.sizes, ratios, self.seed)

    def __call__(self, sample: int) -> tuple[int, int]:
        """Set and key frame of a sample.

        Args:
            sample: its number from the start of training, over all ranks.

        Returns:
            (index of the set, index of the key frame in the set).
        """
        epoch, place = divmod(sample, self.epoch_size)
        which, position = (int(v) for v in self._epoch(epoch)[:, place])
        turn, index = divmod(epoch * self.counts[which] + position, self.sizes[which])
        return which, int(self._permutation(which, turn)[index])

    def _draw_epoch(self, epoch: int) -> IntArray:
        """(2, N): set and running number in the set of every sample of an epoch."""
        which = np.repeat(np.arange(len(self.counts)), self.counts)
        position = np.concatenate([np.arange(n) for n in self.counts])
        shuffled = np.random.default_rng([self.seed, _EPOCH, epoch]).permutation(len(which))
        return np.stack([which, position])[:, shuffled]

    def _draw_permutation(self, which: int, turn: int) -> IntArray:
        rng = np.random.default_rng([self.seed, _SET, which, turn])
        return rng.permutation(self.sizes[which])


def _apportion(total: int, ratios: Sequence[float]) -> tuple[int, ...]:
    """Whole numbers in proportion to the ratios with a given sum (largest remainders)."""
    exact = np.array(ratios) / sum(ratios) * total
    counts = np.floor(exact).astype(int)
    rest = np.argsort(-(exact - counts), kind="stable")[: total - counts.sum()]
    counts[rest] += 1
    return tuple(int(n) for n in counts)
