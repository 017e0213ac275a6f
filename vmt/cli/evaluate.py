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
import math
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cocoapi_hq
from cocoapi_hq.analysis.bootstrap import Comparison, compare
from cocoapi_hq.analysis.errors import ErrorAnalysis, analyse_errors
from cocoapi_hq.io.json_file import write_json, write_text
from cocoapi_hq.mots.scalabel_io import write_results
from cocoapi_hq.names import BOUNDARY_RULES, LENGTH_RULES, MASK_FIELDS, TUBE_METRICS
from cocoapi_hq.report import text
from vmt.data.frame_names import frame_path
from vmt.data.images import read_picture
from vmt.utils.errors import AnnotationError, OutputError

#: What the original scripts call the metrics.
IOU_TYPES = {"segm": "tube_mask", "boundary": "tube_boundary"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--gt", required=True, help="annotation file, or a folder for MOTS")
    parser.add_argument("--results", required=True, nargs="+", help="result files of the same kind")
    parser.add_argument(
        "--metric", nargs="+", choices=cocoapi_hq.METRICS, help="default: tube_mask tube_boundary"
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
        choices=list(cocoapi_hq.PROTOCOLS),
        help="default: ovis if annotations carry occlusion, else hq_ytvis",
    )
    tubes.add_argument(
        "--boundary",
        choices=BOUNDARY_RULES,
        help="official: min of mask and boundary IoU (default); paper: Eq. 1 alone",
    )
    tubes.add_argument("--mask-field", choices=MASK_FIELDS, help="ground-truth masks to read")
    tubes.add_argument("--lengths", choices=LENGTH_RULES, help="lists of wrong length")
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
        help="JSON whose categories name the ids of the results; default: the ground truth's order",
    )
    tracks.add_argument(
        "--scalabel", type=Path, metavar="OUT", help="write the results as the BDD100K server asks"
    )


def run(args: argparse.Namespace) -> int:
    """Score, print, write; returns the exit status."""
    metrics = _metrics(args)
    # Before any work: a path that cannot be written should not cost an evaluation.
    for path in (args.json, args.html, args.scalabel):
        if path is not None and not path.absolute().parent.is_dir():
            raise OutputError(f"{path}: the folder {path.absolute().parent} does not exist.")
    try:
        answers = [_evaluate(args, path, metrics) for path in args.results]
        _name_apart(answers)
        comparisons = _compare(args, answers) if len(answers) > 1 else []
        errors = _analyse(args, answers) if args.errors else {}
    except cocoapi_hq.ScoringError as error:
        raise AnnotationError(str(error)) from None
    _print(args, answers, comparisons)
    names = [answer.name for answer in answers]
    for analyses in errors.values():
        print("\n" + text.error_table(analyses, names))
    if args.scalabel is not None:
        _save(args.scalabel, lambda: _write_scalabel(args))
    if args.json is not None:
        _save(
            args.json, lambda: write_json(args.json, _document(args, answers, comparisons, errors))
        )
    if args.html is not None:
        _write_report(args, answers, comparisons)
    return 0


def _metrics(args: argparse.Namespace) -> tuple[str, ...]:
    named = [*(args.metric or ()), *(IOU_TYPES[name] for name in args.iou_type or ())]
    return tuple(dict.fromkeys(named)) or TUBE_METRICS


def _evaluate(args: argparse.Namespace, path: str, metrics: Sequence[str]) -> cocoapi_hq.Results:
    options: dict[str, Any] = {
        "config": args.config,
        "fill_missing_frames": args.fill_missing_frames or None,
        "allow_overlap": args.allow_overlap or None,
        "min_score": args.min_score,
        "categories": args.categories,
    }
    return cocoapi_hq.evaluate(
        args.gt,
        path,
        metrics,
        protocol=args.protocol,
        boundary=args.boundary,
        mask_field=args.mask_field,
        lengths=args.lengths,
        max_dets=args.max_dets,
        class_agnostic=args.class_agnostic or None,
        per_video=args.per_video,
        jobs=args.jobs,
        **{key: value for key, value in options.items() if value is not None},
    )


