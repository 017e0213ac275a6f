"""Which of the things in a training file are the weights, and their names without wrapping.

Frameworks put the state dict under a key (``model``, ``state_dict``), averages of it beside it, and
in front of every name the attribute that held the network: ``module.``, ``model.``, ``_orig_mod.``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vmt.checkpoint.unpickle import Placeholder
from vmt.utils.errors import CheckpointError

#: Keys of a state dict, in the order in which they are taken.
STATE_KEYS = ("model", "state_dict", "model_state_dict", "model_state", "module", "network", "net")
#: Words of keys and prefixes that stand for a moving average.
_AVERAGES = ("ema", "swa")
#: Attributes that hold a network; none of our names and of the published ones begins so.
_PREFIXES = ("module.", "model.", "network.", "net.", "_forward_module.")
_COMPILED = "_orig_mod."


def unwrap(content: Any, source: str) -> tuple[dict[str, Tensor], dict[str, str], list[str]]:
    """Find the weights in what a file holds.

    Args:
        content: of the file.
        source: named in messages.

    Returns:
        The state dict under plain names, what stands beside it as text, and remarks on what was
        taken and what was left.

    Raises:
        CheckpointError: there are no weights, or several and none under a known key.
    """
    if isinstance(content, Placeholder):
        raise CheckpointError(
            f"{source}: holds an object of another program, not weights; save its state dict."
        )
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"{source}: holds a {type(content).__name__}, not a state dict or {{'model': ...}}."
        )
    notes: list[str] = []
    state, where = _find(content, source, notes)
    rest = {} if where is content else content
    metadata = {str(k): str(v) for k, v in rest.items() if isinstance(v, str | int | float | bool)}
    if isinstance(rest.get("categories"), list):  # of our checkpoints: what the rows of heads are
        metadata["categories"] = json.dumps(rest["categories"])
    return _plain_names(state, source, notes), metadata, notes


def _tensors(value: Any) -> dict[str, Tensor]:
    """Entries of a mapping that are tensors or arrays of numbers."""
    if not isinstance(value, Mapping):
        return {}
    entries = {}
    for name, entry in value.items():
        if isinstance(entry, np.ndarray) and entry.dtype.kind in "fiub":
            entry = torch.from_numpy(entry.copy())
        if isinstance(entry, Tensor) and isinstance(name, str):
            entries[name] = entry
    return entries


def _is_average(key: str) -> bool:
    return any(word in key.lower().replace(".", "_").split("_") for word in _AVERAGES)


def _find(
    content: Mapping[Any, Any], source: str, notes: list[str]
) -> tuple[dict[str, Tensor], Any]:
    """The state dict, and the mapping that it is."""
    known = [key for key in STATE_KEYS if isinstance(content.get(key), Mapping)]
    own = _tensors(content)
    if not known and own:
        return own, content
    others = [key for key, value in content.items() if key not in known and _tensors(value)]
    averages = [str(key) for key in others if _is_average(str(key))]
    nested = [
        f"{key}.{name}"
        for key, value in content.items()
        if key not in STATE_KEYS and isinstance(value, Mapping)
        for name, inner in value.items()
        if _is_average(str(name)) and _tensors(inner)
    ]
    if known:
        chosen: Any = known[0]
    elif len(averages) == 1:
        chosen = averages[0]
        notes.append(f"{chosen!r} is taken, an average of the weights; there are no others")
    elif len(others) == 1:
        chosen = others[0]
    else:
        keys = ", ".join(map(repr, list(content)[:8])) or "nothing"
        raise CheckpointError(
            f"{source}: holds no tensors under a key that stands for weights ({keys}); it is not "
            "a weight file, or save the state dict alone."
        )
    if known and (left := [*averages, *nested]):
        notes.append(
            f"{chosen!r} is taken; an average of the weights is there too, {', '.join(left)}"
        )
    inside = content[chosen]
    state = _tensors(inside)
    if not state and inside and any(isinstance(value, Mapping) for value in inside.values()):
        return _find(inside, f"{source}: {chosen}", notes)
    return state, inside


def _plain_names(state: Mapping[str, Tensor], source: str, notes: list[str]) -> dict[str, Tensor]:
    averages = {name for name in state if _is_average(name.partition(".")[0])}
    if averages and averages != set(state):
        notes.append(
            f"{len(averages)} entries of an average of the weights are left, first "
            f"{min(averages)!r}"
        )
        state = {name: value for name, value in state.items() if name not in averages}
    elif averages:
        state = {name.partition(".")[2] or name: value for name, value in state.items()}
    plain: dict[str, Tensor] = {}
    for name, value in state.items():
        short = name.replace(_COMPILED, "")
        while prefix := next((p for p in _PREFIXES if short.startswith(p)), ""):
            short = short.removeprefix(prefix)
        if short in plain:
            raise CheckpointError(
                f"{source}: holds {short!r} twice, under two prefixes; save one network alone."
            )
        plain[short] = value
    return plain
