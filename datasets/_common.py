"""What the prepare scripts share: arguments and the printed report."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

if str(Path(__file__).resolve().parents[1]) not in sys.path:  # a checkout that is not installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from vmt.data.catalog import data_root
from vmt.data.datasets.splits import SPLITS, VideoSplit
from vmt.data.verify import verify_split


def say(line: str) -> None:
    """Print a line."""
    sys.stdout.write(line + "\n")


def parser(description: str | None) -> argparse.ArgumentParser:
    """Arguments that every script takes."""
    own = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    own.add_argument("--root", default="", help="default: $DETECTRON2_DATASETS or ./datasets")
    own.add_argument(
        "--decode",
        type=int,
        default=20,
        metavar="N",
        help="decode frames and masks of every N-th video (default 20; 1: all, 0: none)",
    )
    return own


def rows(names: Iterable[str]) -> list[VideoSplit]:
    """Rows of the splits by name."""
    by_name = {split.name: split for split in SPLITS}
    return [by_name[name] for name in names]


def report(names: Sequence[str], root: str, decode: int) -> int:
    """Verify splits and print what was found; 1 when something is missing or wrong."""
    say(f"root {data_root(root).absolute()}")
    wrong = 0
    for split in rows(names):
        result = verify_split(split, root, decode=decode)
        wrong += bool(result.problems)
        ready = "ready, not the published size" if result.notes else "ready"
        say(f"\n{result.name}: {'NOT READY' if result.problems else ready}")
        for line in result.found:
            say(f"  {line}")
        for note in result.notes:
            say(f"  ? {note}")
        for problem in result.problems[:20]:
            say(f"  ! {problem}")
        if len(result.problems) > 20:
            say(f"  ! and {len(result.problems) - 20} more")
    say(f"\n{len(names) - wrong} of {len(names)} splits are ready.")
    return 1 if wrong else 0
