"""The rules of every data set as rows of a table; no other module knows a data set by name."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cocoapi_hq.exceptions import ScoringError
from cocoapi_hq.names import BOUNDARY_RULES, LENGTH_RULES, MASK_FIELDS
from cocoapi_hq.tubes.boundary import DILATION_RATIO

#: linspace, not 0.5 + 0.05 k: the ninth threshold is 0.8999999999999999, as in the originals.
IOU_THRESHOLDS: tuple[float, ...] = tuple(float(t) for t in np.linspace(0.5, 0.95, 10))
#: linspace, not i / 100: ten of the points lie one bit above, as in the originals.
RECALL_POINTS = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True)
class TubeRange:
    """A part of the ground truth that is scored by itself; both ends of every interval belong.

    Attributes:
        label: suffix of AP and AR, e.g. ``s`` in APs; "" for everything.
        area: average area per visible frame in pixels; detections outside are ignored as well.
        occlusion: occlusion score in [0, 1]; None does not look at it. Detections have none.
    """

    label: str
    area: tuple[float, float] = (0.0, 1e10)
    occlusion: tuple[float, float] | None = None


_ALL = TubeRange("")
# 128 and 256 squared, not COCO's 32 and 96 (source: the YouTube-VIS evaluator).
_SIZES = (
    TubeRange("s", area=(0.0, 128.0**2)),
    TubeRange("m", area=(128.0**2, 256.0**2)),
    TubeRange("l", area=(256.0**2, 1e10)),
)
_OCCLUSIONS = (
    TubeRange("light", occlusion=(0.0, 0.25)),
    TubeRange("medium", occlusion=(0.25, 0.5)),
    TubeRange("heavy", occlusion=(0.5, 1.0)),
)


@dataclass(frozen=True)
class TubeProtocol:
    """How tubes are scored.

    Attributes:
        name: key in :data:`PROTOCOLS`.
        about: one line for help texts.
        ranges: parts of the ground truth; the first holds everything.
        mask_field: one of ``names.MASK_FIELDS``.
        lengths: one of ``names.LENGTH_RULES``.
        boundary: one of ``names.BOUNDARY_RULES``.
        dilation_ratio: boundary width over the frame diagonal, for both sides.
        max_dets: detections per video and class, ascending; matching uses the last.
        thresholds: IoU thresholds, inclusive, ascending.
        class_agnostic: put all categories into one.
    """

    name: str
    about: str
    ranges: tuple[TubeRange, ...] = (_ALL, *_SIZES)
    mask_field: str = "segmentations"
    lengths: str = "refuse"
    boundary: str = "official"
    dilation_ratio: float = DILATION_RATIO
    max_dets: tuple[int, ...] = (1, 10, 100)
    thresholds: tuple[float, ...] = IOU_THRESHOLDS
    class_agnostic: bool = False

    def __post_init__(self) -> None:
        choices = (
            ("mask_field", self.mask_field, MASK_FIELDS),
            ("lengths", self.lengths, LENGTH_RULES),
            ("boundary", self.boundary, BOUNDARY_RULES),
        )
        for key, value, allowed in choices:
            if value not in allowed:
                raise ScoringError(f"{key} is {value!r}; choose one of {', '.join(allowed)}.")
        if not 0.0 < self.dilation_ratio <= 1.0:
            raise ScoringError(f"dilation_ratio {self.dilation_ratio} lies outside (0, 1].")
        dets = self.max_dets
        if not dets or list(dets) != sorted(set(dets)) or dets[0] < 1:
            raise ScoringError(f"max_dets {dets} must be ascending and at least 1.")
        if not self.thresholds or not all(0.0 < t <= 1.0 for t in self.thresholds):
            raise ScoringError(f"thresholds {self.thresholds} must lie in (0, 1].")

    @property
    def needs_occlusion(self) -> bool:
        """True if a range looks at the occlusion score, which annotations must then carry."""
        return any(r.occlusion is not None for r in self.ranges)

    @property
    def bars(self) -> tuple[float, ...]:
        """What an IoU must reach; a threshold of 1 forgives the last bits."""
        return tuple(min(t, 1 - 1e-10) for t in self.thresholds)

    def with_options(self, **options: Any) -> TubeProtocol:
        """A copy with the given fields changed; None leaves a field alone."""
        given = {k: v for k, v in options.items() if v is not None}
        return replace(self, **given) if given else self


PROTOCOLS: dict[str, TubeProtocol] = {
    row.name: row
    for row in (
        TubeProtocol("ytvis_2019", "YouTube-VIS 2019"),
        TubeProtocol("ytvis_2021", "YouTube-VIS 2021"),
        TubeProtocol(
            "ytvis_2022", "YouTube-VIS 2022 (long videos are scored as a file of their own)"
        ),
        TubeProtocol("hq_ytvis", "HQ-YTVIS: refined masks when there are any", mask_field="auto"),
        TubeProtocol(
            "ovis",
            "OVIS: ranges by occlusion beside those by area",
            ranges=(_ALL, *_SIZES, *_OCCLUSIONS),
        ),
    )
}


def get_protocol(name: str) -> TubeProtocol:
    """The row of that name; ScoringError lists the names that exist."""
    if name not in PROTOCOLS:
        raise ScoringError(f"no protocol {name!r}; there are {', '.join(PROTOCOLS)}.")
    return PROTOCOLS[name]


#: Weights of OVIS's words (source: the OVIS evaluator).
OCCLUSION_LEVELS = {"no_occlusion": 0.0, "slight_occlusion": 0.25, "severe_occlusion": 0.75}
