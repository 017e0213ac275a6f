#!/usr/bin/env python3
"""How coarse degraded masks are, and what our refiner and two classical methods make of them.

Clean masks of real clips are degraded (`vmt.data.degrade`) and given, with the frames, to the mask
refiner, a guided filter and GrabCut. "clean" masks are given as they are: what is lost then is the
method's own fault. "windows_of_4" is ours, same weights, with windows of four frames: what the
attention across frames is worth; "steady" is ours with --steady 3; "low_res" the weights of that
name, here for every kind, so that one sees what a wrong choice costs. Means over tracklets;
boundary IoU with bands of 2% and 0.5% of the frame diagonal. The clip bmx-trees, whose annotation
is coarse itself, is left out.

Example:
  python benchmarks/bench_mask_refinement.py --frames-per-clip 5 --jobs 2
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from common import (
    REPO,
    benchmark_parser,
    machine,
    parse,
    require_data,
    run,
    scratch_folder,
    write_json,
)

from cocoapi_hq.io import rle
from cocoapi_hq.tubes.boundary import boundary_region
from cocoapi_hq.tubes.tracklet_quality import compare_tubes, temporal_stability
from tests.synthetic import write_moving_shapes
from vmt.data.degrade import degrade_tube
from vmt.data.images import read_frame
from vmt.data.names import KINDS
from vmt.inference.mask_refiner import MaskRefiner
from vmt.inference.refine_defaults import ANY, LOW_RES, WINDOW

CLIPS = REPO.parent / "shared/data/clips"
DRY_RUN = {"clips": None, "frames_per_clip": 2, "kinds": ["paper"], "methods": ["coarse", "ours"]}
#: Its annotation is too coarse to say anything about boundaries.
LEFT_OUT = ("bmx-trees",)
#: Pixels around the coarse contour that GrabCut decides about. Of 6, 8 and 12, the best for it on
#: these very clips: a baseline should not lose by its settings.
BAND_PX = 6
FINE_RATIO = 0.005

#: (T, H, W, 3) frames and (T, H, W) coarse masks -> (T, H, W) masks
Method = Callable[[np.ndarray, np.ndarray], np.ndarray]
CLEAN = "clean"
#: Ours: frames per window, and neighbours that overrule a mask.
OURS = {"ours": (WINDOW, 0), "windows_of_4": (4, 0), "steady": (WINDOW, 3), LOW_RES: (WINDOW, 0)}


def per_frame(method: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Method:
    """A method for single images, used on each frame."""
    return lambda frames, masks: np.stack(list(map(method, frames, masks)))


def mask_refiner(name: str, weights: str) -> Method:
    """One of ``OURS``, on the CPU."""
    window, steady = OURS[name]
    own = LOW_RES if name == LOW_RES else weights
    refiner = MaskRefiner.from_pretrained(own, device="cpu", steady=steady)
    return lambda frames, masks: refiner.refine(frames, masks[None], window=window).masks[0]


def keep(frame: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The coarse mask itself."""
    return mask


def guided_filter(
    frame: np.ndarray, mask: np.ndarray, radius: int = 8, eps: float = 1e-3
) -> np.ndarray:
    """He, Sun, Tang, "Guided Image Filtering", with the grey frame as guide; cut at 0.5."""
    guide = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    values = mask.astype(np.float32)

    def mean(x: np.ndarray) -> np.ndarray:
        return cv2.blur(x, (2 * radius + 1, 2 * radius + 1))

    mean_guide, mean_values = mean(guide), mean(values)
    covariance = mean(guide * values) - mean_guide * mean_values
    slope = covariance / (mean(guide * guide) - mean_guide**2 + eps)
    offset = mean_values - slope * mean_guide
    return mean(slope) * guide + mean(offset) > 0.5


