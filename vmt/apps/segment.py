"""What ``vmt demo`` does: videos through a network into results.json and the files beside it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from cocoapi_hq.io.json_file import is_json_name
from vmt.apps.pipeline import OutputFiles, Pipeline, Say
from vmt.apps.segment_options import (
    DEFAULT_WINDOW,
    NO_REFINER,
    WHOLE_VIDEO_FRAMES,
    SegmentOptions,
)
from vmt.config.node import load_config
from vmt.data.labels import label_space_from_json, result_ids
from vmt.inference.live import LiveOptions
from vmt.inference.load import load_segmenter
from vmt.inference.mask_refiner import FrameRefiner, MaskRefiner
from vmt.inference.package_detector import DETECTOR
from vmt.inference.predictor import PredictorOptions, VideoPredictor
from vmt.inference.pretrained import Pretrained, find_detector
from vmt.inference.results import ResultsWriter
from vmt.inference.sources import FirstFrames, VideoSource, open_videos
from vmt.modeling.video_model import FrameModel, Segmenter
from vmt.structures.labels import LabelSpace
from vmt.utils.atomic import DiskReserve, make_folder
from vmt.utils.errors import AnnotationError, ConfigError, VideoError
from vmt.utils.signals import StopSignals
from vmt.utils.threads import take_free_cores


def segment(asked: SegmentOptions, say: Say, warn: Say) -> str:
    """Segment all videos that a user named.

    Args:
        asked: what and how.
        say: called with every line of news.
        warn: called for each of several videos that breaks off.

    Returns:
        What was written, in a line.

    Raises:
        VmtError: an option, the input or the weights are wrong, or a video breaks off; what was
            read of it is in the files.
        KeyboardInterrupt: the user stopped; the files of the finished frames are complete.
    """
    network = find_detector(asked.config_file, asked.weights)
    cfg = load_config(network.config, asked.overrides)
    options = _window_options(PredictorOptions.from_config(cfg), asked.window, asked.stride)
    confidence = cfg.TEST.CONFIDENCE if asked.confidence is None else asked.confidence
    files = OutputFiles(confidence, asked.overlay, asked.save_masks, asked.save_frames)
    live = LiveOptions(asked.follow, asked.patience)
    openers = list(open_videos(asked.input, asked.images, live))
    if len(openers) == 1:  # a bad file shows before the network is built
        only = openers[0]()
        openers = [lambda: only]
    make_folder(asked.output)
    model = _load(asked, network, network.weights or cfg.MODEL.WEIGHTS, say)
    refiner = _load_refiner(asked, say)
    failures = 0
    with StopSignals() as signals, ExitStack() as closing:
        reserve = DiskReserve(asked.output)
        closing.callback(reserve.close)
        ids = _category_ids(asked.input, model.label_space, cfg.DATASETS.CLASS_MATCH, say)
        results = ResultsWriter(asked.output / "results.json", ids, reserve)
        closing.callback(signals.shielded(results.close))
        folder_of = _folders(asked.output, several=len(openers) > 1)
        for open_one in openers:
            try:
                source = open_one()
                if asked.max_frames is not None:
                    source = FirstFrames(source, asked.max_frames)
                chosen = asked.window is not None
                fitted = fit_window(model, options, source, say, chosen=chosen)
                predictor = VideoPredictor(model, fitted)
                pipeline = Pipeline(predictor, files, results, reserve, say, refiner)
                pipeline.run(source, folder_of(source), signals)
            except VideoError as error:
                if len(openers) == 1:
                    raise
                failures += 1
                warn(str(error))
    written = f"{results.path}: {results.entries} entries"
    if failures:
        say(written)
        raise VideoError(
            f"{asked.input}: {failures} of {len(openers)} videos could not be read to the end (see "
            "above); what was read of them is in the results."
        )
    return written


def _load(asked: SegmentOptions, network: Pretrained, weights: object, say: Say) -> Segmenter:
    """The network, with a line about it and one about its weights."""
    take_free_cores()
    model = load_segmenter(network.config, network.weights, asked.overrides, asked.device)
    say(f"network: {asked.config_file or f'{DETECTOR} of the package'} on {model.device}")
    say(f"weights: {weights}" if weights else "weights: random weights: masks mean nothing")
    return model


def _load_refiner(asked: SegmentOptions, say: Say) -> FrameRefiner | None:
    """What sharpens the masks, with a line about it."""
    if asked.refines_with is None:
        return None
    say(f"masks are sharpened by {asked.refines_with} (--refiner {NO_REFINER}: they are not)")
    return MaskRefiner.from_pretrained(asked.refines_with, asked.device or "auto")


def _category_ids(source: str, space: LabelSpace, match: str, say: Say) -> tuple[int | None, ...]:
    """Those of the annotation file that is the input, or the network's own."""
    path = Path(source)
    if not is_json_name(path) or not path.is_file() or match == "any":
        return space.category_ids
    try:
        own = label_space_from_json(path)
        categories = dict(zip(own.category_ids, own.names, strict=True))
        ids = result_ids(categories, space, source=source, match=match)
    except AnnotationError:  # frames alone, as test sets have them
        return space.category_ids
    except ConfigError as error:
        say(f"results.json has the network's own category ids: {error}")
        return space.category_ids
    if missing := ids.count(None):
        say(f"{source}: lacks {missing} of {len(space)} classes; results.json is without them")
    return ids


def _window_options(
    options: PredictorOptions, window: str | None, stride: int | None
) -> PredictorOptions:
    if window is not None:
        frames = 0 if window == "all" else int(window)
        similarity = 1.0 if frames == 1 else 0.0
        options = replace(options, window=frames, stride=0, similarity_weight=similarity)
    if stride is not None:
        options = replace(options, stride=stride)
    return options


def fit_window(
    model: Segmenter,
    options: PredictorOptions,
    source: VideoSource,
    say: Say,
    *,
    chosen: bool = False,
) -> PredictorOptions:
    """Windows in place of a whole video that is long or endless, unless the user insists.

    Args:
        model: a network for frames is left alone, but for live videos: no frame waits there.
        options: of the config and the user.
        source: the video.
        say: hears of windows that nobody asked for.
        chosen: the user named the window.

    Raises:
        ConfigError: the whole of a live video.
    """
    if isinstance(model, FrameModel):
        live = not source.rereadable and not chosen
        return replace(options, window=0, stride=0) if live else options
    if options.window:
        return options
    if chosen and source.num_frames is None and not source.rereadable:
        raise ConfigError("--window all: a live video has no end; give a number of frames.")
    short = source.num_frames is not None and source.num_frames <= WHOLE_VIDEO_FRAMES
    if chosen or short:
        return options
    say(
        f"{source.name}: more than {WHOLE_VIDEO_FRAMES} frames or of unknown length, so in windows "
        f"of {DEFAULT_WINDOW} (--window chooses)"
    )
    return replace(options, window=DEFAULT_WINDOW)


def _folders(output: Path, *, several: bool) -> Callable[[VideoSource], Path]:
    """Where the files of a video go: the output folder, or one of its own, never twice the same."""
    taken: set[str] = set()

    def folder(source: VideoSource) -> Path:
        if not several:
            return output
        name = "".join(c if c.isalnum() or c in "-_." else "_" for c in source.name).strip(".")
        name = name or f"video{source.video_id}"
        unique, count = name, 1
        while unique in taken:
            count += 1
            unique = f"{name}_{count}"
        taken.add(unique)
        return make_folder(output / unique)

    return folder
