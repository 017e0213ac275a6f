"""Clips, data sets and the processes that read them."""

from __future__ import annotations

from fvcore.common.config import CfgNode as Node

from vmt.config.keys import sections


def add_keys(cfg: Node) -> None:
    """Add them."""
    sections(cfg, "INPUT", "DATASETS", "DATALOADER")
    # Short side at test time and bound of the long side, in pixels; 0 = no bound [R].
    cfg.INPUT.MIN_SIZE_TEST = 360
    cfg.INPUT.MAX_SIZE_TEST = 0

    # Frames per training clip, T [S].
    cfg.INPUT.CLIP_FRAMES = 5
    # Which frames join the key frame: "local_global" (near neighbours and frames from afar, all
    # different while the video has enough), "range" (any frames within SAMPLER_RANGE), or "span"
    # (no two of them further apart than that; for two frames the same).
    cfg.INPUT.SAMPLER = "local_global"
    # Frames to either side of the key frame, for "range" [V]; the span, for "span" and for the
    # times at which the views of an image are said to lie.
    cfg.INPUT.SAMPLER_RANGE = 20
    # How an image becomes a clip: "camera", a move of the camera over it [D]; "copies" of it, which
    # LSJ_DRAW frame makes different (RefineVIS, arXiv:2306.04774, section 4.1).
    cfg.INPUT.STILLS = "camera"
    # How often objects of another image, drawn from all sets alike, are pasted into an image, where
    # they move by a camera path of their own (arXiv:2012.07177) [D].
    cfg.INPUT.COPY_PASTE_PROB = 0.0
    # "default": flip, resize or crop and resize, colours, one draw per clip; "lsj": large-scale
    # jitter; "none": resize alone.
    cfg.INPUT.AUGMENTATION = "default"
    # Probability of a horizontal flip of the whole clip [S].
    cfg.INPUT.FLIP_PROB = 0.5
    # Probability of colour changes in "default" and "lsj" [D].
    cfg.INPUT.COLOR_PROB = 0.8
    # Short sides of which one is drawn per clip, and bound of the long side (0: none), pixels [S].
    cfg.INPUT.MIN_SIZE_TRAIN = [288, 320, 352, 392, 416, 448, 480, 512]
    cfg.INPUT.MAX_SIZE_TRAIN = 768
    # Probability of a crop before that resize; the short sides it starts from, and the least and
    # greatest side of the crop, pixels [S].
    cfg.INPUT.CROP_PROB = 0.5
    cfg.INPUT.CROP_MIN_SIZES = [400, 500, 600]
    cfg.INPUT.CROP_SIZE = [384, 600]
    # "lsj": (h, w) in pixels of the window, padded on the right and below, and the range of the
    # scale relative to what fits into it [D].
    cfg.INPUT.LSJ_SIZE = [480, 768]
    cfg.INPUT.LSJ_SCALE = [0.5, 2.0]
    # "lsj" flips, scales and cuts all frames of a clip alike ("clip"), or each by itself ("frame":
    # RefineVIS on clips of images).
    cfg.INPUT.LSJ_DRAW = "clip"
    # Images with more objects are left out of training; 0: none is [S].
    cfg.INPUT.MAX_IMAGE_OBJECTS = 25
    # For a mask refiner: what makes its input coarse, one drawn per tracklet: kinds of
    # `vmt degrade` and "clean", as often as named; kind:LEAST:MOST draws the amount. None: samples
    # have no coarse masks [D].
    cfg.INPUT.DEGRADE = []
    # Where there are coarse masks: consecutive frames of a clip that are learned from, drawn once
    # their neighbours have had their say (MODEL.MASK_REFINER.VOTES_REACH); 0: all [D].
    cfg.INPUT.LEARN_FRAMES = 0

    # Folder of the data sets; empty: $DETECTRON2_DATASETS, or ./datasets.
    cfg.DATASETS.ROOT = ""
    # Names of vmt/data/datasets/splits.py, or path/to.json@path/to/images.
    cfg.DATASETS.TRAIN = []
    cfg.DATASETS.TEST = []
    # Share of clips per training set, any positive numbers; empty: every key frame once per epoch,
    # all sets shuffled together [S].
    cfg.DATASETS.RATIOS = []
    # Per training set a map of vmt/data/datasets/categories.py (COCO to the target), or ""; empty:
    # no maps. What a map lacks is dropped.
    cfg.DATASETS.CATEGORY_MAPS = []
    # Key of the masks; empty: as the split says. Falls back to "segmentations" where absent [R].
    cfg.DATASETS.MASK_KEY = ""
    # How categories of a file find their label: "name" (case and -_ do not matter), "id", or "any"
    # (class-agnostic: every category is label 0).
    cfg.DATASETS.CLASS_MATCH = "name"
    # Categories that the label space lacks: "fail" or "drop" (their objects count as background).
    cfg.DATASETS.UNKNOWN_CLASSES = "fail"

    # Processes that prepare clips, per training process; 0: the training process itself.
    cfg.DATALOADER.NUM_WORKERS = 2
    # A frame that is missing or damaged, masks that are: "skip" (named, counted, another clip is
    # drawn) or "fail".
    cfg.DATALOADER.ON_ERROR = "skip"