def grab_cut(frame: np.ndarray, mask: np.ndarray, rounds: int = 3) -> np.ndarray:
    """OpenCV's GrabCut, free within ``BAND_PX`` of the coarse contour, around the object only."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not rows.size:
        return mask
    margin = 3 * BAND_PX
    part = (
        slice(max(rows[0] - margin, 0), rows[-1] + margin + 1),
        slice(max(columns[0] - margin, 0), columns[-1] + margin + 1),
    )
    coarse = mask[part].astype(np.uint8)
    kernel = np.ones((2 * BAND_PX + 1, 2 * BAND_PX + 1), np.uint8)
    labels = np.where(coarse, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    labels[cv2.erode(coarse, kernel) > 0] = cv2.GC_FGD
    labels[cv2.dilate(coarse, kernel) == 0] = cv2.GC_BGD
    if not (labels & 1).any() or (labels & 1).all():
        return mask
    cv2.setRNGSeed(0)
    image = np.ascontiguousarray(frame[part][..., ::-1])
    models = np.zeros((1, 65)), np.zeros((1, 65))
    labels, *_ = cv2.grabCut(image, labels, None, *models, rounds, cv2.GC_INIT_WITH_MASK)
    found = mask.copy()
    found[part] = (labels & 1) > 0
    return found


METHODS: dict[str, Method] = {
    "coarse": per_frame(keep),
    "guided_filter": per_frame(guided_filter),
    "grab_cut": per_frame(grab_cut),
}


def scores(clean: np.ndarray, found: np.ndarray, consecutive: bool) -> dict[str, float]:
    """Quality of one tube, masks (T, H, W) bool of the frames where the object is visible."""
    gt, pred = ([rle.encode(mask) for mask in tube] for tube in (clean, found))
    j, f, curve = compare_tubes(gt, pred)
    fine = []
    for a, b in zip(gt, pred, strict=True):
        x, y = (rle.decode(boundary_region(mask, FINE_RATIO)) for mask in (a, b))
        fine.append(np.count_nonzero(x & y) / max(np.count_nonzero(x | y), 1))
    return {
        "tube_iou": np.count_nonzero(clean & found) / max(np.count_nonzero(clean | found), 1),
        "boundary_iou_2%": float(np.mean(curve)),
        "boundary_iou_0.5%": float(np.mean(fine)),
        "J&F": (j + f) / 2,
        "stability": temporal_stability(curve) if consecutive else math.nan,
    }


def tracklets(root: Path, per_clip: int) -> list[dict[str, Any]]:
    """Visible frames and clean masks of every tracklet, evenly spaced; 0: all frames."""
    content = json.loads((root / "annotations.json").read_text())
    videos = {}
    for video in content["videos"]:
        video.setdefault("name", Path(video["file_names"][0]).parts[0])
        if video["name"] not in LEFT_OUT:
            videos[video["id"]] = video
    found = []
    for row in content["annotations"]:
        if row["video_id"] not in videos:
            continue
        video = videos[row["video_id"]]
        visible = [t for t, mask in enumerate(row["segmentations"]) if mask is not None]
        if per_clip and len(visible) > per_clip:
            chosen = np.linspace(0, len(visible) - 1, per_clip).round().astype(int)
            visible = [visible[k] for k in chosen]
        size = (video["height"], video["width"])
        found.append(
            {
                "name": f"{video['name']}/{row['id']}",
                "id": row["id"],
                "files": [root / "JPEGImages" / video["file_names"][t] for t in visible],
                "masks": [rle.validate(row["segmentations"][t], "mask", size) for t in visible],
            }
        )
    return found


def measure(
    tracklet: dict[str, Any],
    kinds: Sequence[str],
    names: Sequence[str],
    weights: str,
    options: dict[str, int],
) -> list[dict[str, Any]]:
    """All of these kinds and methods on one tracklet."""
    torch.set_num_threads(1)
    methods = {n: METHODS[n] if n in METHODS else mask_refiner(n, weights) for n in names}
    frames = np.stack([read_frame(path) for path in tracklet["files"]])
    clean = np.stack([np.ascontiguousarray(rle.decode(m)) for m in tracklet["masks"]])
    rows = []
    for kind in kinds:
        rng = np.random.default_rng([options["seed"], tracklet["id"]])
        coarse = clean
        if kind != CLEAN:
            amount = options["stride"] if kind == "low_res" else None
            coarse = degrade_tube(clean, kind, rng, amount=amount)
        for name, method in methods.items():
            start = time.perf_counter()
            found = method(frames, coarse)
            seconds = (time.perf_counter() - start) / len(frames)
            quality = scores(clean, found, options["frames_per_clip"] == 0)
            about = {"tracklet": tracklet["name"], "kind": kind, "method": name}
            rows.append(about | quality | {"seconds_per_mask": seconds})
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write the table."""
    parser = benchmark_parser(__doc__, "mask_refinement.json")
    known, kinds = [*METHODS, *OURS], [*KINDS, CLEAN]
    parser.add_argument("--clips", type=Path, default=CLIPS)
    parser.add_argument("--frames-per-clip", type=int, default=0, help="0: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=kinds, default=kinds)
    parser.add_argument("--stride", type=int, default=KINDS["low_res"][0], help="of low resolution")
    parser.add_argument("--weights", default=ANY, help="name or file, as for vmt refine")
    parser.add_argument("--methods", nargs="+", choices=known, default=known)
    parser.add_argument("--jobs", type=int, default=1, help="processes of one thread each")
    args = parse(parser, argv, DRY_RUN)
    if args.clips is None:
        args.clips = write_moving_shapes(scratch_folder(), 1, 2, (48, 64), seed=0).parent
    clips = require_data(args.clips, "--clips")
    names = ("frames_per_clip", "seed", "jobs", "stride")
    options = {name: getattr(args, name) for name in names}
    rows: list[dict[str, Any]] = []
    work = partial(
        measure, kinds=args.kinds, names=args.methods, weights=args.weights, options=options
    )
    todo = tracklets(clips, args.frames_per_clip)
    with ExitStack() as stack:
        apply: Callable[..., Iterable[list[dict[str, Any]]]] = map
        if args.jobs > 1:
            context = get_context("spawn")
            apply = stack.enter_context(ProcessPoolExecutor(args.jobs, mp_context=context)).map
        for found in apply(work, todo):
            rows += found
            print(f"{found[0]['tracklet']} done", flush=True)
    means = []
    for kind in args.kinds:
        for name in args.methods:
            own = [row for row in rows if row["kind"] == kind and row["method"] == name]
            keys = [key for key in own[0] if key not in ("tracklet", "kind", "method")]
            mean = {key: float(np.mean([row[key] for row in own])) for key in keys}
            means.append({"kind": kind, "method": name} | mean)
            numbers = "  ".join(f"{key} {value:.3f}" for key, value in mean.items())
            print(f"{kind:8} {name:14} {numbers}")
    for row in (*rows, *means):
        row.update({k: None for k, v in row.items() if isinstance(v, float) and math.isnan(v)})
    content = {"machine": machine(), "options": options, "means": means, "tracklets": rows}
    write_json(args.output, content)


if __name__ == "__main__":
    sys.exit(run(main))
