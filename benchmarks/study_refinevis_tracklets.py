#!/usr/bin/env python3
r"""What does refinement add where the tracklets are right? Without the association in between.

Queries of a trained RefineVIS are joined by the annotation: in every frame that shows a shape, the
surest of the queries whose masks have an IoU of 0.5 with it stands for it, if there is one. These
tracklets are refined online and offline; masks and classes are compared before and after, frame by
frame. On the folder of a ``study_refinevis.py``; shapes that others hide count alone.

Example:
    python benchmarks/study_refinevis_tracklets.py --study output/study_refinevis \
        --output output/study_refinevis_tracklets
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from common import BenchmarkError, benchmark_parser, parse, require_data, run, write_json
from torch import Tensor

from cocoapi_hq.io import rle
from tests.synthetic import hiding_shapes, write_moving_shapes
from vmt.data.images import read_frame
from vmt.inference.association.refinement import OfflineRefinement, OnlineRefinement, Refined
from vmt.inference.association.tracker import Step
from vmt.inference.load import load_segmenter
from vmt.modeling.video_model import FrameOutputs, RefiningModel, class_probs

MATCH_IOU, RECOVER_SCORE = 0.5, 0.1
DRY_RUN = {"study": None}
Sums = dict[str, list[float]]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure every trained network of a study; write ``tracklets.json`` and print it."""
    parser = benchmark_parser(__doc__, None)
    parser.add_argument("--study", type=Path, help="folder that study_refinevis.py has filled")
    args = parse(parser, argv, DRY_RUN)
    if args.dry_run:
        dry_study(args)
    if args.study is None:
        raise BenchmarkError("--study FOLDER is needed: the one that study_refinevis.py filled.")
    data = require_data(args.study / "test", "--study")
    truth = json.loads((data / "annotations.json").read_text())
    results = {}
    for path in sorted(args.study.glob("*_[0-9]*/model_final.safetensors")):
        config = path.parent / "config.yaml"
        model = load_segmenter(config, path, ["MODEL.LABEL_SPACE", str(data / "annotations.json")])
        assert isinstance(model, RefiningModel), "a study of RefineVIS trains nothing else"
        sums: Sums = defaultdict(list)
        for video in truth["videos"][: 1 if args.dry_run else None]:
            measure(model, video, truth, data / "JPEGImages", sums)
        results[path.parent.name] = {
            name: {"mean": round(statistics.mean(values), 4), "of": len(values)}
            for name, values in sorted(sums.items())
        }
        print(path.parent.name, results[path.parent.name])
    write_json(args.output / "tracklets.json", results)


def dry_study(args: argparse.Namespace) -> None:
    """A study's folder with one network that has learned nothing."""
    from study_refinevis import CONFIG, NUM_FRAMES, SIZE, ZOOM

    from vmt.checkpoint.files import write_weights

    args.study = args.output.parent / "study"
    path = write_moving_shapes(args.study / "test", 1, NUM_FRAMES, SIZE, 0, ZOOM, hiding_shapes)
    folder = args.study / "both_0"
    folder.mkdir()
    (folder / "config.yaml").write_text(f"_BASE_: {CONFIG}\n")
    model = load_segmenter(CONFIG, overrides=["MODEL.LABEL_SPACE", str(path)])
    categories = json.loads(path.read_text())["categories"]
    write_weights(
        model.state_dict(),
        folder / "model_final.safetensors",
        {"categories": json.dumps(categories)},
    )


def measure(
    model: RefiningModel,
    video: Mapping[str, Any],
    truth: Mapping[str, Any],
    images: Path,
    sums: Sums,
) -> None:
    """Refine the annotated tracklets of a video, and add what became of them to ``sums``."""
    rows = [row for row in truth["annotations"] if row["video_id"] == video["id"]]
    hidden = [k for k, row in enumerate(rows) if "severe_occlusion" in row["occlusion"]]
    labels = [row["category_id"] - 1 for row in rows]
    masks = torch.from_numpy(
        np.stack([[_mask(row, t, video) for row in rows] for t in range(video["length"])])
    )  # (T, G, H, W)
    frames = np.stack([read_frame(images / name) for name in video["file_names"]])
    outputs = model.segment_frames(torch.from_numpy(frames).permute(0, 3, 1, 2).float())
    steps = annotated_steps(outputs, masks)
    before = [unrefined(step, output) for step, output in zip(steps, outputs, strict=True)]
    window = model.window
    online = OnlineRefinement(model, window).refine(steps, outputs)
    clips = range(0, len(steps), window)
    parts = [
        OfflineRefinement(model, window).refine(steps[t : t + window], outputs[t : t + window])
        for t in clips
    ]
    offline = [refined for part in parts for refined in part]
    for name, tracklets in (("frame", before), ("online", online), ("offline", offline)):
        for t, refined in enumerate(tracklets):
            heads(model, refined, outputs[t], steps[t], name, masks[t], labels, hidden, sums)


