"""Tests whose numbers are a CPU's never see a GPU."""

from __future__ import annotations

import os

import pytest
import torch

from tests.conftest import asks_for_gpus


@pytest.mark.parametrize(
    ("expression", "asked"),
    [
        ("", False),
        ("not slow", False),
        ("not cuda", False),
        ("cuda", True),
        ("cuda and not slow", True),
    ],
)
def test_only_the_mark_shows_the_gpu(expression: str, asked: bool) -> None:
    assert asks_for_gpus(expression) == asked


def test_this_run_sees_no_gpu(request: pytest.FixtureRequest) -> None:
    if asks_for_gpus(request.config.option.markexpr):
        pytest.skip("pytest -m cuda")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
    assert not torch.cuda.is_available()
