"""Files that a visitor takes home: masks in three forms, the overlay, the report.

Masks are the sharpened and followed ones, where there are such, else those found or drawn.
"""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import IO, Any, cast

from cocoapi_hq.io import rle
from cocoapi_hq.io.json_file import write_json
from vmt.apps.app.clip import Clip
from vmt.apps.app.session import AppError, Job, Session, Track
from vmt.apps.app.view import frame_tracks
from vmt.apps.refine.frames import frame_set
from vmt.apps.refine.options import RefineOptions
from vmt.apps.refine.report import make_page
from vmt.apps.refine.summary import Summary
from vmt.apps.refine.work_folder import WorkFolder, spell
from vmt.data.convert import write_ytvis_json
from vmt.data.formats.drawn import MemoryAnnotations
from vmt.data.mask_files.open import open_mask_file
from vmt.data.records import Tracklet, VideoList, VideoRecord
from vmt.inference.predictor import FrameResult
from vmt.inference.results import LabelMapWriter
from vmt.inference.video_writer import VideoWriter
from vmt.utils.atomic import AtomicFile, make_folder, write_text
from vmt.utils.errors import OutputError, scoring_errors
from vmt.visualization.colors import label_map_palette
from vmt.visualization.draw import draw_tracks

#: The video in files: nobody else needs to know what it is called.
NAME = "video"
Masks = Mapping[int, rle.Rle]


def _objects(session: Session) -> tuple[Clip, list[Track]]:
    """The video and its objects; AppError without any."""
    clip = session.video()
    tracks = [track for track in list(session.tracks.values()) if track.masks]
    if not tracks:
        raise AppError("There is no object to save yet: find some, or draw one.")
    return clip, tracks


def _file_names(clip: Clip) -> tuple[str, ...]:
    return tuple(f"{NAME}/{t:05d}.jpg" for t in range(clip.num_frames))


def _categories(tracks: Iterable[Track]) -> dict[int, str]:
    """Category id, from 1, -> label, sorted."""
    return dict(enumerate(sorted({track.label for track in tracks}), start=1))


def write_annotations(
    path: Path, clip: Clip, tracks: Iterable[Track], masks_of: Callable[[Track], Masks]
) -> None:
    """YouTube-VIS JSON of some objects, as ``vmt refine`` and ``vmt train`` read it."""
    categories = _categories(tracks := list(tracks))
    ids = {name: key for key, name in categories.items()}
    tracklets = []
    for track in tracks:
        masks = masks_of(track)
        row = tuple(masks.get(t) for t in range(clip.num_frames))
        tracklets.append(Tracklet(track.track_id, ids[track.label], row))
    record = VideoRecord(
        id=1,
        name=NAME,
        image_root=clip.folder,
        file_names=_file_names(clip),
        height=clip.size[0],
        width=clip.size[1],
        annotations=MemoryAnnotations(tuple(tracklets)),
        dataset=NAME,
    )
    write_ytvis_json(VideoList(NAME, categories, [record]), path)


def ytvis_json(session: Session, job: Job) -> Path:
    """``masks.json``: YouTube-VIS annotations."""
    clip, tracks = _objects(session)
    job.step(0, 1, "writing masks.json")
    path = session.file_path("masks.json")
    write_annotations(path, clip, tracks, Track.best)
    return path


def coco_json(session: Session, job: Job) -> Path:
    """``coco.json``: COCO annotations; ``track_id`` says which masks are one object."""
    clip, tracks = _objects(session)
    job.step(0, 1, "writing coco.json")
    height, width = clip.size
    categories = _categories(tracks)
    ids = {name: key for key, name in categories.items()}
    images = [
        {"id": t + 1, "file_name": name, "video_id": 1, "frame_id": t}
        | {"height": height, "width": width}
        for t, name in enumerate(_file_names(clip))
    ]
    rows = [
        {"image_id": t + 1, "track_id": track.track_id, "category_id": ids[track.label]}
        | {"segmentation": mask, "bbox": list(rle.to_box(mask)), "area": rle.area(mask)}
        for track in tracks
        for t, mask in track.best().items()
    ]
    content: dict[str, Any] = {
        "videos": [{"id": 1, "name": NAME}],
        "images": images,
        "annotations": [{"id": k, **row, "iscrowd": 0} for k, row in enumerate(rows, start=1)],
        "categories": [{"id": key, "name": name} for key, name in categories.items()],
    }
    path = session.file_path("coco.json")
    with scoring_errors(OutputError):
        write_json(path, content)
    return path


