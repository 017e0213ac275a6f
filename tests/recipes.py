"""Recipes of ``configs/`` in seconds: every key of size made small, the rest as it stands."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from unittest import mock

import pytest

REPO = Path(__file__).resolve().parents[1]
#: What makes a published network and its clips small. Random weights are meant.
SMALL = {
    "MODEL.BACKBONE.NAME": "timm/resnet10t",
    "MODEL.BACKBONE.WIDTHS": "[8,16,24,32]",
    "MODEL.NEW_PARAMETERS": "['backbone.','frame_model.backbone.']",
    "MODEL.SEQFORMER.HIDDEN_DIM": "32",
    "MODEL.SEQFORMER.NUM_HEADS": "4",
    "MODEL.SEQFORMER.FFN_DIM": "32",
    "MODEL.SEQFORMER.ENCODER_LAYERS": "1",
    "MODEL.SEQFORMER.DECODER_LAYERS": "1",
    "MODEL.SEQFORMER.NUM_QUERIES": "6",
    "MODEL.MASKDINO.DIM": "32",
    "MODEL.MASKDINO.NUM_HEADS": "4",
    "MODEL.MASKDINO.ENCODER_FFN_DIM": "32",
    "MODEL.MASKDINO.DECODER_FFN_DIM": "32",
    "MODEL.MASKDINO.ENCODER_LAYERS": "1",
    "MODEL.MASKDINO.DECODER_LAYERS": "1",
    "MODEL.MASKDINO.NUM_QUERIES": "6",
    "MODEL.MASKDINO.DN_QUERIES": "8",
    "MODEL.CONDINST.DIM": "32",
    "MODEL.CONDINST.NUM_HEADS": "4",
    "MODEL.CONDINST.FFN_DIM": "32",
    "MODEL.CONDINST.ENCODER_LAYERS": "1",
    "MODEL.CONDINST.DECODER_LAYERS": "1",
    "MODEL.CONDINST.NUM_QUERIES": "6",
    "MODEL.MASK2FORMER.DIM": "32",
    "MODEL.MASK2FORMER.NUM_HEADS": "4",
    "MODEL.MASK2FORMER.ENCODER_FFN_DIM": "32",
    "MODEL.MASK2FORMER.DECODER_FFN_DIM": "32",
    "MODEL.MASK2FORMER.ENCODER_LAYERS": "1",
    "MODEL.MASK2FORMER.DECODER_LAYERS": "1",
    "MODEL.MASK2FORMER.NUM_QUERIES": "6",
    "MODEL.REFINEVIS.NUM_HEADS": "4",
    "MODEL.REFINEVIS.FFN_DIM": "32",
    "MODEL.MOTS.DIM": "32",
    "MODEL.MOTS.FC_DIM": "32",
    "MODEL.MOTS.HEAD_CONVS": "1",
    "MODEL.MOTS.EMBED_DIM": "16",
    "MODEL.MOTS.PROPOSALS": "100",
    "MODEL.MOTS.BOX_SAMPLES": "64",
    "MODEL.REFINER.NUM_LAYERS": "1",
    "MODEL.REFINER.FFN_DIM": "32",
}
#: What makes clips small and the training one step.
SHORT = {
    "INPUT.MIN_SIZE_TRAIN": "[64]",
    "INPUT.MAX_SIZE_TRAIN": "96",
    "INPUT.CROP_MIN_SIZES": "[64]",
    "INPUT.CROP_SIZE": "[48,64]",
    "INPUT.LSJ_SIZE": "[64,96]",
    "INPUT.MIN_SIZE_TEST": "64",
    "INPUT.CLIP_FRAMES": "3",
    "SOLVER.CLIPS_PER_BATCH": "2",
    "SOLVER.MAX_STEPS": "1",
    "DATALOADER.NUM_WORKERS": "0",
    "ENGINE.TENSORBOARD": "false",
}


def train(
    config: Path, output: Path, data: Path, *options: str, small: bool = True, **keys: str
) -> int:
    """``tools/train_net.py`` as a person runs it, in this process.

    Args:
        config: YAML.
        output: folder.
        data: root of ``make_tiny_datasets``.
        options: of the command, for instance ``--eval-only``.
        small: with a small network.
        keys: config keys and values, above ``SMALL`` and ``SHORT``.

    Returns:
        The exit status.
    """
    settings = SHORT | (SMALL if small else {}) | keys
    words = [word for pair in settings.items() for word in pair]
    script = str(REPO / "tools/train_net.py")
    arguments = ["--config-file", str(config), "--output", str(output), "--num-gpus", "0"]
    with (
        mock.patch.object(sys, "argv", [script, *arguments, *options, *words]),
        mock.patch.dict("os.environ", {"DETECTRON2_DATASETS": str(data)}),
        pytest.raises(SystemExit) as ended,
    ):
        runpy.run_path(script, run_name="__main__")
    return int(ended.value.code or 0)
