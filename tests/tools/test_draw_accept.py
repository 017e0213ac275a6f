"""The picture that explains ``--accept``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import load_tool


def test_a_panel_per_value_between_what_was_given_and_the_confidence(tmp_path: Path) -> None:
    pytest.importorskip("skimage")
    tool = load_tool("draw_accept")
    path = tmp_path / "accept.png"
    assert tool.main(["--output", str(path), "--values", "0.5", "0.99"]) == 0
    picture = np.asarray(Image.open(path).convert("RGB"))
    width = tool.PART[1].stop - tool.PART[1].start + 4
    assert picture.shape == (tool.PART[0].stop + 24, 4 * width, 3)
    given, low, high, sure = (picture[:-24, k * width : (k + 1) * width - 4] for k in range(4))
    changed = [np.count_nonzero((given != other).any(2)) for other in (low, high)]
    assert changed[0] > changed[1] > 0
    assert (sure[..., 0] == sure[..., 1]).all()
    assert sure.min() >= 127
    assert np.median(sure) == 255
