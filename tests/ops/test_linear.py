"""Linear layers through oneDNN give what torch gives."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from vmt.ops import linear as module
from vmt.ops.linear import linear


def expected(x, weight, bias, relu):
    out = x.double() @ weight.double().t() + (0 if bias is None else bias.double())
    return (out.relu() if relu else out).float()


@torch.no_grad()
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("shape", [(5, 7), (2, 3, 4, 7), (0, 7)])
@pytest.mark.parametrize("has_bias", [True, False])
def test_values(relu: bool, shape: tuple[int, ...], has_bias: bool) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(shape), torch.randn(11, 7)
    bias = torch.randn(11) if has_bias else None
    for value in (x, x.transpose(0, -2).contiguous().transpose(0, -2)):
        out = linear(value, weight, bias, relu=relu)
        torch.testing.assert_close(out, expected(value, weight, bias, relu))
    assert (x.numel() == 0) or (out < 0).any() != relu


def test_gradients_and_other_types_are_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    real = module._ONEDNN

    def counted(*args):
        called.append(args)
        return real(*args)

    monkeypatch.setattr(module, "_ONEDNN", counted)
    x, weight, bias = torch.randn(3, 4), torch.randn(5, 4, requires_grad=True), torch.randn(5)
    out = linear(x, weight, bias, relu=True)
    out.sum().backward()
    assert weight.grad is not None
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            assert linear(x, weight, bias).dtype == torch.bfloat16
        double = linear(x.double(), weight.double(), bias.double())
        assert torch.equal(double, F.linear(x.double(), weight.double(), bias.double()))
        assert not called
        linear(x, weight, bias)
    assert len(called) == 1


def test_without_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ONEDNN", None)
    x, weight, bias = torch.randn(3, 4), torch.randn(5, 4), torch.randn(5)
    with torch.no_grad():
        assert torch.equal(linear(x, weight, bias, relu=True), F.linear(x, weight, bias).relu())
