r"""Write a network as a graph that runs without VMT: ONNX, or a program of torch.export.

The graph is the dense part of the network; a JSON of the same name says what goes in, what comes
out, and what is left to do behind it. The number of clips, or of frames for networks that see
frame by frame, stays open; all other sizes are fixed.

Example:
  vmt export --config-file configs/ytvis_2019/seqformer_R50.yaml \
      --weights weights/seqformer_r50.pth --frames 5 --size 360x640 --output seqformer.onnx --check
"""

from __future__ import annotations

import argparse
from pathlib import Path


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r}: give HEIGHTxWIDTH in pixels, as 360x640")
    return int(height), int(width)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``vmt export``."""
    parser.add_argument(
        "--config-file",
        required=True,
        help="YAML of the network, or a name that `vmt configs` lists",
    )
    parser.add_argument("--weights", help="weight file; default: MODEL.WEIGHTS of the config")
    parser.add_argument("--format", default="onnx", help="onnx (default) or torch_export")
    parser.add_argument(
        "--output", required=True, type=Path, help="file to write: .onnx or, of torch, .pt2"
    )
    parser.add_argument(
        "--frames", type=int, default=5, help="of a clip, where the network takes clips (5)"
    )
    parser.add_argument(
        "--size", type=_size, default=(360, 640), help="of the frames: HEIGHTxWIDTH (360x640)"
    )
    parser.add_argument("--opset", type=int, default=20, help="of ONNX: 18 to 20 (20)")
    parser.add_argument(
        "--check", action="store_true", help="run it beside ours; status 1 if they disagree"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY VALUE", help="config keys: TEST.TOP_K 20"
    )


def run(args: argparse.Namespace) -> int:
    """Export, and say what was written; 1 if a check does not hold."""
    from vmt.apps.export import ExportOptions, export

    exported = export(ExportOptions(**vars(args)))
    print(exported.text())
    return 0 if exported.agrees else 1
