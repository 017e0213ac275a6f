"""Registers operators with torch under ``vmt::``.

``torch.library.custom_op`` would do, at twice the cost of a call: its wrappers of Python check what
is known here, that no argument is written to and no output is an input.
"""

from collections.abc import Callable
from typing import Any

import torch

NAMESPACE = "vmt"
#: Where nothing but a device is left to dispatch to: no mode, no tracing, no other kind of tensor.
_DEVICES = (torch._C.DispatchKey.CPU, torch._C.DispatchKey.CUDA)
_LIBRARY = torch.library.Library(NAMESPACE, "FRAGMENT")


def define(
    schema: str,
    run: Callable[..., Any],
    fake: Callable[..., Any],
    *,
    backward: Callable[..., Any] | None = None,
    setup_context: Callable[..., Any] | None = None,
) -> Any:
    """Define an operator.

    Args:
        schema: name, arguments and results, as torch writes them.
        run: does the work, on any device; the results must be new tensors.
        fake: makes results of the right shapes without data.
        backward: (context, gradients of the results) -> a gradient or None per argument; None: the
            operator has no derivative.
        setup_context: (context, arguments, results) keeps what ``backward`` needs.

    Returns:
        What calls it.
    """
    name = schema.partition("(")[0]
    _LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    _LIBRARY.impl(name, run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"{NAMESPACE}::{name}", fake, lib=_LIBRARY)
    op = getattr(getattr(torch.ops, NAMESPACE), name).default
    if backward is not None:
        assert setup_context is not None, "a gradient needs what the operator was called with"
        kernel = _autograd_kernel(op, run, backward, setup_context)
        _LIBRARY.impl(name, kernel, "Autograd", with_keyset=True)
    return op


def _autograd_kernel(
    op: Any,
    run: Callable[..., Any],
    backward: Callable[..., Any],
    setup_context: Callable[..., Any],
) -> Callable[..., Any]:
    """What ``torch.library.register_autograd`` makes, for operators without optional arguments.

    That one looks up the defaults of the schema in every call, and goes through the dispatcher
    once more where only ``run`` can come.
    """

    def below(keyset: Any, *args: Any) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            if keyset.highestPriorityTypeId() in _DEVICES:
                return run(*args)
            return op.redispatch(keyset, *args)

    class Gradient(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *args: Any) -> Any:
            inputs, keyset = args[:-1], args[-1]
            output = below(keyset, *inputs)
            setup_context(ctx, inputs, output)
            return output

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            return *backward(ctx, *grads), None

    def kernel(keyset: Any, *args: Any) -> Any:
        keyset = keyset & torch._C._after_autograd_keyset
        if torch.is_grad_enabled() and torch._C._any_requires_grad(*args):
            return Gradient.apply(*args, keyset)
        return below(keyset, *args)

    return kernel
