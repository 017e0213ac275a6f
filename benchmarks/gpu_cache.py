"""What deformable attention asks of a GPU's L2 cache, by the order in which blocks take queries.

A simulation, not a measurement: the L1 cache of a multiprocessor drops what was used longest ago,
in lines of 128 bytes that are filled by sectors of 32; blocks come one after the other.

Not a script.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

LINE, SECTOR = 128, 32
#: Multiprocessors of an H100, of which one in so many is looked at.
PROCESSORS, EVERY = 132, 33
#: L1 that the shared memory of the forward kernel leaves, by bytes of a number.
CACHE_BYTES = {2: 60 << 10, 4: 120 << 10}


def in_rows(shapes: Sequence[tuple[int, int]]) -> list[int]:
    """The queries of an encoder as they lie in memory."""
    return list(range(sum(h * w for h, w in shapes)))


def in_squares(shapes: Sequence[tuple[int, int]], rows: int) -> list[int]:
    """As ``ordered_query`` of csrc/gpu_kernel.h brings them: strips of ``rows``, by columns."""
    order: list[int] = []
    for (height, width), start in zip(shapes, _starts(shapes), strict=True):
        for top in range(0, height, rows):
            strip = range(top, min(top + rows, height))
            order += [start + y * width + x for x in range(width) for y in strip]
    return order


def _starts(shapes: Sequence[tuple[int, int]]) -> list[int]:
    return [0, *accumulate(h * w for h, w in shapes)][:-1]


def tokens_read(locations: Tensor, shapes: Sequence[tuple[int, int]]) -> Tensor:
    """(Q, M, L * K, 4) int64: the cells around every place, -1 outside of the map.

    Args:
        locations: (Q, M, L, K, 2) as (x, y) in [0, 1].
        shapes: (H_l, W_l) per level.
    """
    height, width = (torch.tensor(side)[:, None] for side in zip(*shapes, strict=True))
    start = torch.tensor(_starts(shapes))[:, None]
    left = (locations[..., 0] * width - 0.5).floor().long()
    top = (locations[..., 1] * height - 0.5).floor().long()
    taps = []
    for dy, dx in ((0, 0), (0, 1), (1, 0), (1, 1)):
        x, y = left + dx, top + dy
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        taps.append(torch.where(inside, start + y * width + x, -1))
    return torch.stack(taps, -1).flatten(2, 3)


def l2_megabytes(
    tokens: Tensor, order: Sequence[int], batch: int, number_bytes: int, queries_of_a_block: int
) -> float:
    """Bytes that miss L1, of all blocks, estimated from those of some multiprocessors.

    Args:
        tokens: of ``tokens_read``; the same for every image.
        order: of the queries.
        batch: images.
        number_bytes: 2 or 4; heads of 32 channels.
        queries_of_a_block: neighbours in ``order``.
    """
    count, heads = tokens.shape[:2]
    per_head = -(-count // queries_of_a_block)
    row = 32 * number_bytes
    lines, missed, looked_at = CACHE_BYTES[number_bytes] // LINE, 0, range(0, PROCESSORS, EVERY)
    for processor in looked_at:
        cache: OrderedDict[int, int] = OrderedDict()
        for block in range(processor, batch * heads * per_head, PROCESSORS):
            slice_, tile = divmod(block, per_head)
            image, head = divmod(slice_, heads)
            queries = order[tile * queries_of_a_block : (tile + 1) * queries_of_a_block]
            samples = tokens[list(queries), head].transpose(0, 1).flatten().tolist()
            for token in samples:
                if token < 0:
                    continue
                line, offset = divmod(((image * count + token) * heads + head) * row, LINE)
                wanted = ((1 << row // SECTOR) - 1) << offset // SECTOR
                known = cache.pop(line, 0)
                missed += (wanted & ~known).bit_count()
                cache[line] = known | wanted
                if len(cache) > lines:
                    cache.popitem(last=False)
    return missed * SECTOR * PROCESSORS / len(looked_at) / 1e6
