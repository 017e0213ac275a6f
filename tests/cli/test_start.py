"""The console answers at once: help, and options that are refused, import nothing heavy."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from vmt.cli.main import COMMANDS

REPO = Path(__file__).resolve().parents[2]
#: Packages that take a good part of a second, or more.
HEAVY = (
    *("torch", "torchvision", "timm", "numpy", "scipy", "pandas", "cv2", "av", "PIL", "skimage"),
    *("pycocotools", "matplotlib", "safetensors", "fvcore", "yaml", "tqdm"),
)
#: Words in, statuses and imported packages out, one after the other in one process.
PROBE = """
import contextlib, io, json, sys
from vmt.cli.main import main
answers = []
for words in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            status = main(words)
        except SystemExit as leaving:
            status = leaving.code
    answers.append([words, status, sorted({name.partition(".")[0] for name in sys.modules})])
print(json.dumps(answers))
"""
REFUSED = {
    "train": ["--config-file", "a.yaml", "--train", "a.json"],
    "demo": ["--config-file", "a", "--input", "b", "--output", "c", "--window", "0"],
    "eval": ["--gt", "a.json", "--results", "b.json", "--metric", "speed"],
    "check-annotations": [],
    "convert-annotations": ["nothing.json", "--images", ".", "--output", "a.json"],
    "split": ["--output", "a.json"],
    "refine": ["--masks", "a.json", "--images", ".", "--output", "b.json", "--accept", "0.1"],
    "app": ["--port", "70000"],
    "degrade": ["--annotations", "a.json", "--output", "b.json", "--kind", "old"],
    "convert": ["a.pth"],
    "configs": ["--all"],
    "export": ["--config-file", "a", "--output", "b.onnx", "--size", "360"],
    "inspect": [],
    "zoo": ["--download"],
    "doctor": ["--yaml"],
}


def probe(*calls: list[str]) -> list[tuple[list[str], int, set[str]]]:
    done = subprocess.run(
        [sys.executable, "-c", PROBE, json.dumps(calls)],
        cwd=REPO, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [(words, status, set(names)) for words, status, names in json.loads(done.stdout)]


def test_help_and_wrong_options_import_nothing_heavy() -> None:
    calls = [["--version"], ["--help"], [], ["fly"]]
    calls += [[name, "--help"] for name in COMMANDS]
    calls += [[name, *words] for name, words in REFUSED.items()]
    for words, status, names in probe(*calls):
        assert not names & set(HEAVY), words
        shows = "--help" in words or words == ["--version"]
        assert status == (0 if shows else 2), words
    assert set(REFUSED) == set(COMMANDS)


def test_the_list_of_weights_imports_nothing_heavy() -> None:
    ((_, status, names),) = probe(["zoo"])
    assert status == 0
    assert not names & set(HEAVY)


#: Scripts whose work is elsewhere; the others draw or write pictures themselves.
THIN = (
    *(
        "check_parity",
        "demo",
        "eval_hqvis",
        "make_docs",
        "make_mask_refiner",
        "make_vmt_small",
        "refine_masks",
    ),
    *("refine_masks", "self_correct", "train_net"),
)
#: What ``vmt.config`` imports.
CONFIG = {"fvcore", "yaml", "tqdm"}
RUN_EACH = """
import contextlib, io, runpy, sys
for path in sys.argv[1:]:
    sys.argv = [path, "--help"]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        runpy.run_path(path, run_name="__main__")
    print(path, *sys.modules)
"""


def test_help_of_thin_scripts_imports_nothing_heavy() -> None:
    paths = [f"tools/{name}.py" for name in THIN]
    done = subprocess.run(
        [sys.executable, "-c", RUN_EACH, *paths], cwd=REPO, capture_output=True, text=True
    )
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == paths, done.stderr
    for line in lines:
        path, *modules = line.split()
        # a config is read before anything is asked of it
        heavy = {name.partition(".")[0] for name in modules} & set(HEAVY) - {
            "fvcore",
            "yaml",
            "tqdm",
        }
        assert not heavy, path


@pytest.mark.parametrize("package", ["vmt", "cocoapi_hq"])
def test_packages_open_lazily(package: str) -> None:
    code = f"import sys, {package}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True)
    names = {name.partition(".")[0] for name in done.stdout.split()}
    assert package in names
    assert not names & set(HEAVY)
