"""Which network, from which weights, and its backbone."""

from __future__ import annotations

from fvcore.common.config import CfgNode as Node

from vmt.config.keys import sections


def add_keys(cfg: Node) -> None:
    """Add them."""
    sections(cfg, "MODEL.BACKBONE")
    # "released": frames of a clip, augmentation, clips of images, invisible targets and the
    # stretch of masks to the video as in the published code (docs/reference/released_code.md), not
    # ours [S][R]; "none": ours [D].
    cfg.COMPAT = "none"
    # Name in the registry META_ARCHITECTURES.
    cfg.MODEL.META_ARCHITECTURE = "VideoMaskTransfiner"
    # "auto" takes a GPU when there is one; or any torch device name.
    cfg.MODEL.DEVICE = "auto"
    # Weight file: published layout (.pth) or ours (.safetensors). Empty: random weights, which no
    # frozen backbone may start a training with unless NEW_PARAMETERS says so.
    cfg.MODEL.WEIGHTS = ""
    # Prefixes of our parameter names that start a training newly initialised: a weight file may
    # lack them. Without WEIGHTS, "backbone." says that a random backbone is meant.
    cfg.MODEL.NEW_PARAMETERS = []
    # Which classes the head predicts; a name of vmt.data.datasets.categories.
    cfg.MODEL.LABEL_SPACE = "ytvis_2019"

    # resnet50, resnet101, swin_l_p4w12, or timm/<any timm name with feature maps>.
    cfg.MODEL.BACKBONE.NAME = "resnet50"
    # ImageNet weights through timm at construction (needs the network or a cache).
    cfg.MODEL.BACKBONE.PRETRAINED = False
    # Stages whose weights stay fixed, counted from the stem; 2 = conv1 and layer1 [S].
    cfg.MODEL.BACKBONE.FREEZE_STAGES = 2
    # timm networks only: "frozen" batch norm, "folded" into convolutions, which are trained, or
    # "group" norm, which learns from random weights; channels of the stages (none: the network's
    # own) [D].
    cfg.MODEL.BACKBONE.NORM = "frozen"
    cfg.MODEL.BACKBONE.WIDTHS = []
