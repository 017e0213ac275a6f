"""Tiny networks to export."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import fx

from vmt.inference.load import load_model
from vmt.modeling.video_model import VideoModel

#: (H, W) of the frames, which networks pad, and T.
SIZE, FRAMES = (56, 88), 2
#: (H, W) of cut-outs.
CROP = (64, 96)


#: One layer each, in networks whose graphs are long in the making.
SHALLOW = [
    word
    for section in ("SEQFORMER", "CONDINST", "MASKDINO", "MASK2FORMER")
    for layers in ("ENCODER_LAYERS", "DECODER_LAYERS")
    for word in (f"MODEL.{section}.{layers}", "1")
]


def network(config: str, overrides: Sequence[str] = ()) -> VideoModel:
    """In evaluation mode, no weight of which is zero: fresh box heads say nothing."""
    torch.manual_seed(0)
    overrides = ["MODEL.DEVICE", "cpu", "TEST.FRAME_CHUNK", "0", *overrides]
    model = load_model(config, overrides=overrides)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn(parameter.shape)
    return model


def weights_of(config: str, folder: Path, overrides: Sequence[str] = ()) -> Path:
    """A weight file of such a network."""
    path = folder / "weights.pth"
    torch.save({"model": network(config, overrides).state_dict()}, path)
    return path


def operators_of(program: torch.export.ExportedProgram) -> set[str]:
    """All operators, of regions inside it too."""
    graphs = [part for part in program.graph_module.modules() if isinstance(part, fx.GraphModule)]
    nodes = (node for graph in graphs for node in graph.graph.nodes)
    return {str(node.target) for node in nodes if node.op == "call_function"}
