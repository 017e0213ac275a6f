"""Tracks of frames with the masks of a refiner: whose they are and how sure is not its business.

The refiner of Video Mask Transfiner (arXiv:2207.14012) on tracks that an association made, which
no paper has; docs/methods/refinevis.md says what we decided.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vmt.inference.association.base import FrameLogits, ResumableAssociation, TrackSummary
from vmt.modeling.video_model import FrameModel, FrameOutputs
from vmt.structures.roi_masks import RoiMasks, dense_logits
from vmt.structures.track_window import ABSENT, FrameMaps, TrackWindow
from vmt.utils.device import index_on, to_device

#: Tracks that are less sure keep their masks: no pair below it is in the results of a video.
MIN_SCORE = 0.05


@dataclass(frozen=True)
class _Frame:
    """A frame with its tracks, and what the refiner reads of it."""

    record: FrameLogits
    maps: FrameMaps


class SharpenedAssociation:
    """Another association, whose masks the network's refiner sharpens.

    Frames are refined in the groups in which they come out, and each group together with as many
    frames before it as make up ``window``: one by one, as they come, the refiner sees the past
    alone and every frame ``window`` times; in windows (``TEST.WINDOW``) it sees each frame once.

    Args:
        tracks: makes the tracks.
        model: a network with a refiner.
        window: most frames that the refiner reads together, at least 1.
    """

    def __init__(
        self, tracks: ResumableAssociation[list[FrameOutputs]], model: FrameModel, window: int
    ) -> None:
        self.clip = tracks.clip
        self._tracks = tracks
        self._model = model
        self._window = window
        self._maps: dict[int, FrameMaps] = {}  # of the frames that are not out yet, by index
        self._past: list[_Frame] = []  # the latest ones that are

    def add(self, start: int, output: list[FrameOutputs]) -> None:
        """See ``Association``."""
        for index, frame in enumerate(output, start):
            assert frame.maps is not None, "a network with a refiner keeps its maps"
            self._maps[index] = frame.maps
        self._tracks.add(start, output)

    def pop_frames(self, until: int) -> list[FrameLogits]:
        """See ``Association``."""
        frames = [_Frame(r, self._maps.pop(r.index)) for r in self._tracks.pop_frames(until)]
        records: list[FrameLogits] = []
        for first in range(0, len(frames), self._window):
            group = frames[first : first + self._window]
            seen = [*self._past, *group][-self._window :]
            records += self._sharpened(seen, len(group))
            self._past = seen[1:] if len(seen) == self._window else seen
        return records

    def pop_closed(self, *, everything: bool = False) -> list[TrackSummary]:
        """See ``Association``."""
        return self._tracks.pop_closed(everything=everything)

    def _sharpened(self, frames: Sequence[_Frame], count: int) -> list[FrameLogits]:
        """The last ``count`` of some successive frames."""
        records = [frame.record for frame in frames]
        ids = _sure_tracks(records[-count:])
        if not ids:
            return records[-count:]
        maps = FrameMaps.stack([frame.maps for frame in frames])
        masks, stride = self._model.sharpen(window_of(records, ids, maps))
        first = len(records) - count
        return [
            _with_masks(record, dict(zip(ids, masks[:, t], strict=True)), stride)
            for t, record in enumerate(records[first:], first)
        ]

    def state(self) -> dict[str, Any]:
        """See ``ResumableAssociation``."""
        return {
            "tracks": self._tracks.state(),
            "maps": {index: vars(maps).copy() for index, maps in self._maps.items()},
            "past": [(f.record.state(), vars(f.maps).copy()) for f in self._past],
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """See ``ResumableAssociation``."""
        self._tracks.load_state(state["tracks"])
        self._maps = {index: FrameMaps(**maps) for index, maps in state["maps"].items()}
        self._past = [
            _Frame(FrameLogits.from_state(r), FrameMaps(**maps)) for r, maps in state["past"]
        ]


def _sure_tracks(records: Sequence[FrameLogits]) -> list[int]:
    """Ids of the tracks that are refined, ascending."""
    return sorted(
        {
            track
            for record in records
            for track, score in zip(record.track_ids, record.scores, strict=True)
            if score > MIN_SCORE
        }
    )


def window_of(records: Sequence[FrameLogits], ids: Sequence[int], maps: FrameMaps) -> TrackWindow:
    """Some tracks in T frames as a refiner reads them.

    The query of a track is the mean over the frames in which it is.

    Args:
        records: T, each track in one of them at least.
        ids: N.
        maps: of the T frames.
    """
    row = {track: n for n, track in enumerate(ids)}
    some = next(record for record in records if record.track_ids)
    assert some.query is not None, "a network with a refiner gives its queries"
    size = int(maps.stride4.shape[-2]), int(maps.stride4.shape[-1])  # onto which crops are pasted
    dense = [dense_logits(record.logits, size) for record in records]
    masks = some.query.new_full((len(ids), len(records), *dense[0].shape[1:]), ABSENT)
    total, count = some.query.new_zeros(len(ids), some.query.shape[1]), [0] * len(ids)
    for t, record in enumerate(records):
        places = [place for place, track in enumerate(record.track_ids) if track in row]
        if not places:
            continue
        assert record.query is not None, "of all frames or of none"
        tracks = [row[record.track_ids[place]] for place in places]
        target, source = index_on(total.device, tracks), index_on(total.device, places)
        masks[target, t] = dense[t][source].to(masks.dtype)
        total[target] += record.query[source]
        for track in tracks:
            count[track] += 1
    query = total / to_device(torch.tensor(count), total.device)[:, None]
    return TrackWindow(maps, masks.float(), some.mask_stride, query.float(), some.input_size)


def _with_masks(record: FrameLogits, masks: Mapping[int, Tensor], stride: int) -> FrameLogits:
    """The record with sharper masks where there are any, and the others at their stride."""
    if not record.track_ids:
        return record
    finer = _at_stride(record, masks, stride)
    rows = [masks.get(track, mask) for track, mask in zip(record.track_ids, finer, strict=True)]
    return replace(record, logits=torch.stack(rows), mask_stride=stride, upsampling="aligned")


def _at_stride(record: FrameLogits, masks: Mapping[int, Tensor], stride: int) -> Tensor:
    """All masks of a frame, as they came, (N, h, w) at another stride."""
    if isinstance(record.logits, RoiMasks):
        size = next((mask.shape[-2:] for mask in masks.values()), None)
        assert size is not None, "there is a track that was refined"
        return record.logits.pasted_logits((int(size[0]), int(size[1])), stride)
    scale, coarse = record.mask_stride / stride, record.logits.float()[:, None]
    return F.interpolate(coarse, scale_factor=scale, mode="bilinear", align_corners=False)[:, 0]
