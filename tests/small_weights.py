"""Weights of ``vmt_small`` that are made in a test: its network, tiny and random."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from vmt.checkpoint.files import write_weights
from vmt.config.node import load_config
from vmt.config.summary import dump_changes
from vmt.inference import package_detector
from vmt.inference.load import load_model

#: Small, and ready to find whatever there is.
TINY = (
    "MODEL.BACKBONE.NAME", "timm/test_efficientnet", "MODEL.MOTS.DIM", "32",
    "MODEL.MOTS.FC_DIM", "32", "MODEL.MOTS.EMBED_DIM", "16", "MODEL.MOTS.SCORE", "0.0",
    "MODEL.MOTS.DETECTIONS", "3", "INPUT.MIN_SIZE_TEST", "64",
    "TEST.QUASI_DENSE.INIT_SCORE", "0.0", "TEST.QUASI_DENSE.OBJECT_SCORE", "0.0",
    "TEST.CONFIDENCE", "0.0", "MODEL.DEVICE", "cpu",
)  # fmt: skip


def ship(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    """Put such weights where the package looks for its own; returns the file."""
    monkeypatch.setattr(package_detector, "FOLDER", folder)
    folder.mkdir()
    torch.manual_seed(0)
    model = load_model(package_detector.RECIPE, overrides=TINY)
    state = model.state_dict()
    state["roi_heads.mask_predictor.mask_fcn_logits.bias"] += 2.0  # masks are whole boxes
    halves = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    write_weights(halves, package_detector.weights_file())
    cfg = load_config(package_detector.RECIPE, TINY)
    (folder / "config.yaml").write_text(dump_changes(cfg))
    return package_detector.weights_file()
