"""AdamW or SGD with the groups of learning rates that a model declares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fvcore.common.config import CfgNode
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from vmt.modeling.video_model import VideoModel
from vmt.utils.errors import ConfigError

REST = "rest"
#: Of SGD, as two-stage detectors are published.
MOMENTUM = 0.9


def parameter_groups(model: VideoModel, solver: CfgNode) -> list[dict[str, Any]]:
    """Sort trainable parameters by learning rate and weight decay.

    Args:
        model: its ``lr_groups`` and ``undecayed`` say which parameters are special.
        solver: ``SOLVER``, whose factors multiply ``BASE_LR``.

    Returns:
        Groups for a torch optimizer with ``name``, ``params``, ``param_names``, ``lr`` and
        ``base_lr``; none is empty. Those of ``undecayed`` have a ``weight_decay`` of 0.
    """
    factors, undecayed = model.lr_groups(), model.undecayed()
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        key = next((key for prefix, key in factors.items() if name.startswith(prefix)), None)
        title = key.removesuffix("_FACTOR").lower() if key is not None else REST
        decay = {"weight_decay": 0.0} if name in undecayed else {}
        title += "_undecayed" if decay else ""
        lr = solver.BASE_LR * (float(solver[key]) if key is not None else 1.0)
        empty = {"name": title, "params": [], "param_names": [], "lr": lr, "base_lr": lr}
        group = groups.setdefault(title, empty | decay)
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


def build_optimizer(cfg: CfgNode, model: VideoModel) -> Optimizer:
    """``SOLVER.OPTIMIZER`` over the trainable parameters of a network.

    Raises:
        ConfigError: an unknown name.
    """
    solver = cfg.SOLVER
    groups, rates = parameter_groups(model, solver), (solver.BASE_LR, solver.WEIGHT_DECAY)
    if solver.OPTIMIZER == "adamw":
        # One kernel for all parameters; sharded ones and a CPU take torch's own choice.
        on_gpu = all(type(p) is nn.Parameter and p.is_cuda for p in model.parameters())
        fused = True if on_gpu else None
        return AdamW(groups, lr=rates[0], weight_decay=rates[1], fused=fused)
    if solver.OPTIMIZER == "sgd":
        return SGD(groups, lr=rates[0], momentum=MOMENTUM, weight_decay=rates[1])
    raise ConfigError(f"SOLVER.OPTIMIZER is {solver.OPTIMIZER!r}; choose adamw or sgd.")


def set_factor(optimizer: Optimizer, factor: float) -> None:
    """Put every group at its base learning rate times ``factor``."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor


def parameter_names(optimizer: Optimizer) -> list[str]:
    """Names of all parameters in the order in which the optimizer's state counts them."""
    return [name for group in optimizer.param_groups for name in group["param_names"]]
