"""What PRECISION means: switches of torch inside, and as before outside; places stay in fp32."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from tests.engine.clips import make_trainer, quick_config
from vmt.layers.dynamic_conv import apply_dynamic_layers
from vmt.layers.ms_deform_attn import MSDeformAttn
from vmt.modeling.meta_arch.build import build_model
from vmt.modeling.refiners.quadtree.detector import IncoherenceDetector
from vmt.structures.boxes import inverse_sigmoid
from vmt.structures.labels import LabelSpace
from vmt.utils.errors import ConfigError
from vmt.utils.precision import arithmetic, checked_precision, fp32_products

CPU = torch.device("cpu")
SPACE = LabelSpace("two", ("a", "b"), (1, 2))


def switches() -> tuple[bool, bool, bool]:
    """TF32 in products, TF32 in convolutions, autocast."""
    cuda = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    return *cuda, torch.is_autocast_enabled("cpu")


@pytest.fixture(params=[(False, True), (True, False)])
def before(request: pytest.FixtureRequest) -> Iterator[tuple[bool, bool]]:
    """Whatever the switches were; the first row is torch's default."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    default = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32, cudnn.allow_tf32 = request.param
    yield request.param
    matmul.allow_tf32, cudnn.allow_tf32 = default


#: Precision -> switches inside.
INSIDE = {
    "fp32": (False, False, False),
    "tf32": (True, True, False),
    "bf16": (False, False, True),
    "fp16": (False, False, True),
}


@pytest.mark.parametrize("precision", INSIDE)
def test_switches_inside_and_outside(precision: str, before: tuple[bool, bool]) -> None:
    with arithmetic(precision, CPU):
        assert switches() == INSIDE[precision]
    assert switches() == (*before, False)
    with pytest.raises(ZeroDivisionError), fp32_products(precision):
        _ = 1 / 0
    assert switches() == (*before, False)


@pytest.mark.parametrize("precision", INSIDE)
def test_a_clip_is_segmented_under_test_precision(
    precision: str, before: tuple[bool, bool]
) -> None:
    cfg = quick_config("seqformer_tiny", "TEST.PRECISION", precision, "ENGINE.PRECISION", "tf32")
    model = build_model(cfg, SPACE).eval()
    seen = []
    model.backbone.register_forward_hook(lambda *_: seen.append(switches()))
    model.segment_clip(torch.zeros(1, 3, 32, 32))
    assert seen == [INSIDE[precision]]
    assert switches() == (*before, False)


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_a_step_is_made_under_engine_precision(precision: str, before: tuple[bool, bool]) -> None:
    """In the backward pass too, where autocast has no part."""
    cfg = quick_config("seqformer_tiny", "ENGINE.PRECISION", precision, "TEST.PRECISION", "fp16")
    trainer = make_trainer(cfg, 1, 1)
    forward, backward = [], []
    head = trainer.model.heads["cls"][0]
    head.register_forward_hook(lambda *_: forward.append(switches()))
    head.register_full_backward_hook(lambda *_: backward.append(switches()))
    trainer.train()
    assert forward == [INSIDE[precision]]
    assert backward == [(*INSIDE[precision][:2], False)]
    assert switches() == (*before, False)


def test_an_unknown_precision_is_refused_by_its_key() -> None:
    with pytest.raises(ConfigError, match=r"TEST\.PRECISION 'fp8' is unknown; .* fp32, tf32, bf16"):
        build_model(quick_config("seqformer_tiny", "TEST.PRECISION", "fp8"), SPACE)
    assert checked_precision("tf32", "X") == "tf32"


# --- places -------------------------------------------------------------------------------------


