"""Make clean masks coarse, as annotators and small networks do: input for the mask refiner.

Source: Video Mask Transfiner, arXiv:2207.14012, section 3.2 (subsample the boundary, then dilate
and erode at random). It gives no numbers; they follow CascadePSP, arXiv:2005.02551, section 4.1.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from vmt.data.names import KINDS
from vmt.utils.errors import ConfigError

BoolArray = npt.NDArray[np.bool_]
ByteArray = npt.NDArray[np.uint8]

#: Rounds of random dilation and erosion after which the target is given up.
MAX_ROUNDS = 250
#: Pixels of background around an object in which it may grow.
MARGIN_PX = 40
#: Pixels by which a click misses its corner, at most, along each axis.
CLICK_PX = 2
#: In ``INPUT.DEGRADE``: the mask as it is.
CLEAN = "clean"
#: Least amounts other than 1.
LEAST = {"halo": -MARGIN_PX, "polygon": 3}


def check_amount(kind: str, amount: int | None) -> int:
    """The amount, or the usual one.

    Raises:
        ValueError: unknown kind, or an amount that it does not have.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, not {kind!r}.")
    usual, unit = KINDS[kind]
    if amount is None:
        return usual
    if not unit:
        raise ValueError(f"{kind} has no amount, and {amount} is given.")
    if amount < LEAST.get(kind, 1):
        raise ValueError(f"{amount} of {kind}: {unit}, from {LEAST.get(kind, 1)} on.")
    return amount


@dataclass(frozen=True)
class _Plan:
    """What one tracklet shares over its frames."""

    target_iou: float
    halo_px: int
    amount: int


def degrade_tube(
    masks: npt.NDArray[np.bool_],
    kind: str,
    rng: np.random.Generator,
    *,
    coherent: bool = False,
    amount: int | None = None,
) -> BoolArray:
    """Coarse masks of one tracklet.

    ``paper``: per contour drop a run of 10% of the vertices and keep a random 10% of the others;
    then random dilations and erosions until the IoU with the clean mask falls below a target from
    [0.8, 1], one draw per tracklet; with probability 0.3 only a dilation by 3 to 7 px instead.
    ``halo``: dilation, by as much as YouTube-VIS masks are too wide
    (docs/reference/released_code.md#halo). ``low_res``: area average to 1/amount, bilinear back,
    cut at 0.5. The others are ours: ``polygon``, corners by Douglas and Peucker's rule at the
    tolerance that leaves about as many, each up to 2 px off; ``lag``, the mask of an earlier frame;
    ``holes``, round, and specks; ``matte``, a blurred mask cut at 0.3 to 0.7.

    Args:
        masks: (T, H, W), True on the object; frames without a pixel stay so.
        kind: one of ``KINDS``.
        rng: source of all draws.
        coherent: the same draws, relative to the object's box, in every frame; otherwise each frame
            has its own, which makes the contour flicker.
        amount: by how much, in the unit that ``KINDS`` says; None: as it says.

    Returns:
        (T, H, W). A frame with an object keeps at least one pixel of it.

    Raises:
        ValueError: unknown kind, or an amount that it does not have.
    """
    amount = check_amount(kind, amount)
    pure_halo = rng.random() < 0.3
    plan = _Plan(rng.uniform(0.8, 1.0), int(rng.integers(3, 8)) if pure_halo else 0, amount)
    seed = int(rng.integers(2**63))
    if kind == "lag":
        return _late(masks, amount)
    coarse = np.zeros(masks.shape, dtype=np.bool_)
    for t, mask in enumerate(masks):
        crop = _crop_of(mask)
        if crop is None:
            continue
        if kind == "low_res":
            coarse[t] = _low_res(mask, amount)
            continue
        y, x, clean = crop
        frame_rng = np.random.default_rng(seed if coherent else [seed, t])
        found = _CHANGES[kind](clean, plan, frame_rng)
        h, w = clean.shape
        whole = np.pad(coarse[t], MARGIN_PX)
        whole[y : y + h, x : x + w] = (found if (found & clean).any() else clean) > 0
        coarse[t] = whole[MARGIN_PX:-MARGIN_PX, MARGIN_PX:-MARGIN_PX]
        if not coarse[t].any():
            coarse[t] = mask
    return coarse


