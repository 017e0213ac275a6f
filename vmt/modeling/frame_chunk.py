"""How many frames go through a network together: ``TEST.FRAME_CHUNK``."""

from __future__ import annotations

import torch
from fvcore.common.config import CfgNode

from vmt.ops.resize import network_size
from vmt.utils.device import resolve_device

#: On a CPU: more would be no faster.
CPU_FRAMES = 2
#: Memory of a frame between backbone and refined masks, in bytes per pixel of the network's input;
#: 350 MB at 352x640, several times what the widest maps of ResNet-50 and Swin-L take.
BYTES_PER_PIXEL = 1600
#: Share of a GPU's memory for it: weights, what is kept of every frame, and others have the rest.
GPU_SHARE = 1 / 4
#: Shape that frames are taken to have, (h, w).
WIDE = (9, 16)


def frame_chunk(cfg: CfgNode) -> int:
    """``TEST.FRAME_CHUNK``, or for -1 what the memory of ``MODEL.DEVICE`` holds; at least 1.

    Raises:
        ConfigError: no such device here.
    """
    asked = int(cfg.TEST.FRAME_CHUNK)
    if asked >= 0:
        return asked
    device = resolve_device(cfg.MODEL.DEVICE)
    if device.type != "cuda":
        return CPU_FRAMES
    memory = torch.cuda.get_device_properties(device).total_memory
    h, w = network_size(*WIDE, cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)
    return max(int(memory * GPU_SHARE) // (h * w * BYTES_PER_PIXEL), 1)
