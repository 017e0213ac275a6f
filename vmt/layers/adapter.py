"""Parts that a method adds to a published network."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn


class Adapter(nn.Module):
    """A part that changes nothing as it is built, for instance behind a gate of zeros.

    A weight file that holds none of its entries still gives the network it was made for, so
    loading reports such a part as newly initialised and goes on. A file that holds some of its
    entries must hold all.
    """

    def undecayed(self) -> Iterator[str]:
        """Names of its parameters without weight decay: a gate must be free to open."""
        for name, part in self.named_modules():
            if isinstance(part, nn.LayerNorm):
                yield from (f"{name}.{parameter}" for parameter, _ in part.named_parameters())
        yield from (name for name, _ in self.named_parameters() if name.split(".")[-1] == "gate")
