"""What a GPU would be asked for, counted on a CPU: launches, and waits of the host.

The CPU's tensors are taken for a GPU's, but for those that a program would have in the memory of
the host: made without a device, read from numpy, brought back by ``cpu``, and what is computed from
such alone.
"""

from __future__ import annotations

import weakref
from collections import Counter
from types import TracebackType
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

#: Operators without a kernel: they allocate, or say anew how memory lies.
FREE = frozenset(
    [
        "empty",
        "empty_strided",
        "empty_like",
        "new_empty",
        "new_empty_strided",
        "_unsafe_view",
        "_reshape_alias",
        "detach",
        "lift_fresh",
        "resolve_conj",
        "resolve_neg",
        "set_",
        "resize_",
    ]
)
#: Operators whose answer, or whose size, the host must read.
ANSWERS = frozenset(
    [
        "_local_scalar_dense",
        "equal",
        "nonzero",
        "masked_select",
        "_unique2",
        "unique_dim",
        "unique_consecutive",
        "bincount",
        "is_nonzero",
    ]
)
#: Methods that bring a tensor to the host.
TO_HOST = frozenset(("cpu", "tolist", "numpy", "__array__"))
#: Functions that make a tensor, in the host's memory where no device is named.
MAKERS = frozenset(
    [
        "tensor",
        "as_tensor",
        "zeros",
        "ones",
        "full",
        "arange",
        "empty",
        "rand",
        "randn",
        "randint",
        "linspace",
        "eye",
    ]
)


class DeviceCounts(TorchFunctionMode):
    """Counts launches and waits of what runs inside.

    Attributes:
        launches: by operator.
        waits: by what made the host wait; copies to the device too, of Python numbers and of what
            lies in the host's memory, unless they are said not to block.
        uploads: copies to the device that are said not to block: a CUDA graph would read the
            host's memory again, whatever lies there then.
    """

    def __init__(self) -> None:
        super().__init__()
        self.launches: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        self.uploads = 0
        self._operators = _Operators(self)
        # torch hands this one to no mode
        read = torch.from_numpy
        self._patch = mock.patch.object(torch, "from_numpy", lambda x: self.on_host(read(x)))
        self._making = False  # in the memory of the host
        self._host: dict[int, weakref.ref[Tensor]] = {}

    def on_host(self, tensor: Tensor) -> Tensor:
        """Take a tensor for one in the memory of the host."""
        self._host[id(tensor)] = weakref.ref(tensor)
        return tensor

    def is_on_host(self, tensor: Tensor) -> bool:
        """Whether it is taken for one."""
        known = self._host.get(id(tensor))
        return known is not None and known() is tensor

    def __enter__(self) -> DeviceCounts:
        super().__enter__()
        self._patch.start()
        self._operators.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._operators.__exit__(kind, error, trace)
        self._patch.stop()
        super().__exit__(kind, error, trace)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        source = args[0] if args and isinstance(args[0], Tensor) else None
        if source is not None and name in TO_HOST:
            return self._to_host(name, source, func, args, kwargs)
        if source is not None and name in ("to", "cuda") and self._names_device(args, kwargs):
            # one device on a CPU: what was on the host goes up, all else stays
            moved = func(*args, **kwargs)
            goes_up = moved is source and self.is_on_host(source)
            if goes_up and kwargs.get("non_blocking"):
                self.uploads += 1
            elif goes_up:
                self.waits["upload"] += 1
            return torch.ops.aten.alias(moved) if goes_up else moved
        if name in MAKERS and kwargs.get("device") is None:
            return self._make_on_host(func, args, kwargs)
        if name in ("tensor", "as_tensor", "new_tensor"):
            self.waits["from Python"] += 1
        if source is not None and name in ("__getitem__", "__setitem__", "copy_"):
            if self.is_on_host(source):  # lists become tensors that nobody else sees
                return self._make_on_host(func, args, kwargs)
            self._count_uploads(args[1:], kwargs)
        return func(*args, **kwargs)

    def _count_uploads(self, values: Any, kwargs: Any) -> None:
        """Indices, and what is written, are copied to the device first, and waited for."""
        if kwargs.get("non_blocking"):
            return
        for value in tree_leaves(values, is_leaf=lambda leaf: isinstance(leaf, list)):
            if isinstance(value, list) or (isinstance(value, Tensor) and self.is_on_host(value)):
                self.waits["upload"] += 1

    def _make_on_host(self, func: Any, args: Any, kwargs: Any) -> Any:
        self._making, before = True, self._making
        try:
            out = func(*args, **kwargs)
        finally:
            self._making = before
        return self.on_host(out) if isinstance(out, Tensor) else out

    def _to_host(self, name: str, source: Tensor, func: Any, args: Any, kwargs: Any) -> Any:
        if self.is_on_host(source):
            return func(*args, **kwargs)
        self.waits[name] += 1
        out = func(*args, **kwargs)
        return self.on_host(torch.ops.aten.alias(out)) if isinstance(out, Tensor) else out

    @staticmethod
    def _names_device(args: Any, kwargs: Any) -> bool:
        named = kwargs.get("device") is not None
        return named or any(isinstance(value, str | torch.device) for value in args[1:])

    def operator(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        """Note an operator that ran."""
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if self._making or (inputs and all(self.is_on_host(leaf) for leaf in inputs)):
            if str(func) != "aten.alias.default":
                for leaf in tree_leaves(out):
                    if isinstance(leaf, Tensor):
                        self.on_host(leaf)
            return
        name = func.overloadpacket.__name__
        by_mask = name in ("index", "index_put", "index_put_") and any(
            isinstance(leaf, Tensor) and leaf.dtype == torch.bool for leaf in tree_leaves(args[1])
        )
        if name in ANSWERS or by_mask:
            self.waits[name] += 1
        if not func.is_view and name not in FREE:
            self.launches[name] += 1


class _Operators(TorchDispatchMode):
    """Hands every operator to the counts."""

    def __init__(self, counts: DeviceCounts) -> None:
        super().__init__()
        self._counts = counts

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        with self:  # in inference mode, operators that are made of others come whole
            out = func.decompose(*args, **kwargs)
        if out is NotImplemented:
            out = func(*args, **kwargs)
            self._counts.operator(func, args, kwargs, out)
        return out
