"""Work sharded by video: the same function over every video, in this process or in several.

Workers receive offsets into the files (or the objects of one video), never the whole set; what
they return is small. So memory does not grow with the number of videos.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from cocoapi_hq.io.ytvis_json import Entries, GroundTruth, Video, group_by_video
from cocoapi_hq.tubes.arrays import VideoTubes, load_video
from cocoapi_hq.tubes.protocol import TubeProtocol

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Task:
    """One video with its entries, not parsed yet."""

    video: Video
    annotations: Entries
    results: Entries


@dataclass(frozen=True)
class Job:
    """What all videos share.

    Attributes:
        function: turns the tubes of a video into a small answer; must be importable by name.
        categories: id -> name.
        protocol: the rules.
        options: keyword arguments of the function.
    """

    function: Callable[..., Any]
    categories: dict[int, str]
    protocol: TubeProtocol
    options: dict[str, Any]

    def __call__(self, task: Task) -> Any:
        """Load the video and apply the function."""
        tubes: VideoTubes = load_video(
            task.video, task.annotations, task.results, self.categories, self.protocol
        )
        return self.function(tubes, self.protocol, **self.options)


_job: Job | None = None


def _start_worker(job: Job) -> None:
    global _job
    _job = job


def _work(task: Task) -> Any:
    assert _job is not None, "the pool starts its workers with _start_worker"
    return _job(task)


def tasks_of(truth: GroundTruth, results: Entries) -> list[Task]:
    """Videos that have entries on either side, by ascending id.

    Raises:
        ScoringError: an entry belongs to no video of the ground truth.
    """
    gt_rows = group_by_video(truth.annotations, truth.videos, "annotation")
    dt_rows = group_by_video(results, truth.videos, "result")
    return [
        Task(
            truth.videos[key],
            truth.annotations.subset(gt_rows.get(key, ())),
            results.subset(dt_rows.get(key, ())),
        )
        for key in sorted({*gt_rows, *dt_rows})
    ]


def map_videos(job: Job, tasks: list[Task], jobs: int) -> Iterator[Any]:
    """Apply a job to every video, in order.

    Args:
        job: the function and what all videos share.
        tasks: the videos.
        jobs: processes, at least 1.

    Yields:
        One answer per task.

    Raises:
        ScoringError: from the first video, in order, whose entries break the format.
    """
    jobs = min(jobs, len(tasks))
    if jobs <= 1:
        yield from map(job, tasks)
        return
    # fork starts in milliseconds and needs no guard in the caller's script; elsewhere spawn.
    method = "fork" if sys.platform.startswith("linux") else "spawn"
    context = multiprocessing.get_context(method)
    chunk = max(1, min(8, len(tasks) // (4 * jobs)))
    with context.Pool(jobs, initializer=_start_worker, initargs=(job,)) as pool:
        yield from pool.imap(_work, tasks, chunksize=chunk)
