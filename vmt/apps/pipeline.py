"""One video through a network into all its files: results, tables, label maps, overlays."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from vmt.data.images import Frame
from vmt.inference.mask_refiner import FrameRefiner
from vmt.inference.predictor import FrameResult, TrackMask, TrackStream, VideoPredictor
from vmt.inference.refined_stream import RefinedStream
from vmt.inference.results import LabelMapWriter, ResultsWriter, TrackTable
from vmt.inference.sources import VideoSource
from vmt.inference.threads import ReadAhead, WriteBehind
from vmt.inference.video_writer import VideoWriter, write_png
from vmt.utils.atomic import DiskReserve, make_folder
from vmt.utils.errors import ConfigError, OutputError
from vmt.utils.memory import peak_mb, resident_mb
from vmt.utils.signals import StopSignals
from vmt.visualization.colors import label_map_palette
from vmt.visualization.draw import draw_tracks

Say = Callable[[str], object]


@dataclass(frozen=True)
class OutputFiles:
    """Files of a video beside results.json.

    Args:
        confidence: lowest score of a track that they show, in [0, 1]; results.json has all.
        overlay: overlay.mp4.
        masks: PNG label maps.
        frames: PNG overlays.
        table: tracks.csv.
    """

    confidence: float = 0.3
    overlay: bool = True
    masks: bool = False
    frames: bool = False
    table: bool = True

    def __post_init__(self) -> None:
        if not 0.0 <= self.confidence <= 1.0:
            raise ConfigError(f"--confidence {self.confidence} is outside [0, 1].")

    def visible(self, tracks: Sequence[TrackMask]) -> list[TrackMask]:
        """Tracks of a frame that reach the confidence."""
        return [track for track in tracks if track.score >= self.confidence]


@dataclass
class Report:
    """What happened to one video.

    Args:
        frames: finished.
        tracks: ids of tracks that reached the confidence, at most 1000 are counted.
        wall: seconds in all.
        seconds: by stage; reading, drawing and writing run beside the rest.
    """

    name: str
    frames: int = 0
    tracks: set[int] = field(default_factory=set)
    wall: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)

    def text(self) -> str:
        """Two lines for the console."""
        rate = self.frames / self.wall if self.wall else 0.0
        total = max(sum(self.seconds.values()), 1e-9)
        shares = sorted(self.seconds.items(), key=lambda item: -item[1])
        parts = ", ".join(f"{k} {v / total:.0%}" for k, v in shares if v / total >= 0.005)
        tracks = f"{len(self.tracks)} tracks shown" if self.tracks else "no track shown"
        return (
            f"{self.name}: {self.frames} frames in {self.wall:.1f} s ({rate:.2f} frames/s), "
            f"{tracks}; peak memory {peak_mb():.0f} MB\n  time: {parts}"
        )


class Pipeline:
    """One video through the network into all its files.

    Args:
        predictor: the network and its options.
        files: what is written beside results.json.
        results: takes the masks of all videos.
        reserve: room to finish files on a full disk.
        say: called with the report of a video.
        refiner: sharpens the masks; None: they stay as the network gives them.
    """

    def __init__(
        self,
        predictor: VideoPredictor,
        files: OutputFiles,
        results: ResultsWriter,
        reserve: DiskReserve,
        say: Say = lambda text: None,
        refiner: FrameRefiner | None = None,
    ) -> None:
        self._say = say
        self._refiner = refiner
        self._predictor = predictor
        self._asked = files
        self._results = results
        self._reserve = reserve

    def run(
        self,
        source: VideoSource,
        folder: Path,
        signals: StopSignals | None = None,
        on_frame: Callable[[FrameResult], None] | None = None,
    ) -> Report:
        """Segment a video; whatever ends it, the files of the finished frames are completed.

        Args:
            source: the video.
            folder: for its files, exists.
            signals: hold back Ctrl-C while files are written.
            on_frame: called with every finished frame.

        Returns:
            Counts and times.

        Raises:
            VideoError: the video breaks off.
            OutputError: the disk is full.
            KeyboardInterrupt: the user stopped.
        """
        signals = signals if signals is not None else StopSignals()
        report = Report(source.name)
        started = time.perf_counter()
        draws = self._asked.overlay or self._asked.frames
        stream = self._stream(source, keep_frames=draws)
        with ExitStack() as closing:
            self._results.begin_video(source)
            closing.callback(signals.shielded(self._results.end_video))
            closing.callback(signals.shielded(lambda: self._results.close_tracks(stream.finish())))
            writers = VideoFiles(source, folder, self._asked, self._predictor, self._reserve)
            closing.callback(signals.shielded(writers.close))
            writer = WriteBehind[FrameResult](lambda result: self._write(writers, result, report))
            closing.callback(signals.shielded(writer.close))
            bar = closing.enter_context(
                tqdm(total=source.num_frames, desc=source.name, unit=" frames", disable=None)
            )
            for result in stream:
                with signals.shield():
                    writer.put(result)
                bar.update(1)
                bar.set_postfix_str(f"{resident_mb():.0f} MB", refresh=False)
                if on_frame is not None:
                    on_frame(result)
        report.wall = time.perf_counter() - started
        report.seconds = {**stream.seconds, **writers.seconds}
        self._say(report.text())
        if not report.tracks and draws:
            self._say(
                f"  no track reaches {self._asked.confidence}; --confidence shows weaker ones, "
                "results.json holds them"
            )
        return report

    def _stream(self, source: VideoSource, *, keep_frames: bool) -> TrackStream | RefinedStream:
        """The finished frames of a video, their masks sharpened where they shall be."""
        frames = ReadAhead(source) if source.rereadable else iter(source)
        keeps = keep_frames or self._refiner is not None
        stream = self._predictor.stream(frames, keep_frames=keeps, behind=source.rereadable)
        if self._refiner is None:
            return stream
        return RefinedStream(stream, self._refiner, keep_frames=keep_frames)

    def _write(self, files: VideoFiles, result: FrameResult, report: Report) -> None:
        started = time.perf_counter()
        self._results.add(result)
        files.seconds["results"] += time.perf_counter() - started
        files.add(result)
        report.frames += 1
        if len(report.tracks) < 1000:
            report.tracks.update(t.track_id for t in self._asked.visible(result.tracks))
        if self._reserve.released:
            raise OutputError(
                f"{self._results.path.parent}: the disk is full after {report.frames} frames, "
                "whose results are valid; free some space or choose another --output."
            )


class VideoFiles:
    """The files of one video beside results.json."""

    def __init__(
        self,
        source: VideoSource,
        folder: Path,
        files: OutputFiles,
        predictor: VideoPredictor,
        reserve: DiskReserve,
    ) -> None:
        self.seconds = {"results": 0.0, "draw": 0.0, "encode": 0.0}
        self._asked = files
        self._labels = predictor.model.label_space
        self._frames = make_folder(folder / "frames") if files.frames else None
        self._table: TrackTable | None = None
        self._maps: LabelMapWriter | None = None
        self._video: VideoWriter | None = None
        self._encoder: WriteBehind[tuple[int, Frame]] | None = None
        try:
            self._open(source, folder, reserve)
        except BaseException:
            self.close()
            raise

    def _open(self, source: VideoSource, folder: Path, reserve: DiskReserve) -> None:
        confidence = self._asked.confidence
        if self._asked.table:
            self._table = TrackTable(folder / "tracks.csv", self._labels, confidence, reserve)
        if self._asked.masks:
            palette = label_map_palette()
            self._maps = LabelMapWriter(folder / "masks", source.size, confidence, palette)
        if self._asked.overlay:
            path = folder / "overlay.mp4"
            self._video = VideoWriter(path, source.fps, source.size, on_full=reserve.release)
        if self._asked.overlay or self._asked.frames:
            self._encoder = WriteBehind(lambda numbered: self._encode(*numbered))

    def add(self, result: FrameResult) -> None:
        """Write what belongs to one frame."""
        clock = time.perf_counter
        started = clock()
        if self._table is not None:
            self._table.add(result)
        if self._maps is not None:
            self._maps.add(result)
        self.seconds["results"] += clock() - started
        if result.frame is None:
            return
        started = clock()
        visible = self._asked.visible(result.tracks)
        picture = draw_tracks(result.frame, visible, self._labels.names)
        self.seconds["draw"] += clock() - started
        if self._encoder is not None:
            self._encoder.put((result.index, picture))

    def _encode(self, index: int, picture: Frame) -> None:
        """Write a drawn frame, in a thread of its own: the next one is drawn meanwhile."""
        started = time.perf_counter()
        if self._frames is not None:
            write_png(self._frames / f"{index:05d}.png", picture)
        if self._video is not None:
            self._video.write(picture)
        self.seconds["encode"] += time.perf_counter() - started

    def close(self) -> None:
        """Finish every file, also when one of them cannot be."""
        with ExitStack() as closing:
            if self._table is not None:
                closing.callback(self._table.close)
            if self._video is not None:
                closing.callback(self._video.close)
            if self._encoder is not None:
                closing.callback(self._encoder.close)
