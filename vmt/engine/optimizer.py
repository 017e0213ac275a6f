"""AdamW with the published groups of learning rates."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fvcore.common.config import CfgNode
from torch import nn
from torch.optim import AdamW, Optimizer

from vmt.utils.errors import ConfigError

#: Parameters whose learning rate is multiplied by a factor of SOLVER, by parts of their names; the
#: first row that fits counts (docs/reference/released_code.md#learning-rates).
GROUPS = (
    ("backbone", re.compile(r"(^|\.)backbone\."), "BACKBONE_FACTOR"),
    ("sampling", re.compile(r"(^|\.)(reference|sampling_offsets)\."), "SAMPLING_FACTOR"),
)
REST = "rest"
#: Of parts that a method adds to the published network, these are not decayed: a gate that starts
#: at zero must be free to open. The published network decays everything.
UNDECAYED = re.compile(r"\.(branch|mixer)\.(.*\.)?(gate|norm\d*)(\.|$)")


def parameter_groups(
    parameters: Iterable[tuple[str, nn.Parameter]], base_lr: float, factors: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Sort trainable parameters by learning rate.

    Args:
        parameters: names and parameters; frozen ones are left out.
        base_lr: learning rate of the rest.
        factors: SOLVER key -> factor.

    Returns:
        Groups for a torch optimizer with ``name``, ``params``, ``param_names``, ``lr`` and
        ``base_lr``; none is empty. The group of ``UNDECAYED`` has a ``weight_decay`` of 0.
    """
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in parameters:
        if not parameter.requires_grad:
            continue
        row = next((row for row in GROUPS if row[1].search(name)), None)
        title = row[0] if row is not None else REST
        free = UNDECAYED.search(name) is not None
        title += "_undecayed" if free else ""
        lr = base_lr * (factors[row[2]] if row is not None else 1.0)
        empty = {"name": title, "params": [], "param_names": [], "lr": lr, "base_lr": lr}
        group = groups.setdefault(title, empty | ({"weight_decay": 0.0} if free else {}))
        group["params"].append(parameter)
        group["param_names"].append(name)
    return list(groups.values())


def freeze(model: nn.Module, prefixes: Sequence[str]) -> None:
    """Let parameters stay as they are, by ``SOLVER.FREEZE``.

    Args:
        model: changed in place.
        prefixes: of parameter names.

    Raises:
        ConfigError: a prefix of no parameter, or nothing is left to train.
    """
    names = [name for name, _ in model.named_parameters()]
    for prefix in prefixes:
        if not any(name.startswith(prefix) for name in names):
            parts = ", ".join(dict.fromkeys(f"{name.split('.')[0]}." for name in names))
            raise ConfigError(
                f"SOLVER.FREEZE: no parameter of the network starts with {prefix!r}; its parts are "
                f"{parts}."
            )
    for name, parameter in model.named_parameters():
        if name.startswith(tuple(prefixes)):
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError(f"SOLVER.FREEZE {list(prefixes)} leaves nothing to train.")


def build_optimizer(cfg: CfgNode, model: nn.Module) -> AdamW:
    """AdamW over the trainable parameters of a network, by ``SOLVER``."""
    node = cfg.SOLVER
    factors = {key: float(node[key]) for _, _, key in GROUPS}
    groups = parameter_groups(model.named_parameters(), node.BASE_LR, factors)
    return AdamW(groups, lr=node.BASE_LR, weight_decay=node.WEIGHT_DECAY)


def set_factor(optimizer: Optimizer, factor: float) -> None:
    """Put every group at its base learning rate times ``factor``."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor


def parameter_names(optimizer: Optimizer) -> list[str]:
    """Names of all parameters in the order in which the optimizer's state counts them."""
    return [name for group in optimizer.param_groups for name in group["param_names"]]
