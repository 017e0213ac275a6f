"""Pairs of configs that differ in one key, and the small networks and clips they are tried on.

Every test of this folder shows that a config key changes what it says it changes. ``shows`` gives
the test the two configs and notes the key; ``test_every_key`` fails when a key has no test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import yaml
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from tests.engine.clips import CONFIGS
from vmt.config.node import load_config
from vmt.data.labels import resolve_label_space
from vmt.layers import feed_forward
from vmt.layers.feed_forward import FeedForward
from vmt.modeling.meta_arch.build import build_network

#: Keys that have a test.
SHOWN: set[str] = set()
#: The quick SeqFormer, smaller.
TINY = (
    "MODEL.DEVICE", "cpu", "MODEL.BACKBONE.WIDTHS", "[16, 16, 16, 16]",
    "MODEL.SEQFORMER.HIDDEN_DIM", "32", "MODEL.SEQFORMER.FFN_DIM", "32",
    "MODEL.SEQFORMER.ENCODER_LAYERS", "1", "MODEL.SEQFORMER.NUM_QUERIES", "6",
    "MODEL.SEQFORMER.NUM_POINTS", "2", "MODEL.SEQFORMER.DROPOUT", "0.0",
    "MODEL.REFINER.EMBED_DIM", "16", "MODEL.REFINER.NUM_HEADS", "2", "MODEL.REFINER.FFN_DIM", "32",
    "MODEL.REFINER.NUM_LAYERS", "1", "MODEL.REFINER.DROPOUT", "0.0",
    "TEST.WINDOW", "0", "DATALOADER.NUM_WORKERS", "0", "ENGINE.TENSORBOARD", "false",
)  # fmt: skip
#: The value is known in the test only, for instance a file.
LATER = object()


@dataclass(frozen=True)
class Pair:
    """A config with and without a change; both hold ``TINY`` and ``common``.

    Args:
        key: what is changed.
        value: to what, or ``LATER``.
        common: alternating keys and values of both.
    """

    key: str
    value: Any
    common: tuple[str, ...] = ()

    def configs(self, *extra: Any) -> tuple[CfgNode, CfgNode]:
        """Without and with the change; ``extra`` are more keys and values of both."""
        words = [*TINY, *self.common, *map(str, extra)]
        path = CONFIGS / "quick" / "seqformer_tiny.yaml"
        base = load_config(path, words)
        changed = load_config(path, [*words, self.key, yaml.safe_dump(self.value)])
        assert base != changed, f"{self.key} is {self.value!r} in both"
        return base, changed

    def to(self, value: Any, *extra: Any) -> tuple[CfgNode, CfgNode]:
        """``configs`` for a value that is known now."""
        return Pair(self.key, value, self.common).configs(*extra)

    def __iter__(self) -> Iterator[CfgNode]:
        return iter(self.configs())


def shows(key: str, value: Any, *common: Any) -> Callable[[Callable[..., None]], Any]:
    """Give a test the argument ``pair``: see ``Pair``."""
    SHOWN.add(key)
    pair = Pair(key, value, tuple(map(str, common)))
    return pytest.mark.parametrize("pair", [pytest.param(pair, id=key)])


def shows_each(
    rows: dict[str, tuple[Any, ...]], names: str, *common: Any
) -> Callable[[Callable[..., None]], Any]:
    """One test for several keys.

    Args:
        rows: key -> its value, then what the test expects of it.
        names: of the arguments behind ``pair``.
        common: see ``Pair``.
    """
    SHOWN.update(rows)
    params = [
        pytest.param(Pair(key, value, tuple(map(str, common))), *rest, id=key)
        for key, (value, *rest) in rows.items()
    ]
    return pytest.mark.parametrize(f"pair,{names}", params)


def network(cfg: CfgNode) -> Any:
    """What a training builds, with the same random weights whenever shapes are the same."""
    torch.manual_seed(0)
    return build_network(cfg, resolve_label_space(cfg.MODEL.LABEL_SPACE))


def outline(cfg: CfgNode) -> Any:
    """``network`` without memory behind its parameters: shapes alone, in less time."""
    with torch.device("meta"):
        return build_network(cfg, resolve_label_space(cfg.MODEL.LABEL_SPACE))


def record_hidden_types(
    layer: FeedForward, types: list[torch.dtype], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Append the type of the hidden numbers of a feed-forward part each time it computes."""
    linear = feed_forward.linear

    def recording(x: Tensor, weight: Tensor, bias: Tensor | None, *, relu: bool = False) -> Tensor:
        out = linear(x, weight, bias, relu=relu)
        if weight is layer.linear1.weight:
            types.append(out.dtype)
        return out

    monkeypatch.setattr(feed_forward, "linear", recording)


def dropouts(part: nn.Module) -> set[float]:
    """Probabilities of all dropout layers."""
    return {m.p for m in part.modules() if isinstance(m, nn.Dropout)}
