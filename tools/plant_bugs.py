#!/usr/bin/env python3
r"""Do the tests notice bugs? Plant them one at a time in a copy of the tree and run the tests.

tests/planted/*.yaml lists the bugs: a name, the file, its text (once there) and what replaces it,
and the test files below tests/ (or file::test) that should fail then. The working tree is never
touched. What was found is kept in the result file: a second call runs only those whose file or
tests have changed since, so that the tool goes on where it was stopped, and one new test costs one
new run.

A test that fails without any bug notices nothing; so each test file runs once without. Test runs
are children of one process that has imported torch: most take seconds.

Example:
  python tools/plant_bugs.py                       # all of them
  python tools/plant_bugs.py --only data           # tests/planted/data.yaml
  python tools/plant_bugs.py --only COLOR_PROB     # by part of the name or of the file's path
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

import pytest
import yaml

REPO = Path(__file__).resolve().parents[1]
PLANTED = Path("tests/planted")
KEYS = {"name", "file", "old", "new", "tests"}
#: Lists whose tests skip where a package is missing.
NEEDS = {"detectron2": "detectron2"}
#: Other people's modules that take long to import.
PRELOADED = ("torch", "torch.distributed.fsdp", "torchvision.transforms.v2", "timm", "av", "cv2",
             "scipy.optimize", "safetensors.torch", "fvcore.common.config")  # fmt: skip
#: Packages of the tree, which a child takes from the copy.
OURS = ("vmt", "cocoapi_hq", "tests")
#: pytest's status when all tests passed, and when there was none. Any other means that a test
#: failed, that a test file could not even be imported, or that the process died.
PASSED, NO_TESTS = 0, 5
#: Stands for a run that was ended.
FAILED = 1


@dataclass(frozen=True)
class Bug:
    """One planted bug.

    Args:
        group: stem of the YAML file that lists it.
        name: what goes wrong, in words.
        file: path in the tree.
        old: text that stands exactly once in the file.
        new: what replaces it.
        tests: paths of test files in the tree, or ``path::test``.
    """

    group: str
    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def planted(self, text: str) -> str:
        """The file's text with the bug in it; ValueError when it does not apply."""
        count = text.count(self.old)
        if count != 1 or self.old == self.new:
            raise ValueError(
                f"{PLANTED / self.group}.yaml: {self.name!r}: its old text stands {count} times in "
                f"{self.file} and must stand there once, and differ from the new one."
            )
        return text.replace(self.old, self.new)


def read_bugs(root: Path = REPO) -> list[Bug]:
    """All bugs of ``tests/planted``; ValueError names an entry with other keys than ``KEYS``."""
    bugs = []
    for path in sorted((root / PLANTED).glob("*.yaml")):
        for row in yaml.safe_load(path.read_text(encoding="utf-8")):
            if set(row) != KEYS:
                raise ValueError(f"{path}: {row.get('name')!r} must have the keys {sorted(KEYS)}.")
            tests = tuple(f"tests/{name}" for name in row["tests"])
            bugs.append(Bug(path.stem, row["name"], row["file"], row["old"], row["new"], tests))
    return bugs