@dataclass(frozen=True)
class Coarseness:
    """How masks of training samples become coarse.

    Args:
        kind: see ``degrade_tube``; "clean" leaves them.
        least: smallest amount that is drawn.
        most: greatest.
    """

    kind: str
    least: int = 0
    most: int = 0

    @classmethod
    def parse(cls, text: str) -> Coarseness:
        """An entry of ``INPUT.DEGRADE``: ``kind`` or ``kind:least:most``.

        Raises:
            ConfigError: an unknown kind, or amounts that it does not have.
        """
        kind, *numbers = text.split(":")
        if kind not in (*KINDS, CLEAN):
            raise ConfigError(f"INPUT.DEGRADE: {kind!r} is none of {', '.join((*KINDS, CLEAN))}.")
        if not numbers:
            usual = KINDS.get(kind, (0, ""))[0]
            return cls(kind, usual, usual)
        try:
            least, most = (check_amount(kind, int(number)) for number in numbers)
        except ValueError as error:
            raise ConfigError(
                f"INPUT.DEGRADE: {text!r}; write kind or kind:least:most ({error})"
            ) from None
        if least > most:
            raise ConfigError(f"INPUT.DEGRADE: {text!r}; {most} is less than {least}.")
        return cls(kind, least, most)

    def __call__(self, masks: BoolArray, rng: np.random.Generator) -> BoolArray:
        """(T, H, W) -> the same, coarse; half of the time with the same draws in every frame."""
        if self.kind == CLEAN:
            return masks
        coherent = bool(rng.random() < 0.5)
        amount = int(rng.integers(self.least, self.most + 1)) if self.most else None
        return degrade_tube(masks, self.kind, rng, coherent=coherent, amount=amount)


def _late(masks: BoolArray, frames: int) -> BoolArray:
    """Masks of earlier frames; the first ones, and those after a gap, stay."""
    present = [bool(mask.any()) for mask in masks]
    coarse = masks.copy()
    for t in range(frames, len(masks)):
        if present[t] and present[t - frames]:
            coarse[t] = masks[t - frames]
    return coarse


def _crop_of(mask: BoolArray) -> tuple[int, int, ByteArray] | None:
    """The object with a margin on all sides, beyond the frame too; None when there is none.

    Returns:
        Row and column of the crop in the frame padded by ``MARGIN_PX``, and its bytes.
    """
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not rows.size:
        return None
    y, x = int(rows[0]), int(columns[0])
    part = mask[y : int(rows[-1]) + 1, x : int(columns[-1]) + 1]
    return y, x, np.pad(np.ascontiguousarray(part, dtype=np.uint8), MARGIN_PX)


def _halo(clean: ByteArray, plan: _Plan, rng: np.random.Generator) -> ByteArray:
    del rng
    return _dilate(clean, plan.amount)


def _dilate(mask: ByteArray, radius_px: int) -> ByteArray:
    side = 2 * abs(radius_px) + 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    change = cv2.dilate if radius_px > 0 else cv2.erode
    return np.asarray(change(mask, kernel), dtype=np.uint8)


def _polygon(clean: ByteArray, plan: _Plan, rng: np.random.Generator) -> ByteArray:
    """What somebody draws with a few clicks around the largest piece, holes filled."""
    return drawn_polygon(clean, max(3, round(plan.amount * rng.uniform(0.75, 1.25))), rng)


