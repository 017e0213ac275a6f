"""What ``vmt eval`` does: score result files, compare them, write numbers and a report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cocoapi_hq
from cocoapi_hq.analysis.bootstrap import Comparison, compare
from cocoapi_hq.analysis.errors import ErrorAnalysis, analyse_errors
from cocoapi_hq.io.json_file import write_json, write_text
from cocoapi_hq.io.tables import metric_tables
from cocoapi_hq.mots.bitmask_png import write_bitmasks
from cocoapi_hq.mots.frame_masks import FrameMasks, resolve_overlaps
from cocoapi_hq.mots.scalabel_io import write_results
from cocoapi_hq.report import text
from vmt.data.frame_names import frame_path
from vmt.data.images import read_picture
from vmt.utils.errors import OutputError


@dataclass(frozen=True)
class Scores:
    """Numbers of result files over one ground truth.

    Args:
        gt: annotations.
        paths: of the results.
        answers: one per file.
        comparisons: one per tube metric; none for a single file.
        errors: by tube metric, what each type of error costs, per file; empty unless asked for.
        per_category: show every category.
        per_video: hold numbers of every video.
        overlap: frame AP let masks overlap.
    """

    gt: str
    paths: Sequence[str]
    answers: Sequence[cocoapi_hq.Results]
    comparisons: Sequence[Comparison]
    errors: Mapping[str, Sequence[ErrorAnalysis]]
    per_category: bool
    per_video: bool
    overlap: bool

    def tables(self) -> str:
        """All numbers as text."""
        names = [answer.name for answer in self.answers]
        parts = []
        if self.per_category:
            parts += [text.category_table(t) for a in self.answers for t in a.tubes.values()]
        parts.append(metric_tables([(answer.name, answer.to_dict()) for answer in self.answers]))
        if "frame_ap" in self.answers[0].others:
            parts.append(f"frame_ap: overlap {'' if self.overlap else 'not '}allowed")
        parts += [text.comparison_table(comparison, names) for comparison in self.comparisons]
        parts += [text.error_table(analyses, names) for analyses in self.errors.values()]
        return "\n\n".join(parts)

    def write_json(self, path: Path) -> None:
        """One file: its numbers. Several: ``files`` by name and ``comparison`` by metric."""
        numbers = [_plain(a.to_dict(self.per_category, self.per_video)) for a in self.answers]
        for metric, analyses in self.errors.items():
            for own, analysis in zip(numbers, analyses, strict=True):
                own[metric]["errors"] = _plain(analysis.to_dict())
        names = [answer.name for answer in self.answers]
        compared = {
            c.metric: {
                name: {
                    "value": asdict(c.intervals[i]),
                    "difference_to_first": asdict(c.differences[i]),
                    "wins_against_first": c.wins[i],
                }
                for i, name in enumerate(names)
            }
            for c in self.comparisons
        }
        files = {"files": dict(zip(names, numbers, strict=True)), "comparison": compared}
        write_json(path, numbers[0] if len(numbers) == 1 else files)

    def write_report(self, path: Path, images: Path | None, jobs: int) -> None:
        """An HTML page, with frames of ``images`` if that is a folder."""
        from cocoapi_hq.report.html import build_report  # only a report draws

        page = build_report(
            self.gt,
            self.paths,
            self.answers,
            comparisons=self.comparisons,
            read_image=None
            if images is None
            else lambda name: read_picture(frame_path(images, name)),
            jobs=jobs,
        )
        write_text(path, page)


def score(
    gt: str,
    paths: Sequence[str],
    metrics: Sequence[str],
    options: Mapping[str, Any],
    *,
    resamples: int,
    errors: bool,
    per_category: bool,
    per_video: bool,
) -> Scores:
    """Score result files and compare them.

    Args:
        gt: annotation file, or a folder for MOTS.
        paths: result files.
        metrics: see ``cocoapi_hq.METRICS``.
        options: of ``cocoapi_hq.evaluate``; those that are None are its own.
        resamples: of the bootstrap.
        errors: analyse what each type of error costs.
        per_category: see ``Scores``.
        per_video: likewise.

    Raises:
        ScoringError: a file cannot be scored.
    """
    given = {key: value for key, value in options.items() if value is not None}
    answers = [
        cocoapi_hq.evaluate(gt, path, metrics, per_video=per_video, **given) for path in paths
    ]
    short = [Path(answer.name).name for answer in answers]
    if len(set(short)) == len(short):  # file names differ: whole paths are not needed
        for answer, name in zip(answers, short, strict=True):
            answer.name = name
    tubes = answers[0].tubes
    comparisons = [
        compare([answer.tubes[metric] for answer in answers], resamples=resamples)
        for metric in (tubes if len(answers) > 1 else ())
    ]
    analyses = {
        metric: [
            analyse_errors(
                gt, path, metric, protocol=answer.tubes[metric].protocol, jobs=options["jobs"]
            )
            for path, answer in zip(paths, answers, strict=True)
        ]
        for metric in (tubes if errors else ())
    }
    overlap = bool(options["allow_overlap"])
    return Scores(gt, paths, answers, comparisons, analyses, per_category, per_video, overlap)


def _plain(value: Any) -> Any:
    """Numbers that JSON lacks as text: nan, inf, -inf."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def write_mots(
    scalabel: Path | None,
    bitmasks: Path | None,
    gt: str,
    paths: Sequence[str],
    config: str | None,
    categories: str | None,
    min_score: float | None,
) -> None:
    """Write results of YouTube-VIS form in the forms of BDD100K MOTS.

    Args:
        scalabel: the JSON to write; None: none.
        bitmasks: the folder of PNG to write, which the server takes in a zip; None: none.
        gt: annotations in the form of MOTS.
        paths: one result file.
        config: Scalabel configuration with the classes.
        categories: JSON whose categories name the ids of the results, or a map of ids to classes.
        min_score: leave out weaker ones.

    Raises:
        OutputError: there are several result files, or the folder holds something.
        ScoringError: a file cannot be read or written.
    """
    from cocoapi_hq.mots import tube_frames  # needs scipy; tube AP does not

    if len(paths) > 1:
        target = scalabel or bitmasks
        raise OutputError(f"{target}: holds one set of results; give one with --results.")
    if bitmasks is not None and bitmasks.is_dir() and any(bitmasks.iterdir()):
        raise OutputError(f"{bitmasks}: holds something; delete it or choose another folder.")
    truth = tube_frames.read_truth(gt, config)
    known = None
    if categories is not None:
        known = tube_frames.categories_of(categories, truth.config)
    found = tube_frames.read_results(paths[0], truth, categories=known, min_score=min_score)
    frames = [resolve_overlaps(frame) for frame in found]
    if scalabel is not None:
        write_results(scalabel, frames, truth.config, without_overlaps=False)
    if bitmasks is not None:
        write_bitmasks(bitmasks, _numbered(frames), truth.config)


def _numbered(frames: Sequence[FrameMasks]) -> list[FrameMasks]:
    """Track ids from 1 in every video: those of a list count on from video to video."""
    numbers: dict[str, dict[int, int]] = {}
    out = []
    for frame in frames:
        known = numbers.setdefault(frame.video, {})
        ids = [known.setdefault(key, len(known) + 1) for key in frame.track_ids]
        out.append(replace(frame, track_ids=ids))
    return out
