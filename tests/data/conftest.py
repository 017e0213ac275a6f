from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from fvcore.common.config import CfgNode

from tests.synthetic import write_moving_shapes
from vmt.config.node import load_config

MakeConfig = Callable[..., CfgNode]

#: Small enough for tests to be quick; nothing else differs from the defaults.
TINY = {
    "INPUT.CLIP_FRAMES": 3,
    "INPUT.MIN_SIZE_TRAIN": [32, 40],
    "INPUT.MAX_SIZE_TRAIN": 64,
    "INPUT.CROP_MIN_SIZES": [40, 48],
    "INPUT.CROP_SIZE": [24, 40],
    "INPUT.LSJ_SIZE": [40, 56],
    "DATALOADER.NUM_WORKERS": 0,
    "SOLVER.CLIPS_PER_BATCH": 4,
}


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JSON of three videos of six frames of 48x64; read only."""
    return write_moving_shapes(tmp_path_factory.mktemp("shapes"), 3, 6, (48, 64), seed=0)


@pytest.fixture
def two_videos(tmp_path: Path) -> Path:
    """JSON of two videos of four frames of 32x48, for tests that damage it."""
    return write_moving_shapes(tmp_path / "two", 2, 4, (32, 48), seed=5)


@pytest.fixture(scope="session")
def make_config() -> MakeConfig:
    """Config with tiny sizes; keys with ``__`` for dots, ``train`` for a JSON beside JPEGImages."""

    def make(*, train: Path | list[str] | None = None, **values: Any) -> CfgNode:
        keys = TINY | {key.replace("__", "."): value for key, value in values.items()}
        if isinstance(train, Path):
            train = [f"{train}@{train.parent / 'JPEGImages'}"]
        if train is not None:
            keys["DATASETS.TRAIN"] = train
        words = [text for key, value in keys.items() for text in (key, yaml.safe_dump(value))]
        return load_config(None, words)

    return make