def drawn_polygon(clean: ByteArray, most: int, rng: np.random.Generator) -> ByteArray:
    """The finest polygon of so few corners around the largest piece, each up to 2 px off.

    Args:
        clean: (H, W) uint8, 1 on the object.
        most: corners, at least 3.
        rng: how far they are off.

    Returns:
        (H, W) uint8, holes filled.
    """
    contours, _ = cv2.findContours(clean, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    ring = max(contours, key=len)
    low, high = 0.0, float(max(clean.shape))
    for _ in range(12):  # halving
        middle = (low + high) / 2
        few = len(cv2.approxPolyDP(ring, middle, True)) <= most
        low, high = (low, middle) if few else (middle, high)
    corners = cv2.approxPolyDP(ring, high, True)[:, 0]
    clicks = corners + rng.uniform(-CLICK_PX, CLICK_PX, corners.shape).round().astype(np.int32)
    filled = np.zeros_like(clean)
    cv2.fillPoly(filled, [np.ascontiguousarray(clicks, dtype=np.int32)], 1)
    return filled


def _with_holes(clean: ByteArray, plan: _Plan, rng: np.random.Generator) -> ByteArray:
    coarse, size = clean.copy(), np.sqrt(np.count_nonzero(clean))
    near = _dilate(clean, max(2, MARGIN_PX // 2)) - clean
    for where, value in ((clean, 0), (near, 1)):
        rows, columns = np.nonzero(where)
        for k in rng.integers(len(rows), size=plan.amount) if len(rows) else ():
            centre = int(columns[k]), int(rows[k])
            axes = tuple(max(1, round(size * rng.uniform(0.02, 0.12))) for _ in range(2))
            cv2.ellipse(coarse, centre, axes, rng.uniform(0, 180), 0, 360, value, -1)
    return coarse


def _matte(clean: ByteArray, plan: _Plan, rng: np.random.Generator) -> ByteArray:
    soft = cv2.GaussianBlur(clean.astype(np.float32), (0, 0), plan.amount)
    return np.asarray(soft > rng.uniform(0.3, 0.7) * soft.max(), dtype=np.uint8)


def _low_res(mask: BoolArray, stride: int) -> BoolArray:
    h, w = mask.shape
    size = (-(-w // stride), -(-h // stride))
    small = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    soft = cv2.resize(small, (w, h), interpolation=cv2.INTER_LINEAR)
    # An object smaller than a cell would vanish: cut it at half of its own maximum.
    return np.asarray(soft > min(0.5, 0.5 * float(soft.max())), dtype=np.bool_)


def _paper(clean: ByteArray, plan: _Plan, rng: np.random.Generator) -> ByteArray:
    if plan.halo_px:
        return _dilate(clean, plan.halo_px)
    coarse = _subsample_contours(clean, rng)
    for _ in range(MAX_ROUNDS):
        if _iou(clean, coarse) < plan.target_iou:
            break
        changed = _random_morphology(coarse, rng)
        if not (changed & clean).any():
            break
        coarse = changed
    return coarse if (coarse & clean).any() else clean


def _subsample_contours(mask: ByteArray, rng: np.random.Generator) -> ByteArray:
    """Polygons through a tenth of the contour's vertices, one run of a tenth left out."""
    contours, hierarchy = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    filled = np.zeros_like(mask)
    order = sorted(range(len(contours)), key=lambda k: int(hierarchy[0][k][3] >= 0))
    for k in order:  # outer rings first, then the holes in them
        ring = contours[k][:, 0]
        count = len(ring)
        run, start = count // 10, int(rng.integers(count))
        rest = np.roll(ring, -start, axis=0)[run:]
        keep = max(3, len(rest) // 10)
        if len(rest) > keep:
            rest = rest[np.sort(rng.choice(len(rest), keep, replace=False))]
        is_hole = hierarchy[0][k][3] >= 0
        cv2.fillPoly(filled, [np.ascontiguousarray(rest)], 0 if is_hole else 1)
    return filled


def _random_morphology(mask: ByteArray, rng: np.random.Generator) -> ByteArray:
    """One round: four dilations or erosions, each in a random part of the crop."""
    mask = mask.copy()
    height, width = mask.shape
    for _ in range(4):
        y1, y2 = np.sort((rng.random(2) * height).astype(int))
        x1, x2 = np.sort((rng.random(2) * width).astype(int))
        part = mask[y1 : y2 + 1, x1 : x2 + 1]
        if rng.random() < 0.25:
            y, x = int(rng.random() * part.shape[0]), int(rng.random() * part.shape[1])
            part[y, x] = 1 - part[y, x]
        side = int(rng.integers(3, 10))
        shape = cv2.MORPH_RECT if rng.random() < 0.5 else cv2.MORPH_ELLIPSE
        kernel = cv2.getStructuringElement(shape, (side, side))
        change = cv2.dilate if rng.random() < 0.5 else cv2.erode
        part[...] = change(part, kernel)
    return mask


#: Kinds that change frame by frame, from a mask with a margin.
_CHANGES = {
    "paper": _paper,
    "halo": _halo,
    "polygon": _polygon,
    "holes": _with_holes,
    "matte": _matte,
}


def _iou(a: ByteArray, b: ByteArray) -> float:
    return int(np.count_nonzero(a & b)) / max(int(np.count_nonzero(a | b)), 1)
