#!/usr/bin/env python3
"""How coarse degraded masks are, and what our refiner and two classical methods make of them.

Clean masks of real clips are degraded and given, with the frames, to the mask refiner, a guided
filter and GrabCut. A kind is one of `vmt degrade` with its usual amount or another (low_res:4); a
"box" around the object; or "clean", masks as they are: what is lost then is the method's own fault.
"ours" is the refiner as `vmt refine` runs it, "single_frames" the same network on each frame alone.
Means over tracklets; boundary IoU with bands of 2% and 0.5% of the frame diagonal. The clip
bmx-trees, whose annotation is coarse itself, is left out. Objects of a clip that touch are also
refined together: pixels that two of them have, and gaps between them, that were not there before.

The result file grows kind by kind, tracklet by tracklet: a run that was cut short goes on there,
and more kinds, methods and seeds may be asked for later. Other weights do their own part again.

Example:
  python benchmarks/bench_mask_refinement.py --kinds halo clean --methods coarse ours
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from classical_refinement import grab_cut, guided_filter
from common import (
    REPO,
    BenchmarkError,
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
from vmt.data.degrade import check_amount, degrade_tube
from vmt.data.images import read_frame
from vmt.inference.mask_refiner import MaskRefiner
from vmt.inference.neighbours import GAP_PX
from vmt.inference.refine_defaults import SHIPPED, weights_path

CLIPS = REPO.parent / "shared/data/clips"
DRY_RUN = {"clips": None, "frames_per_clip": 2, "kinds": ["paper"], "methods": ["coarse", "ours"]}
#: Its annotation is too coarse to say anything about boundaries.
LEFT_OUT = ("bmx-trees",)
FINE_RATIO = 0.005
CLEAN, BOX = "clean", "box"
KINDS = (
    *("halo", "paper", "low_res", CLEAN, "polygon"),
    *("low_res:4", "lag", "holes", "matte", BOX),
)
CLASSICAL: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "guided_filter": guided_filter,
    "grab_cut": grab_cut,
}
OURS = ("ours", "single_frames")
METHODS = ("coarse", *CLASSICAL, *OURS)
#: What two objects are refined together from.
TOGETHER = ("paper", "low_res", CLEAN)
#: Numbers of a row that are averaged.
SCORES = ("tube_iou", "boundary_iou_2%", "boundary_iou_0.5%", "J&F", "stability")

#: (T, H, W, 3) frames and (N, T, H, W) coarse masks -> (N, T, H, W) masks
Method = Callable[[np.ndarray, np.ndarray], np.ndarray]
Row = dict[str, Any]


@dataclass(frozen=True)
class Piece:
    """What is measured at once.

    Args:
        tracklets: of ``tracklets``, all of one clip.
        kind: of masks.
        methods: those that are asked for.
        seed: of the coarse masks.
        weights: name or file.
        flickers: frames follow each other.
    """

    tracklets: tuple[Row, ...]
    kind: str
    methods: tuple[str, ...]
    seed: int
    weights: str
    flickers: bool

    @property
    def name(self) -> str:
        """Of the tracklet, or of the clip if there are several."""
        first = str(self.tracklets[0]["name"])
        return first if len(self.tracklets) == 1 else first.partition("/")[0]


def split_kind(text: str) -> tuple[str, int | None]:
    """An entry of ``--kinds``: the kind, and the amount if it says one.

    Raises:
        BenchmarkError: there is no such kind, or no such amount of it.
    """
    kind, _, number = text.partition(":")
    if text in (CLEAN, BOX):
        return text, None
    try:
        amount = int(number) if number else None
        check_amount(kind, amount)
    except ValueError as error:
        raise BenchmarkError(f"--kinds {text}: {error}") from None
    return kind, amount


def coarse_masks(clean: np.ndarray, kind: str, seed: int, number: int) -> np.ndarray:
    """(T, H, W) masks of a kind; ``number`` is that of the tracklet."""
    name, amount = split_kind(kind)
    if name == CLEAN:
        return clean
    if name == BOX:
        return np.stack([box_of(mask) for mask in clean])
    return degrade_tube(clean, name, np.random.default_rng([seed, number]), amount=amount)


def box_of(mask: np.ndarray) -> np.ndarray:
    """All pixels of the box around an object."""
    return np.outer(mask.any(1), mask.any(0))


@cache
def refiner(weights: str) -> MaskRefiner:
    """On the CPU."""
    return MaskRefiner.from_pretrained(weights, device="cpu")


def ours(frames: np.ndarray, masks: np.ndarray, weights: str) -> np.ndarray:
    """As ``vmt refine`` does it."""
    return refiner(weights).refine(frames, masks).masks


def single_frames(frames: np.ndarray, masks: np.ndarray, weights: str) -> np.ndarray:
    """The same, each frame a video of its own."""
    each = [ours(frames[t : t + 1], masks[:, t : t + 1], weights) for t in range(len(frames))]
    return np.concatenate(each, axis=1)


def method_of(name: str, weights: str) -> Method:
    """One of ``METHODS``."""
    if name in OURS:
        return partial({"ours": ours, "single_frames": single_frames}[name], weights=weights)
    if name == "coarse":
        return lambda frames, masks: masks
    single = CLASSICAL[name]
    return lambda frames, masks: np.stack([list(map(single, frames, tube)) for tube in masks])


def scores(clean: np.ndarray, found: np.ndarray, flickers: bool) -> Row:
    """Quality of one tube, masks (T, H, W) bool of the frames where the object is visible."""
    gt, pred = ([rle.encode(mask) for mask in tube] for tube in (clean, found))
    j, f, curve = compare_tubes(gt, pred)
    fine = []
    for a, b in zip(gt, pred, strict=True):
        x, y = (rle.decode(boundary_region(mask, FINE_RATIO)) for mask in (a, b))
        fine.append(int((x & y).sum()) / max(int((x | y).sum()), 1))
    iou = int((clean & found).sum()) / max(int((clean | found).sum()), 1)
    stability = temporal_stability(curve) if flickers else math.nan
    values = (iou, float(np.mean(curve)), float(np.mean(fine)), (j + f) / 2, stability)
    named = zip(SCORES, values, strict=True)
    return {name: None if math.isnan(value) else round(value, 4) for name, value in named}


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


def measure(piece: Piece) -> list[Row]:
    """Rows of a piece, one per method; of several tracklets, how they get along."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    frames = np.stack([read_frame(path) for path in piece.tracklets[0]["files"]])
    clean = np.stack(
        [[np.ascontiguousarray(rle.decode(m)) for m in one["masks"]] for one in piece.tracklets]
    )
    coarse = np.stack(
        [
            coarse_masks(tube, piece.kind, piece.seed, one["id"])
            for tube, one in zip(clean, piece.tracklets, strict=True)
        ]
    )
    rows = []
    for name in piece.methods:
        method = method_of(name, piece.weights)
        start = time.process_time()
        found = method(frames, coarse)
        seconds = (time.process_time() - start) / (len(clean) * len(frames))
        row = {"tracklet": piece.name, "kind": piece.kind, "method": name, "seed": piece.seed}
        if name in OURS:
            row["weights"] = fingerprint(piece.weights)
        if len(clean) > 1:
            alone = np.concatenate([method(frames, tube[None]) for tube in coarse])
            row |= {f"{k}_alone": v for k, v in contested(coarse, alone).items()}
            rows.append(row | contested(coarse, found))
        else:
            quality = scores(clean[0], found[0], piece.flickers)
            rows.append(row | quality | {"cpu_seconds_per_mask": round(seconds, 4)})
    return rows


