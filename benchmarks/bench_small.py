#!/usr/bin/env python3
r"""How good and how fast the package's own detector is: vmt_small, or weights in training.

On photos (``held_out.json`` of tools/make_vmt_small.py, which no training sees): AP of the four
families and of objects whatever their family. On clips with masks of one object or more, without
and with the mask refiner of the package on top, whatever the class: tube AP50 and AP, tube boundary
AP, and the means over tracklets of the tube IoU and of the boundary IoU with the result that
belongs to them, one to one; how many of these results have the right family; frames per second of
detector, association, refiner and coding of masks, on as many threads as OMP_NUM_THREADS allows.

Without --config the weights of the package are measured. --record does so on the test clips of
shared/data/clips, on which nothing is chosen; development takes those of davis_train.

Example:
  python benchmarks/bench_small.py --config output/vmt_small/training/config.yaml \
      --weights output/vmt_small/training/model_final.safetensors \
      --photos output/vmt_small/data/held_out.json@output/vmt_small/data/JPEGImages
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from common import (
    REPO,
    RESULTS,
    benchmark_parser,
    machine,
    parse,
    require_data,
    run,
    scratch_folder,
    write_json,
)
from fvcore.common.config import CfgNode

from cocoapi_hq.tubes.tracklet_quality import evaluate_tracklets
from tests.synthetic import write_moving_shapes
from vmt.config.node import load_config
from vmt.data.datasets.ytvis import load_ytvis_json
from vmt.data.records import VideoRecord
from vmt.engine.evaluate import evaluate_set, frames_of, write_video
from vmt.engine.result_folder import ResultFolder
from vmt.evaluation.images import score_images
from vmt.evaluation.scoring import score
from vmt.inference.load import load_segmenter
from vmt.inference.mask_refiner import FrameRefiner, MaskRefiner
from vmt.inference.predictor import PredictorOptions, VideoPredictor
from vmt.inference.pretrained import find_detector
from vmt.inference.refine_defaults import SHIPPED
from vmt.inference.refined_stream import RefinedStream
from vmt.modeling.video_model import Segmenter
from vmt.structures.labels import LabelSpace

CONFIG = REPO / "configs/small/vmt_small.yaml"
RECORD = "small.json"
#: Clips for development, and those of --record.
CLIPS, TEST_CLIPS = (REPO.parent / "shared/data" / name for name in ("davis_train", "clips"))
TINY = ("MODEL.BACKBONE.NAME", "timm/test_efficientnet", "MODEL.MOTS.DIM", "32",
        "MODEL.MOTS.FC_DIM", "32", "INPUT.MIN_SIZE_TEST", "64", "MODEL.MOTS.SCORE", "0.0",
        "TEST.QUASI_DENSE.INIT_SCORE", "0.0", "MODEL.MOTS.DETECTIONS", "5")  # fmt: skip
DRY_RUN = {"config": str(CONFIG), "overrides": [*TINY]}
#: What is told of tubes.
TUBE_NUMBERS = ("tube_mask/AP50", "tube_mask/AP", "tube_boundary/AP")
#: What is told of photos.
PHOTO_NUMBERS = [
    f"{metric}/{number}"
    for metric in ("image_mask", "image_box")
    for number in ("AP", "AP50", "AR100")
]
#: Category of everything where classes do not count.
OBJECT = [{"id": 1, "name": "object"}]
#: Families of classes in files that do not say supercategory; what is not here is another thing.
FAMILIES = {
    "person": {"person"},
    "animal": {"bird", "camel", "cow", "dog", "goat", "rhino"},
    "vehicle": {"boat", "car", "train"},
}


def main(argv: Sequence[str] | None = None) -> None:
    """Score photos and clips; write the numbers."""
    parser = benchmark_parser(__doc__, RECORD)
    parser.add_argument("--config", help="of the network (default: vmt_small of the package)")
    parser.add_argument("--weights", help="of the network of --config (default: random)")
    parser.add_argument("--refiner", default=SHIPPED, help="weights of the refiner (%(default)s)")
    parser.add_argument("--photos", metavar="JSON@FOLDER", help="COCO file of families")
    parser.add_argument("--clips", type=Path, help="YouTube-VIS folder (default: davis_train)")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE")
    args = parse(parser, argv, DRY_RUN)
    if args.dry_run:
        args.clips = scratch_folder()
        args.photos = first_frames(write_moving_shapes(args.clips, 2, 3, (64, 96), seed=0))
    elif args.clips is None:
        args.clips = TEST_CLIPS if args.output == RESULTS / RECORD else CLIPS
    network = find_detector(args.config, args.weights)
    cfg = load_config(network.config, args.overrides)
    model = load_segmenter(network.config, network.weights, args.overrides, "cpu")
    weights = None if network.weights is None else network.weights.name
    numbers: dict[str, Any] = {"machine": machine(), "weights": weights}
    if args.photos:
        words = ("TEST.METRICS", "[image_mask, image_box]")
        photo_cfg = load_config(network.config, [*args.overrides, *words])
        numbers["photos"] = score_photos(model, photo_cfg, args.photos)
    refiner = MaskRefiner.from_pretrained(args.refiner, "cpu")
    predictor = VideoPredictor(model, PredictorOptions.from_config(cfg))
    numbers["clips"] = {
        "set": args.clips.name,
        "plain": score_clips(predictor, args.clips, None),
        "refined": score_clips(predictor, args.clips, refiner),
    }
    write_json(args.output, numbers)
    print(json.dumps(numbers, indent=1))


def first_frames(clips: Path) -> str:
    """The first frame of each clip as photos of persons, for a dry run."""
    content = json.loads(clips.read_text())
    images = [
        {"id": video["id"], "file_name": video["file_names"][0]}
        | {side: video[side] for side in ("height", "width")}
        for video in content["videos"]
    ]
    rows = [
        {"id": row["id"], "image_id": row["video_id"], "category_id": 1, "iscrowd": 0}
        | {"segmentation": row["segmentations"][0]}
        for row in content["annotations"]
        if row["segmentations"][0] is not None
    ]
    photos = {"images": images, "annotations": rows, "categories": [{"id": 1, "name": "person"}]}
    path = clips.with_name("photos.json")
    path.write_text(json.dumps(photos))
    return f"{path}@{clips.parent / 'JPEGImages'}"


def score_photos(model: Segmenter, cfg: CfgNode, photos: str) -> dict[str, dict[str, float]]:
    """AP in percent by family, and of objects whatever their family."""
    scored = evaluate_set(cfg, model, photos, scratch_folder())
    assert scored is not None, "nothing stops it"
    truth = Path(photos.partition("@")[0])
    agnostic, _ = score_images(truth, scored.path, cfg.TEST.METRICS, class_agnostic=True)
    table = {"families": scored.numbers, "any": agnostic}
    return {
        name: {number: round(100 * row[number], 1) for number in PHOTO_NUMBERS if number in row}
        for name, row in table.items()
    }


def find_objects(
    predictor: VideoPredictor, records: Sequence[VideoRecord], refiner: FrameRefiner | None
) -> tuple[Path, float]:
    """The result file of some videos, and the frames per second that it took."""
    store = ResultFolder(scratch_folder())
    store.claim("bench_small")
    ids, started = predictor.model.label_space.category_ids, time.perf_counter()
    for record in records:
        source = frames_of(record)
        stream = predictor.stream(source, keep_frames=refiner is not None)
        write_video(
            stream if refiner is None else RefinedStream(stream, refiner), source, store, ids
        )
    seconds = time.perf_counter() - started
    store.join([record.id for record in records])
    return store.results, sum(map(len, records)) / seconds


def score_clips(
    predictor: VideoPredictor, folder: Path, refiner: FrameRefiner | None
) -> dict[str, Any]:
    """Find the objects of all clips and compare them with the masks."""
    truth_file = require_data(folder, "--clips") / "annotations.json"
    records = load_ytvis_json(truth_file, folder / "JPEGImages", "clips")
    results, rate = find_objects(predictor, records, refiner)
    found = json.loads(results.read_text())
    truth = json.loads(truth_file.read_text())
    family = families_of(truth["categories"], predictor.model.label_space)
    right = {row["id"]: family[row["category_id"]] for row in truth["annotations"]}
    for row in truth["annotations"]:
        row["category_id"] = OBJECT[0]["id"]
    truth["categories"] = OBJECT
    plain = [row | {"category_id": OBJECT[0]["id"]} for row in found]
    results.write_text(json.dumps(plain))
    scored, _ = score(truth, results, ["tube_mask", "tube_boundary"])
    tracklets = evaluate_tracklets(truth, plain).tracklets
    hits = [
        tracklet.result is not None
        and found[tracklet.result]["category_id"] == right[tracklet.annotation_id]
        for tracklet in tracklets
    ]
    return {
        **{name: round(100 * scored[name], 1) for name in TUBE_NUMBERS},
        "mean_tube_iou": round(statistics.mean(t.tube_iou for t in tracklets), 3),
        "mean_boundary_iou": round(statistics.mean(t.boundary_iou for t in tracklets), 3),
        "family_right": f"{sum(hits)} of {len(hits)}",
        "results": len(found),
        "frames_per_second": round(rate, 2),
        "threads": torch.get_num_threads(),
        "tube_iou": {str(t.annotation_id): round(t.tube_iou, 2) for t in tracklets},
    }


def families_of(categories: Sequence[dict[str, Any]], space: LabelSpace) -> dict[int, int]:
    """Category id of a file -> that of its family in a label space; 0: it has none there."""
    known = dict(zip(space.names, space.category_ids, strict=True))
    table = {}
    for row in categories:
        name = row.get("supercategory") or next(
            (family for family, names in FAMILIES.items() if row["name"] in names), "other thing"
        )
        table[row["id"]] = known.get(name, 0)
    return table


if __name__ == "__main__":
    sys.exit(run(main))
