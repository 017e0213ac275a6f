"""What the buttons of the page do, without the page: find, draw, sharpen, follow, edit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from cocoapi_hq.io import rle
from vmt.apps.app.clip import Limits, open_clip
from vmt.apps.app.networks import Detector, Networks
from vmt.apps.app.session import AppError, Drawing, Job, Session, Track
from vmt.apps.refine.propagate import propagation_rows
from vmt.apps.refine.videos import change_rows
from vmt.apps.refine.work_folder import count_text
from vmt.apps.segment import fit_window
from vmt.data.mask_files.base import BoolArray, Change, Size, checked_mask
from vmt.inference.association.base import ClassScore, TrackSummary
from vmt.inference.predictor import FrameResult, VideoPredictor
from vmt.inference.threads import ReadAhead

#: Longest name of a class.
_LABEL_LENGTH = 40


def load_video(session: Session, path: Path, limits: Limits, job: Job, *, own: bool = True) -> str:
    """Take a video; objects of the one before go.

    Args:
        session: of the visitor.
        path: of the file.
        limits: of its size and length.
        job: says how far it is.
        own: it is an upload, which is copied.

    Returns:
        What happened, in a sentence.

    Raises:
        VideoError: it cannot be used; the video before stays.
        OutputError: the disk is full.
    """
    clip = open_clip(path, session.folder, limits, job.step, own=own)
    if clip is None:
        return "Stopped: no video was taken."
    session.take(clip)
    height, width = clip.size
    frames = count_text(clip.num_frames, "frame")
    return f"{frames} of {width}x{height} pixels, {clip.source.fps:.3g} per second."


# --- find ----------------------------------------------------------------------------------------


def find(session: Session, networks: Networks, job: Job) -> str:
    """Find objects; those that were found before go, drawn ones stay.

    Returns:
        What happened, in a sentence.

    Raises:
        AppError: no video, or no network that finds objects.
        VmtError: the network or its weights cannot be used, or the video breaks off.
    """
    clip = session.video()
    job.step(0, clip.num_frames, "loading the network")
    detector = networks.detector()
    options = fit_window(detector.model, detector.options, clip.source, say=lambda text: None)
    stream = VideoPredictor(detector.model, options).stream(ReadAhead(clip.source))
    tracks = _Found(detector)
    done = 0
    for result in stream:
        tracks.add(result)
        done = result.index + 1
        if job.step(done, clip.num_frames, "finding objects"):
            break
    tracks.close(stream.finish())
    for track in [track for track in session.tracks.values() if track.found]:
        del session.tracks[track.track_id]
    for best, masks in tracks.kept:
        label = detector.model.label_space.names[best.label]
        session.add(label, found=True, score=best.score).masks.update(masks)
    count = count_text(len(tracks.kept), "object")
    text = f"{count} found with a score of at least {detector.confidence:g}."
    if not detector.trained:
        text += " The network has random weights: its masks mean nothing."
    return f"{text} {_until(done, clip.num_frames)}".strip()


class _Found:
    """Tracks of a network, until their final scores are known."""

    def __init__(self, detector: Detector) -> None:
        self.kept: list[tuple[ClassScore, dict[int, rle.Rle]]] = []
        self._least = detector.confidence
        self._open: dict[int, dict[int, rle.Rle]] = {}

    def add(self, result: FrameResult) -> None:
        for track in result.tracks:
            self._open.setdefault(track.track_id, {})[result.index] = track.rle
        self.close(result.closed)

    def close(self, summaries: Iterable[TrackSummary]) -> None:
        for summary in summaries:
            masks = self._open.pop(summary.track_id, {})
            if masks and summary.classes and summary.classes[0].score >= self._least:
                self.kept.append((summary.classes[0], masks))


def _until(done: int, total: int) -> str:
    return "" if done >= total else f"Stopped after {done} of {total} frames; what is done stays."


# --- draw ----------------------------------------------------------------------------------------


def add_corner(session: Session, frame: int, xy: tuple[float, float], *, box: bool) -> None:
    """Add a corner to the drawing; one on another frame or of another shape starts anew.

    Args:
        session: of the visitor.
        frame: that is seen.
        xy: in pixels of the frame; moved inside it.
        box: two corners make a box; a third starts the next.

    Raises:
        AppError: there is no video.
    """
    height, width = session.video().size
    drawing = session.drawing
    full = box and len(drawing.corners) >= 2
    if drawing.frame != frame or drawing.box != box or full:
        drawing = session.drawing = Drawing(frame, box=box)
    x, y = xy
    drawing.corners.append((min(max(x, 0.0), width), min(max(y, 0.0), height)))


def undo_corner(session: Session) -> None:
    """Take the last corner away."""
    del session.drawing.corners[-1:]


def add_object(session: Session, label: str, track_id: int | None = None) -> Track:
    """Make the drawing a mask.

    Args:
        session: of the visitor.
        label: of a new object; empty: "object".
        track_id: an object that gets the mask in the frame of the drawing; None: a new one.

    Returns:
        The object.

    Raises:
        AppError: no video, no such object, or the drawing encloses nothing.
    """
    size, drawing = session.video().size, session.drawing
    ring = [value for corner in drawing.ring() for value in corner]
    if len(ring) < 6:
        need = "two opposite corners of a box" if drawing.box else "at least three corners"
        raise AppError(f"Click on {need} in the picture first.")
    mask = checked_mask([ring], "The drawing", size)
    if not rle.area(mask):
        raise AppError("The drawing encloses no pixel: click farther apart.")
    track = session.add(checked_label(label)) if track_id is None else session.track(track_id)
    track.put(drawing.frame, mask)
    session.drawing = Drawing(box=drawing.box)
    return track


def checked_label(label: str) -> str:
    """A name of a class as it is kept: one line, not too long; "object" in place of nothing."""
    words = "".join(c if c.isprintable() else " " for c in label).split()
    return " ".join(words)[:_LABEL_LENGTH] or "object"


def rename(session: Session, track_id: int | None, label: str) -> Track:
    """Give an object another label; AppError when there is no such object."""
    track = session.track(track_id)
    track.label = checked_label(label)
    return track


def delete(session: Session, track_id: int | None) -> Track:
    """Remove an object, and return it; AppError when there is none."""
    track = session.track(track_id)
    del session.tracks[track.track_id]
    return track


# --- sharpen -------------------------------------------------------------------------------------


def sharpen(session: Session, networks: Networks, job: Job) -> str:
    """Sharpen all masks, from those that were found or drawn; the masks before stay, too.

    Returns:
        What happened, in a sentence.

    Raises:
        AppError: no video, or no object.
        VmtError: the network cannot be used, or the video breaks off.
    """
    clip = session.video()
    tracks = [track for track in session.tracks.values() if track.masks]
    if not tracks:
        raise AppError("There is no object yet: find some, or draw one.")
    job.step(0, clip.num_frames, "loading the network")
    refiner = networks.refiner()
    given = Given(tracks, clip.size)
    first, last = min(given), max(given)
    stream = refiner.stream(
        islice(clip.source, first, last + 1), map(given.dense, range(first, last + 1))
    )
    masks = changed = rejected = done = 0
    for t, refined in enumerate(stream, start=first):
        rows = change_rows(refined, given.dense(t))
        given.note(t, rows)
        masks += len(rows)
        changed += sum(row[2] > 0 for row in rows)
        rejected += sum(row[4] for row in rows)
        done = t - first + 1
        if job.step(done, last - first + 1, "sharpening masks"):
            break
    text = f"{count_text(masks, 'mask')} sharpened, {changed} of them changed."
    if rejected:
        text += f" {rejected} results were too far from their masks and thrown away."
    return f"{text} {_until(done, last - first + 1)}".strip()


def follow(session: Session, networks: Networks, job: Job) -> str:
    """Follow drawn objects through all frames of the video, forwards and backwards.

    Returns:
        What happened, in a sentence.

    Raises:
        AppError: no video, or no object was drawn.
        VmtError: the networks cannot be used, or the video breaks off.
    """
    clip = session.video()
    tracks = [track for track in session.tracks.values() if track.masks and not track.found]
    if not tracks:
        raise AppError("There is no drawn object yet: draw one in any frame.")
    job.step(0, clip.num_frames, "loading the network")
    propagator = networks.propagator()
    given = Given(tracks, clip.size)
    masks = lost = 0
    seen: set[int] = set()
    stopped = False
    for part in propagator.stream(clip.source, given):
        rows = propagation_rows(part, given[part.frame] if part.given.any() else None)
        given.note(part.frame, rows)
        masks += sum(row[1] > 0 or row[5] is not None for row in rows)
        lost += sum(row[1] == 0 and row[5] is None for row in rows)
        seen.add(part.frame)
        if stopped := job.step(len(seen), clip.num_frames, "following objects"):
            break
    text = f"{count_text(masks, 'mask')} of {count_text(len(tracks), 'object')}."
    if lost:
        text += f" In {count_text(lost, 'frame')} an object was not found."
    if stopped:
        text += f" Stopped after {len(seen)} of {clip.num_frames} frames; what is done stays."
    return text


class Given(Mapping[int, BoolArray]):
    """The masks of some objects as they are now: frame -> (N, H, W), made when asked for.

    Args:
        tracks: N objects.
        size: (h, w) of the video in pixels.
    """

    def __init__(self, tracks: Sequence[Track], size: Size) -> None:
        self._tracks = tracks
        self._masks = [dict(track.masks) for track in tracks]
        self._frames = sorted({t for masks in self._masks for t in masks})
        self._size = size

    def dense(self, t: int) -> BoolArray:
        """Masks of any frame, all False where an object has none."""
        dense = np.zeros((len(self._masks), *self._size), dtype=np.bool_)
        for row, masks in zip(dense, self._masks, strict=True):
            if t in masks:
                row[...] = rle.decode(masks[t])
        return dense

    def note(self, t: int, rows: Iterable[Sequence[Any]]) -> None:
        """Tell the objects what became of a frame: rows as of ``change_rows``."""
        for n, area, changed_px, confidence, rejected, counts in rows:
            mask = rle.Rle(size=list(self._size), counts=counts) if counts else None
            key, about = str(self._tracks[n].track_id), (area, changed_px, confidence)
            change = Change(t, str(t), n, key, *about, bool(rejected), mask)
            self._tracks[n].change(self._masks[n].get(t), change)

    def __getitem__(self, t: int) -> BoolArray:
        if t not in self._frames:
            raise KeyError(t)
        return self.dense(t)

    def __iter__(self) -> Iterator[int]:
        return iter(self._frames)

    def __len__(self) -> int:
        return len(self._frames)
