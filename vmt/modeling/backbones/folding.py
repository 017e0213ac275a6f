"""Frozen norms as a part of the convolutions in front of them, where no gradient is asked for."""

from __future__ import annotations

from collections.abc import Iterable
from copy import copy
from functools import partial
from typing import Any

import torch
from timm.layers.norm_act import FrozenBatchNormAct2d
from torch import Tensor, fx, nn

from vmt.modeling.backbones.base import FROZEN_NORMS, Backbone


def fold_frozen_norms(model: nn.Module) -> int:
    """Let the backbones of a network do without their frozen norms at inference.

    Weights, their names and what training computes stay as they are: a norm is folded when a
    forward pass asks for no gradient, from the weights of that moment. Where another layer reads
    the map between convolution and norm, the norm becomes one multiplication and addition.

    Args:
        model: changed in place; where a backbone has no frozen norms, or its graph cannot be
            traced, nothing happens.

    Returns:
        Norms that are part of a convolution now.
    """
    count = 0
    for part in model.modules():
        if isinstance(part, Backbone):
            count += _fold(part)
    return count


def _fold(backbone: Backbone) -> int:
    pairs = _pairs(backbone)
    behind = {norm for _, norm in pairs}
    for conv, norm in pairs:
        _replace_forward(conv, partial(_convolve, conv, _Folded(norm, conv)))
        _replace_forward(norm, partial(_normalise, norm, None))
    for part in backbone.modules():
        if isinstance(part, FROZEN_NORMS) and part not in behind:
            _replace_forward(part, partial(_normalise, part, _Folded(part)))
    return len(pairs)


class _Folded:
    """Scale and shift of a norm, or the convolution that has them; made anew when weights change.

    Args:
        norm: frozen.
        conv: in front of it; None: the norm stands alone.
    """

    def __init__(self, norm: nn.Module, conv: nn.Module | None = None) -> None:
        self._norm, self._conv = norm, conv
        self._made_of: list[tuple[int, int]] | None = None
        self._made: Any = None

    def __call__(self) -> Any:
        """The convolution, or (1, C, 1, 1) scale and shift."""
        made_of = self._state()
        if made_of is None or made_of != self._made_of:
            with torch.inference_mode(False), torch.no_grad():
                self._made = self._make()
            self._made_of = made_of
        return self._made

    def _state(self) -> list[tuple[int, int]] | None:
        """What changes with the weights; None: they were made in inference mode and do not say."""
        values = list(self._tensors())
        if any(value.is_inference() for value in values):
            return None
        return [(value.data_ptr(), value._version) for value in values]

    def _tensors(self) -> Iterable[Tensor]:
        parts = [self._norm] if self._conv is None else [self._norm, self._conv]
        for part in parts:
            for values in (part._parameters, part._buffers):
                yield from (value for value in values.values() if value is not None)

    def _make(self) -> Any:
        names = ("weight", "bias", "running_mean", "running_var")
        weight, bias, mean, var = (getattr(self._norm, name).double() for name in names)
        scale = weight * (var + self._norm.eps).rsqrt()
        shift = bias - mean * scale
        if self._conv is None:
            return [x.to(self._norm.weight.dtype)[None, :, None, None] for x in (scale, shift)]
        kernel: Any = self._conv.weight
        if self._conv.bias is not None:
            shift = shift + self._conv.bias * scale
        folded = copy(self._conv)
        folded.__dict__.pop("forward")  # that of its class
        folded._parameters = {
            "weight": _fixed(kernel * scale[:, None, None, None], kernel),
            "bias": _fixed(shift, kernel),
        }
        return folded


def _fixed(value: Tensor, like: Tensor) -> nn.Parameter:
    return nn.Parameter(value.to(like.dtype), requires_grad=False)


def _folds() -> bool:
    """Whether nobody asks for gradients, or for a graph that outlives the weights."""
    return not (torch.is_grad_enabled() or torch.compiler.is_compiling())


def _convolve(conv: nn.Module, folded: _Folded, x: Tensor) -> Tensor:
    out: Tensor = folded()(x) if _folds() else type(conv).forward(conv, x)
    return out


def _normalise(norm: nn.Module, alone: _Folded | None, x: Tensor) -> Tensor:
    if not _folds():
        out: Tensor = type(norm).forward(norm, x)
        return out
    if alone is not None:
        scale, shift = (value.to(x.dtype) for value in alone())
        x = torch.addcmul(shift, x, scale)
    return norm.act(norm.drop(x)) if isinstance(norm, FrozenBatchNormAct2d) else x


def _replace_forward(part: nn.Module, forward: Any) -> None:
    setattr(part, "forward", forward)  # noqa: B010 (no method for the type checker)


class _Tracer(fx.Tracer):
    """Looks into no convolution and no norm."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        own = isinstance(m, (nn.Conv2d, *FROZEN_NORMS))
        return own or super().is_leaf_module(m, module_qualified_name)


def _pairs(backbone: Backbone) -> list[tuple[nn.Module, nn.Module]]:
    """Convolutions whose map a frozen norm reads, and nobody else."""
    if not any(isinstance(part, FROZEN_NORMS) for part in backbone.modules()):
        return []
    for network in (backbone, getattr(backbone, "body", None)):
        if not isinstance(network, nn.Module):
            continue
        try:
            graph = _Tracer().trace(network)
        except Exception:  # noqa: BLE001 (whatever a network's code says of a symbol)
            continue
        return _pairs_of(graph, network)
    return []


def _pairs_of(graph: fx.Graph, network: nn.Module) -> list[tuple[nn.Module, nn.Module]]:
    calls = [node for node in graph.nodes if node.op == "call_module"]
    times = {str(node.target): 0 for node in calls}
    for node in calls:
        times[str(node.target)] += 1
    pairs: list[tuple[nn.Module, nn.Module]] = []
    for node in calls:
        norm, source = network.get_submodule(str(node.target)), node.args[0]
        if not isinstance(norm, FROZEN_NORMS) or not isinstance(source, fx.Node):
            continue
        conv = network.get_submodule(str(source.target)) if source.op == "call_module" else None
        once = times[str(node.target)] == 1 and times.get(str(source.target)) == 1
        if isinstance(conv, nn.Conv2d) and once and len(source.users) == 1:
            pairs.append((conv, norm))
    return pairs
