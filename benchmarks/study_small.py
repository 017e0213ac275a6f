#!/usr/bin/env python3
r"""Which thresholds of the association suit the package's detector, on clips for development.

The network sees every frame once; what it finds there is coded at the size of the video. Then the
association runs again and again over what was found, once per combination of the values below, and
the tracks are scored whatever their class: tube AP50, and the mean over tracklets of the tube IoU
with the result that belongs to them. Best is the largest sum of both; the keys of the best are
printed as they go into configs/small/vmt_small.yaml. Test clips choose nothing: they are refused.

Example:
  python benchmarks/study_small.py --config output/vmt_small/training/config.yaml \
      --weights output/vmt_small/training/model_final.safetensors
"""

from __future__ import annotations

import itertools
import json
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from bench_small import CLIPS, CONFIG, OBJECT, TEST_CLIPS, TINY
from common import (
    BenchmarkError,
    benchmark_parser,
    machine,
    parse,
    require_data,
    run,
    scratch_folder,
    write_json,
)

from cocoapi_hq.tubes.tracklet_quality import tube_ious
from tests.synthetic import write_moving_shapes
from vmt.config.node import load_config
from vmt.data.datasets.ytvis import load_ytvis_json
from vmt.data.records import VideoRecord
from vmt.engine.evaluate import frames_of
from vmt.evaluation.scoring import score
from vmt.inference.association.quasi_dense import detections_of
from vmt.inference.load import load_segmenter
from vmt.inference.postprocess import masks_at_video_size
from vmt.inference.predictor import PredictorOptions, resize_frame
from vmt.inference.pretrained import find_detector
from vmt.modeling.tracking.quasi_dense import BoxDetections, QuasiDenseMemory, QuasiDenseOptions
from vmt.modeling.video_model import FrameModel
from vmt.structures.masks import Rle, encode_crop

#: Field of ``QuasiDenseOptions`` -> what is tried.
GRID: dict[str, Sequence[Any]] = {
    "init_score": (0.2, 0.3, 0.4, 0.5, 0.6),
    "object_score": (0.1, 0.2, 0.3),
    "match_score": (0.3, 0.5),
    "memory_frames": (10, 30),
    "same_class": (True, False),
}
#: Of a result file.
Results = list[dict[str, Any]]
DRY_RUN = {"config": str(CONFIG), "overrides": [*TINY]}


@dataclass(frozen=True)
class SeenFrame:
    """What the network finds in a frame.

    Args:
        detections: D of them.
        masks: D, at the size of the video.
    """

    detections: BoxDetections
    masks: list[Rle]


def look(model: FrameModel, options: PredictorOptions, record: VideoRecord) -> list[SeenFrame]:
    """All frames of a video."""
    seen = []
    with torch.inference_mode():
        for frame in frames_of(record):
            small = resize_frame(frame, options.min_size, options.max_size)
            (out,) = model.segment_frames(torch.from_numpy(small).permute(2, 0, 1)[None])
            size = int(frame.shape[0]), int(frame.shape[1])
            crops = masks_at_video_size(
                out.masks_to_draw(),
                out.mask_stride,
                out.input_size,
                size,
                crop_to_input=options.crop_to_input,
                upsampling=out.upsampling,
            )
            seen.append(SeenFrame(detections_of(out), [encode_crop(c, size) for c in crops]))
    return seen


def tracks_of(video_id: int, frames: Sequence[SeenFrame], options: QuasiDenseOptions) -> Results:
    """Results of a video as the package gives them, but for the class: one entry per track."""
    memory = QuasiDenseMemory(options)
    masks: dict[int, list[Rle | None]] = {}
    scores: dict[int, list[float]] = {}
    for t, frame in enumerate(frames):
        ids = memory.step(t, frame.detections).tolist()
        for row, track in enumerate(ids):
            if track >= 0:
                masks.setdefault(track, [None] * len(frames))[t] = frame.masks[row]
                scores.setdefault(track, []).append(float(frame.detections.scores[row]))
    return [
        {"video_id": video_id, "category_id": OBJECT[0]["id"], "segmentations": tube}
        | {"score": statistics.mean(scores[track])}
        for track, tube in masks.items()
    ]


def combinations(options: QuasiDenseOptions) -> Iterator[tuple[dict[str, Any], QuasiDenseOptions]]:
    """Every choice of ``GRID``, and the options with it; tracks start at no less than they join."""
    for values in itertools.product(*GRID.values()):
        choice = dict(zip(GRID, values, strict=True))
        if choice["init_score"] >= choice["object_score"]:
            yield choice, replace(options, **choice)


def rate(truth: Mapping[str, Any], found: Results, folder: Path) -> dict[str, float]:
    """Numbers of results whatever their class."""
    path = folder / "results.json"
    path.write_text(json.dumps(found))
    scored, _ = score(truth, path, ["tube_mask"])
    return {
        "tube_AP50": round(100 * scored["tube_mask/AP50"], 1),
        "mean_tube_iou": round(statistics.mean(tube_ious(dict(truth), found).values()), 3),
        "results": len(found),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Try all combinations; write their numbers, the best first."""
    parser = benchmark_parser(__doc__, "small_thresholds.json")
    parser.add_argument("--config", help="of the network (default: vmt_small of the package)")
    parser.add_argument("--weights", help="of the network of --config (default: random)")
    parser.add_argument("--clips", type=Path, default=CLIPS, help="default: davis_train")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE")
    args = parse(parser, argv, DRY_RUN)
    if args.dry_run:
        args.clips = scratch_folder()
        write_moving_shapes(args.clips, 2, 3, (64, 96), seed=0)
    if args.clips.resolve() == TEST_CLIPS.resolve():
        raise BenchmarkError(f"--clips {args.clips}: these are test clips, which choose nothing.")
    network = find_detector(args.config, args.weights)
    options = PredictorOptions.from_config(load_config(network.config, args.overrides))
    model = load_segmenter(network.config, network.weights, args.overrides, "cpu")
    if not isinstance(model, FrameModel):
        raise BenchmarkError(f"{network.config}: not a network that sees frames one by one.")
    truth = json.loads((require_data(args.clips, "--clips") / "annotations.json").read_text())
    records = load_ytvis_json(args.clips / "annotations.json", args.clips / "JPEGImages", "clips")
    seen = {}
    for record in records:
        seen[record.id] = look(model, options, record)
        print(f"{record.name}: {len(seen[record.id])} frames seen", flush=True)
    for row in truth["annotations"]:
        row["category_id"] = OBJECT[0]["id"]
    truth["categories"] = OBJECT
    rows, scratch = [], scratch_folder()
    for choice, own in combinations(options.quasi_dense):
        found = [entry for key, frames in seen.items() for entry in tracks_of(key, frames, own)]
        rows.append(choice | rate(truth, found, scratch))
    rows.sort(key=lambda row: -(row["tube_AP50"] / 100 + row["mean_tube_iou"]))
    keys = ", ".join(f"{name.upper()}: {rows[0][name]}" for name in GRID)
    for row in rows[:10]:
        print(row)
    print(f"TEST:\n  QUASI_DENSE: {{{keys}}}")
    write_json(args.output, {"machine": machine(), "clips": args.clips.name, "rows": rows})


if __name__ == "__main__":
    sys.exit(run(main))
