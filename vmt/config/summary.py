"""A config in a few lines: network, data, schedule, and the keys that differ from the defaults."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml
from fvcore.common.config import CfgNode as Node

from vmt.config.defaults import PRESETS, default_config
from vmt.config.node import merge_values


def summary(cfg: Node) -> list[tuple[str, str]]:
    """Name and text of what a person asks first.

    Args:
        cfg: a config with every key.
    """
    model, solver = cfg.MODEL, cfg.SOLVER
    parts = {
        "refiner": model.REFINER.NAME,
        "encoder adapter": model.SEQFORMER.ENCODER_ADAPTER,
        "decoder adapter": model.SEQFORMER.DECODER_ADAPTER,
        "adversary": model.ADVERSARY,
    }
    used = ", ".join(f"{name} {value}" for name, value in parts.items() if value != "none")
    length = f"{solver.MAX_STEPS} steps" if solver.MAX_STEPS else f"{solver.EPOCHS} epochs"
    return [
        ("network", f"{model.META_ARCHITECTURE}{f' ({used})' if used else ''}"),
        ("backbone", str(model.BACKBONE.NAME)),
        ("classes", str(model.LABEL_SPACE)),
        ("weights", model.WEIGHTS or "none: random"),
        ("train", ", ".join(map(str, cfg.DATASETS.TRAIN)) or "no data set is named"),
        ("test", ", ".join(map(str, cfg.DATASETS.TEST)) or "no data set is named"),
        ("schedule", f"{length}, {solver.CLIPS_PER_BATCH} clips a step, rate {solver.BASE_LR:g}"),
    ]


def changed_keys(cfg: Node) -> list[tuple[str, Any, Any]]:
    """Name, value and default of every key whose value is not its default, in their order.

    The default of a key that a preset gives a value is that value.
    """
    presets = {name: value for name, value in _leaves(cfg) if name in PRESETS}
    base, plain = default_config(), dict(_leaves(default_config()))
    merge_values(base, presets, "preset")
    defaults = dict(_leaves(base)) | {name: plain[name] for name in presets}
    return [
        (name, value, defaults[name]) for name, value in _leaves(cfg) if value != defaults[name]
    ]


def dump_changes(cfg: Node) -> str:
    """YAML of ``changed_keys``: what ``load_config`` needs to make the same config again."""
    tree: dict[str, Any] = {}
    for name, value, _ in changed_keys(cfg):
        *path, leaf = name.split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[leaf] = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(tree, default_flow_style=None, width=100) if tree else ""


def _leaves(node: Node, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, Node):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
