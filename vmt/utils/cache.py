"""Where things lie that are made or fetched once: compiled kernels, published weights."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

CACHE_VARIABLE: Final = "VMT_CACHE_DIR"


def cache_dir() -> Path:
    """The folder: VMT_CACHE_DIR, otherwise ~/.cache/vmt."""
    configured = os.environ.get(CACHE_VARIABLE, "").strip()
    return Path(configured).expanduser() if configured else Path("~/.cache/vmt").expanduser()
