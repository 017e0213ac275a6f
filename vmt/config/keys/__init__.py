"""Every config key with its default, unit and source, by method. Nothing else defines a default.

A module here has a function ``add_keys(cfg)``; ``defaults`` finds it. Sources: [S] SeqFormer code,
[R] released VMT code, [P] VMT paper, [V] SeqFormer's detectron2 port, [D] our decision
(docs/decisions.md).
"""

from __future__ import annotations

from fvcore.common.config import CfgNode as Node


def sections(cfg: Node, *names: str) -> None:
    """Make the sections that are missing, each with those above it."""
    for name in names:
        node = cfg
        for part in name.split("."):
            node = node.setdefault(part, Node())
