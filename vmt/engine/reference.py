"""Arrays and numbers of a network under the names that published code's reference files have.

Inputs come from a file of arrays, results go into one (and, of a training step, into JSON); what
holds the two against each other lies with the reference files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vmt.checkpoint.key_maps.rows import KeyMap
from vmt.inference.association.reference import FIXTURES, associated_arrays
from vmt.layers.transformer import Attention
from vmt.modeling.video_model import FrameModel, ReferenceInputs
from vmt.utils.errors import ConfigError

Arrays = dict[str, NDArray[np.generic]]
Numbers = dict[str, dict[str, float]]


def run_network(
    model: FrameModel, inputs: ReferenceInputs, key_map: KeyMap | None
) -> tuple[Arrays, Numbers]:
    """One pass over the inputs; a step of training where they hold labels.

    Args:
        model: on its device.
        inputs: see ``FrameModel.reference_outputs``.
        key_map: gives the published names of gradients; None: our names.

    Returns:
        Arrays; and ``losses`` and ``gradient_norms``, both empty but for training.
    """
    training = "labels_0" in inputs
    model.train(training)
    without_dropout(model)
    with torch.set_grad_enabled(training):
        outputs = model.reference_outputs(inputs)
    numbers: Numbers = {"losses": {}, "gradient_norms": {}}
    if training:
        total = torch.stack([outputs.weights[k] * v for k, v in outputs.losses.items()]).sum()
        total.backward()
        numbers["losses"] = {k: float(v.detach()) for k, v in outputs.losses.items()}
        numbers["gradient_norms"] = gradient_norms(model, key_map)
    arrays = dict(outputs.arrays)
    if outputs.frames:
        arrays |= associated_arrays(model.association, outputs.frames, inputs)
    return {name: to_numpy(name, value) for name, value in arrays.items()}, numbers


def run_fixture(name: str, inputs: ReferenceInputs) -> Arrays:
    """What needs no network.

    Args:
        name: of ``FIXTURES``.
        inputs: its arrays.

    Raises:
        ConfigError: no such fixture.
    """
    if name not in FIXTURES:
        raise ConfigError(f"--fixture {name}: choose {', '.join(sorted(FIXTURES))}.")
    return {key: to_numpy(key, value) for key, value in FIXTURES[name](inputs).items()}


def without_dropout(model: nn.Module) -> None:
    """Turn off every dropout, in training too."""
    for part in model.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
        elif isinstance(part, (nn.MultiheadAttention, Attention)):
            part.dropout = 0.0


def gradient_norms(model: nn.Module, key_map: KeyMap | None) -> dict[str, float]:
    """L2 norm of every gradient, by published name; parameters without one are left out."""
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    named = gradients if key_map is None else key_map.to_released(gradients).state
    return {name: float(value.double().norm()) for name, value in named.items()}


def to_numpy(name: str, value: Tensor) -> NDArray[np.generic]:
    """An array as the reference files hold it: masks of results as bits along the last axis."""
    array: NDArray[np.generic] = value.detach().cpu().numpy()
    if array.dtype == np.bool_ and "result_masks" in name:
        return np.packbits(array.astype(np.bool_), axis=-1)
    return array


def write_outputs(
    path: str | Path, arrays: Mapping[str, NDArray[np.generic]], numbers: Numbers | None = None
) -> None:
    """The arrays, and beside them a JSON of the numbers if there are any."""
    path = Path(path)
    with path.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
    if numbers and numbers["losses"]:
        path.with_suffix(".json").write_text(json.dumps(numbers, indent=1) + "\n")
