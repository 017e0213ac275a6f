"""Parts that a method adds to a published network."""

from __future__ import annotations

from torch import nn


class Addition(nn.Module):
    """A part that changes nothing as it is built, for instance behind a gate of zeros.

    A weight file that holds none of its entries still gives the network it was made for, so
    loading reports such a part as newly initialised and goes on. A file that holds some of its
    entries must hold all.
    """
