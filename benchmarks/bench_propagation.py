#!/usr/bin/env python3
"""How good the tracklets are that one mask becomes, beside warping it from frame to frame.

The first mask of every tracklet of real clips is given, as it is ("mask") or as a polygon of at
most twelve corners around it, each up to two pixels off ("polygon"); scored are all later frames,
by J&F, the mean over tracklets. "flow" warps the mask before by the flow that propagation uses;
"flow_refiner" has the refiner sharpen it after each step, without memory; "ours" is
`vmt refine --propagate` without a finder, "finder" with one, the network of --finder-config and
--finder-weights, or vmt_small of the package. The clip bmx-trees, whose annotation is coarse
itself, is left out. A run that was cut short goes on behind the tracklets that its result file has;
delete it to begin anew.

Example:
  python benchmarks/bench_propagation.py --clips ../shared/data/davis_train --starts polygon
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from bench_mask_refinement import CLIPS, tracklets
from common import benchmark_parser, machine, parse, require_data, run, scratch_folder, write_json

from cocoapi_hq.io import rle
from cocoapi_hq.tubes.tracklet_quality import compare_tubes
from tests.synthetic import write_moving_shapes
from vmt.data.degrade import drawn_polygon
from vmt.data.images import read_frame
from vmt.inference.mask_refiner import MaskRefiner
from vmt.inference.propagation.features import FeatureMaps, LiteFeatures
from vmt.inference.propagation.finder import NetworkFinder
from vmt.inference.propagation.propagator import MaskPropagator
from vmt.inference.propagation.view import View, warp
from vmt.inference.refine_defaults import SHIPPED
from vmt.ops.flow_votes import Flow

DRY_RUN = {
    "clips": None,
    "starts": ["polygon"],
    "methods": ["flow", "ours", "finder"],
    "finder_config": "quick/qdtrack_tiny",
}
CORNERS = 12
STARTS = ("mask", "polygon")
SCORES = ("J&F", "J", "F")
METHODS = ("flow", "flow_refiner", "ours", "finder")


class SharedView(View):
    """A view whose flow is computed once, for all methods."""

    def __init__(self, frame: np.ndarray, features: FeatureMaps) -> None:
        super().__init__(frame, features)
        self._flows: dict[int, Flow] = {}

    def flow_to(self, before: View) -> Flow:
        """As of ``View``."""
        if id(before) not in self._flows:
            self._flows[id(before)] = super().flow_to(before)
        return self._flows[id(before)]


class ClipViews:
    """The views of a clip, each made once.

    Args:
        frames: (T, H, W, 3).
        features: of frames.
    """

    def __init__(self, frames: np.ndarray, features: FeatureMaps) -> None:
        self.frames = frames
        self._views = {self._key(frame): SharedView(frame, features) for frame in frames}

    def __call__(self, frame: np.ndarray) -> View:
        """The view of a frame of the clip."""
        return self._views[self._key(frame)]

    @staticmethod
    def _key(frame: np.ndarray) -> int:
        return int(frame.__array_interface__["data"][0])


#: The views of a clip and its first mask (H, W) -> (T, H, W) masks, and T confidences
Method = Callable[[ClipViews, np.ndarray], tuple[np.ndarray, np.ndarray]]


def by_flow(refiner: MaskRefiner | None) -> Method:
    """Warping from frame to frame; as shares of pixels, or sharpened after each step."""

    def method(views: ClipViews, first: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        before = views(views.frames[0])
        share = before.reduce(first)
        masks = [first]
        for frame in views.frames[1:]:
            view = views(frame)
            share = warp(share, view.flow_to(before))
            mask = view.enlarge(share) > 0.5
            if refiner is not None and mask.any():
                mask = refiner.refine(frame[None], mask[None, None]).masks[0, 0]
                share = view.reduce(mask)
            masks.append(mask)
            before = view
        return np.stack(masks), np.ones(len(masks))

    return method


def ours(refiner: MaskRefiner, finder: NetworkFinder | None = None) -> Method:
    """Propagation."""

    def method(views: ClipViews, first: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        clip = MaskPropagator(refiner, views, finder=finder).propagate(views.frames, {0: first})
        return clip.masks[0], clip.confidence[0]

    return method


def measure(
    tracklet: dict[str, Any],
    starts: Sequence[str],
    methods: dict[str, Method],
    features: FeatureMaps,
    seed: int,
) -> list[dict[str, Any]]:
    """All methods from all starts on one tracklet."""
    views = ClipViews(np.stack([read_frame(path) for path in tracklet["files"]]), features)
    clean = np.stack([rle.decode(mask) for mask in tracklet["masks"]])
    truth = [rle.encode(mask) for mask in clean[1:]]
    rows = []
    for start in starts:
        first = clean[0]
        if start == "polygon":
            rng = np.random.default_rng([seed, tracklet["id"]])
            first = drawn_polygon(np.ascontiguousarray(first, np.uint8), CORNERS, rng) > 0
        for name, method in methods.items():
            masks, confidence = method(views, first)
            found = [rle.encode(mask) if mask.any() else None for mask in masks[1:]]
            j, f, _ = compare_tubes(truth, found)
            about = {"tracklet": tracklet["name"], "start": start, "method": name}
            row = {"J&F": (j + f) / 2, "J": j, "F": f}
            lost = sum(mask is None for mask in found)
            rows.append(about | row | {"frames": len(found), "lost": lost})
            sure = [round(float(value), 3) for value in confidence[1:]]
            each = [compare_tubes([a], [b])[0] for a, b in zip(truth, found, strict=True)]
            rows[-1] |= {"confidence": sure, "J_per_frame": [round(value, 3) for value in each]}
            print(f"{tracklet['name']:24} {start:8} {name:13} J&F {row['J&F']:.3f}", flush=True)
    return rows


def means_of(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over tracklets, for each start and method."""
    means = []
    for start, name in dict.fromkeys((row["start"], row["method"]) for row in rows):
        own = [row for row in rows if (row["start"], row["method"]) == (start, name)]
        mean = {key: float(np.mean([row[key] for row in own])) for key in SCORES}
        means.append({"start": start, "method": name, "tracklets": len(own)} | mean)
    return means


