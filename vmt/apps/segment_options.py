"""What a user may ask of ``vmt demo``; light, so that the console can show it at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vmt.inference.refine_defaults import SHIPPED
from vmt.utils.errors import ConfigError

#: A config that asks for whole videos gets windows when the video is longer than this, or does not
#: say how long it is; ``--window all`` insists.
WHOLE_VIDEO_FRAMES = 40
DEFAULT_WINDOW = 10
#: In place of weights of a refiner: masks stay as they are found.
NO_REFINER = "none"


@dataclass(frozen=True)
class SegmentOptions:
    """Options of ``vmt demo``, under their own names.

    Args:
        input: video file, folder of frames, glob, YouTube-VIS JSON, number of a camera, URL, named
            pipe, or "-" for the standard input.
        output: folder, created if need be.
        config_file: YAML of the network; None: that of the package.
        weights: weight file; None: ``MODEL.WEIGHTS``.
        refiner: weights that sharpen the masks, a name of the package or a file, or "none"; None:
            those of the package on masks of its own detector, and none on those of others.
        confidence: lowest score that files beside results.json show; None: ``TEST.CONFIDENCE``.
        window: frames per window, or "all"; None: ``TEST.WINDOW``.
        stride: step between windows; None: window - 1.
        device: None: ``MODEL.DEVICE``.
        images: root of the frames of a JSON.
        max_frames: of each video; None: all.
        follow: the file is still written.
        patience: seconds without a frame after which a live video is given up; 0: never.
        save_masks: write label maps.
        save_frames: write overlays as PNG.
        overlay: write overlay.mp4.
        overrides: alternating ``KEY VALUE``.

    Raises:
        ConfigError: no such window or stride.
    """

    input: str
    output: Path
    config_file: str | None = None
    weights: str | None = None
    refiner: str | None = None
    confidence: float | None = None
    window: str | None = None
    stride: int | None = None
    device: str | None = None
    images: Path | None = None
    max_frames: int | None = None
    follow: bool = False
    patience: float = 10.0
    save_masks: bool = False
    save_frames: bool = False
    overlay: bool = True
    overrides: Sequence[str] = ()

    @property
    def refines_with(self) -> str | None:
        """The weights that sharpen the masks, if any do."""
        if self.refiner is None:
            return SHIPPED if self.config_file is None else None
        return None if self.refiner == NO_REFINER else self.refiner

    def __post_init__(self) -> None:
        window, stride = self.window, self.stride
        if window not in (None, "all") and not (window.isdecimal() and int(window) > 0):
            raise ConfigError(f"--window {window}: give a number of frames from 1 on, or all.")
        if stride is not None and stride < 1:
            raise ConfigError(f"--stride {stride}: give a number of frames from 1 on.")