def contested(before: np.ndarray, after: np.ndarray) -> Row:
    """Pixels per frame that two of (N, T, H, W) masks share, or lost between them, since before."""
    kernel = np.ones((GAP_PX + 1, GAP_PX + 1), np.uint8)
    shared = (after.sum(0) > 1) & (before.sum(0) < 2)
    near = np.array([[cv2.dilate(m.view(np.uint8), kernel) for m in tube] for tube in after])
    lost = (near.sum(0) > 1) & ~after.any(0) & before.any(0)
    count = after.shape[1]
    return {"shared_px": round(shared.sum() / count, 2), "lost_px": round(lost.sum() / count, 2)}


@cache
def fingerprint(weights: str) -> str:
    """Beginning of the SHA-256 of a weight file."""
    return hashlib.sha256(weights_path(weights).read_bytes()).hexdigest()[:12]


def pieces_of(args: Any, done: set[tuple[str, str, str, int]]) -> Iterator[Piece]:
    """What is asked for and not done yet, kind by kind, single tracklets first."""
    each = tracklets(args.clips, args.frames_per_clip)
    clips: dict[tuple[Path, ...], list[Row]] = {}
    for one in each:
        clips.setdefault(tuple(one["files"]), []).append(one)
    groups = [tuple(own) for own in clips.values() if len(own) > 1]
    jobs: list[tuple[str, tuple[Row, ...], Sequence[str]]]
    jobs = [(kind, (one,), args.methods) for kind in args.kinds for one in each]
    ours_alone = [name for name in args.methods if name == OURS[0]]
    jobs += [(kind, own, ours_alone) for kind in TOGETHER if kind in args.kinds for own in groups]
    for seed in args.seeds:
        for kind, own, methods in jobs:
            piece = Piece(own, kind, (), seed, args.weights, args.frames_per_clip == 0)
            left = tuple(m for m in methods if (piece.name, kind, m, seed) not in done)
            if left:
                yield replace(piece, methods=left)


