"""How the masks of every frame overlap: all pairs of a frame, counted in one go per video."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from pycocotools import mask as coco_mask

from cocoapi_hq.io import native, rle
from cocoapi_hq.io.runs import NativeMasks
from cocoapi_hq.mots.frame_masks import FloatArray, FrameMasks, IntArray

_FRAMES_PER_CHUNK = 256  # keeps memory flat on long videos


@dataclass(frozen=True)
class MaskTable:
    """Overlaps of one frame with G ground-truth masks and P predictions, flagged ones included.

    Attributes:
        inter: (G, P) shared pixels; 0 for masks of different size.
        gt_areas: (G,) pixels.
        pred_areas: (P,) pixels.
        overlapping: two predictions share a pixel.
        sizes_differ: masks of different size met.
    """

    inter: IntArray
    gt_areas: IntArray
    pred_areas: IntArray
    overlapping: bool
    sizes_differ: bool

    def iou(self) -> FloatArray:
        """(G, P) in [0, 1]; 0 for two empty masks."""
        union = self.gt_areas[:, None] + self.pred_areas[None, :] - self.inter
        iou: FloatArray = self.inter / np.maximum(union, 1)
        return iou

    def share_of_prediction(self) -> FloatArray:
        """(G, P) shared pixels over the prediction's area, in [0, 1]; 0 for empty predictions."""
        share: FloatArray = self.inter / np.maximum(self.pred_areas, 1)
        return share


def mask_tables(
    gt_frames: Sequence[FrameMasks], pred_frames: Sequence[FrameMasks]
) -> Iterator[MaskTable]:
    """Yield the table of every frame, in order.

    Uses the C++ kernel if it is there, else pycocotools; both count the same pixels.

    Args:
        gt_frames: frames with checked masks (``scalabel_io.load_frames``).
        pred_frames: as many, one for each.
    """
    for begin in range(0, len(gt_frames), _FRAMES_PER_CHUNK):
        chunk = slice(begin, begin + _FRAMES_PER_CHUNK)
        if native.kernel() is None:
            for gt, preds in zip(gt_frames[chunk], pred_frames[chunk], strict=True):
                yield _table_by_codec(gt, preds)
        else:
            yield from _tables_by_kernel(gt_frames[chunk], pred_frames[chunk])


@lru_cache(maxsize=4096)
def _pairs(num_gt: int, num_pred: int) -> tuple[IntArray, IntArray]:
    """Positions of all GT x prediction pairs, then of all pairs of predictions.

    The masks of a frame are numbered ground truth first.
    """
    rows, cols = np.divmod(np.arange(num_gt * num_pred), max(num_pred, 1))
    first, second = np.triu_indices(num_pred, k=1)
    left = np.concatenate([rows, first + num_gt])
    right = np.concatenate([cols + num_gt, second + num_gt])
    return left.astype(np.int64), right.astype(np.int64)


def _tables_by_kernel(
    gt_frames: Sequence[FrameMasks], pred_frames: Sequence[FrameMasks]
) -> Iterator[MaskTable]:
    library = native.kernel()
    assert library is not None, "the caller checks that the kernel is there"
    masks: list[rle.Rle] = []
    offsets: list[int] = []
    left: list[IntArray] = []
    right: list[IntArray] = []
    for gt, preds in zip(gt_frames, pred_frames, strict=True):
        offset = len(masks)
        offsets.append(offset)
        masks += gt.rles
        masks += preds.rles
        rows, cols = _pairs(len(gt.rles), len(preds.rles))
        left.append(rows + offset)
        right.append(cols + offset)
    sizes = np.array([mask["size"] for mask in masks], dtype=np.int32).reshape(-1, 2)
    texts = [mask["counts"] for mask in masks]
    store = NativeMasks(library, texts, sizes[:, 0], sizes[:, 1])
    first_a, first_b = np.concatenate(left), np.concatenate(right)
    inter, _, vanished = store.tube_sums(first_a, first_b, np.ones(len(first_a), dtype=np.int32))
    begin = 0
    for gt, preds, offset in zip(gt_frames, pred_frames, offsets, strict=True):
        num_gt, num_pred = len(gt.rles), len(preds.rles)
        middle = begin + num_gt * num_pred
        end = middle + num_pred * (num_pred - 1) // 2
        split = offset + num_gt
        yield MaskTable(
            inter[begin:middle].reshape(num_gt, num_pred),
            store.areas[offset:split],
            store.areas[split : split + num_pred],
            bool(inter[middle:end].any()),
            bool(vanished[begin:end].any()),
        )
        begin = end


def _table_by_codec(gt: FrameMasks, preds: FrameMasks) -> MaskTable:
    num_gt, num_pred = len(gt.rles), len(preds.rles)
    masks = [*gt.rles, *preds.rles]
    areas = np.asarray(coco_mask.area(masks) if masks else [], dtype=np.int64)
    if not num_pred:
        inter = np.zeros((num_gt, 0), dtype=np.int64)
        return MaskTable(inter, areas, areas[:0], False, False)
    # With the flag set, the codec divides by the area of the prediction, which gives back the
    # exact intersection; masks of different size get -1 or 0.
    share = coco_mask.iou(preds.rles, masks, [True] * len(masks))  # (P, G + P)
    pred_areas = areas[num_gt:]
    shared = np.rint(np.maximum(share, 0.0) * pred_areas[:, None]).astype(np.int64)
    among = shared[:, num_gt:]
    return MaskTable(
        np.ascontiguousarray(shared[:, :num_gt].T),
        areas[:num_gt],
        pred_areas,
        bool(np.count_nonzero(among) > np.count_nonzero(among.diagonal())),
        len({tuple(mask["size"]) for mask in masks}) > 1,
    )
