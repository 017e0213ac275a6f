r"""Score result files locally, as the official evaluators do.

tube_mask and tube_boundary (AP) and tracklet_quality (J&F, temporal stability) read YouTube-VIS
JSON (YouTube-VIS, HQ-YTVIS, OVIS). bdd_mots, hota and frame_ap take ground truth as Scalabel JSON,
folders of bitmasks or YouTube-VIS JSON, and results in the same form or as --eval-only writes them.
Several result files are compared side by side, with 95% bootstrap intervals over videos;
differences are paired and relative to the first file. Printed numbers are percent.

Example:
  vmt eval --gt val.json --results ours.json theirs.json --metric tube_mask tube_boundary \
      --per-category --html report.html --images JPEGImages --jobs 4
  vmt eval --gt bitmasks/val --results results.json --metric bdd_mots hota --min-score 0.3
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cocoapi_hq import names
from vmt.utils.errors import OutputError

#: What the original scripts call the metrics.
IOU_TYPES = {"segm": "tube_mask", "boundary": "tube_boundary"}
#: Options that go to ``cocoapi_hq.evaluate`` as they are; None and False leave its own.
PASSED = (
    *("protocol", "boundary", "mask_field", "lengths", "max_dets", "class_agnostic", "jobs"),
    *("config", "fill_missing_frames", "allow_overlap", "min_score", "categories"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--gt", required=True, help="annotation file, or a folder for MOTS")
    parser.add_argument("--results", required=True, nargs="+", help="result files of the same kind")
    parser.add_argument(
        "--metric", nargs="+", choices=names.METRICS, help="default: tube_mask tube_boundary"
    )
    parser.add_argument(
        "--iou-type", nargs="+", choices=list(IOU_TYPES), help="names of the original scripts"
    )
    parser.add_argument("--per-category", action="store_true", help="a row for every category")
    parser.add_argument(
        "--per-video", action="store_true", help="numbers of every video, in --json"
    )
    parser.add_argument("--errors", action="store_true", help="what each type of error costs")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write all numbers there")
    parser.add_argument("--html", type=Path, metavar="REPORT", help="write a report to look at")
    parser.add_argument("--images", type=Path, metavar="DIR", help="frames, for the report")
    parser.add_argument("--jobs", type=int, default=1, help="processes for tube AP (default 1)")
    parser.add_argument("--resamples", type=int, default=1000, help="bootstrap resamples")
    tubes = parser.add_argument_group("tube AP")
    tubes.add_argument(
        "--protocol",
        choices=names.PROTOCOL_NAMES,
        help="default: ovis if annotations carry occlusion, else hq_ytvis",
    )
    tubes.add_argument(
        "--boundary",
        choices=names.BOUNDARY_RULES,
        help="official: min of mask and boundary IoU (default); paper: Eq. 1 alone",
    )
    tubes.add_argument("--mask-field", choices=names.MASK_FIELDS, help="ground-truth masks to read")
    tubes.add_argument("--lengths", choices=names.LENGTH_RULES, help="lists of wrong length")
    tubes.add_argument("--max-dets", type=int, nargs="+", help="default: 1 10 100")
    tubes.add_argument("--class-agnostic", action="store_true", help="all categories as one")
    tracks = parser.add_argument_group("MOTS, HOTA, frame AP, tracklets")
    tracks.add_argument("--config", help="Scalabel configuration with the classes")
    tracks.add_argument("--fill-missing-frames", action="store_true", help="read them as empty")
    tracks.add_argument("--allow-overlap", action="store_true", help="frame AP by COCO's rule")
    tracks.add_argument(
        "--min-score",
        type=float,
        help="leave out weaker results of YouTube-VIS form (not in tube AP, which ranks)",
    )
    tracks.add_argument(
        "--categories",
        metavar="FILE",
        help="JSON whose categories name the results' ids, or map ids to classes; default: as --gt",
    )
    tracks.add_argument(
        "--scalabel", type=Path, metavar="OUT", help="write the results as Scalabel JSON"
    )
    tracks.add_argument(
        "--bitmasks", type=Path, metavar="DIR", help="write them as the BDD100K server asks"
    )


def run(args: argparse.Namespace) -> int:
    """Score, print, write; returns the exit status."""
    # Before any work: a path that cannot be written should not cost an evaluation.
    for path in (args.json, args.html, args.scalabel, args.bitmasks):
        if path is not None and not path.absolute().parent.is_dir():
            raise OutputError(f"{path}: the folder {path.absolute().parent} does not exist.")
    from vmt.apps.score import score, write_mots

    named = [*(args.metric or ()), *(IOU_TYPES[name] for name in args.iou_type or ())]
    scores = score(
        args.gt,
        args.results,
        tuple(dict.fromkeys(named)) or names.TUBE_METRICS,
        {name: None if getattr(args, name) is False else getattr(args, name) for name in PASSED},
        resamples=args.resamples,
        errors=args.errors,
        per_category=args.per_category,
        per_video=args.per_video,
    )
    print(scores.tables())
    if args.scalabel is not None or args.bitmasks is not None:
        options = (args.config, args.categories, args.min_score)
        write_mots(args.scalabel, args.bitmasks, args.gt, args.results, *options)
        for path in filter(None, (args.scalabel, args.bitmasks)):
            print(f"\nwritten: {path}")
    if args.json is not None:
        scores.write_json(args.json)
        print(f"\nwritten: {args.json}")
    if args.html is not None:
        scores.write_report(args.html, args.images, args.jobs)
        print(f"\nwritten: {args.html}")
    return 0