def measured_before(path: Path, options: Row, weights: str) -> list[Row]:
    """Rows of a result file; those of ours only if they are of these weights.

    Raises:
        BenchmarkError: it is of other clips or frames.
    """
    if not path.is_file():
        return []
    content = json.loads(path.read_text())
    if content["options"] != options:
        raise BenchmarkError(f"{path}: made with {content['options']}; delete it, or name another.")
    rows = [*content["tracklets"], *content["together"]]
    return [row for row in rows if row.get("weights", weights) == weights]


def means_of(rows: Sequence[Row]) -> list[Row]:
    """Per kind, method and seed: means over tracklets, and which of them are worse than before."""
    given = {(r["tracklet"], r["kind"], r["seed"]): r for r in rows if r["method"] == "coarse"}
    groups: dict[tuple[str, str, int], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["kind"], row["method"], row["seed"]), []).append(row)
    means = []
    for (kind, method, seed), own in groups.items():
        mean: Row = {"kind": kind, "method": method, "seed": seed, "tracklets": len(own)}
        for key in (*SCORES, "cpu_seconds_per_mask"):
            values = [row[key] for row in own if row[key] is not None]
            mean[key] = round(float(np.mean(values)), 4) if values else None
        key = SCORES[1]
        before = {r["tracklet"]: given.get((r["tracklet"], kind, seed), r)[key] for r in own}
        mean["worse"] = [r["tracklet"] for r in own if r[key] < before[r["tracklet"]]]
        means.append(mean)
    return means


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write the table."""
    parser = benchmark_parser(__doc__, "mask_refinement.json")
    parser.add_argument("--clips", type=Path, default=CLIPS)
    parser.add_argument("--frames-per-clip", type=int, default=0, help="0: all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the coarse masks")
    parser.add_argument("--kinds", nargs="+", default=KINDS, metavar="KIND[:AMOUNT]")
    parser.add_argument("--weights", default=SHIPPED, help="name or file, as for vmt refine")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--jobs", type=int, default=1, help="processes of one thread each")
    args = parse(parser, argv, DRY_RUN)
    for kind in args.kinds:
        split_kind(kind)
    if args.clips is None:
        args.clips = write_moving_shapes(scratch_folder(), 1, 2, (48, 64), seed=0).parent
    require_data(args.clips, "--clips")
    options = {"clips": args.clips.name, "frames_per_clip": args.frames_per_clip}
    if args.dry_run:
        options["clips"] = "moving shapes"
    rows = measured_before(args.output, options, fingerprint(args.weights))
    done = {(row["tracklet"], row["kind"], row["method"], row["seed"]) for row in rows}
    with ExitStack() as stack:
        apply: Callable[..., Iterable[list[Row]]] = map
        if args.jobs > 1:
            context = get_context("spawn")
            apply = stack.enter_context(ProcessPoolExecutor(args.jobs, mp_context=context)).map
        for found in apply(measure, list(pieces_of(args, done))):
            rows += found
            single = [row for row in rows if "shared_px" not in row]
            content = {"machine": machine(), "options": options, "means": means_of(single)}
            content |= {"tracklets": single, "together": [r for r in rows if "shared_px" in r]}
            write_json(args.output, content)
    for mean in means_of([row for row in rows if "shared_px" not in row]):
        numbers = "  ".join(f"{key} {mean[key]}" for key in SCORES)
        worse = f"  worse: {', '.join(mean['worse'])}" if mean["worse"] else ""
        print(f"{mean['seed']}  {mean['kind']:9} {mean['method']:14} {numbers}{worse}")


if __name__ == "__main__":
    sys.exit(run(main))
