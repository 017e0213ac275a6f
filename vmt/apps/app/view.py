"""What the page shows of a session: a frame with its objects, and a table of them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from vmt.apps.app.clip import QUALITY, Clip
from vmt.apps.app.session import Drawing, Session
from vmt.data.images import Frame
from vmt.inference.predictor import TrackMask
from vmt.inference.video_writer import encode_jpeg
from vmt.structures.masks import decode_crop
from vmt.utils.atomic import output_error
from vmt.visualization.draw import draw_tracks

#: Columns of ``table``.
COLUMNS = ("id", "label", "score", "frames", "sharpened")
#: (h, w) of the space that a picture has on the page, in pixels.
LEAST_SIZE = (480, 720)
#: Colour of a drawing that is no object yet.
_INK, _RIM = (255, 255, 255), (20, 20, 24)


def frame_tracks(
    session: Session, frame: int, *, sharp: bool
) -> tuple[list[TrackMask], tuple[str, ...]]:
    """The objects of a frame, and the names of their classes by label.

    Args:
        session: of the visitor.
        frame: index in the video.
        sharp: sharpened masks, where there are such.
    """
    tracks = [(track, track.label) for track in list(session.tracks.values())]
    names = tuple(sorted({label for _, label in tracks}))
    masks = []
    for track, label in tracks:
        mask = track.mask(frame, sharp=sharp)
        if mask is not None:
            crop = decode_crop(mask)
            about = (names.index(label), track.score, mask, crop.box_xyxy_px(), crop.area)
            masks.append(TrackMask(track.track_id, *about))
    return masks, names


def zoom_of(clip: Clip) -> float:
    """Pixels of the page per pixel of the video, at least 1: small videos are enlarged."""
    height, width = clip.size
    return max(1.0, min(LEAST_SIZE[0] / height, LEAST_SIZE[1] / width))


def draw_view(session: Session, frame: int, *, sharp: bool) -> Path:
    """Draw a frame for the page; the file stays until a few more are drawn.

    Args:
        session: of the visitor.
        frame: index in the video.
        sharp: sharpened masks, where there are such.

    Raises:
        AppError: there is no video.
        OutputError: the disk is full.
    """
    clip = session.video()
    painted = draw_tracks(clip.picture(frame), *frame_tracks(session, frame, sharp=sharp))
    zoom = zoom_of(clip)
    if zoom > 1:
        larger = cv2.resize(painted, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_CUBIC)
        painted = np.asarray(larger, dtype=np.uint8)
    if session.drawing.frame == frame:
        painted = _outlined(painted, session.drawing, zoom)
    path = session.view_path()
    try:
        path.write_bytes(encode_jpeg(painted, QUALITY))
    except OSError as error:
        raise output_error(path, error) from None
    return path


def _outlined(picture: Frame, drawing: Drawing, zoom: float) -> Frame:
    """A drawing that is no object yet: its lines, and a dot on every corner."""
    width = max(round(min(picture.shape[:2]) / 240), 1)
    ring = np.array(drawing.ring(), dtype=np.float64).reshape(-1, 2)
    ring = (zoom * ring).round().astype(np.int32)
    closed = drawing.box and len(ring) > 2
    for color, more in ((_RIM, 2 * width), (_INK, 0)):
        if len(ring) > 1:
            cv2.polylines(picture, [ring], closed, color, width + more, cv2.LINE_AA)
        for x, y in drawing.corners:
            centre = (round(zoom * x), round(zoom * y))
            cv2.circle(picture, centre, 2 * width + more // 2, color, -1, cv2.LINE_AA)
    return picture


def table(session: Session) -> list[list[str]]:
    """A row per object, see ``COLUMNS``; frames in which it was sharpened or followed count."""
    rows = []
    for track in list(session.tracks.values()):
        made = [c for c in list(track.changes.values()) if c.area or c.mask is not None]
        score = f"{track.score:.2f}" if track.found else "drawn"
        frames = len(track.best())
        rows.append([str(track.track_id), track.label, score, str(frames), str(len(made))])
    return rows
