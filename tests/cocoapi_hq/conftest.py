from __future__ import annotations

import pytest

from cocoapi_hq.io import native


@pytest.fixture(params=["kernel", "numpy"])
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a test with the C++ kernel and again without it."""
    if request.param == "kernel" and native.kernel() is None:
        pytest.skip("the kernel was not built")
    monkeypatch.setenv(native.DISABLE_VARIABLE, "1" if request.param == "numpy" else "")
    return str(request.param)
