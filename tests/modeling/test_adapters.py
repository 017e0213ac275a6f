"""The doors for methods: parts added to encoder and decoder, and what is trained beside them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from tests.engine.clips import SHAPES, make_trainer, quick_config
from vmt.layers.deformable_encoder import EncoderAdapter, Levels
from vmt.modeling.adversarial import AdversaryInput
from vmt.modeling.meta_arch.build import build_model
from vmt.modeling.registry import DECODER_ADAPTERS, ENCODER_ADAPTERS
from vmt.modeling.seqformer.decoder import DecoderAdapter
from vmt.utils.errors import ConfigError

SMALL = ("MODEL.SEQFORMER.HIDDEN_DIM", "32", "MODEL.SEQFORMER.NUM_QUERIES", "6")
ADDED = ("MODEL.SEQFORMER.ENCODER_ADAPTER", "silent", "MODEL.SEQFORMER.DECODER_ADAPTER", "silent")


class SilentBranch(EncoderAdapter):
    """Looks at all frames, adds zero."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.zeros(1))
        self.seen: list[tuple[int, ...]] = []

    @classmethod
    def from_config(cls, cfg) -> SilentBranch:
        return cls()

    def forward(self, x: Tensor, levels: Levels, num_frames: int) -> Tensor:
        self.seen.append((len(x), num_frames, sum(levels.sizes)))
        return self.gate * x


class SilentMixer(DecoderAdapter):
    """Adds zero to box queries that have frames."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.zeros(1))

    @classmethod
    def from_config(cls, cfg) -> SilentMixer:
        return cls()

    def forward(self, box_query: Tensor) -> Tensor:
        assert box_query.shape[1] > 1, "the first layer has no frames to mix"
        return box_query + self.gate * box_query.flip(1)


@pytest.fixture(autouse=True)
def silent() -> Iterator[None]:
    for table, entry in ((ENCODER_ADAPTERS, SilentBranch), (DECODER_ADAPTERS, SilentMixer)):
        table._do_register("silent", entry)
    yield
    for table in (ENCODER_ADAPTERS, DECODER_ADAPTERS):
        del table._obj_map["silent"]


def test_parts_that_add_nothing_change_no_bit_of_a_training_step() -> None:
    trainers = [make_trainer(quick_config("seqformer_tiny", *SMALL, *o), 1) for o in ((), ADDED)]
    for trainer in trainers:
        trainer.train()
    one, other = trainers
    assert one.last.losses == other.last.losses
    branch = other.model.encoder.layers[0].branch
    assert branch.seen[0][:2] == (4, 2)  # two clips of two frames
    assert branch.gate.grad.abs() > 0
    mixers = [layer.mixer for layer in other.model.decoder.layers]
    assert mixers[0] is None
    assert all(m.gate.grad.abs() > 0 for m in mixers[1:])


@pytest.mark.parametrize("chunk", ["1", "2", "0"])
def test_an_encoder_that_mixes_frames_sees_the_whole_clip_and_the_rest_is_cut(chunk: str) -> None:
    outputs = []
    frames = torch.randn(5, 3, 70, 100, generator=torch.Generator().manual_seed(0))
    for options in ((), ADDED):
        torch.manual_seed(0)
        cfg = quick_config("vmt_tiny_released", *SMALL, *options, "TEST.FRAME_CHUNK", chunk)
        model = build_model(cfg, SHAPES).eval()
        outputs.append(model.run_clip(frames))
    assert model.encoder.layers[0].branch.seen == [(5, 5, outputs[0].features.memory.shape[1])]
    for name in ("logits", "boxes_cxcywh", "coarse_logits"):
        assert torch.equal(getattr(outputs[0], name), getattr(outputs[1], name)), name
    assert torch.equal(outputs[0].refined.mask_logits, outputs[1].refined.mask_logits)


def test_a_judge_is_shown_what_the_step_made() -> None:
    trainer = make_trainer(quick_config("seqformer_tiny", *SMALL), 1)
    seen: list[AdversaryInput] = []

    def adversary(inputs: AdversaryInput) -> dict[str, Tensor]:
        seen.append(inputs)
        return {"loss_other": inputs.memory.square().mean()}

    batch = next(iter(trainer._open_loader(0)))
    trainer.model.train()
    losses = trainer.model(batch, adversary)
    assert list(losses)[-1] == "loss_other"
    (inputs,) = seen
    assert inputs.memory.requires_grad
    assert inputs.frames.shape[0] == inputs.memory.shape[0] == 4
    for masks, target, index in zip(
        inputs.mask_logits, inputs.targets, inputs.target_index, strict=True
    ):
        assert masks.shape == (len(target), 2, inputs.frames.shape[2] // 4, 96 // 4)
        assert len(index) == len(target)


@pytest.mark.parametrize("key", ["SEQFORMER.ENCODER_ADAPTER", "SEQFORMER.DECODER_ADAPTER"])
def test_unknown_names_are_named(key: str) -> None:
    with pytest.raises(ConfigError, match=rf"MODEL.{key} \(or none\): 'x' does not exist"):
        build_model(quick_config("seqformer_tiny", f"MODEL.{key}", "x"), SHAPES)
