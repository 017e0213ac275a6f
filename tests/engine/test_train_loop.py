"""The step: parts equal the whole, switches change no result, bad numbers and signals stop it."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.device_counts import DeviceCounts
from tests.engine.clips import SHAPES, batches, empty_clip, make_trainer, quick_config
from tests.synthetic import shape_clip
from vmt.engine.ema import EmaHook
from vmt.engine.parallel import compile_layers, recompute_activations, repeated_layers
from vmt.engine.train_loop import Batch, Hook, StepOptions, Trainer, split_batch
from vmt.modeling.criteria.finite import NonFiniteError
from vmt.modeling.meta_arch.build import build_model
from vmt.utils.errors import CheckpointError, ConfigError, VmtError

SMALL = ("MODEL.SEQFORMER.HIDDEN_DIM", "32", "MODEL.SEQFORMER.NUM_QUERIES", "6")


def gradients(trainer: Trainer) -> dict[str, Tensor]:
    named = trainer.model.named_parameters()
    return {name: p.grad.clone() for name, p in named if p.grad is not None}


def weights(trainer: Trainer) -> dict[str, Tensor]:
    return {name: v.clone() for name, v in trainer.model.state_dict().items()}


def uneven(start: int) -> Iterator[Batch]:
    """Four clips with 3, 1, 0 and 2 tracklets."""
    while True:
        clips = [shape_clip(2, (64, 96), seed, n) for seed, n in enumerate((3, 1, 1, 2))]
        clips[2] = empty_clip(clips[2])
        yield [{**clip, "coarse": clip["targets"].masks} for clip in clips]


EVERY_NODE = ("MODEL.REFINER.TRAIN_POINTS", "0", "MODEL.REFINER.TRAIN_FRAME_POINTS", "0")
POOLED = (*EVERY_NODE, "MODEL.REFINER.TRAIN_TRACKLETS", "2", "MODEL.MASK_REFINER.DIM", "16",
          "MODEL.MASK_REFINER.CROP_SIZES", "[32, 96]")  # fmt: skip
QUERIES = (*SMALL, *EVERY_NODE, "MODEL.META_ARCHITECTURE", "QueryMaskRefiner")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("seqformer_tiny", SMALL),
        ("vmt_tiny_released", SMALL),
        ("../refine/mask_refiner_frames", POOLED),
        ("vmt_tiny", QUERIES),
    ],
)
@pytest.mark.parametrize("parts", [2, 4])
def test_accumulation_equals_a_big_batch(name: str, options: tuple[str, ...], parts: int) -> None:
    found = []
    for accumulate in (1, parts):
        cfg = quick_config(name, *options, "SOLVER.ACCUMULATE", str(accumulate))
        cfg.defrost()
        cfg.SOLVER.CLIP_GRADIENTS = 0.0
        trainer = make_trainer(cfg, 1, open_loader=uneven)
        trainer.train()
        found.append((trainer.last.losses, gradients(trainer)))
    (losses, grads), (part_losses, part_grads) = found
    assert part_losses == pytest.approx(losses, rel=1e-5, abs=1e-7)
    # One number for all: single biases before a norm are zero by theory, rounding in practice.
    size = torch.stack([grad.norm() for grad in grads.values()]).norm()
    difference = torch.stack([(part_grads[k] - grad).norm() for k, grad in grads.items()]).norm()
    assert float(difference / size) < 1e-5


@pytest.mark.parametrize(
    "name", ["seqformer_tiny", "vmt_tiny_released", "idol_tiny", "maskdino_tiny", "minvis_tiny"]
)
def test_recomputed_activations_change_no_bit(name: str) -> None:
    found = []
    for recompute in (False, True):
        cfg = quick_config(name, *SMALL)
        cfg.defrost()
        cfg.MODEL.MASK2FORMER.DECODER_LAYERS = 2
        cfg.MODEL.SEQFORMER.DROPOUT = 0.1  # the same random numbers must be drawn twice
        trainer = make_trainer(cfg, 3)
        if recompute:
            assert recompute_activations(trainer.model) == 2 + 2 + 4
        torch.manual_seed(1)
        trainer.train()
        found.append(weights(trainer))
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])


def test_recomputation_leaves_out_frozen_stages() -> None:
    cfg = quick_config("seqformer_tiny", "MODEL.BACKBONE.NAME", "resnet50")
    model = build_model(cfg, SHAPES)
    assert len(repeated_layers(model)) == 2 + 2 + 3


def test_a_batch_without_objects_trains(caplog: pytest.LogCaptureFixture) -> None:
    def nothing(start: int) -> Iterator[Batch]:
        while True:
            yield [empty_clip(shape_clip(2, (64, 96), 0))]

    trainer = make_trainer(quick_config("vmt_tiny_released", *SMALL), 1, open_loader=nothing)
    before = weights(trainer)
    trainer.train()
    trainable = [p for p in trainer.model.parameters() if p.requires_grad]
    assert all(p.grad is not None for p in trainable)
    after = weights(trainer)
    assert not torch.equal(after["heads.cls.0.bias"], before["heads.cls.0.bias"])


def test_gradients_are_clipped_and_the_true_norm_is_reported() -> None:
    trainer = make_trainer(quick_config(), 1)
    trainer.train()
    norm = torch.stack([g.norm() for g in gradients(trainer).values()]).norm()
    assert float(norm) == pytest.approx(0.1, rel=1e-3)
    assert trainer.last.gradient_norm > 1.0


def test_the_step_is_that_of_plain_torch() -> None:
    cfg = quick_config("seqformer_tiny", *SMALL)
    trainer = make_trainer(cfg, 2)
    reference = make_trainer(cfg, 2)
    model, optimizer = reference.model.train(), reference.optimizer
    for _, batch in zip(range(2), batches(0, 2), strict=False):
        optimizer.zero_grad()
        torch.stack(list(model(batch).values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
    trainer.train()
    for key, value in model.state_dict().items():
        torch.testing.assert_close(trainer.model.state_dict()[key], value, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precision_trains_with_fp32_losses(precision: str) -> None:
    trainer = make_trainer(quick_config("vmt_tiny_released", "ENGINE.PRECISION", precision), 3)
    full = make_trainer(quick_config("vmt_tiny_released"), 1)
    full.train()
    records = []

    class Record(Hook):
        def after_step(self, trainer: Trainer) -> None:
            records.append(sum(trainer.last.losses.values()))

    trainer.hooks.append(Record())
    trainer.train()
    assert records[0] == pytest.approx(sum(full.last.losses.values()), rel=0.05)
    assert all(p.dtype == torch.float32 for p in trainer.model.parameters())
    assert bool(trainer.state()["scaler"]) == (precision == "fp16")


def test_unknown_precision_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'fp8' is unknown; choose from fp32, tf32, bf16, fp16"):
        make_trainer(quick_config("seqformer_tiny", "ENGINE.PRECISION", "fp8"), 1)


def test_more_parts_than_clips_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"SOLVER\.ACCUMULATE 3"):
        split_batch([{}, {}], 3)
    assert [len(part) for part in split_batch([{}] * 5, 2)] == [2, 3]


def test_nan_names_loss_step_and_clips_and_leaves_the_weights_alone() -> None:
    def poisoned(start: int) -> Iterator[Batch]:
        for step, batch in enumerate(batches(start, 1)):
            if step == 2:
                batch[0]["image"][:] = float("nan")
            yield batch

    closed = []

    class Closing(Hook):
        def close(self) -> None:
            closed.append(True)

    trainer = make_trainer(quick_config(), 5, hooks=[Closing()], open_loader=poisoned)
    with pytest.raises(NonFiniteError, match=r"video 2, clip 0-1"):
        trainer.train()
    assert trainer.step == 2
    assert closed == [True]
    assert all(torch.isfinite(v).all() for v in weights(trainer).values())


def test_infinite_gradients_are_named() -> None:
    class Steep(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> Tensor:
            return grads[0] * float("inf")

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))

        def forward(self, batch: Batch) -> dict[str, Tensor]:
            return {"loss_ce": Steep.apply(self.weight).sum()}

    trainer = make_trainer(quick_config(), 1)
    model = Model()
    optimizer = torch.optim.AdamW(
        [{"params": [model.weight], "base_lr": 0.1, "name": "rest", "param_names": ["weight"]}]
    )
    other = Trainer(
        model, optimizer, trainer.schedule, lambda s: batches(s, 1), torch.device("cpu")
    )
    with pytest.raises(NonFiniteError, match=r"norm of the gradients = (inf|nan) at step 0"):
        other.train()
    assert model.weight.item() == 1.0


@pytest.mark.parametrize("clip_gradients", [0.0, 0.1])
def test_a_step_waits_once_behind_the_backward_pass(clip_gradients: float) -> None:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(3))

        def forward(self, batch: Batch) -> dict[str, Tensor]:
            return {"loss_a": self.weight.sum(), "loss_b": self.weight.square().sum()}

    model, config = Model(), make_trainer(quick_config(), 1)
    group = {"params": [model.weight], "base_lr": 0.1, "name": "rest", "param_names": ["weight"]}
    trainer = Trainer(
        model,
        torch.optim.SGD([group], lr=0.1),
        config.schedule,
        lambda s: batches(s, 1),
        torch.device("cpu"),
        options=StepOptions(clip_gradients=clip_gradients),
    )
    (batch,) = [next(iter(batches(0, 1)))]
    with DeviceCounts() as counts:
        trainer.run_step(batch)
    assert dict(counts.waits) == {"tolist": 1}
    assert trainer.last.losses == {"loss_a": 3.0, "loss_b": 3.0}
    assert trainer.last.gradient_norm == pytest.approx(27**0.5)
    assert (model.weight < 1).all()


def test_hooks_are_called_in_order_and_a_stop_ends_before_the_next_step() -> None:
    calls: list[str] = []

    class Spy(Hook):
        def before_train(self, trainer: Trainer) -> None:
            calls.append("before_train")

        def before_step(self, trainer: Trainer) -> None:
            calls.append(f"before_step {trainer.step}")

        def after_step(self, trainer: Trainer) -> None:
            calls.append(f"after_step {trainer.step}")
            if trainer.step == 2:
                trainer.request_stop(signal.SIGTERM)

        def after_train(self, trainer: Trainer) -> None:
            calls.append("after_train")

        def close(self) -> None:
            calls.append("close")

    trainer = make_trainer(quick_config("seqformer_tiny", *SMALL), 5, clips=1, hooks=[Spy()])
    assert trainer.train() is False
    assert calls == [
        "before_train",
        *("before_step 0", "after_step 1", "before_step 1", "after_step 2"),
        *("before_step 2", "after_train", "close"),
    ]


def test_a_stop_asked_for_while_the_processes_agree_is_not_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trainer = make_trainer(quick_config("seqformer_tiny", *SMALL), 3, clips=1)

    def agree(flag: int) -> int:
        if trainer.step == 1:
            trainer.request_stop(signal.SIGTERM)  # behind the reading of the flag
        return flag

    monkeypatch.setattr("vmt.engine.train_loop.comm.any_process", agree)
    assert trainer.train() is False
    assert trainer.step == 2
    assert trainer.stop_signal == signal.SIGTERM


def test_data_errors_come_out_as_they_are_unless_a_signal_caused_them() -> None:
    def broken(start: int) -> Iterator[Batch]:
        yield from [next(batches(start, 1))]
        raise VmtError("frame 7 of video x is cut off")

    cfg = quick_config("seqformer_tiny", *SMALL)
    with pytest.raises(VmtError, match="frame 7"):
        make_trainer(cfg, 3, open_loader=broken).train()

    class Signal(Hook):
        def after_step(self, trainer: Trainer) -> None:
            trainer.request_stop(signal.SIGINT)

    assert make_trainer(cfg, 3, hooks=[Signal()], open_loader=broken).train() is False


def test_ema_follows_the_weights() -> None:
    ema = EmaHook(0.9)
    averages: list[Tensor] = []
    expected: list[Tensor] = []

    class Spy(Hook):
        def after_step(self, trainer: Trainer) -> None:
            value = trainer.model.state_dict()["decoder.query_pos"].clone()
            decay = min(0.9, (1 + trainer.step) / (10 + trainer.step))
            before = expected[-1] if expected else start
            expected.append(decay * before + (1 - decay) * value)
            averages.append(ema.weights()["decoder.query_pos"])

    trainer = make_trainer(quick_config("seqformer_tiny", *SMALL), 4, 1, hooks=[ema, Spy()])
    start = trainer.model.state_dict()["decoder.query_pos"].clone()
    trainer.train()
    torch.testing.assert_close(averages, expected)


def test_state_goes_on_bit_by_bit() -> None:
    cfg = quick_config("seqformer_tiny", *SMALL)
    cfg.defrost()
    cfg.MODEL.SEQFORMER.DROPOUT = 0.1
    kept: list[dict[str, Any]] = []

    class Keep(Hook):
        def after_step(self, trainer: Trainer) -> None:
            if trainer.step == 2:
                kept.append(trainer.state())

    straight = make_trainer(cfg, 4, 1, hooks=[EmaHook(0.9), Keep()])
    straight.train()
    resumed = make_trainer(cfg, 4, 1, hooks=[EmaHook(0.9)], seed=99)
    resumed.load_state(kept[0])
    assert resumed.step == 2
    resumed.train()
    for one, other in (
        (straight.state()["model"], resumed.state()["model"]),
        (straight.state()["hooks"]["ema"], resumed.state()["hooks"]["ema"]),
    ):
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_checkpoint_of_another_network_is_refused() -> None:
    trainer = make_trainer(quick_config("seqformer_tiny", *SMALL), 2, 1)
    other = make_trainer(quick_config("seqformer_tiny", *SMALL[:2]), 2, 1)
    with pytest.raises(CheckpointError, match="belongs to another network"):
        trainer.load_state(other.state())


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_layers_train_as_eager_ones() -> None:
    one_layer = ("MODEL.SEQFORMER.ENCODER_LAYERS", "1", "MODEL.SEQFORMER.DECODER_LAYERS", "1")
    cfg = quick_config("seqformer_tiny", *SMALL, *one_layer, "MODEL.SEQFORMER.DROPOUT", "0.0")
    found = []
    for compiled in (False, True):
        trainer = make_trainer(cfg, 2, clips=1)
        if compiled:
            compile_layers(trainer.model)
        trainer.train()
        layers = trainer.model.get_submodule("encoder.layers").children()
        assert all((layer._compiled_call_impl is not None) is compiled for layer in layers)
        found.append(torch.tensor([*trainer.last.losses.values(), trainer.last.gradient_norm]))
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)
