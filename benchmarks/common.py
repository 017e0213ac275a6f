"""What every benchmark shares: its options, processes of its own, and how it writes results.

Not a script. ``benchmarks/README.md`` lists the scripts.
"""

from __future__ import annotations

import argparse
import atexit
import io
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO))  # scripts take moving shapes from tests/
#: Numbers that README and docs quote; only ``--record`` writes there.
RESULTS = REPO / "benchmarks/results"
#: Where results go otherwise, below the current folder.
SCRATCH = Path("output/benchmarks")


class BenchmarkError(Exception):
    """Something the user can mend; one sentence."""


def benchmark_parser(doc: str | None, result: str | None) -> argparse.ArgumentParser:
    """A parser with the options that all benchmarks have.

    Args:
        doc: what ``--help`` says.
        result: name of the file of results; None for studies, which fill a folder.
    """
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if result is None:
        parser.add_argument("--output", type=Path, help="folder of everything; needed")
    else:
        where = parser.add_mutually_exclusive_group()
        where.add_argument(
            "--output",
            type=Path,
            default=SCRATCH / result,
            help="result file (default %(default)s)",
        )
        where.add_argument(
            "--record",
            dest="output",
            action="store_const",
            const=RESULTS / result,
            help=f"write benchmarks/results/{result}, which README and docs quote",
        )
    parser.add_argument(
        "--dry-run", action="store_true", help="tiny sizes, in seconds; keeps no results"
    )
    return parser


def parse(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None, dry: dict[str, Any]
) -> argparse.Namespace:
    """Read the command line.

    Args:
        parser: of ``benchmark_parser``.
        argv: words; None for those of the process.
        dry: what ``--dry-run`` takes in place of the defaults.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if "--dry-run" in words:
        parser.set_defaults(**dry)
    args = parser.parse_args(words)
    if args.dry_run:
        args.output = scratch_folder() / (args.output.name if args.output else "study")
    elif args.output is None:
        parser.error("--output FOLDER is needed: everything goes there")
    return args


def scratch_folder() -> Path:
    """A folder that is gone when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="vmt-dry-run-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def require_data(folder: Path, option: str, annotations: str = "annotations.json") -> Path:
    """A folder with a JSON file and ``JPEGImages/``, or one sentence on what is missing.

    Raises:
        BenchmarkError: it has not both.
    """
    for name in (annotations, "JPEGImages"):
        if not (folder / name).exists():
            raise BenchmarkError(
                f"{option} {folder}: there is no {name} in it; give a folder with {annotations} "
                "and JPEGImages/ (benchmarks/README.md says how to make one)."
            )
    return folder


def measure_apart(
    script: str, main: Callable[[list[str]], object], words: Sequence[str], here: bool
) -> dict[str, Any]:
    """The JSON object that ``main(words)`` prints last, of a process of its own.

    Args:
        script: path of the benchmark.
        main: its entry.
        words: its arguments.
        here: run in this process (dry runs: a start of torch takes seconds).
    """
    if here:
        printed = io.StringIO()
        with redirect_stdout(printed):
            main(list(words))
        text = printed.getvalue()
    else:
        done = subprocess.run([sys.executable, script, *words], stdout=subprocess.PIPE, text=True)
        if done.returncode:
            raise BenchmarkError(f"{' '.join(words)}: failed with status {done.returncode}.")
        text = done.stdout
    measured: dict[str, Any] = json.loads(text.splitlines()[-1])
    return measured


def machine() -> dict[str, Any]:
    """Processor, cores, torch and, where there is one, GPU."""
    import torch  # its memory is not that of contenders that do without

    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        models = [
            line.split(":", 1)[1].strip()
            for line in cpuinfo.read_text().splitlines()
            if line.startswith("model name")
        ]
        name = models[0] if models else name
    facts = {
        "cpu": name,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    if torch.cuda.is_available():
        facts["gpu"] = torch.cuda.get_device_name()
    return facts


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write results so that a reader never sees half a file."""
    from vmt.utils.atomic import make_folder, write_text

    make_folder(path.parent)
    write_text(path, json.dumps(content, indent=1) + "\n")
    print(f"wrote {path}")


def run(main: Callable[[], int | None]) -> int:
    """Exit status of a script: 2 and one sentence for what its user can mend."""
    from vmt.utils.errors import VmtError

    try:
        return main() or 0
    except (VmtError, BenchmarkError, OSError) as error:
        print(f"{Path(sys.argv[0]).stem}: {error}", file=sys.stderr)
        return 2
