"""BDD100K's bitmask PNG folders, read and written: class, flags and instance of every pixel.

Source of the format: the bdd100k toolkit 9ac17c6.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from cocoapi_hq.exceptions import ScoringError
from cocoapi_hq.io import rle
from cocoapi_hq.io.listing import list_files, list_folders
from cocoapi_hq.mots.frame_masks import BoolArray, FrameMasks, IntArray
from cocoapi_hq.mots.mots_config import JsonSource, MotsConfig, load_config

#: Ids that a bitmask can hold: 1 to this.
MAX_ID = 65535
_PNG_RGBA8 = (8, 6)  # bit depth and colour type in the PNG header
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class BitmaskFrame:
    """One bitmask PNG, decoded.

    Attributes:
        instance_map: (H, W) int32, 0 on background, else 1 + position in the lists.
        labels: N class positions, -1 for instances of class 0.
        track_ids: N instance ids (B * 256 + A), ascending.
        ignored: N flags, True where the crowd or the ignored bit is set.
        areas: (N,) pixels.
    """

    instance_map: npt.NDArray[np.int32]
    labels: IntArray
    track_ids: IntArray
    ignored: BoolArray
    areas: IntArray


def list_bitmasks(root: str | os.PathLike[str], role: str) -> dict[str, list[Path]]:
    """Videos (sub-folders) of a bitmask folder, each with its PNG files in natural order.

    Raises:
        ScoringError: the folder is missing, or holds no sub-folder with PNG files.
    """
    folder = Path(root)
    if not folder.is_dir():
        raise ScoringError(
            f"{folder}: this folder of {role} bitmasks does not exist; "
            "give a folder with one sub-folder of PNG files per video."
        )
    videos = {child.name: list_files(child, (".png",)) for child in list_folders(folder)}
    videos = {name: files for name, files in videos.items() if files}
    if not videos and role == "ground truth":
        raise ScoringError(
            f"{folder}: no sub-folder with PNG files; give one sub-folder per video."
        )
    return videos


def read_bitmask(path: str | os.PathLike[str], config: MotsConfig) -> BitmaskFrame:
    """Decode one bitmask PNG: R class, G flags, B * 256 + A instance.

    G is truncated * 8 + occluded * 4 + crowd * 2 + ignored; instance 0 is background. There is no
    limit on the number of instances.

    Raises:
        ScoringError: not a readable RGBA PNG of 8 bits, a class outside the tree, or an instance
            whose pixels differ in class or flags.
    """
    png = Path(path)
    _require_rgba_png(png)
    pixels = cv2.imdecode(np.fromfile(png, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.ndim != 3 or pixels.shape[2] != 4:
        raise ScoringError(f"{png}: the PNG data is damaged; write the bitmask again.")
    blue, red = pixels[..., 0].astype(np.int32), pixels[..., 2].astype(np.int32)
    flags, alpha = pixels[..., 1].astype(np.int32), pixels[..., 3].astype(np.int32)
    ids = blue * 256 + alpha  # (H, W)
    areas = np.bincount(ids.ravel(), minlength=1)
    areas[0] = 0
    track_ids = np.flatnonzero(areas)
    position = np.zeros(len(areas), dtype=np.int32)
    position[track_ids] = np.arange(1, len(track_ids) + 1, dtype=np.int32)
    instance_map = position[ids]  # (H, W)
    key = red * 256 + flags
    key_of = np.zeros(len(areas), dtype=np.int32)
    key_of[ids] = key
    differs = (key_of[ids] != key) & (ids > 0)
    if differs.any():
        y, x = (int(v[0]) for v in np.nonzero(differs))
        raise ScoringError(
            f"{png}: pixels of instance {int(ids[y, x])} differ in class or flags (R, G), "
            f"for example at x={x}, y={y}; give all pixels of an instance the same R and G."
        )
    classes = key_of[track_ids] // 256
    if (classes > len(config.classes)).any():
        bad = int(np.flatnonzero(classes > len(config.classes))[0])
        raise ScoringError(
            f"{png}: instance {int(track_ids[bad])} has class {int(classes[bad])} in R, but there "
            f"are {len(config.classes)} classes; use 1 to {len(config.classes)} and 0 for none."
        )
    return BitmaskFrame(
        instance_map=instance_map,
        labels=classes.astype(np.int64) - 1,
        track_ids=track_ids.astype(np.int64),
        ignored=(key_of[track_ids] & 3) > 0,
        areas=areas[track_ids].astype(np.int64),
    )


def bitmask_of(frame: FrameMasks, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """The pixels of a frame's bitmask, as ``read_bitmask`` decodes them.

    Args:
        frame: where its masks overlap the later is on top; see ``frame_masks.resolve_overlaps``.
            Ignored ones have the ignored bit.
        size: (h, w) in pixels.

    Returns:
        (h, w, 4) uint8, red, green, blue, alpha.

    Raises:
        ScoringError: a mask of another size, or an id that is used twice or not in 1 to 65,535.
    """
    pixels = np.zeros((*size, 4), dtype=np.uint8)
    rows = zip(frame.rles, frame.labels, frame.track_ids, frame.ignored, strict=True)
    where = f"{frame.where}: video {frame.video!r}, frame {frame.name!r}"
    for mask, label, track_id, ignored in rows:
        if tuple(mask["size"]) != size:
            raise ScoringError(
                f"{where}: a mask has size {mask['size']}, but the frame is {list(size)} (h, w); "
                "write masks at the size of the video."
            )
        if not 1 <= track_id <= MAX_ID or frame.track_ids.count(track_id) > 1:
            raise ScoringError(
                f"{where}: id {track_id} cannot stand in a bitmask, which has ids from 1 to "
                f"{MAX_ID}, each once; number the tracks of a video from 1."
            )
        x, y, w, h = rle.to_box(mask)
        own = rle.decode(mask)[y : y + h, x : x + w]
        value = (label + 1, int(ignored), track_id // 256, track_id % 256)
        pixels[y : y + h, x : x + w][own] = value
    return pixels


def write_bitmasks(
    root: str | os.PathLike[str], frames: Iterable[FrameMasks], config: MotsConfig
) -> int:
    """Write a PNG for every frame, as the BDD100K server takes results.

    Args:
        root: folder; a video becomes a sub-folder, ``NAME.jpg`` of it ``NAME.png``.
        frames: of all videos, empty frames included. A video without any mask has the image size
            of the configuration.
        config: the classes.

    Returns:
        The number of files.

    Raises:
        ScoringError: see ``bitmask_of``; or a file cannot be written.
    """
    known = list(frames)
    sizes: dict[str, tuple[int, int]] = {}
    for frame in known:
        for mask in frame.rles[:1]:
            sizes.setdefault(frame.video, (mask["size"][0], mask["size"][1]))
    for frame in known:
        size = sizes.get(frame.video, config.image_size)
        if size is None:
            raise ScoringError(
                f"video {frame.video!r} has no mask that says its size; give imageSize in the "
                "configuration."
            )
        path = Path(root) / frame.video / f"{Path(frame.name).stem}.png"
        write_png(path, bitmask_of(frame, size))
    return len(known)


def write_png(path: Path, pixels: npt.NDArray[np.uint8]) -> None:
    """Write (H, W, 4) uint8 RGBA pixels, and the folder they are in.

    Raises:
        ScoringError: it cannot be written.
    """
    data = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGBA2BGRA))[1]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.tobytes())
    except OSError as error:
        raise ScoringError(
            f"{path}: cannot be written ({error.strerror}); free space or choose another folder."
        ) from error


def bitmasks_to_frames(
    root: str | os.PathLike[str], config: MotsConfig | JsonSource | None = None, *, is_gt: bool
) -> list[FrameMasks]:
    """A bitmask folder as run-length frames; crowd and ignored flags are kept.

    Frames are numbered from 0 in the order of their names. Instances of class 0 are left out.

    Raises:
        ScoringError: see ``list_bitmasks`` and ``read_bitmask``.
    """
    classes = load_config(config)
    frames = []
    for video, files in list_bitmasks(root, "ground truth" if is_gt else "results").items():
        for index, png in enumerate(files):
            bitmask = read_bitmask(png, classes)
            frame = FrameMasks(video, png.stem + ".jpg", index, where=str(png))
            for i in np.flatnonzero(bitmask.labels >= 0).tolist():
                frame.append(
                    rle.encode(bitmask.instance_map == i + 1),
                    int(bitmask.labels[i]),
                    track_id=int(bitmask.track_ids[i]),
                    ignored=bool(bitmask.ignored[i]),
                )
            frames.append(frame)
    return frames


def _require_rgba_png(path: Path) -> None:
    try:
        with path.open("rb") as file:
            header = file.read(26)
    except OSError as error:
        raise ScoringError(f"{path}: cannot be read ({error.strerror}); check the path.") from error
    if len(header) < 26 or not header.startswith(_PNG_SIGNATURE):
        raise ScoringError(f"{path}: is not a PNG file; write bitmasks as 8-bit RGBA PNG.")
    found = (header[24], header[25])
    if found != _PNG_RGBA8:
        raise ScoringError(
            f"{path}: is a PNG with bit depth {found[0]} and colour type {found[1]}; "
            "bitmasks are 8-bit RGBA (bit depth 8, colour type 6). Other label maps become "
            "YouTube-VIS JSON by `vmt convert-annotations`, which these metrics take, too."
        )
