"""detectron2's checkpointer with our weight files: both layouts, safetensors, strict."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils import comm
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from vmt.checkpoint.files import SAFETENSORS, write_weights
from vmt.checkpoint.load import load_weights
from vmt.config.summary import dump_changes
from vmt.engine.run import CONFIG, LABELS, categories_of
from vmt.engine.start_weights import start_training
from vmt.plugins.detectron2.network import VideoNetwork
from vmt.utils.atomic import make_folder, write_text
from vmt.utils.errors import CheckpointError

logger = logging.getLogger(__name__)

#: Folder of OUTPUT_DIR with what ``vmt`` itself reads.
OURS = "vmt"


class VideoCheckpointer(DetectionCheckpointer):
    """Loads whatever ``vmt`` loads, and refuses what does not fit where detectron2 warns.

    ``MODEL.WEIGHTS`` may be a published file (renamed by our key maps), safetensors, a checkpoint
    of ``vmt train`` or of detectron2. Checkpoints of a training are detectron2's, ``model_*.pth``;
    at its end ``vmt/`` of the output folder gets ``model_final.safetensors``, ``config.yaml`` and
    ``label_space.json`` for ``vmt demo``.

    Args:
        model: a ``VideoNetwork``, or DDP around one.
        save_dir: for checkpoints.
        start: weights start a training: ``VMT.MODEL.NEW_PARAMETERS`` may be missing from them, and
            without weights the config must mean it.
        **options: as of ``DetectionCheckpointer``.
    """

    def __init__(
        self, model: nn.Module, save_dir: str = "", *, start: bool = False, **options: Any
    ) -> None:
        super().__init__(model, save_dir, **options)
        inner = model.module if isinstance(model, DistributedDataParallel) else model
        assert isinstance(inner, VideoNetwork), "built by META_ARCH_REGISTRY"
        self._video, self._start = inner, start

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Weights alone (``checkpointables`` is empty), or a checkpoint to go on from.

        Raises:
            CheckpointError: missing, unreadable, or of another network.
            ConfigError: nothing to start from where the config expects weights.
        """
        network, cfg = self._video.network, self._video.vmt_cfg.clone()
        if checkpointables is None or checkpointables:
            if not Path(path).is_file():
                raise CheckpointError(f"{path}: no such checkpoint.")
            report = load_weights(network, path)
            if report.unexpected:
                raise CheckpointError(
                    f"{path}: belongs to another network, which has {report.unexpected[0]!r} and "
                    f"{len(report.unexpected) - 1} more entries; resume with the config it was "
                    "made by."
                )
            content: dict[str, Any] = super().load(path, checkpointables)
            return content
        cfg.defrost()
        cfg.MODEL.WEIGHTS = path
        if self._start:
            start_training(cfg, network)
        elif path:
            logger.info(load_weights(network, path).text())
        else:
            logger.warning("MODEL.WEIGHTS is empty: random weights, whose masks mean nothing.")
        return {}

    def save(self, name: str, **kwargs: Any) -> None:
        """Write a checkpoint; at the end of a training also what ``vmt`` reads."""
        super().save(name, **kwargs)
        if name.endswith("_final") and comm.is_main_process() and self.save_to_disk:
            write_vmt_folder(self._video, Path(self.save_dir) / OURS, name)


def write_vmt_folder(model: VideoNetwork, folder: Path, name: str) -> None:
    """Weights, config and classes of a network, as ``vmt train`` leaves them.

    Args:
        model: the network.
        folder: made if need be.
        name: of the weight file.
    """
    network, cfg = model.network, model.vmt_cfg.clone()
    cfg.defrost()
    cfg.MODEL.LABEL_SPACE, cfg.MODEL.WEIGHTS = LABELS, ""
    cfg.MODEL.BACKBONE.PRETRAINED = False
    classes = {"categories": categories_of(network.label_space)}
    write_text(make_folder(folder) / CONFIG, dump_changes(cfg))
    write_text(folder / LABELS, json.dumps(classes, indent=1))
    metadata = {"categories": json.dumps(classes["categories"])}
    write_weights(network.state_dict(), folder / f"{name}{SAFETENSORS}", metadata)
