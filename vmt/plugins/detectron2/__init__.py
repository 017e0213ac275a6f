"""VMT inside detectron2: ``import vmt.plugins.detectron2``, and detectron2 knows all of it.

The import registers our architectures (``META_ARCH_REGISTRY``), backbones
(``BACKBONE_REGISTRY``) and data sets (``DatasetCatalog``, ``MetadataCatalog``), and gives
``get_cfg()`` the node ``VMT``. docs/howto/detectron2.md has examples and the table of keys.
"""

from __future__ import annotations

from vmt.plugins.detectron2 import version as _version  # first: it may refuse
from vmt.plugins.detectron2.checkpointer import VideoCheckpointer
from vmt.plugins.detectron2.config import (
    add_vmt_config,
    extend_defaults,
    merge_recipe,
    vmt_config,
)
from vmt.plugins.detectron2.datasets import register_datasets, video_dicts
from vmt.plugins.detectron2.evaluator import VideoEvaluator
from vmt.plugins.detectron2.instances import draw_video, for_visualizer, frame_instances
from vmt.plugins.detectron2.mapper import ClipDatasetMapper
from vmt.plugins.detectron2.network import VideoBackbone, VideoNetwork, register_networks
from vmt.plugins.detectron2.predictor import VideoPredictor
from vmt.plugins.detectron2.trainer import Trainer

check_version = _version.check_version
#: Under the names of a detectron2 script, for which one import then stands in.
DefaultTrainer, DefaultPredictor = Trainer, VideoPredictor
DetectionCheckpointer, DatasetMapper = VideoCheckpointer, ClipDatasetMapper

__all__ = [
    "ClipDatasetMapper",
    "DatasetMapper",
    "DefaultPredictor",
    "DefaultTrainer",
    "DetectionCheckpointer",
    "Trainer",
    "VideoBackbone",
    "VideoCheckpointer",
    "VideoEvaluator",
    "VideoNetwork",
    "VideoPredictor",
    "add_vmt_config",
    "check_version",
    "draw_video",
    "for_visualizer",
    "frame_instances",
    "merge_recipe",
    "video_dicts",
    "vmt_config",
]

extend_defaults()
register_networks()
register_datasets()