def measured_before(path: Path, options: dict[str, Any]) -> list[dict[str, Any]]:
    """Tracklets that a run with these options, cut short, has in its result file."""
    if not path.is_file():
        return []
    content = json.loads(path.read_text())
    rows: list[dict[str, Any]] = content["tracklets"] if content["options"] == options else []
    print(f"{path}: has {len({row['tracklet'] for row in rows})} tracklets, which are kept")
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write the table."""
    parser = benchmark_parser(__doc__, "propagation.json")
    parser.add_argument("--clips", type=Path, default=CLIPS)
    parser.add_argument("--starts", nargs="+", choices=STARTS, default=STARTS)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS[:3])
    parser.add_argument("--finder-config", help="network that recognises (default: vmt_small)")
    parser.add_argument("--finder-weights", help="its weights")
    parser.add_argument("--weights", default=SHIPPED, help="of the refiner, as for vmt refine")
    parser.add_argument("--seed", type=int, default=0, help="of the polygons")
    args = parse(parser, argv, DRY_RUN)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    if args.clips is None:
        args.clips = write_moving_shapes(scratch_folder(), 1, 3, (48, 64), seed=0).parent
    clips = require_data(args.clips, "--clips")
    refiner = MaskRefiner.from_pretrained(args.weights, device="cpu")
    known = {"flow": by_flow(None), "flow_refiner": by_flow(refiner), "ours": ours(refiner)}
    if "finder" in args.methods:
        finder = NetworkFinder.load(args.finder_config, args.finder_weights, "cpu")
        known["finder"] = ours(refiner, finder)
    features = LiteFeatures.from_pretrained("cpu")
    methods = {name: known[name] for name in args.methods}
    options = {"seed": args.seed, "starts": list(args.starts), "methods": list(args.methods)}
    options |= {"clips": args.clips.name, "weights": args.weights}
    rows = measured_before(args.output, options)
    for tracklet in tracklets(clips, 0):
        if all(row["tracklet"] != tracklet["name"] for row in rows):
            rows += measure(tracklet, args.starts, methods, features, args.seed)
            content = {"machine": machine(), "options": options, "means": means_of(rows)}
            write_json(args.output, content | {"tracklets": rows})
    for mean in means_of(rows):
        numbers = "  ".join(f"{key} {mean[key]:.3f}" for key in SCORES)
        print(f"{mean['start']:8} {mean['method']:13} {numbers}")


if __name__ == "__main__":
    sys.exit(run(main))