def _name_apart(answers: Sequence[cocoapi_hq.Results]) -> None:
    """Shorten names to what differs: file names, else whole paths."""
    short = [Path(answer.name).name for answer in answers]
    if len(set(short)) == len(short):
        for answer, name in zip(answers, short, strict=True):
            answer.name = name


def _compare(args: argparse.Namespace, answers: Sequence[cocoapi_hq.Results]) -> list[Comparison]:
    return [
        compare([answer.tubes[metric] for answer in answers], resamples=args.resamples)
        for metric in answers[0].tubes
    ]


def _analyse(
    args: argparse.Namespace, answers: Sequence[cocoapi_hq.Results]
) -> dict[str, list[ErrorAnalysis]]:
    return {
        metric: [
            analyse_errors(
                args.gt, path, metric, protocol=answer.tubes[metric].protocol, jobs=args.jobs
            )
            for path, answer in zip(args.results, answers, strict=True)
        ]
        for metric in answers[0].tubes
    }


def _print(
    args: argparse.Namespace,
    answers: Sequence[cocoapi_hq.Results],
    comparisons: Sequence[Comparison],
) -> None:
    for answer in answers:
        for scores in answer.tubes.values():
            if args.per_category:
                print(text.category_table(scores), end="\n\n")
    print(text.results_table(answers))
    if "frame_ap" in answers[0].others:
        print("\nframe_ap:", "overlap allowed" if args.allow_overlap else "overlap not allowed")
    for comparison in comparisons:
        print("\n" + text.comparison_table(comparison, [answer.name for answer in answers]))


def _plain(value: Any) -> Any:
    """Numbers that JSON lacks as text: nan, inf, -inf."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _document(
    args: argparse.Namespace,
    answers: Sequence[cocoapi_hq.Results],
    comparisons: Sequence[Comparison],
    errors: dict[str, list[ErrorAnalysis]],
) -> Any:
    """One file: its numbers. Several: ``files`` by name and ``comparison`` by metric."""
    numbers = [_plain(a.to_dict(args.per_category, args.per_video)) for a in answers]
    for metric, analyses in errors.items():
        for own, analysis in zip(numbers, analyses, strict=True):
            own[metric]["errors"] = _plain(analysis.to_dict())
    if len(answers) == 1:
        return numbers[0]
    names = [answer.name for answer in answers]
    compared = {
        c.metric: {
            name: {
                "value": asdict(c.intervals[i]),
                "difference_to_first": asdict(c.differences[i]),
                "wins_against_first": c.wins[i],
            }
            for i, name in enumerate(names)
        }
        for c in comparisons
    }
    return {"files": dict(zip(names, numbers, strict=True)), "comparison": compared}


def _write_scalabel(args: argparse.Namespace) -> None:
    from cocoapi_hq.mots import tube_frames  # needs scipy; tube AP does not

    if len(args.results) > 1:
        raise OutputError(f"{args.scalabel}: holds one set of results; give one with --results.")
    truth = tube_frames.read_truth(args.gt, args.config)
    known = None
    if args.categories is not None:
        known = tube_frames.categories_of(args.categories, truth.config)
    frames = tube_frames.read_results(
        args.results[0], truth, categories=known, min_score=args.min_score
    )
    write_results(args.scalabel, frames, truth.config)


def _save(path: os.PathLike[str], write: Any) -> None:
    try:
        write()
    except cocoapi_hq.ScoringError as error:
        raise OutputError(str(error)) from None
    print(f"\nwritten: {path}")


def _write_report(
    args: argparse.Namespace,
    answers: Sequence[cocoapi_hq.Results],
    comparisons: Sequence[Comparison],
) -> None:
    from cocoapi_hq.report.html import build_report  # only a report draws

    folder: Path | None = args.images
    try:
        page = build_report(
            args.gt,
            args.results,
            answers,
            comparisons=comparisons,
            read_image=None
            if folder is None
            else lambda name: read_picture(frame_path(folder, name)),
            jobs=args.jobs,
        )
    except cocoapi_hq.ScoringError as error:
        raise AnnotationError(str(error)) from None
    _save(args.html, lambda: write_text(args.html, page))
