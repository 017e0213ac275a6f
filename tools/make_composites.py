#!/usr/bin/env python3
r"""Write clips of things pasted over photos, whose boundaries are exact by construction.

Outlines and pixels come from the regions of a COCO file, and from drawn shapes with combs, hairs
and holes. The result is a folder in YouTube-VIS layout, to train or to test mask refiners with.
Things that can hardly be seen are left out. A folder that is there already is not touched.

Example:
  python tools/make_composites.py --images my/instances.json@my/JPEGImages --clips 2000 \
      --output output/composites
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from cocoapi_hq.io import rle
from vmt.data.composites import CompositeClip, CompositeOptions, Cutout, composite_clip
from vmt.data.datasets.coco import load_coco_json
from vmt.data.images import read_frame
from vmt.data.mapper import decode_masks
from vmt.utils.atomic import make_folder, write_text
from vmt.utils.console import exit_with, one_line_errors
from vmt.utils.errors import OutputError

logger = logging.getLogger("make_composites")
#: Least share of a photo that a region covers to be cut out, and of its box that it must fill.
MIN_AREA, MIN_FILL = 0.01, 0.15
#: Least share of a frame that an object covers on average, and least mean colour difference
#: between the two sides of its boundary, in grey levels.
MIN_VISIBLE, MIN_CONTRAST = 0.01, 8.0
#: Pixels that a cut-out loses all around: polygons run outside of things.
ERODE_PX = 2


def material(sources: Sequence[str]) -> tuple[list[npt.NDArray[np.uint8]], list[Cutout]]:
    """Photos and the things in them, of sources ``my.json@images``."""
    photos, cutouts = [], []
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * ERODE_PX + 1,) * 2)
    parts = [source.partition("@") for source in sources]
    sets = [load_coco_json(Path(path), Path(folder), "images") for path, _, folder in parts]
    for record in (records[index] for records in sets for index in range(len(records))):
        photo = read_frame(record.frame_paths[0], record.size)
        photos.append(photo)
        for mask in decode_masks(record.tracklets([0]), 1, record.size)[:, 0]:
            eroded = cv2.erode(mask.astype(np.uint8), kernel).astype(bool)
            rows, columns = np.flatnonzero(eroded.any(1)), np.flatnonzero(eroded.any(0))
            if not rows.size or eroded.mean() < MIN_AREA:
                continue
            box = (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)
            if eroded.sum() >= MIN_FILL * box:
                cutouts.append(Cutout(eroded, photo))
    return photos, cutouts


def usable(clip: CompositeClip) -> npt.NDArray[np.bool_]:
    """(N,) whether each object covers enough and stands out in the middle frame."""
    middle = len(clip.frames) // 2
    frame = clip.frames[middle].astype(np.float32)
    kernel = np.ones((7, 7), np.uint8)
    clear = []
    for tube in clip.masks:
        mask = tube[middle].astype(np.uint8)
        inner = (mask - cv2.erode(mask, kernel)).astype(bool)
        outer = (cv2.dilate(mask, kernel) - mask).astype(bool)
        if tube.mean() < MIN_VISIBLE or not inner.any() or not outer.any():
            clear.append(False)
            continue
        gap = np.abs(frame[inner].mean(0) - frame[outer].mean(0)).max()
        clear.append(bool(gap >= MIN_CONTRAST))
    return np.array(clear, dtype=np.bool_)


def write_clips(
    folder: Path,
    count: int,
    options: CompositeOptions,
    seed: int,
    sources: Sequence[str] = (),
    one_photo_prob: float = 0.0,
) -> None:
    """Frames as JPEG and ``annotations.json``, which appears last."""
    target = folder / "annotations.json"
    if target.exists():
        raise OutputError(f"{target}: exists; give another --output.")
    photos, cutouts = material(sources)
    logger.info("%d photos, %d things cut out of them", len(photos), len(cutouts))
    videos: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    H, W = options.size
    started, draws = time.perf_counter(), 0
    while len(videos) < count:
        rng = np.random.default_rng([seed, draws])
        draws += 1
        pictures, things = photos, cutouts
        if cutouts and rng.random() < one_photo_prob:
            pictures = [cutouts[int(rng.integers(len(cutouts)))].pixels]
            things = [thing for thing in cutouts if thing.pixels is pictures[0]]
        clip = composite_clip(rng, options, pictures, things)
        chosen = usable(clip)
        if not chosen.any():
            continue
        name = f"composite_{len(videos):05d}"
        frames = make_folder(folder / "JPEGImages" / name)
        names = [f"{name}/{t:05d}.jpg" for t in range(len(clip.frames))]
        for t, frame in enumerate(clip.frames):
            cv2.imwrite(
                str(frames / f"{t:05d}.jpg"), frame[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95]
            )
        shape = {"width": W, "height": H, "length": len(names)}
        videos.append({"id": len(videos) + 1, **shape, "file_names": names})
        for tube in clip.masks[chosen]:
            identity = {"id": len(annotations) + 1, "video_id": len(videos)}
            annotations.append(identity | annotation_of(tube))
        if len(videos) % 100 == 0:
            pace = (time.perf_counter() - started) / len(videos)
            left = pace * (count - len(videos))
            logger.info("%d of %d clips, eta %.0f s", len(videos), count, left)
    content = {"videos": videos, "annotations": annotations}
    write_text(target, json.dumps(content | {"categories": [{"id": 1, "name": "object"}]}))
    logger.info("%s: %d clips, %d objects", target, len(videos), len(annotations))


def annotation_of(tube: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """Masks (T, H, W) as an annotation without identity."""
    masks = [rle.encode(mask) if mask.any() else None for mask in tube]
    return {
        "category_id": 1,
        "iscrowd": 0,
        "segmentations": masks,
        "bboxes": [mask and list(rle.to_box(mask)) for mask in masks],
        "areas": [mask and rle.area(mask) for mask in masks],
    }


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Write the folder; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--images", nargs="+", default=[], metavar="JSON@FOLDER",
        help="COCO files and their photos; none: drawn shapes and textures only",
    )  # fmt: skip
    parser.add_argument("--clips", type=int, default=1000, help="how many (default 1000)")
    parser.add_argument("--frames", type=int, default=5, help="of each (default 5)")
    parser.add_argument("--size", type=int, nargs=2, default=[224, 224], help="height width")
    parser.add_argument("--objects", type=int, default=1, help="per clip (default 1)")
    parser.add_argument(
        "--speed", type=float, default=CompositeOptions.speed_px,
        help=f"most pixels that things move per frame (default {CompositeOptions.speed_px:g})",
    )  # fmt: skip
    parser.add_argument(
        "--bend", type=float, default=0.0, metavar="PX",
        help="most pixels per frame by which parts of a thing move against each other (default 0)",
    )  # fmt: skip
    parser.add_argument(
        "--one-photo", type=float, default=0.0, metavar="SHARE",
        help="share of clips that are made of a single photo, things and ground (default 0): "
        "light and colours fit, so that boundaries are as hard to see as real ones",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    args = parser.parse_args(argv)
    if not 0 <= args.one_photo <= 1:
        parser.error(f"--one-photo {args.one_photo}: give a share from 0 to 1.")
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    options = CompositeOptions(
        num_frames=args.frames,
        size=(args.size[0], args.size[1]),
        num_objects=args.objects,
        photo_shape_prob=0.6,
        speed_px=args.speed,
        bend_px=args.bend,
    )
    folder = make_folder(args.output)
    write_clips(folder, args.clips, options, args.seed, args.images, args.one_photo)
    return 0


if __name__ == "__main__":
    exit_with(main)
