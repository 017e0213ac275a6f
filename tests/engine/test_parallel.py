"""Several gloo processes do what one does; their failures end all of them with one sentence."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.engine import process_mains
from vmt.engine.launch import Processes, WorkerError, launch
from vmt.utils import comm
from vmt.utils.errors import ConfigError

REPO = Path(__file__).resolve().parents[2]
SMALL = ("MODEL.SEQFORMER.HIDDEN_DIM", "32", "MODEL.SEQFORMER.NUM_QUERIES", "6")
TWO = Processes(per_machine=2, timeout_minutes=2)


def train(path: Path, count: int, kind: str = "ddp", **options: Any) -> dict[str, Any]:
    values = {"name": "seqformer_tiny", "steps": 3, "resume": "", "overrides": SMALL} | options
    args = (str(path), kind, *(values[k] for k in ("name", "steps", "resume", "overrides")))
    processes = Processes(per_machine=count, timeout_minutes=2)
    assert launch(process_mains.train_and_save, processes, args) == 0
    content: dict[str, Any] = torch.load(path, weights_only=True)
    return content


def close(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Losses, gradient norms and all weights together to 1e-5.

    Not weight by weight: the gradient of a bias before a norm is rounding alone, and Adam makes a
    full step of it.
    """
    assert one["losses"] == pytest.approx(other["losses"], rel=1e-5)
    assert one["norms"] == pytest.approx(other["norms"], rel=1e-5)
    assert one["model"].keys() == other["model"].keys()
    pairs = [(one["model"][name].double(), w.double()) for name, w in other["model"].items()]
    difference = torch.stack([(a - b).norm() for a, b in pairs]).norm()
    size = torch.stack([b.norm() for _, b in pairs]).norm()
    assert float(difference / size) < 1e-5


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return train(tmp_path_factory.mktemp("alone") / "one.pt", 1)


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_processes_equal_one_with_the_same_global_batch(
    alone: dict[str, Any], tmp_path: Path, kind: str
) -> None:
    """In step 1 one process has no object, in every step one clip has none."""
    two = train(tmp_path / "two.pt", 2, kind)
    close(two, alone)
    assert len(two["rng"]) == 2
    assert two["optimizer"]["state"].keys() == alone["optimizer"]["state"].keys()
    moments = two["optimizer"]["state"]["encoder.level_embed"]
    assert moments["exp_avg"].shape == alone["model"]["encoder.level_embed"].shape


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "overrides"),
    [
        ("ddp", ("SOLVER.ACCUMULATE", "2")),
        ("fsdp", ("SOLVER.ACCUMULATE", "2")),
        ("ddp", ("MODEL.LOSS.DEEP_SUPERVISION", "false")),
    ],
)
def test_parts_and_unused_heads_equal_one_process(
    tmp_path: Path, kind: str, overrides: tuple[str, ...]
) -> None:
    # two steps: from the third on, Adam has made the rounding of the first grow beyond 1e-5
    options = {"overrides": (*SMALL, *overrides), "steps": 2}
    one = train(tmp_path / "one.pt", 1, **options)
    close(train(tmp_path / "two.pt", 2, kind, **options), one)


@pytest.mark.slow
def test_the_refiner_trains_in_two_processes(tmp_path: Path) -> None:
    options = {"name": "vmt_tiny_released", "steps": 2}
    one = train(tmp_path / "one.pt", 1, **options)
    close(train(tmp_path / "two.pt", 2, **options), one)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_refinevis_trains_in_two_processes(tmp_path: Path, kind: str) -> None:
    """One of them sees no object; both wait for the same sums, and end with the same weights."""
    two = train(tmp_path / "two.pt", 2, kind, name="refinevis_tiny", steps=2)
    assert torch.isfinite(torch.tensor(two["losses"])).all()
    assert len(two["losses"]) == 2


@pytest.mark.slow
@pytest.mark.parametrize(("first", "second"), [("ddp", "fsdp"), ("fsdp", "ddp")])
def test_a_checkpoint_serves_any_kind_and_number_of_processes(
    alone: dict[str, Any], tmp_path: Path, first: str, second: str
) -> None:
    train(tmp_path / "first.pt", 2, first, steps=1)
    resumed = train(tmp_path / "second.pt", 2, second, resume=str(tmp_path / "first.pt"))
    close({**resumed, "losses": alone["losses"], "norms": alone["norms"]}, alone)
    assert resumed["losses"] == pytest.approx(alone["losses"][1:], rel=1e-5)


@pytest.mark.slow
def test_exchanges(tmp_path: Path) -> None:
    assert launch(process_mains.exchange, TWO, (str(tmp_path),)) == 3
    found = [torch.load(tmp_path / f"{r}.pt", weights_only=True) for r in range(2)]
    assert [f["main"] for f in found] == [True, False]
    assert [f["share"] for f in found] == [[0, 2, 4], [1, 3]]
    for f in found:
        assert (f["size"], f["any"], f["none"], f["mean"]) == (2, 15, 0, [0.5, 2.0])
        assert f["gather"] == [{"rank": 0}, {"rank": 1}]
        assert f["gather_none"] == ["x", None]


def test_alone_nothing_is_exchanged() -> None:
    assert (comm.rank(), comm.world_size(), comm.is_main()) == (0, 1, True)
    assert comm.any_process(7) == 7
    assert comm.gather("x") == ["x"]
    assert comm.share([1, 2]) == [1, 2]
    values = torch.ones(2)
    assert comm.mean(values) is not values
    comm.barrier()


def test_a_users_error_in_one_process_is_one_sentence_at_once() -> None:
    started = time.monotonic()
    with pytest.raises(WorkerError, match=r"^process 1 does not like SOLVER\.X$"):
        launch(process_mains.user_error_in_one, TWO, (0.2,))
    assert time.monotonic() - started < 60


@pytest.mark.slow
def test_a_killed_process_ends_the_run() -> None:
    with pytest.raises(WorkerError, match="process 1 of 2 ended with SIGKILL"):
        launch(process_mains.killed_in_one, TWO)


@pytest.mark.slow
def test_a_signal_reaches_all_processes_and_they_stop_at_one_step(tmp_path: Path) -> None:
    code = (
        "import sys; from tests.engine.process_mains import launched\n"
        "if __name__ == '__main__':\n"
        f"    sys.exit(launched('stops_at_a_signal', {{'per_machine': 2}}, ({str(tmp_path)!r},)))"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    process = subprocess.Popen([sys.executable, str(script)], cwd=REPO, env=environment)
    deadline = time.monotonic() + 120
    while not (tmp_path / "step_1").exists() and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM
    ends = [(tmp_path / f"end_{rank}").read_text() for rank in range(2)]
    assert ends[0] == ends[1]
    assert ends[0].endswith(" 15")


@pytest.mark.slow
def test_torchrun_says_who_is_who(tmp_path: Path) -> None:
    code = (
        "import sys; from tests.engine.process_mains import launched\n"
        f"launched('exchange', {{}}, ({str(tmp_path)!r},)); sys.exit(0)"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    environment = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    command += ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", str(script)]
    subprocess.run(command, cwd=REPO, env=environment, check=True, timeout=200)
    found = torch.load(tmp_path / "1.pt", weights_only=True)
    assert found["gather"] == [{"rank": 0}, {"rank": 1}]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"per_machine": 0}, "at least 1"),
        ({"machines": 2, "machine_rank": 2, "dist_url": "tcp://a:1"}, "--machine-rank 2"),
        ({"machines": 2}, "need --dist-url"),
    ],
)
def test_impossible_processes_are_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Processes(**values)
