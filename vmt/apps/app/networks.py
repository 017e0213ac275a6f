"""The networks behind the page: built at first use, shared by all visitors, changed by none."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from vmt.apps.app.options import AppOptions
from vmt.apps.app.session import AppError
from vmt.config.node import load_config
from vmt.inference.load import load_segmenter
from vmt.inference.mask_refiner import FrameRefiner, MaskRefiner
from vmt.inference.predictor import PredictorOptions
from vmt.inference.pretrained import find_detector
from vmt.inference.propagation.finder import NetworkFinder
from vmt.inference.propagation.propagator import MaskPropagator
from vmt.inference.propagation.view import ViewMaker
from vmt.modeling.video_model import Segmenter
from vmt.utils.threads import take_free_cores

#: What to do where no network finds objects.
NO_DETECTOR = (
    "This page was started without a network that finds objects: draw a polygon or a box, or start "
    "it as vmt app --config-file CONFIG --weights FILE."
)


@dataclass(frozen=True)
class Detector:
    """A network that finds objects.

    Args:
        model: in evaluation mode.
        options: of the config.
        confidence: lowest score of an object that is kept, in [0, 1].
        trained: it has weights; without, its masks mean nothing.
    """

    model: Segmenter
    options: PredictorOptions
    confidence: float
    trained: bool


class Networks:
    """Loads what a click needs.

    Args:
        options: say which.
    """

    def __init__(self, options: AppOptions) -> None:
        self._options = options
        self._lock = threading.Lock()
        self._detector: Detector | None = None
        self._refiner: FrameRefiner | None = None
        self._make_view: ViewMaker | None = None
        self._finder: NetworkFinder | None = None

    @property
    def finds(self) -> bool:
        """Whether there is a network that finds objects."""
        return self._options.finds

    def detector(self) -> Detector:
        """The network that finds objects.

        Raises:
            AppError: there is none.
            ConfigError: its config is wrong.
            CheckpointError: its weights cannot be used.
        """
        if not self.finds:
            raise AppError(NO_DETECTOR)
        with self._lock:
            if self._detector is None:
                self._detector = self._load_detector()
            return self._detector

    def refiner(self) -> FrameRefiner:
        """The mask refiner; errors as of ``MaskRefiner.from_pretrained``."""
        with self._lock:
            if self._refiner is None:
                take_free_cores()
                device = self._options.device or "auto"
                self._refiner = MaskRefiner.from_pretrained(self._options.refiner, device)
            return self._refiner

    def propagator(self) -> MaskPropagator:
        """The mask refiner as it follows objects; errors as of ``refiner``."""
        refiner = self.refiner()
        with self._lock:
            if self._make_view is None:
                self._make_view = ViewMaker.from_pretrained(self._options.device or "auto")
                self._finder = NetworkFinder.from_package(self._options.device)
            return MaskPropagator(refiner, self._make_view, finder=self._finder)

    def _load_detector(self) -> Detector:
        asked = self._options
        take_free_cores()
        network = find_detector(asked.config_file, asked.weights)
        cfg = load_config(network.config, asked.overrides)
        model = load_segmenter(network.config, network.weights, asked.overrides, asked.device)
        trained = bool(network.weights or cfg.MODEL.WEIGHTS)
        return Detector(model, PredictorOptions.from_config(cfg), cfg.TEST.CONFIDENCE, trained)
