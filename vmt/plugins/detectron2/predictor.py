"""A predictor of the shape of ``DefaultPredictor``, for videos."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model
from detectron2.structures import Instances

from vmt.inference.predictor import PredictorOptions
from vmt.inference.predictor import VideoPredictor as Streams
from vmt.modeling.backbones.folding import fold_frozen_norms
from vmt.plugins.detectron2.checkpointer import VideoCheckpointer
from vmt.plugins.detectron2.instances import Frame, frame_instances
from vmt.plugins.detectron2.network import VideoNetwork
from vmt.plugins.detectron2.trainer import check_architecture


class VideoPredictor:
    """Frames in, ``Instances`` out; the network of a config with ``MODEL.WEIGHTS``.

    Args:
        cfg: see ``vmt_config``.

    Attributes:
        model: the ``VideoNetwork``.
        metadata: of the first of ``DATASETS.TEST``, else with the classes of the network.

    Raises:
        ConfigError: no such architecture.
        CheckpointError: the weights cannot be used.

    Example:
        ``instances = VideoPredictor(cfg)(frames)["instances"]``
    """

    def __init__(self, cfg: CfgNode) -> None:
        check_architecture(cfg)
        model = build_model(cfg).eval()
        assert isinstance(model, VideoNetwork), "built by META_ARCH_REGISTRY"
        self.model = model
        VideoCheckpointer(model).load(cfg.MODEL.WEIGHTS, [])
        fold_frozen_norms(model.network)
        name = next(iter(cfg.DATASETS.TEST), f"vmt_{id(self)}")
        self.metadata = MetadataCatalog.get(name)
        if self.metadata.get("thing_classes") is None:
            self.metadata.thing_classes = list(model.network.label_space.names)

    def __call__(self, frames: Sequence[Frame]) -> dict[str, Any]:
        """A video that is there as a whole.

        Args:
            frames: (H, W, 3) uint8 BGR of one size.

        Returns:
            ``instances``, one ``Instances`` per frame, and the rest of what ``VideoNetwork`` gives.
        """
        height, width = frames[0].shape[:2]
        return self.model.segment((_flipped(frame) for frame in frames), (height, width))

    def stream(self, frames: Iterable[Frame]) -> Iterator[Instances]:
        """A video of any length, frame by frame as they are finished.

        Args:
            frames: (H, W, 3) uint8 BGR of one size, read lazily.

        Yields:
            ``Instances`` of every frame in order; with ``TEST.WINDOW`` 0 none before the last frame
            was read. Scores are those so far.
        """
        source = iter(frames)
        first = next(source, None)
        if first is None:
            return
        size = (int(first.shape[0]), int(first.shape[1]))
        predictor = Streams(self.model.network, PredictorOptions.from_config(self.model.vmt_cfg))
        for result in predictor.stream(_flipped(frame) for frame in chain([first], source)):
            yield frame_instances(result, size)


def _flipped(frame: Frame) -> Frame:
    """BGR to RGB, in memory of its own."""
    return frame[:, :, ::-1].copy()
