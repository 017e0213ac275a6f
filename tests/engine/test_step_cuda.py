"""A training step on a GPU against the CPU."""

from __future__ import annotations

import pytest
import torch

from tests.devices import DEVICES
from tests.engine.clips import SHAPES, batches, quick_config
from vmt.engine.lr_schedule import Schedule
from vmt.engine.optimizer import build_optimizer
from vmt.engine.train_loop import StepOptions, Trainer
from vmt.modeling.meta_arch.build import build_network


def losses_of_two_steps(device: str, precision: str) -> list[float]:
    cfg = quick_config("seqformer_tiny", "ENGINE.PRECISION", precision)
    torch.manual_seed(0)
    model = build_network(cfg, SHAPES).to(device).train()
    trainer = Trainer(
        model,
        build_optimizer(cfg, model),
        Schedule(2),
        open_loader=lambda start: batches(start, 2),
        device=torch.device(device),
        options=StepOptions.from_config(cfg),
    )
    totals = []
    for step, batch in zip(range(2), batches(0, 2), strict=False):
        assert step == len(totals)
        trainer.run_step(batch)
        totals.append(sum(trainer.last.losses.values()))
    assert next(model.parameters()).device.type == device
    return totals


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("precision", "tolerance"), [("fp32", 2e-3), ("bf16", 0.1), ("fp16", 0.05)]
)
def test_losses_are_those_of_the_cpu(precision: str, tolerance: float, device: str) -> None:
    if precision == "fp16" and device == "cpu":
        pytest.skip("fp16 trains on GPUs alone")
    expected = losses_of_two_steps("cpu", "fp32")
    actual = losses_of_two_steps(device, precision)
    assert actual == pytest.approx(expected, rel=tolerance)
