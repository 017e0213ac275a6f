"""Every config trains: one step on synthetic clips, and each part of the network learns from it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from tests.engine.clips import CONFIGS
from tests.recipes import SMALL
from tests.synthetic import shape_clip
from vmt.config.node import load_config
from vmt.data.labels import resolve_label_space
from vmt.engine.adversarial import build_adversary
from vmt.engine.lr_schedule import Schedule
from vmt.engine.optimizer import build_optimizer
from vmt.engine.train_loop import StepOptions, Trainer
from vmt.modeling.frame_training import SharpenableModel
from vmt.modeling.meta_arch.build import build_network

#: Every kind of network once; test_recipes.py trains every file, and some at their published size.
FILES = [
    *(f"hq_ytvis/{name}_R50.yaml" for name in ("seqformer", "vmt", "msts")),
    *("hq_ytvis/vmt_R50_released.yaml", "hq_ytvis/vmt_SwinL.yaml", "ytvis_2019/msts_vmt_R50.yaml"),
    "ytvis_2019/msts_vmt_R50_released.yaml",
    *sorted(f"quick/{path.name}" for path in (CONFIGS / "quick").glob("*.yaml")),
    *sorted(f"refine/{path.name}" for path in (CONFIGS / "refine").glob("*.yaml")),
]


@pytest.mark.parametrize("name", FILES)
def test_one_step(name: str) -> None:
    path = Path(CONFIGS) / name
    words = ["MODEL.DEVICE", "cpu"]
    if name.startswith(("hq_ytvis", "ytvis")) and "Swin" not in name:
        words += [word for pair in SMALL.items() for word in pair]
    cfg = load_config(path, words)
    torch.manual_seed(0)
    model = build_network(cfg, resolve_label_space(cfg.MODEL.LABEL_SPACE, path.parent))
    clip = shape_clip(2, (64, 96), 0)
    clip["coarse"] = clip["targets"].masks.roll(3, -1)  # for networks that are given masks
    before = {key: value.clone() for key, value in model.state_dict().items()}
    trainer = Trainer(
        model,
        build_optimizer(cfg, model),
        Schedule(1),
        lambda start: iter([[clip]]),
        torch.device("cpu"),
        options=StepOptions(1, cfg.SOLVER.CLIP_GRADIENTS, cfg.ENGINE.PRECISION),
        adversary=build_adversary(cfg, torch.device("cpu")),
    )
    assert trainer.train()
    assert math.isfinite(sum(trainer.last.losses.values()))
    assert math.isfinite(trainer.last.gradient_norm)
    refines = cfg.MODEL.REFINER.NAME != "none"
    tracklets = cfg.MODEL.META_ARCHITECTURE == "RefineVIS"  # refined over time
    of_tracks = refines and isinstance(model, SharpenableModel)
    names = set(trainer.last.losses)
    assert ("loss_refiner_mask_refine" in names) == of_tracks
    assert ("loss_mask_refine" in names) == (tracklets or (refines and not of_tracks))
    after = model.state_dict()
    moved = {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])}
    parts = {"backbone", "neck", "encoder", "decoder", "heads", "coarse"}
    if cfg.MODEL.META_ARCHITECTURE == "MaskDINO":
        parts = parts - {"coarse"} | {"pixel_map", "selection", "denoising"}
    if cfg.MODEL.META_ARCHITECTURE == "IDOL":
        parts = parts - {"coarse"} | {"masks", "association_head"}
    if cfg.MODEL.META_ARCHITECTURE == "MinVIS":
        parts = parts - {"coarse"} | {"pixel_map"}
    if cfg.MODEL.META_ARCHITECTURE.startswith("QDTrack"):
        parts = {"backbone", "neck", "rpn", "roi_heads", "embedding"}
        parts |= {"region_query"} if refines else set()
    if tracklets:
        own = cfg.MODEL.REFINEVIS.FRAME_MODEL == "IDOL"  # it brings the head of association
        parts = {"frame_model", "tar"} | (set() if own else {"association_head"})
    if cfg.MODEL.META_ARCHITECTURE == "QueryMaskRefiner":
        parts = set()
    if cfg.MODEL.META_ARCHITECTURE == "MaskRefiner":
        parts = {"backbone", "laterals", "fuse", "stride2", "query"}
        parts |= {"dense"} if cfg.MODEL.MASK_REFINER.DENSE_WEIGHT else set()
        if cfg.MODEL.MASK_REFINER.DETAIL_WIDTHS:
            unheard = {"backbone", "laterals", "fuse"}  # until the weight of their sum is not 0
            parts, moved = parts - unheard | {"detail"}, moved - unheard
        parts |= {"coarseness"} if cfg.MODEL.MASK_REFINER.COARSENESS_WEIGHT else set()
    assert moved == parts | ({"refiner"} if refines else set())
