"""What detectron2's registries build: our networks and backbones as it calls them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY
from detectron2.modeling import Backbone as TheirBackbone
from torch import Tensor, nn

from vmt.engine.optimizer import freeze
from vmt.engine.start_weights import pretrained_backbone
from vmt.inference.predictor import FrameResult, PredictorOptions, VideoPredictor
from vmt.modeling.adversarial import Adversary
from vmt.modeling.backbones.build import build_backbone
from vmt.modeling.meta_arch.build import build_network, register_methods
from vmt.modeling.registry import META_ARCHITECTURES
from vmt.modeling.video_model import Segmenter, VideoModel
from vmt.plugins.detectron2.config import vmt_config
from vmt.plugins.detectron2.datasets import label_space_of
from vmt.plugins.detectron2.instances import VideoInstances, clip_of, frames_of_sample

logger = logging.getLogger(__name__)


class VideoNetwork(nn.Module):
    """A network of ours: detectron2's dicts in, losses or ``Instances`` out.

    Entries of its state are called as those of ``network``, so that weight files are the same in
    both worlds.

    In training, inputs are clips as ``vmt.plugins.detectron2.instances`` describes them, in the
    order of colours ``INPUT.FORMAT``, or samples of our own loader. In evaluation an input is a
    video, as ``ClipDatasetMapper`` gives it (``frames``), or ``image``, as detectron2's own mapper
    does: a tensor (3, H, W), or T of them, with ``height`` and ``width`` of the original.

    Args:
        cfg: see ``vmt_config``.

    Attributes:
        network: a ``VideoModel``.
        vmt_cfg: its config.

    Raises:
        ConfigError: no such architecture, or values that do not fit.
    """

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__()
        self.vmt_cfg = vmt_config(cfg).clone()
        self.vmt_cfg.defrost()
        self.vmt_cfg.MODEL.BACKBONE.PRETRAINED = pretrained_backbone(self.vmt_cfg)
        self.vmt_cfg.freeze()
        self.network: VideoModel = build_network(self.vmt_cfg, label_space_of(cfg))
        freeze(self.network, self.vmt_cfg.SOLVER.FREEZE)
        self._bgr = cfg.INPUT.FORMAT == "BGR"

    @property
    def device(self) -> Any:
        """Where the parameters are."""
        return self.network.device

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """That of ``network``."""
        return self.network.state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Into ``network``."""
        return self.network.load_state_dict(*args, **kwargs)

    def sample(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """A training input as our networks take it."""
        agnostic = self.vmt_cfg.DATASETS.CLASS_MATCH == "any"
        num_classes = None if agnostic else len(self.network.label_space)
        return clip_of(inputs, bgr=self._bgr, num_classes=num_classes)

    def forward(
        self, batched_inputs: Sequence[Mapping[str, Any]], adversary: Adversary | None = None
    ) -> Any:
        """Weighted losses by name in training, one dict per input in evaluation.

        A video gives ``instances``, one ``Instances`` per frame (made when asked for);
        ``image_size``, (h, w) of their masks; and for evaluators ``frames`` and ``tracks``, the
        finished frames with run lengths and the final scores of the tracks. A single ``image``
        gives its ``Instances`` alone, as detectors do.
        """
        if self.training:
            return self.network([self.sample(clip) for clip in batched_inputs], adversary)
        return [self._predict(inputs) for inputs in batched_inputs]

    def _predict(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        if not isinstance(self.network, Segmenter):  # sharpens given masks
            frames = frames_of_sample(inputs, bgr=self._bgr)
            return self.network.predict({**inputs, "image": frames})
        if "frames" in inputs:
            return self.segment(inputs["frames"], inputs["frames"].size)
        frames = frames_of_sample(inputs, bgr=self._bgr).round().clamp(0, 255)
        pictures = frames.permute(0, 2, 3, 1).cpu().numpy().astype(np.uint8)
        given: tuple[int, int] = pictures.shape[1:3]
        size = (int(inputs.get("height", given[0])), int(inputs.get("width", given[1])))
        video = self.segment(pictures, size, given)
        single = isinstance(inputs["image"], Tensor) and inputs["image"].ndim == 3
        return {"instances": video["instances"][0]} if single else video

    def segment(
        self,
        frames: Iterable[Any],
        size: tuple[int, int],
        resized: tuple[int, int] | None = None,
    ) -> dict[str, Any]:
        """Find the objects of a video.

        Args:
            frames: (H, W, 3) uint8 RGB.
            size: (h, w) of the masks in pixels.
            resized: (H, W) if the frames have the size of the network already.
        """
        options = PredictorOptions.from_config(self.vmt_cfg)
        if resized is not None:
            options = replace(options, min_size=min(resized), max_size=0)
        stream = VideoPredictor(self.network, options).stream(frames, mask_size=size)
        results: tuple[FrameResult, ...] = tuple(stream)
        return {
            "instances": VideoInstances(results, size),
            "image_size": size,
            "frames": results,
            "tracks": tuple(stream.finish()),
        }


class VideoBackbone(TheirBackbone):
    """A backbone of ours for detectron2's heads: maps ``res2`` to ``res5`` of strides 4 to 32.

    Args:
        cfg: ``VMT.MODEL.BACKBONE`` says which.
        input_shape: number of channels of the images.
    """

    def __init__(self, cfg: CfgNode, input_shape: ShapeSpec) -> None:
        super().__init__()
        self.body = build_backbone(vmt_config(cfg), input_shape.channels)
        self._strides = {f"res{level}": 2**level for level in (2, 3, 4, 5)}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W), normalised as the config says -> name -> map."""
        maps = self.body(images)
        return {name: maps[stride] for name, stride in self._strides.items()}

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of every map."""
        return {
            name: ShapeSpec(channels=self.body.channels[stride], stride=stride)
            for name, stride in self._strides.items()
        }

    @property
    def size_divisibility(self) -> int:
        """Maps of all strides have whole sizes then."""
        return 32


def register_networks() -> None:
    """Put every architecture of ours, and ``build_vmt_backbone``, into detectron2's registries."""
    register_methods()
    for name, _ in META_ARCHITECTURES:
        if name in META_ARCH_REGISTRY:
            logger.warning(
                "META_ARCH_REGISTRY has another %s already; VMT's cannot be built here. Import the "
                "plug-in without the project that brought it.",
                name,
            )
            continue
        META_ARCH_REGISTRY._do_register(name, VideoNetwork)
    BACKBONE_REGISTRY._do_register("build_vmt_backbone", VideoBackbone)