class Calls(TorchDispatchMode):
    """Types of what goes into convolutions, by channels of their kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions: dict[int, set[torch.dtype]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.ops.aten.convolution.default, torch.ops.aten.conv2d.default):
            self.convolutions.setdefault(args[1].shape[1], set()).add(args[0].dtype)
        return func(*args, **(kwargs or {}))


def test_boxes_are_fp32_under_autocast() -> None:
    """Each layer's boxes from its own queries, computed again without autocast."""
    cfg = quick_config("seqformer_tiny", "TEST.PRECISION", "bf16")
    torch.manual_seed(0)
    model = build_model(cfg, SPACE).eval()
    for head in model.heads["box"]:
        nn.init.normal_(head.layers[2].weight)
    frames = torch.rand(2, 3, 64, 96)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        features = model.encode(frames, num_frames=2)
        states = model.decoder(features.memory, features.levels, 2, model.heads["box"])
    with torch.no_grad():
        reference = model.decoder.reference(model.decoder.query_pos).sigmoid()
        reference = reference.expand(1, 2, -1, -1)
        for state, head in zip(states, model.heads["box"], strict=True):
            torch.testing.assert_close(state.centres, reference[..., :2], rtol=0, atol=1e-6)
            delta = head(state.box_query.float())
            delta[..., : reference.shape[-1]] += inverse_sigmoid(reference)
            reference = delta.sigmoid()
            torch.testing.assert_close(state.boxes, reference, rtol=0, atol=1e-6)


def test_sampling_places_are_fp32_under_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    attention = MSDeformAttn(16, 1, 2, 2)
    nn.init.normal_(attention.sampling_offsets.weight)
    query, value = torch.randn(1, 5, 16), torch.randn(1, 300, 16)
    reference = torch.rand(1, 5, 1, 2)
    seen: list[Tensor] = []

    def spy(values: Tensor, shapes: Any, offsets: Tensor, logits: Tensor, points: Tensor) -> Tensor:
        assert points is reference
        seen.append(offsets)
        return values.new_zeros(1, 5, 16)

    monkeypatch.setattr("vmt.layers.ms_deform_attn.fused_ms_deform_attn", spy)
    attention(query, reference, value, [(1, 300)])
    with torch.autocast("cpu", torch.bfloat16):
        attention(query, reference, value, [(1, 300)])
    torch.testing.assert_close(seen[1], seen[0], rtol=0, atol=1e-6)


def test_dynamic_layers_see_places_to_the_pixel() -> None:
    """One layer that hands its first channel on: 301 stays 301; in bf16 it is 300 or 302."""
    features = torch.tensor([301.0, 0.5])[None, :, None]
    layers = [(torch.tensor([[[1.0, 2.0]]]), torch.zeros(1, 1))]
    halves = [(weight.bfloat16(), bias.bfloat16()) for weight, bias in layers]
    with torch.autocast("cpu", torch.bfloat16):
        assert apply_dynamic_layers(features, halves).item() == 302.0  # 301 + 2 * 0.5, exactly
        assert apply_dynamic_layers(features, halves).dtype == torch.float32


@pytest.mark.parametrize("name", ["vmt_tiny_released", "vmt_tiny"])
def test_refiners_read_places_in_fp32_under_autocast(name: str) -> None:
    """Convolutions that read offsets have 5 channels in dense_band, 3 in the detector."""
    cfg = quick_config(name, "TEST.PRECISION", "bf16")
    torch.manual_seed(0)
    model = build_model(cfg, SPACE).eval()
    with Calls() as calls:
        model.segment_clip(torch.rand(1, 3, 64, 96) * 255)
    channels = 5 if name == "vmt_tiny_released" else 3
    found = calls.convolutions[channels]
    if name == "vmt_tiny":  # the first layers of backbone and of the refiner's image branch too
        found = found - {torch.bfloat16}
    assert found == {torch.float32}


def test_a_static_detector_reads_places_in_fp32_under_autocast() -> None:
    torch.manual_seed(0)
    detector = IncoherenceDetector(16, ["s8"], static=True)
    with Calls() as calls, torch.autocast("cpu", torch.bfloat16):
        detector("s8", torch.rand(1, 16, 4, 4), 300 * torch.rand(1, 1, 3, 4, 4), None)
    assert calls.convolutions[11] == {torch.float32}
