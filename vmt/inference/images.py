"""A network for frames on single images: their best objects, as COCO counts them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from fvcore.common.config import CfgNode

from vmt.inference.predictor import Frame, resize_frame
from vmt.modeling.instances import Instances, image_instances
from vmt.modeling.video_model import FrameModel, VideoModel
from vmt.utils.errors import ConfigError


@dataclass(frozen=True)
class ImageOptions:
    """How images are resized and objects scored.

    Args:
        min_size: short side of the network's input in pixels.
        max_size: bound of its long side in pixels; 0: none.
        mask_quality: scores are multiplied by the mean probability of the mask's pixels.
    """

    min_size: int = 800
    max_size: int = 1333
    mask_quality: bool = True

    @classmethod
    def from_config(cls, cfg: CfgNode) -> ImageOptions:
        """By ``INPUT`` and ``TEST``."""
        return cls(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST, cfg.TEST.MASK_QUALITY)


class ImagePredictor:
    """Runs a network over images.

    Args:
        model: on its device and in evaluation mode.
        options: see ``ImageOptions``.

    Raises:
        ConfigError: the network sees clips.
    """

    def __init__(self, model: VideoModel, options: ImageOptions | None = None) -> None:
        if not isinstance(model, FrameModel):
            raise ConfigError(
                f"{type(model).__name__} finds objects in clips; images are scored with networks "
                "for frames, such as MaskDINO and Mask2Former. Name videos in DATASETS.TEST."
            )
        self.model = model
        self.options = options if options is not None else ImageOptions()

    @torch.inference_mode()
    def __call__(self, image: Frame) -> Instances:
        """The objects of an image, (H, W, 3) uint8 RGB, by descending score; at most 100."""
        small = resize_frame(image, self.options.min_size, self.options.max_size)
        frames = torch.from_numpy(small).permute(2, 0, 1)[None].to(self.model.device)
        (outputs,) = self.model.segment_frames(frames)
        size = int(image.shape[0]), int(image.shape[1])
        return image_instances(outputs, size, mask_quality=self.options.mask_quality)
