"""What ``vmt convert`` and ``vmt zoo --download`` do: weight files into other layouts, and home."""

from __future__ import annotations

import sys
from pathlib import Path

from tqdm import tqdm

from vmt.checkpoint.download import Fetched, fetch
from vmt.checkpoint.files import SAFETENSORS, read_weights, write_weights
from vmt.checkpoint.key_maps.released import RELEASED, complete_released
from vmt.checkpoint.methods.base import ZooFile
from vmt.utils.errors import CheckpointError


def convert_weights(source: str, output: Path) -> str:
    """Convert a file of either layout; the suffix of ``output`` chooses the other.

    Returns:
        What was written, in a line.

    Raises:
        CheckpointError: the file cannot be read, has no published names, or the suffix says
            nothing.
        OutputError: ``output`` cannot be written.
    """
    file = read_weights(source)
    ours = file.ours()
    metadata = {key: value for key, value in file.metadata.items() if key != "format"}
    if output.suffix == SAFETENSORS:
        state, layout = ours, "our names"
        write_weights(state, output, metadata)
    elif output.suffix in (".pth", ".pt"):
        conversion = RELEASED.to_released(ours)
        if conversion.unknown:
            raise CheckpointError(
                f"{source}: {len(conversion.unknown)} entries have no published name, first "
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
    return f"{output}: {len(state)} entries under {layout}"


def fetch_with_bar(file: ZooFile, folder: Path, url: str | None) -> Fetched:
    """``fetch`` with a bar on standard error."""
    with tqdm(desc=file.file_name, unit="B", unit_scale=True, delay=0.5, file=sys.stderr) as bar:

        def progress(done: int, total: int | None) -> None:
            bar.total = total
            bar.update(done - bar.n)

        return fetch(file, folder, url, progress)
