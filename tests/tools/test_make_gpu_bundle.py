"""The folder for a GPU machine: its size, its files, and a dry run from it."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.conftest import REPO, load_tool

if not (REPO / ".git").exists():
    pytest.skip("the bundle holds what git tracks", allow_module_level=True)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    (folder / "wheels").mkdir()
    (folder / "wheels" / "note.txt").write_text("no wheel")
    wheel = folder / "wheels" / "vmt_bundle_probe-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        info = "vmt_bundle_probe-1.0.dist-info"
        archive.writestr("vmt_bundle_probe.py", "PLACE = __file__\n")
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: vmt_bundle_probe\nVersion: 1.0\n"
        )
        tags = "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        archive.writestr(f"{info}/WHEEL", tags)
        archive.writestr(f"{info}/RECORD", "")
    words = ["--output", str(folder / "made"), "--wheels", str(folder / "wheels")]
    assert load_tool("make_gpu_bundle").main(words) == 0
    return folder / "made"


def test_contents(bundle: Path) -> None:
    tool = load_tool("make_gpu_bundle")
    assert 10 < tool.size_mb(bundle) < 30, "the tree; its wheels may have the rest"
    for name in (
        "run.sh",
        "vmt/benchmarks/run_gpu.py",
        "vmt/vmt/weights/mask_refiner.safetensors",
        "vmt/vmt/ops/deform_attn/csrc/deform_attn.cu",
        "vmt/configs/hq_ytvis/vmt_R50_released.yaml",
        "vmt/tests/ops/test_deform_attn_cuda.py",
        "vmt/cocoapi_hq/io/rle.py",
    ):
        assert (bundle / name).is_file(), name
    assert [path.name for path in (bundle / "wheels").iterdir()] == [
        "vmt_bundle_probe-1.0-py3-none-any.whl"
    ]
    assert not (bundle / "vmt/.git").exists()
    assert not (bundle / "vmt/.venv").exists()


def test_a_large_bundle_and_a_folder_that_is_there_are_refused(
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tool = load_tool("make_gpu_bundle")
    (tmp_path / "wheels").mkdir()
    words = ["--wheels", str(tmp_path / "wheels"), "--output"]
    assert tool.main([*words, str(bundle)]) == 2
    assert "is there; remove it" in capsys.readouterr().err
    monkeypatch.setattr(tool, "LIMIT_MB", 5)
    assert tool.main([*words, str(tmp_path / "large")]) == 2
    assert "MB, more than 5" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["wheels"]
    assert tool.main(["--output", str(tmp_path / "x"), "--wheels", "nowhere"]) == 2


@pytest.mark.slow
def test_a_dry_run_from_it(bundle: Path, tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment |= {"PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    command = ["bash", str(bundle / "run.sh"), "--dry-run", "--only", "env"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].split()[:2] == ["env", "ok"]
    assert "does not fit" not in done.stderr
