from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from vmt.apps import doctor
from vmt.cli.main import main
from vmt.ops.deform_attn import cuda
from vmt.ops.deform_attn.backends import BackendStatus
from vmt.utils import env
from vmt.utils.env import Fact


def state_of(facts: list[Fact], name: str) -> str:
    (found,) = [fact.state for fact in facts if fact.name == name]
    return found


def test_this_installation_is_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert "Everything required works" in text
    for word in ("python", "torch", "deformable attention", "H.264 encoder", "memory", "data"):
        assert word in text


def test_report_for_machines(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is True
    names = {fact["name"]: fact for fact in report["facts"]}
    assert names["torch"]["value"] == importlib.metadata.version("torch")
    assert set(names["torch"]) == {"group", "name", "value", "state", "fix"}


def test_every_missing_piece_comes_with_a_remedy() -> None:
    facts = [*env.environment_facts(), *doctor.attention_facts(), *doctor.codec_facts()]
    facts.append(doctor.scorer_fact())
    for fact in facts:
        assert (fact.state == "ok") == (fact.fix == ""), fact


def test_broken_means_status_1_and_says_what(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(env.REQUIRED, "no-such-package", "no_such_module")
    assert main(["doctor"]) == 1
    text = capsys.readouterr().out
    assert "BROKEN: no-such-package" in text
    assert "make install" in text
    assert main(["doctor", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is False
    assert [f["name"] for f in report["facts"] if f["state"] == "broken"] == ["no-such-package"]


def test_old_python_and_old_or_broken_packages(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert env.python_fact((3, 9, 18)).state == "broken"
    assert env.python_fact((3, 14, 0)).state == "ok"

    monkeypatch.setattr(importlib.metadata, "requires", lambda _: ["torch>=999.1", "numpy>=1.2"])
    facts = env.package_facts()
    assert state_of(facts, "torch") == "broken"
    assert "999.1 is needed" in next(f.value for f in facts if f.name == "torch")
    assert state_of(facts, "numpy") == "ok"

    (tmp_path / "torn.py").write_text("raise OSError('libtorn.so: no such file')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(env.REQUIRED, "numpy", "torn")
    fact = next(f for f in env.package_facts() if f.name == "numpy")
    assert fact.state == "broken"
    assert "cannot be loaded: libtorn.so: no such file" in fact.value


def test_missing_optional_packages_do_not_break(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(env.OPTIONAL, "no-such", ("no_such", "dreams", "pip install no-such"))
    fact = next(f for f in env.package_facts() if f.name == "no-such")
    assert (fact.state, fact.fix) == ("missing", "pip install no-such (dreams)")


def test_a_forced_back_end_that_cannot_run_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    if torch.cuda.is_available():
        pytest.skip("the CUDA back end can run here")
    monkeypatch.setenv("VMT_DEFORM_ATTN", "cuda")
    facts = doctor.attention_facts()
    assert state_of(facts, "on cpu") == "broken"
    assert state_of(facts, "trial on cpu") == "broken"
    monkeypatch.setenv("VMT_DEFORM_ATTN", "reference")
    facts = doctor.attention_facts()
    assert state_of(facts, "on cpu") == "ok"
    assert "forced by VMT_DEFORM_ATTN=reference" in facts[0].value


@pytest.mark.parametrize(("hip", "state"), [(None, "broken"), ("6.4", "missing")])
def test_a_gpu_without_our_kernels_is_broken(
    hip: str | None, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VMT_DEFORM_ATTN", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(doctor, "attention_trial", lambda device: doctor.Fact("", device, ""))
    monkeypatch.setattr(cuda, "unavailable_reason", lambda: "NVRTC cannot be loaded")
    fact = next(f for f in doctor.attention_facts() if f.name == "on cuda")
    assert fact.state == state
    assert fact.fix == "NVRTC cannot be loaded"


def test_a_kernel_that_computes_nonsense_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def off_by_a_bit(*args: object) -> torch.Tensor:
        return torch.full((1, 5, 16), torch.nan)

    monkeypatch.setattr(doctor, "ms_deform_attn", off_by_a_bit)
    fact = doctor.attention_trial("cpu")
    assert (fact.state, fact.value) == ("broken", "differs from the reference by nan")


def test_codecs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert state_of(doctor.codec_facts(), "H.264 encoder") == "ok"
    monkeypatch.setattr(doctor, "_has_codec", lambda name, mode: mode == "r" and name != "av1")
    facts = doctor.codec_facts()
    assert state_of(facts, "H.264 encoder") == "broken"
    assert state_of(facts, "decoders") == "ok"
    assert next(f.value for f in facts if f.name == "not readable") == "av1"


def test_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    assert env.compiler_fact().state == "missing"
    there = env.compiler_fact(kernels_built=True)
    assert (there.state, there.fix) == ("ok", "")


@pytest.mark.parametrize("absent", ["neither", "attention", "scorer"])
def test_a_compiler_is_missed_where_a_kernel_is(
    absent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    there = {"cpu": BackendStatus(absent != "attention", None)}
    monkeypatch.setattr(doctor, "describe_backend", lambda: SimpleNamespace(backends=there))
    monkeypatch.setattr(doctor, "attention_facts", list)
    state = "missing" if absent == "scorer" else "ok"
    monkeypatch.setattr(doctor, "scorer_fact", lambda: Fact("scoring", "kernel", "", state))
    expected = "ok" if absent == "neither" else "missing"
    assert state_of(doctor.examine(), "C++ compiler") == expected


def test_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(env, "_container_limit", lambda: None)
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 16777216 kB\nMemFree: 1 kB\nMemAvailable: 8388608 kB\n")
    (fact,) = env.memory_facts(meminfo)
    assert (fact.value, fact.state) == ("8.0 GiB free of 16.0 GiB", "ok")
    monkeypatch.setattr(env, "_container_limit", lambda: 2 << 30)
    (fact,) = env.memory_facts(meminfo)
    assert (fact.value, fact.state) == ("2.0 GiB free of 2.0 GiB", "missing")
    assert env.memory_facts(tmp_path / "absent") == []


def test_container_limit(tmp_path: Path) -> None:
    assert env._container_limit(tmp_path) is None
    (tmp_path / "memory.max").write_text("max\n")
    assert env._container_limit(tmp_path) is None
    (tmp_path / "memory.max").write_text("1024\n")
    assert env._container_limit(tmp_path) == 1024


def test_data_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(env.DATA_VARIABLE, str(tmp_path / "absent"))
    (fact,) = env.data_facts()
    assert fact.state == "missing"
    assert str(tmp_path / "absent") in fact.value
    monkeypatch.setenv(env.DATA_VARIABLE, str(tmp_path))
    (tmp_path / "ovis").mkdir()
    facts = env.data_facts()
    assert state_of(facts, "ovis") == "ok"
    assert "hq_ytvis" in next(f.value for f in facts if f.name == "data sets")
    for folder in env.DATA_FOLDERS:
        (tmp_path / folder).mkdir(exist_ok=True)
    assert {fact.state for fact in env.data_facts()} == {"ok"}
