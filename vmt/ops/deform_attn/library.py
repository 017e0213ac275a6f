"""Registers operators with torch under ``vmt::``.

``torch.library.custom_op`` would do, at twice the cost of a call: its wrappers of Python check what
is known here, that no argument is written to and no output is an input.
"""

from collections.abc import Callable
from typing import Any

import torch

NAMESPACE = "vmt"
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
        backward: gradients, for ``torch.library.register_autograd``; None: it has none.
        setup_context: keeps what ``backward`` needs.

    Returns:
        What calls it.
    """
    name = schema.partition("(")[0]
    _LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    _LIBRARY.impl(name, run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"{NAMESPACE}::{name}", fake, lib=_LIBRARY)
    if backward is not None:
        torch.library.register_autograd(
            f"{NAMESPACE}::{name}", backward, setup_context=setup_context, lib=_LIBRARY
        )
    return getattr(getattr(torch.ops, NAMESPACE), name).default