def _mask(row: Mapping[str, Any], t: int, video: Mapping[str, Any]) -> np.ndarray:
    segment = row["segmentations"][t]
    empty = np.zeros((video["height"], video["width"]), dtype=bool)
    return rle.decode(segment).astype(bool) if segment else empty


def annotated_steps(outputs: Sequence[FrameOutputs], masks: Tensor) -> list[Step]:
    """Tracklets joined by the annotation; each is alive from its first match on.

    Args:
        outputs: T frames.
        masks: (T, G, H, W) bool.
    """
    steps: list[Step] = []
    alive: set[int] = set()
    for t, output in enumerate(outputs):
        drawn, scores = _enlarged(output.masks(), output), output.class_probs().amax(1)
        query = {}
        for g, mask in enumerate(masks[t]):
            near = _ious(drawn, mask) >= MATCH_IOU
            if mask.any() and near.any():
                query[g] = int(scores.masked_fill(~near, -1).argmax())
        alive |= set(query)
        steps.append(Step(t, query, drawn, frozenset(alive)))
    return steps


def unrefined(step: Step, output: FrameOutputs) -> Refined:
    """The matched queries as they are."""
    assert output.query is not None, "queries are what is refined"
    tracklets = tuple(sorted(step.query))
    return Refined(tracklets, output.query[[step.query[g] for g in tracklets]].float(), None)


def heads(
    model: RefiningModel,
    refined: Refined,
    output: FrameOutputs,
    step: Step,
    name: str,
    masks: Tensor,
    labels: Sequence[int],
    hidden: Sequence[int],
    sums: Sums,
) -> None:
    """Cut out the tracklets of a frame, and add how they meet the annotation.

    ``iou`` and ``class`` (1: right) of shapes that were matched; ``recovered``: IoU where a shape
    is seen and was missed, 0 below the score that shows it; ``invented``: 1 where a mask is shown
    of a shape that is hidden.
    """
    assert output.pixel is not None, "masks are cut from features"
    with torch.inference_mode():
        probs = class_probs(model.class_head(refined.embeds), no_object=output.no_object)
        drawn = _enlarged(model.mask_head(refined.embeds, output.pixel, refined.refs), output)
    row_of = {g: row for row, g in enumerate(refined.tracklets)}
    for g in set(hidden) & (set(row_of) | set(step.alive)):
        row = row_of.get(g)
        shown = row is not None and float(probs[row].max()) > RECOVER_SCORE
        iou = float(_ious(drawn[row, None], masks[g])[0]) if row is not None else 0.0
        if g in step.query:
            sums[f"{name} iou"].append(iou)
            sums[f"{name} class"].append(float(int(probs[row].argmax()) == labels[g]))
        elif masks[g].any():
            sums[f"{name} recovered"].append(iou if shown else 0.0)
        else:
            sums[f"{name} invented"].append(float(shown and bool(drawn[row].any())))


def _enlarged(logits: Tensor, output: FrameOutputs) -> Tensor:
    """(N, h, w) logits -> (N, H, W) bool at the size of the frame."""
    height, width = output.input_size
    if not len(logits):
        return torch.zeros(0, height, width, dtype=torch.bool)
    scale = float(output.mask_stride)
    large = F.interpolate(logits[None].float(), scale_factor=scale, mode="bilinear")[0]
    return large[:, :height, :width] > 0


def _ious(drawn: Tensor, mask: Tensor) -> Tensor:
    """(N, H, W) and (H, W) bool -> (N,)."""
    common, either = (drawn & mask).flatten(1).sum(1), (drawn | mask).flatten(1).sum(1)
    return common / either.clamp(min=1)


if __name__ == "__main__":
    sys.exit(run(main))
