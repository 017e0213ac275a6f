"""Inference and scores."""

from __future__ import annotations

from fvcore.common.config import CfgNode as Node

from vmt.config.keys import sections


def add_keys(cfg: Node) -> None:
    """Add them."""
    sections(cfg, "TEST")
    # Frames per window; 0 = the whole video at once, as the release runs [R].
    cfg.TEST.WINDOW = 0
    # Step between windows; 0 = WINDOW - 1 [D].
    cfg.TEST.STRIDE = 0
    # (query, class) pairs kept per clip [R].
    cfg.TEST.TOP_K = 10
    # Frames per pass through backbone, encoder and refiner; bounds memory, changes no result. -1:
    # as many as a quarter of the GPU's memory holds, 2 on a CPU; 0: all.
    cfg.TEST.FRAME_CHUNK = -1
    # "fp32"; "tf32": a GPU rounds the factors of products to 10 bits; "bf16", "fp16": autocast.
    cfg.TEST.PRECISION = "fp32"
    # On a GPU, replay backbone to decoder out of a CUDA graph for windows of one size; costs the
    # memory of a window once more.
    cfg.TEST.GRAPH = False
    # Overlay and CSV show tracks from this score on; results.json keeps all.
    cfg.TEST.CONFIDENCE = 0.3
    # Steps between evaluations during training; 0: only at the end.
    cfg.TEST.EVAL_PERIOD = 0
    # Metrics of cocoapi_hq for results that are scored; of images "image_mask" and "image_box", of
    # BDD100K MOTS bdd_mots and frame_ap (and hota) in place of tube metrics; empty: no scoring.
    cfg.TEST.METRICS = ["tube_mask", "tube_boundary"]
    # Rules of scoring: hq_ytvis, ovis, ...; empty: by the fields of the annotations.
    cfg.TEST.PROTOCOL = ""
    # The number that decides which weights are the best: metric/number.
    cfg.TEST.BEST_METRIC = "tube_mask/AP"
    # Scores of objects of images are multiplied by the mean probability of their masks, as
    # Mask2Former and MaskDINO do.
    cfg.TEST.MASK_QUALITY = True
    # Also write results.zip, as the evaluation servers take it: JSON, of BDD100K MOTS bitmasks.
    cfg.TEST.ZIP = False
    # A video that cannot be read is logged and left out; False: it ends the evaluation.
    cfg.TEST.SKIP_BROKEN_VIDEOS = False
    # [data set, metric/number, value, tolerance] rows that an evaluation must meet (AP: 0 to 1).
    cfg.TEST.EXPECTED_RESULTS = []
