"""Fixtures of the commands."""

from __future__ import annotations

import pytest

from tests.cli.test_refine import Shave
from vmt.apps.refine import job


@pytest.fixture
def refiner(monkeypatch: pytest.MonkeyPatch) -> Shave:
    """In place of the network of ``vmt refine``: takes the outermost pixels off."""
    made = Shave()
    monkeypatch.setattr(job, "load_refiner", lambda options: made)
    return made
