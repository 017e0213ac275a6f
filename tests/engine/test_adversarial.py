"""A network trained beside the model: accumulation, resume, several processes, what is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.engine.clips import make_trainer, quick_config
from tests.engine.test_parallel import SMALL, close, train
from tests.engine.test_resume import equal
from vmt.engine.adversarial import build_adversary
from vmt.engine.train_loop import Trainer
from vmt.utils.errors import CheckpointError, ConfigError

OPTIONS = (*SMALL, "MODEL.MSTS.ADV_RAMP_STEPS", "2")


def trainer_of(steps: int, *overrides: str, clips: int = 2) -> Trainer:
    return make_trainer(quick_config("msts_tiny", *OPTIONS, *overrides), steps, clips)


def test_resume_restores_both_optimisers_to_the_bit(tmp_path: Path) -> None:
    straight = trainer_of(4)
    straight.train()
    first = trainer_of(2)
    first.train()
    torch.save(first.state(), tmp_path / "state.pth")
    second = trainer_of(4)
    second.load_state(torch.load(tmp_path / "state.pth", weights_only=True))
    second.train()
    one, other = straight.state(), second.state()
    for state in (one, other):
        state.pop("rng")
    equal(one, other)
    assert one["adversary"]["optimizer"]["state"][0]["step"] == 4
    assert straight.last.losses == second.last.losses
    assert straight.last.adversary == second.last.adversary
    assert straight.last.losses["loss_adversarial"] > 0


def test_a_checkpoint_with_another_adversary_is_refused() -> None:
    ours, without = trainer_of(1), trainer_of(1, "MODEL.ADVERSARY", "none")
    for mine, theirs, said in ((ours, without, "without"), (without, ours, "with")):
        with pytest.raises(CheckpointError, match=f"was made {said} an adversary"):
            mine.load_state(theirs.state())
    state = ours.state()
    state["adversary"]["objective"].popitem()
    with pytest.raises(CheckpointError, match=r"another one than MODEL\.ADVERSARY builds"):
        ours.load_state(state)


def test_parts_of_a_step_give_the_same_gradients() -> None:
    ends = []
    for parts in ("1", "2"):
        trainer = trainer_of(1, "SOLVER.ACCUMULATE", parts, "MODEL.MSTS.ADV_WEIGHT", "0.0", clips=4)
        trainer.train()
        assert trainer.adversary is not None
        ends.append((trainer.last, trainer.adversary))
    (one, whole), (other, cut) = ends
    assert one.adversary == pytest.approx(other.adversary, rel=1e-5)
    assert one.gradient_norm == pytest.approx(other.gradient_norm, rel=1e-5)
    for a, b in zip(whole.objective.parameters(), cut.objective.parameters(), strict=True):
        assert a.grad is not None
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-7)


def test_an_unknown_adversary_is_named() -> None:
    cfg = quick_config("msts_tiny", "MODEL.ADVERSARY", "x")
    with pytest.raises(ConfigError, match=r"MODEL\.ADVERSARY \(or none\): 'x' does not exist"):
        build_adversary(cfg, torch.device("cpu"))


def same_adversary(one: dict[str, Any], other: dict[str, Any]) -> None:
    """All weights of both together to 1e-5, as ``close`` does for the model."""
    theirs = other["adversary"]["objective"]
    pairs = [(v.double(), theirs[n].double()) for n, v in one["adversary"]["objective"].items()]
    difference = torch.stack([(a - b).norm() for a, b in pairs]).norm()
    assert float(difference / torch.stack([b.norm() for _, b in pairs]).norm()) < 1e-5
    counts = [s["adversary"]["optimizer"]["state"][0]["step"] for s in (one, other)]
    assert counts[0] == counts[1] == 3


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_processes_equal_one(tmp_path: Path, kind: str) -> None:
    """In step 1 one process has no object, in every step one clip has none."""
    # small rates, also in the processes: Adam's first steps turn rounding into a full step
    options = {"name": "msts_tiny", "overrides": (*OPTIONS, "SOLVER.BASE_LR", "2e-5")}
    one = train(tmp_path / "one.pt", 1, **options)
    two = train(tmp_path / "two.pt", 2, kind, **options)
    close(two, one)
    same_adversary(two, one)
