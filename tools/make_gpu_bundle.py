#!/usr/bin/env python3
r"""A folder with all that a GPU machine without a package index needs to run benchmarks/run_gpu.py.

That machine has Python with torch, timm, numpy, OpenCV, scipy, pytest and hypothesis. The folder
gets the tracked files of the repository, the compiled libraries that lie beside them, wheels of
what such a machine lacks (for --python on x86-64 Linux; from the package index, or from --wheels),
and `run.sh`.

Example:
    python tools/make_gpu_bundle.py --output output/gpu_bundle --python 3.12
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from vmt.utils.atomic import make_folder
from vmt.utils.console import exit_with, one_line_errors
from vmt.utils.errors import ConfigError, OutputError

REPO = Path(__file__).resolve().parents[1]
#: Requirements that machines with torch and timm lack; without their own requirements. matplotlib
#: would be a sixth of the whole for a font: labels have Pillow's without it.
BINARY = ("av", "pycocotools")
PURE = ("fvcore", "iopath", "yacs", "portalocker", "termcolor", "tabulate", "tqdm")
LIMIT_MB = 60
#: What the machine runs. The wheels come without their requirements, so its own torch stays.
RUN = r"""#!/usr/bin/env bash
# All steps of benchmarks/run_gpu.py; arguments are passed on. PYTHON names the interpreter.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir "$scratch/site"
for wheel in "$here"/wheels/*.whl; do
    [ -e "$wheel" ] || continue
    "$python" -m pip install -q --no-index --no-deps --target "$scratch/site" "$wheel" ||
        echo "run.sh: $(basename "$wheel") does not fit this Python" >&2
done
export PYTHONPATH="$here/vmt:$scratch/site${PYTHONPATH:+:$PYTHONPATH}"
export VMT_CACHE_DIR="$scratch/cache" PYTHONUNBUFFERED=1
cd "$here"
"$python" "$here/vmt/benchmarks/run_gpu.py" "$@"
"""


def tracked_files() -> list[Path]:
    """Of the repository, relative to it; and the libraries that a build put beside the sources."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=REPO, capture_output=True, check=True)
    files = [Path(name) for name in done.stdout.decode().split("\0") if name]
    built = [path for room in ("vmt", "cocoapi_hq") for path in (REPO / room).rglob("*.so")]
    names = [*files, *(path.relative_to(REPO) for path in built)]
    return [name for name in names if (REPO / name).is_file()]


def copy_tree(target: Path) -> None:
    """Copy the repository's files."""
    for name in tracked_files():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(REPO / name, target / name)


def collect_wheels(target: Path, python: str, wheels: Path | None) -> None:
    """Put wheels into a folder: those of a folder, or from the package index.

    Raises:
        ConfigError: the index or the builder of a source package failed.
    """
    target.mkdir()
    if wheels is not None:
        for wheel in sorted(wheels.glob("*.whl")):
            shutil.copy2(wheel, target / wheel.name)
        return
    platforms = [f"--platform=manylinux_2_{n}_x86_64" for n in (28, 27, 17)]
    platforms += ["--platform=manylinux2014_x86_64"]
    binary = ["download", "-q", "--no-deps", "--only-binary=:all:", f"--python-version={python}"]
    for words in (
        [*binary, *platforms, f"--dest={target}", *BINARY],
        ["wheel", "-q", "--no-deps", f"--wheel-dir={target}", *PURE],
    ):
        done = subprocess.run([sys.executable, "-m", "pip", *words], capture_output=True, text=True)
        if done.returncode:
            line = (done.stderr.strip() or "pip failed").splitlines()[-1]
            raise ConfigError(f"{line}; --wheels FOLDER takes wheels that are there.")


def size_mb(folder: Path) -> float:
    """Of all files."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def make_bundle(output: Path, python: str, wheels: Path | None) -> float:
    """Make the folder anew and return its size in MB.

    Raises:
        ConfigError: wheels cannot be had.
        OutputError: the folder is there, or would be larger than ``LIMIT_MB``.
    """
    if output.exists():
        raise OutputError(f"--output {output} is there; remove it or choose another folder.")
    make_folder(output.parent)
    with tempfile.TemporaryDirectory(dir=output.parent) as scratch:
        made = Path(scratch) / "bundle"
        copy_tree(made / "vmt")
        collect_wheels(made / "wheels", python, wheels)
        (made / "run.sh").write_text(RUN, encoding="utf-8")
        (made / "run.sh").chmod(0o755)
        size = size_mb(made)
        if size > LIMIT_MB:
            raise OutputError(f"the bundle has {size:.0f} MB, more than {LIMIT_MB}.")
        made.rename(output)
    return size


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Make it and say how large it is."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="folder to make")
    parser.add_argument("--python", default="3.12", help="of the GPU machine (default 3.12)")
    parser.add_argument("--wheels", type=Path, help="folder of wheels in place of the index")
    args = parser.parse_args(argv)
    if args.wheels is not None and not args.wheels.is_dir():
        raise ConfigError(f"--wheels {args.wheels}: there is no such folder.")
    size = make_bundle(args.output, args.python, args.wheels)
    print(f"{args.output}: {size:.1f} MB; copy it, then: bash {args.output.name}/run.sh")
    return 0


if __name__ == "__main__":
    exit_with(main)