def copy_tree(target: Path, root: Path) -> None:
    """Copy what git knows or would know, and the compiled libraries, which it ignores."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout
    built = [path for own in ("vmt", "cocoapi_hq") for path in (root / own).rglob("*.so")]
    compiled = [str(path.relative_to(root)) for path in built if "build" not in path.parts]
    for name in [*filter(None, listed.split("\0")), *compiled]:
        if (root / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, target / name)


def digest(parts: Iterable[str | bytes]) -> str:
    """One number for what a result depends on."""
    total = hashlib.sha256()
    for part in parts:
        total.update(part.encode() if isinstance(part, str) else part)
        total.update(b"\0")
    return total.hexdigest()[:16]


class Laboratory:
    """A copy of the tree in which bugs are planted, and the results so far.

    Args:
        folder: of the copy.
        results: JSON lines; appended to.
        timeout: seconds after which a test run counts as failed.
        root: the tree.
    """

    def __init__(self, folder: Path, results: Path, timeout: float, root: Path = REPO) -> None:
        self.folder = folder
        self.results = results
        self.timeout = timeout
        copy_tree(folder, root)
        self._known: dict[str, dict[str, Any]] = {}
        if results.is_file():
            for line in results.read_text(encoding="utf-8").splitlines():
                row = json.loads(line)
                self._known[row["key"]] = row
        sources = sorted(path for path in (folder / "vmt").rglob("*.py"))
        self._sources = digest(path.read_bytes() for path in sources)

    def run(self, bug: Bug) -> dict[str, Any]:
        """``noticed``, ``by`` (the test that failed), ``seconds``, ``cached``."""
        path = self.folder / bug.file
        text = path.read_text(encoding="utf-8")
        planted = bug.planted(text)
        tests = [self._file(name).read_bytes() for name in bug.tests]
        key = digest(["bug", bug.file, planted, *bug.tests, *tests])
        if key in self._known:
            return self._known[key] | {"cached": True}
        for name in bug.tests:
            trouble = self._trouble(name)
            if trouble:
                return {"group": bug.group, "name": bug.name, "file": bug.file, "noticed": False,
                        "by": trouble, "seconds": 0.0, "cached": False}  # fmt: skip
        path.write_text(planted, encoding="utf-8")
        try:
            status, by, seconds = self._pytest(bug.tests)
        finally:
            path.write_text(text, encoding="utf-8")
        row = {
            "key": key, "group": bug.group, "name": bug.name, "file": bug.file,
            "noticed": status not in (PASSED, NO_TESTS), "by": by, "seconds": round(seconds, 1),
        }  # fmt: skip
        self._keep(row)
        return row | {"cached": False}

    def _file(self, test: str) -> Path:
        return self.folder / test.partition("::")[0]

    def _trouble(self, name: str) -> str:
        """How a test file fails without any bug; empty when it passes."""
        key = digest(["healthy", name, self._sources, self._file(name).read_bytes()])
        if key in self._known:
            return ""
        status, by, _ = self._pytest([name])
        if status != PASSED:
            return f"{name} fails without any bug ({by or f'status {status}'})"
        self._keep({"key": key, "healthy": name})
        return ""

    def _keep(self, row: dict[str, Any]) -> None:
        self._known[row["key"]] = row
        self.results.parent.mkdir(parents=True, exist_ok=True)
        with self.results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def _pytest(self, tests: Sequence[str]) -> tuple[int, str, float]:
        """Status, first test that failed, seconds."""
        started = time.monotonic()
        log = self.folder / "plant_bugs.log"
        child = os.fork()
        if not child:
            _run_tests(self.folder, log, tests)
        status = _wait(child, started + self.timeout)
        seconds = time.monotonic() - started
        if status is None:
            return FAILED, f"no end after {self.timeout:g} s", seconds
        said = log.read_text(encoding="utf-8", errors="replace")
        failure = re.search(r"^(?:FAILED|ERROR) (\S+)", said, re.MULTILINE)
        return status, failure[1] if failure else "", seconds


def _run_tests(folder: Path, log: Path, tests: Sequence[str]) -> NoReturn:
    """What a child does: pytest in the copy, with modules of the copy; never returns."""
    status = FAILED
    try:
        os.setsid()
        os.chdir(folder)
        sys.path[0] = str(folder)
        # Files change within a second and keep their size: compiled copies would be taken for new.
        sys.dont_write_bytecode = True
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
        os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # seconds, and no test needs one
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
        for name in [n for n in sys.modules if n.partition(".")[0] in OURS]:
            del sys.modules[name]
        status = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests]))
        sys.stdout.flush()
    finally:
        os._exit(status)


def _wait(child: int, deadline: float) -> int | None:
    """Exit status of a child; None when it was ended at the deadline, with all that it started."""
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    with contextlib.suppress(ProcessLookupError):  # not yet the head of its group
        os.killpg(child, signal.SIGKILL)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def preload() -> None:
    """Import once what every test run needs and no bug changes; children start with it."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for name in PRELOADED:
        importlib.import_module(name)


def summary(rows: Sequence[dict[str, Any]]) -> str:
    """Share noticed per group and in all, then what was not."""
    total = Counter(row["group"] for row in rows)
    noticed = Counter(row["group"] for row in rows if row["noticed"])
    lines = [f"{noticed[group]:4d} of {count:4d}  {group}" for group, count in total.items()]
    share = sum(noticed.values()) / max(len(rows), 1)
    lines.append(f"{sum(noticed.values()):4d} of {len(rows):4d}  noticed: {share:.0%}")
    missed = [row for row in rows if not row["noticed"]]
    lines += [f"not noticed: {row['file']}: {row['name']}" for row in missed]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Plant and report; 1 when a bug passed unnoticed, 2 when the list or the tests are broken."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="bugs with this in name, group or file"
    )
    parser.add_argument(
        "--results", type=Path, default=REPO / "output" / "planted_bugs.jsonl",
        help="JSON lines (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--timeout", type=float, default=900, metavar="S", help="per test run (default: 900)"
    )
    args = parser.parse_args(argv)
    rows = []
    preload()
    try:
        chosen = [b for b in read_bugs() if args.only in f"{b.group}\n{b.name}\n{b.file}"]
        absent = {b.group for b in chosen if b.group in NEEDS and not find_spec(NEEDS[b.group])}
        for group in sorted(absent):
            print(f"{PLANTED / group}.yaml: left out, its tests need {NEEDS[group]}")
        chosen = [b for b in chosen if b.group not in absent]
        with tempfile.TemporaryDirectory(prefix="plant_bugs_") as folder:
            laboratory = Laboratory(Path(folder), args.results, args.timeout)
            for number, bug in enumerate(chosen, start=1):
                row = laboratory.run(bug)
                rows.append(row)
                how = f"noticed by {row['by']}" if row["noticed"] else f"NOT NOTICED {row['by']}"
                when = "kept" if row["cached"] else f"{row['seconds']:.0f} s"
                print(f"{number}/{len(chosen)} {bug.file}: {bug.name}: {how} ({when})", flush=True)
    except ValueError as error:
        print(f"plant_bugs: {error}", file=sys.stderr)
        return 2
    print(summary(rows))
    return 0 if all(row["noticed"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
