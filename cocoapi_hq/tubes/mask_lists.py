"""The tubes of one video as lists of masks, one per frame, checked."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cocoapi_hq.exceptions import ScoringError
from cocoapi_hq.io import rle
from cocoapi_hq.io.fields import annotation_id, category_of, is_crowd, is_finite, need, short
from cocoapi_hq.io.ytvis_json import (
    Entries,
    Source,
    Video,
    group_by_video,
    open_ground_truth,
    open_list,
    unknown_categories,
)
from cocoapi_hq.tubes.arrays import PLAIN, REFINED, mask_keys

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TubeVideo:
    """Tubes of one video, checked; all have the same number of frames T.

    Attributes:
        video_id: id in the file.
        gt_ids: annotation ids, one per ground-truth tube.
        gt_labels: class positions.
        gt_crowd: True for crowd tubes.
        gt_tubes: T masks or None each; masks without pixels are None.
        pred_rows: positions in the result list, one per predicted tube.
        pred_labels: class positions.
        pred_tubes: as ``gt_tubes``.
    """

    video_id: int
    gt_ids: list[int]
    gt_labels: list[int]
    gt_crowd: list[bool]
    gt_tubes: list[list[rle.Rle | None]]
    pred_rows: list[int]
    pred_labels: list[int]
    pred_tubes: list[list[rle.Rle | None]]

    @property
    def num_frames(self) -> int:
        """T; 0 for a video without tubes."""
        return max((len(tube) for tube in (*self.gt_tubes, *self.pred_tubes)), default=0)


def load_tubes(
    gt: Source, results: Source, *, min_score: float | None = None, mask_field: str = "auto"
) -> tuple[tuple[str, ...], Iterator[TubeVideo]]:
    """Read YTVIS JSON, video by video.

    Ground-truth masks may be run lengths of either coding, polygons or null; results run lengths or
    null. Results and annotations of an unknown category are left out with a warning.

    Args:
        gt: annotation file, or its loaded content.
        results: result file, or its loaded content.
        min_score: results below this score are left out; None keeps all and needs no scores.
        mask_field: ground-truth masks, see ``names.MASK_FIELDS``; ``mixed``: the plain ones.

    Returns:
        Category names in the order of the file, and the videos in ascending id, parsed when the
        iterator reaches them.

    Raises:
        ScoringError: a missing key, a wrong type, a list whose length is not that of the video, an
            unknown video, a repeated id, a damaged mask, a score that is not finite.
    """
    truth = open_ground_truth(gt)
    entries = open_list(results, "results")
    gt_rows = group_by_video(truth.annotations, truth.videos, "annotation")
    pred_rows = group_by_video(entries, truth.videos, "result")
    shared = [name for name, n in Counter(truth.categories.values()).items() if n > 1]
    names = tuple(
        f"{name} ({key})" if name in shared else name for key, name in truth.categories.items()
    )
    reader = _TubeReader(truth.categories, min_score, mask_field)

    def videos() -> Iterator[TubeVideo]:
        for key in sorted(truth.videos):
            yield reader.read(
                truth.videos[key],
                truth.annotations.subset(gt_rows.get(key, [])),
                entries.subset(pred_rows.get(key, [])),
            )
        reader.warn(truth.name, entries.name)

    return names, videos()


class _TubeReader:
    """Reads the tubes of one video after the other, and counts what a person should know."""

    def __init__(
        self, categories: Mapping[int, str], min_score: float | None, mask_field: str
    ) -> None:
        self._label_of = {key: label for label, key in enumerate(categories)}
        self._min_score = min_score
        self._mask_field = mask_field
        self._unknown_gt = self._refined = self._odd_masks = 0
        self._unknown: Counter[int] = Counter()
        self._odd_place = ""

    def read(self, video: Video, annotations: Entries, results: Entries) -> TubeVideo:
        """Check and parse one video."""
        tubes = TubeVideo(video.id, [], [], [], [], [], [], [])
        for position, entry in zip(annotations.positions.tolist(), annotations.load(), strict=True):
            self._add_annotation(tubes, entry, position, video, annotations.name)
        for position, entry in zip(results.positions.tolist(), results.load(), strict=True):
            self._add_result(tubes, entry, position, video, results.name)
        lengths = {len(tube) for tube in (*tubes.gt_tubes, *tubes.pred_tubes)}
        if len(lengths) > 1:
            raise ScoringError(
                f"{results.name}: the tubes of video {video.id} have the lengths "
                f"{sorted(lengths)}; give every tube one mask or null per frame of the video."
            )
        self._compare_sizes(tubes)
        return tubes

    def _add_annotation(
        self, tubes: TubeVideo, entry: Any, position: int, video: Video, name: str
    ) -> None:
        where = f"{name}: annotations[{position}]"
        label = self._label_of.get(category_of(entry, where))
        if label is None:
            self._unknown_gt += 1
            return
        identity = annotation_id(entry, position, where)
        if identity in tubes.gt_ids:
            raise ScoringError(
                f"{where}.id is {identity} for the second time; give every tube its own id."
            )
        key, _ = mask_keys(entry, self._mask_field, where)
        self._refined += key != PLAIN
        tubes.gt_ids.append(identity)
        tubes.gt_labels.append(label)
        tubes.gt_crowd.append(is_crowd(entry, where))
        tubes.gt_tubes.append(_tube(entry, key, video, where, polygons=True))

    def _add_result(
        self, tubes: TubeVideo, entry: Any, position: int, video: Video, name: str
    ) -> None:
        where = f"{name}: results[{position}]"
        category = category_of(entry, where)
        label = self._label_of.get(category)
        if label is None:
            self._unknown[category] += 1
            return
        if self._min_score is not None:
            score = need(entry, "score", where, is_finite, "a finite number")
            if score < self._min_score:
                return
        tubes.pred_rows.append(position)
        tubes.pred_labels.append(label)
        tubes.pred_tubes.append(_tube(entry, PLAIN, video, where, polygons=False))

    def _compare_sizes(self, tubes: TubeVideo) -> None:
        """Count predicted masks of a size that no ground-truth mask of the video has."""
        sizes = {tuple(m["size"]) for tube in tubes.gt_tubes for m in tube if m}
        if not sizes:
            return
        for row, tube in zip(tubes.pred_rows, tubes.pred_tubes, strict=True):
            odd = [m["size"] for m in tube if m and tuple(m["size"]) not in sizes]
            self._odd_masks += len(odd)
            if odd and not self._odd_place:
                known = " or ".join(str(list(size)) for size in sorted(sizes))
                self._odd_place = f"results[{row}] has {odd[0]}, video_id={tubes.video_id} {known}"

    def warn(self, gt_name: str, results_name: str) -> None:
        """Say in the log what was left out or never matches; complete once all videos were read."""
        if self._unknown_gt:
            logger.warning(
                "%s: %d annotations of unknown categories are left out.", gt_name, self._unknown_gt
            )
        if self._unknown:
            logger.warning("%s", unknown_categories(results_name, self._unknown, self._label_of))
        if self._refined:
            logger.warning(
                "%s: %d annotations carry %s, which are read (--mask-field %s reads the others).",
                gt_name,
                self._refined,
                REFINED,
                PLAIN,
            )
        if self._odd_masks:
            logger.warning(
                "%s: %d masks have another size than the ground truth and match nothing: %s.",
                results_name,
                self._odd_masks,
                self._odd_place,
            )


def _tube(
    entry: Mapping[str, Any], key: str, video: Video, where: str, *, polygons: bool
) -> list[rle.Rle | None]:
    masks = need(dict(entry), key, where, lambda _: True, "a list, one entry per frame")
    if not isinstance(masks, list) or video.length not in (None, len(masks)):
        found = f"{len(masks)} entries" if isinstance(masks, list) else short(masks)
        raise ScoringError(
            f"{where}.{key} is {found}, but video {video.id} has {video.length} frames; "
            "give one mask or null per frame."
        )
    size = (video.height, video.width) if video.height and video.width and polygons else None
    return check_masks(masks, f"{where}.{key}", size)


def check_masks(
    masks: Sequence[Any], where: str, size: tuple[int, int] | None = None
) -> list[rle.Rle | None]:
    """Checked masks of one tube, None where there is no pixel.

    Args:
        masks: one per frame, or null.
        where: of the list, for messages.
        size: (h, w) in pixels, needed to draw polygons.

    Raises:
        ScoringError: a mask is damaged.
    """
    checked = [
        None if rle.is_absent(mask) else rle.validate(mask, f"{where}[{t}]", size)
        for t, mask in enumerate(masks)
    ]
    return [mask if mask is not None and rle.area(mask) else None for mask in checked]
