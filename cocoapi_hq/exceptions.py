"""The one error that bad input can cause in this package."""

from __future__ import annotations


class ScoringError(ValueError):
    """Input that cannot be scored: the message names the file, the place, the value and the fix."""
