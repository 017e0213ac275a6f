"""MS-STS split attention as loops over levels, positions, frames and heads; slow on purpose."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vmt.modeling.msts.encoder import SplitAttention


def attention(query: list[Tensor], key: list[Tensor], value: list[Tensor], heads: int) -> list:
    """One head and one query after the other; lists hold one vector per frame."""
    size = len(query[0]) // heads
    out = []
    for q in query:
        parts = []
        for head in range(heads):
            rows = slice(head * size, (head + 1) * size)
            scores = [math.exp(float(q[rows] @ k[rows]) / math.sqrt(size)) for k in key]
            total = sum(scores)
            parts.append(sum(s / total * v[rows] for s, v in zip(scores, value, strict=True)))
        out.append(torch.cat(parts))
    return out


def resize(cells: list[list[Tensor]], size: tuple[int, int]) -> list[list[Tensor]]:
    """Bilinear, pixel centres at one half, borders repeated."""

    def places(old: int, new: int) -> list[tuple[int, int, float]]:
        found = []
        for index in range(new):
            place = max((index + 0.5) * old / new - 0.5, 0.0)
            first = min(int(place), old - 1)
            found.append((first, min(first + 1, old - 1), place - first))
        return found

    rows, columns = places(len(cells), size[0]), places(len(cells[0]), size[1])
    return [
        [
            (1 - y) * ((1 - x) * cells[a][c] + x * cells[a][d])
            + y * ((1 - x) * cells[b][c] + x * cells[b][d])
            for c, d, x in columns
        ]
        for a, b, y in rows
    ]


def ffn(layer: nn.Module, x: Tensor) -> Tensor:
    first, _, second = layer
    return second(F.relu(first(x)))


def split_attention(
    branch: SplitAttention, x: Tensor, shapes: tuple[tuple[int, int], ...]
) -> Tensor:
    """(T, S, C), nothing padded, one clip -> (T, S, C)."""
    num_frames, heads = len(x), branch.intra.num_heads
    intra, inter = branch.intra, branch.inter
    raw, attended = [], []  # [level][frame][y][x]
    start = 0
    for h, w in shapes:
        level = [[[None] * w for _ in range(h)] for _ in range(num_frames)]
        own = [[[None] * w for _ in range(h)] for _ in range(num_frames)]
        for row in range(h):
            for column in range(w):
                tokens = [x[t, start + row * w + column] for t in range(num_frames)]
                width = intra.qkv.out_features // 3
                q, k, v = (
                    [intra.qkv.weight[i * width : (i + 1) * width] @ token for token in tokens]
                    for i in range(3)
                )
                for t, mixed in enumerate(attention(q, k, v, heads)):
                    y = intra.norm(tokens[t] + intra.out(mixed))
                    level[t][row][column] = y + ffn(intra.ffn, y)
                    own[t][row][column] = tokens[t]
        attended.append(level)
        raw.append(own)
        start += h * w
    out = torch.zeros_like(x)
    start = 0
    for index, (h, w) in enumerate(shapes):
        coarsest = index == len(shapes) - 1
        partner = raw[index] if coarsest else attended[index + 1]
        partner = [resize(frame, (h, w)) for frame in partner]
        for row in range(h):
            for column in range(w):
                target = [attended[index][t][row][column] for t in range(num_frames)]
                other = [partner[t][row][column] for t in range(num_frames)]
                f = [inter.target(token) for token in target]
                everything = f + [inter.partner(token) for token in other]
                n = [inter.norm1(token) for token in everything]
                width = inter.attn_out.in_features
                q, k, v = (
                    [inter.qkv.weight[i * width : (i + 1) * width] @ token for token in n]
                    for i in range(3)
                )
                for t, mixed in enumerate(attention(q[:num_frames], k, v, heads)):
                    o = f[t] + inter.attn_out(mixed)
                    o = o + ffn(inter.ffn, inter.norm2(o))
                    out[t, start + row * w + column] = inter.out(o)
        start += h * w
    return branch.gate * out
