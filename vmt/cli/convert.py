"""Convert a weight file between the published layout and ours.

Published files (.pth) become safetensors with our parameter names; our files become .pth files that
the published code loads. Nothing is lost on the way: entries that the network never reads are kept.

Example:
  vmt convert weights/checkpoint_r50_final.pth vmt_r50.safetensors
  vmt convert vmt_r50.safetensors checkpoint_r50.pth
"""

from __future__ import annotations

import argparse
from pathlib import Path

from vmt.checkpoint.files import SAFETENSORS, read_weights, write_weights
from vmt.checkpoint.key_maps.released import RELEASED, complete_released
from vmt.utils.errors import CheckpointError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``vmt convert``."""
    parser.add_argument("input", help="weight file of either layout")
    parser.add_argument("output", help=f"{SAFETENSORS} for our names, .pth for published names")


def run(args: argparse.Namespace) -> int:
    """Convert and say what was written."""
    file = read_weights(args.input)
    ours = file.ours()
    output = Path(args.output)
    metadata = {key: value for key, value in file.metadata.items() if key != "format"}
    if output.suffix == SAFETENSORS:
        state, layout = ours, "our names"
        write_weights(state, output, metadata)
    elif output.suffix in (".pth", ".pt"):
        conversion = RELEASED.to_released(ours)
        if conversion.unknown:
            raise CheckpointError(
                f"{args.input}: {len(conversion.unknown)} entries have no published name, first "
                f"{conversion.unknown[0]!r}; such a network exists only in our layout."
            )
        state, layout = conversion.state, "published names"
        complete_released(state)
        write_weights(state, output, metadata)
    else:
        raise CheckpointError(
            f"{output}: the suffix chooses the layout; give {SAFETENSORS} or .pth, "
            f"not {output.suffix or 'none'!r}."
        )
    print(f"{output}: {len(state)} entries under {layout}")
    return 0
