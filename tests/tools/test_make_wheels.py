"""Wheels: what is in them, and that everything works where pip puts them, without a compiler.

The second half installs all requirements from the package index into an empty environment, so it
waits to be asked: ``make test-wheels`` builds the files and names their folder in ``VMT_DIST``.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import os
import shlex
import subprocess
import sys
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

from tests.conftest import REPO, load_tool
from tests.docs.world import write_world
from vmt.version import __version__

#: Names of the files -> the package in them.
PACKAGES = {"cocoapi_hq": "cocoapi_hq", "vmt_vis": "vmt"}


def check_wheel(wheel: Path) -> None:
    """All that can be known of a file before it is installed."""
    name, package = next(pair for pair in PACKAGES.items() if wheel.name.startswith(pair[0]))
    pure, info = wheel.name.endswith("-py3-none-any.whl"), f"{name}-{__version__}.dist-info"
    archive = zipfile.ZipFile(wheel)
    files = files_in(archive)
    assert {file.split("/")[0] for file in files} == {package, info}
    sources = {str(file.relative_to(REPO)) for file in (REPO / package).rglob("*.py")}
    assert {file for file in files if file.endswith(".py")} == sources - {f"{package}/setup.py"}
    assert any(file.endswith(".so") for file in files) != pure
    metadata = message_from_bytes(archive.read(f"{info}/METADATA"))
    assert metadata["Version"] == __version__
    assert not [line for line in metadata.get_all("Requires-Dist") or [] if " @ " in line]
    about = message_from_bytes(archive.read(f"{info}/WHEEL"))
    assert about["Root-Is-Purelib"] == str(pure).lower()
    for tag in about.get_all("Tag") or []:
        assert tag == "py3-none-any" if pure else tag.startswith("cp310-abi3-manylinux"), tag
    check_record(archive, f"{info}/RECORD")
    if package == "vmt":
        configs = {f"vmt/{file.relative_to(REPO)}" for file in (REPO / "configs").rglob("*.yaml")}
        assert {file for file in files if file.startswith("vmt/configs/")} == configs
        assert "vmt/weights/mask_refiner.safetensors" in files
        assert "vmt/ops/deform_attn/csrc/deform_attn.cu" in files


def files_in(archive: zipfile.ZipFile) -> list[str]:
    """Without the entries of folders, which auditwheel adds."""
    return [name for name in archive.namelist() if not name.endswith("/")]


def check_record(archive: zipfile.ZipFile, record: str) -> None:
    """It names every file, with its hash and size."""
    rows = list(csv.reader(archive.read(record).decode().splitlines()))
    assert sorted(row[0] for row in rows) == sorted(files_in(archive))
    for file, named_hash, size in rows:
        if file != record:
            content = archive.read(file)
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=")
            assert (named_hash, size) == (f"sha256={digest.decode()}", str(len(content))), file


@pytest.mark.slow
@pytest.mark.parametrize("name", PACKAGES)
def test_a_wheel_without_kernels(name: str, tmp_path: Path) -> None:
    tool = load_tool("make_wheels")
    source, wheel = tool.make_wheels(tmp_path, [name], isolated=False, kernels=False)
    assert source.name == f"{name}-{__version__}.tar.gz"
    assert wheel.name == f"{name}-{__version__}-py3-none-any.whl"
    check_wheel(wheel)


@pytest.fixture(scope="module")
def dist() -> Path:
    """All files that ``make wheels`` made."""
    if "VMT_DIST" not in os.environ:
        pytest.skip("installs gigabytes from the package index; make test-wheels runs it")
    return Path(os.environ["VMT_DIST"]).resolve()


def test_all_files_of_both_distributions(dist: Path) -> None:
    names = sorted(path.name for path in dist.iterdir())
    assert len(names) == 6, names
    for name in PACKAGES:
        begin = f"{name}-{__version__}"
        assert {f"{begin}.tar.gz", f"{begin}-py3-none-any.whl"} <= set(names)
        assert len([n for n in names if n.startswith(f"{begin}-cp310-abi3-manylinux")]) == 1
    for wheel in dist.glob("*.whl"):
        check_wheel(wheel)


def without_compiler(environment: Path) -> dict[str, str]:
    """Variables with which only what the environment has is found."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    return {**kept, "PATH": str(environment / "bin"), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with pip and nothing else."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    return folder


def install(environment: Path, *words: str) -> None:
    command = [str(environment / "bin/python"), "-m", "pip", "install", "-q", *words]
    subprocess.run(command, cwd=environment, env=without_compiler(environment), check=True)


TINY = (
    "SOLVER.MAX_STEPS 1 SOLVER.CLIPS_PER_BATCH 1 INPUT.CLIP_FRAMES 2 INPUT.MIN_SIZE_TRAIN '[48]' "
    "INPUT.MAX_SIZE_TRAIN 64 DATALOADER.NUM_WORKERS 0"
)
COMMANDS = {
    "where": "python -c 'import vmt, cocoapi_hq; print(vmt.__file__, cocoapi_hq.__file__)'",
    "doctor": "vmt doctor",
    "configs": "vmt configs",
    "zoo": "vmt zoo",
    "train": f"vmt train --config-file quick/vmt_tiny --train my.json --train-images images "
    f"--output out {TINY}",
    "demo": "vmt demo --config-file out/config.yaml --weights out/model_final.safetensors "
    "--input my.mp4 --output found",
    "refine": "vmt refine --masks my.json --images images --output sharp.json",
    "eval": "vmt eval --gt my.json --results results.json",
}


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kernels", [True, False], ids=["kernels", "pure"])
def test_commands_outside_the_tree(
    kernels: bool, dist: Path, environment: Path, tmp_path: Path
) -> None:
    if kernels:  # what INSTALL.md says
        install(environment, "--find-links", str(dist), "vmt-vis")
    else:
        again = ["--force-reinstall", "--no-deps"]
        install(environment, *again, *map(str, dist.glob("*-py3-none-any.whl")))
    write_world(tmp_path)
    for link in [path for path in tmp_path.iterdir() if path.is_symlink()]:
        link.unlink()
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
    assert ("slower, same results" in said["doctor"]) != kernels