def png_zip(session: Session, job: Job) -> Path:
    """``masks.zip``: a label map per frame, whose values are the ids of ``labels.csv``."""
    clip, tracks = _objects(session)
    folder = make_folder(session.folder / "maps")
    writer = LabelMapWriter(folder, clip.size, 0.0, label_map_palette())
    path = session.file_path("masks.zip")
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerows([("id", "label"), *((track.track_id, track.label) for track in tracks)])
    with AtomicFile(path) as file, zipfile.ZipFile(cast("IO[bytes]", file), "w") as archive:
        archive.writestr("labels.csv", table.getvalue())
        for t in range(clip.num_frames):
            masks, _ = frame_tracks(session, t, sharp=True)
            writer.add(FrameResult(t, tuple(masks)))
            picture = folder / f"{t:05d}.png"
            archive.write(picture, f"masks/{picture.name}")
            picture.unlink()
            if job.step(t + 1, clip.num_frames, "writing masks.zip"):
                raise AppError("Stopped: no file was made.")
    return path


def overlay(session: Session, job: Job) -> Path:
    """``overlay.mp4``: the video with its objects; of a stopped one the frames that were done."""
    clip, _ = _objects(session)
    path = session.file_path("overlay.mp4")
    with VideoWriter(path, clip.source.fps, clip.size) as writer:
        for t, frame in enumerate(clip.source):
            writer.write(draw_tracks(frame, *frame_tracks(session, t, sharp=True)))
            if job.step(t + 1, clip.num_frames, "writing overlay.mp4"):
                break
    return path


def report(session: Session, job: Job, weights: str) -> Path:
    """``report.html``: the page of ``vmt refine --report`` about what was sharpened.

    Args:
        session: of the visitor.
        job: says how far it is.
        weights: of the refiner, for the page.

    Raises:
        AppError: nothing was sharpened yet.
    """
    clip, tracks = _objects(session)
    tracks = [track for track in tracks if track.changes]
    if not tracks:
        raise AppError("There is nothing to report yet: sharpen masks first.")
    job.step(0, 1, "writing report.html")
    folder = make_folder(session.folder / "report")
    followed = any(change.propagated for t in tracks for change in t.changes.values())
    options = RefineOptions(
        masks=folder / "masks.json",
        output=folder / "sharp.json",
        video=clip.source.path,
        propagate=followed,
    )
    write_annotations(options.masks, clip, tracks, lambda track: track.masks)
    masks = open_mask_file(options.masks)
    work = WorkFolder(masks, options)
    (video,) = masks.videos
    frames = frame_set(clip.source)
    loaded = video.load(frames)
    with work.begin(video, loaded, frames) as file:
        changes = [(t, n, c) for n, track in enumerate(tracks) for t, c in track.changes.items()]
        for t, group in groupby(sorted(changes, key=lambda item: item[:2]), lambda item: item[0]):
            file.write(spell([t, loaded.name_of(t), [_row(n, change) for _, n, change in group]]))
    summary = Summary()
    finished = work.finished(video.key)
    assert finished is not None, "it was written just now"
    summary.add(video, finished)
    shown = replace(
        options,
        masks=Path("masks.json"),
        output=Path("masks.json"),
        video=Path(NAME),
        weights=weights,
    )
    path = session.file_path("report.html")
    write_text(path, make_page(shown, masks, [], summary, work))
    work.remove()
    return path


def _row(n: int, change: Any) -> list[Any]:
    """A mask in a line of a work file."""
    counts = change.mask and change.mask["counts"]
    rejected = int(change.rejected)
    return [n, change.area, change.changed_px, change.confidence, rejected, counts]
