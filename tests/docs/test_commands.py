"""Every command of every page, and of the examples of --help, runs as it is written.

Commands run one after the other in a folder that holds tiny files of the names that the pages use
(``world.py``). What cannot run here is listed in ``NOT_RUN`` with the reason; a command that is
neither run nor listed fails, and so does an entry that no page has.
"""

from __future__ import annotations

import logging
import os
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import pytest

from tests.docs.blocks import PAGES, REPO, Block, blocks_of, example_of_help, words
from tests.docs.world import write_datasets, write_weights, write_world
from tools.make_tiny_datasets import make_tiny_datasets
from vmt.cli.main import main

logger = logging.getLogger(__name__)
INSTALLS = "changes the installation"
NETWORK = "downloads"
RECIPE = "the page's own files: tests/modeling/test_new_method.py builds and runs them"
HOURS = "trains for hours or days; tests/engine/test_recipes.py trains a step of every config"
PHASES = "trains for days; tests/engine/test_phases.py takes a step of it, from the page"
CLUSTER = "needs a cluster; tests/engine/test_parallel.py starts several processes"
DETECTRON2 = "needs detectron2: tests/plugins/detectron2 runs the script and the page's Python"
LONG_DATA = "an hour or more; tests/apps/test_self_correct.py runs the loop on less"
#: Beginning of a command -> why it cannot run here.
NOT_RUN = {
    "make ": "installs first; tools/make_demo.py, the tests and linters run without it",
    "source ": "the shell of whoever reads",
    "pip install": INSTALLS,
    "labelme ": "a window to draw in; the folder holds polygons as it writes them",
    "vmt app": "serves until it is stopped; tests/apps/app/test_browser.py uses the page",
    "vmt zoo --download": NETWORK,
    "vmt export --config-file configs/": "minutes; small ones: tests/apps/test_exported_graphs.py",
    "vmt train --config-file configs/hq_ytvis/": HOURS,
    "vmt train --config-file configs/coco/": HOURS,
    "vmt train --config-file configs/ovis/": PHASES,
    "vmt train --config-file configs/ytvis_2019/": HOURS,
    "vmt train --config-file configs/refine/": HOURS,
    "vmt train --config-file configs/quick/constant.yaml": RECIPE,
    "vmt demo --config-file output/constant/": RECIPE,
    "python tools/train_net.py --config-file configs/ytvis_2019/": HOURS,
    "tools/train_net.py --config-file configs/hq_ytvis/": HOURS,
    "tools/train_net.py --config-file CONFIG": CLUSTER,
    "export DETECTRON2_DATASETS": CLUSTER,
    "head=": CLUSTER,
    "srun ": CLUSTER,
    "python tools/check_parity.py": "needs outputs of the published code: tests/modeling have some",
    "python tools/self_correct.py": LONG_DATA,
    "for set in": LONG_DATA,
    "python tools/make_mask_refiner.py": "five hours; tests/tools/test_make_mask_refiner.py",
    "python tools/make_vmt_small.py": "a night; tests/tools/test_make_vmt_small.py takes two steps",
    "python benchmarks/study_small.py": "needs weights; tests/benchmarks has its dry run",
    "python benchmarks/bench_small.py --record": "needs weights; tests/benchmarks has its dry run",
    "python benchmarks/bench_demo.py": "needs weights; tests/benchmarks has its dry run",
    "python tools/make_lite_features.py": "a package; tests/tools/test_make_lite_features.py",
    "python tools/make_composites.py": "minutes; tests/tools/test_make_composites.py",
    "python benchmarks/study_training.py": "half an hour; tests/benchmarks has its dry run",
    "python benchmarks/bench_model.py --dry-run": "tests/benchmarks runs it",
    "python benchmarks/run_gpu.py": "needs a GPU; tests/benchmarks/test_run_gpu.py runs it without",
    "python tools/make_gpu_bundle.py": NETWORK,
    "python tools/make_wheels.py": "minutes, and auditwheel; tests/tools/test_make_wheels.py",
    "python tools/plant_bugs.py": "runs the tests again and again, for hours",
    "python tools/train_net_detectron2.py": DETECTRON2,
    "vmt refine --masks train.json --images JPEGImages --output sharp.json --weights output": HOURS,
    "vmt eval --gt bitmasks/val": "results on BDD100K; tests/evaluation has some",
    "python datasets/prepare_bdd100k_mots.py --json": "tests/data/test_prepare.py",
}
if find_spec("onnxruntime") is None:
    NOT_RUN["vmt export "] = "needs what pip install 'vmt-vis[export]' brings"
#: Blocks that are no commands: beginning -> what they are.
NO_COMMANDS = {
    "ytvis_2019/  ": "a tree of folders",
    '{"videos"': "an annotation file",
    "DATASETS:": "keys of a config",
    "MODEL:": "keys of a config",
    '[{"video_id"': "a result file",
    "@inproceedings": "citations",
    "[11/27 ": "what a command printed",
    "(7,) (1,": "what Python printed",
    "mask_refiner.onnx:": "what a command printed",
}
#: Pages whose Python needs other people's tools, which a test of their own has or stands in for.
NOT_EXECUTED = {
    "docs/howto/export.md": "tests/apps/test_exported_graphs.py, on a small network",
    "docs/howto/detectron2.md": "tests/plugins/detectron2/test_script.py",
    "docs/howto/other_tools.md": "tests/interop/test_mask_tracks.py",
}
#: Keys that make the trainings of the pages one step of tiny pictures.
ONE_STEP = (
    *("SOLVER.MAX_STEPS", "1", "SOLVER.CLIPS_PER_BATCH", "1", "INPUT.CLIP_FRAMES", "2"),
    *("INPUT.MIN_SIZE_TRAIN", "[48]", "INPUT.MAX_SIZE_TRAIN", "64", "INPUT.MIN_SIZE_TEST", "48"),
    *("DATALOADER.NUM_WORKERS", "0"),
)
#: Demos show networks of full width pictures of this size.
SMALL = ("INPUT.MIN_SIZE_TEST", "64")
SCRIPTS = sorted(
    [
        *(REPO / "tools").glob("*.py"),
        *(REPO / "vmt/cli").glob("*.py"),
        *(REPO / "datasets").glob("prepare_*.py"),
    ]
)
EXAMPLES = {str(p.relative_to(REPO)): found for p in SCRIPTS if (found := example_of_help(p))}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What takes time to make, once."""
    folder = tmp_path_factory.mktemp("made")
    make_tiny_datasets(folder / "tiny")
    write_weights(folder / "weights")
    return folder


@pytest.fixture
def world(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    write_world(tmp_path)
    write_datasets(tmp_path, made / "tiny")
    (tmp_path / "weights").symlink_to(made / "weights")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DETECTRON2_DATASETS", "datasets")
    monkeypatch.setattr("cv2.VideoCapture", capture)
    path = f"{tmp_path / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    monkeypatch.setenv("PATH", path)
    state = list(sys.path), list(sys.argv), set(sys.modules)
    yield tmp_path
    sys.path[:], sys.argv[:] = state[0], state[1]
    for name in set(sys.modules) - state[2]:
        if "benchmarks/" in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def capture(source: int | str, _real: Callable[[int | str], Any] = cv2.VideoCapture) -> Any:
    """OpenCV's, with a video in place of the camera."""
    return _real("my.mp4" if isinstance(source, int) else source)


def reason_not_to_run(command: str) -> str | None:
    return next((why for start, why in NOT_RUN.items() if command.startswith(start)), None)


def whole_commands(block: Block) -> list[str]:
    """Its commands; a loop is one, with all that its block has."""
    if "\ndone" in block.text:
        return [block.text]
    return block.commands()


def commands_of_pages() -> set[str]:
    return {command for page in PAGES for b in blocks_of(page) for command in whole_commands(b)}


def run(command: str) -> None:
    """As a shell would; Python in this process."""
    if not command.startswith(("vmt ", "python ", "tools/", ".venv/bin/vmt", "DETECTRON2_DATA")):
        subprocess.run(["bash", "-e", "-c", command], check=True, timeout=120)
        return
    arguments = words(command)
    while "=" in arguments[0]:
        name, _, value = arguments.pop(0).partition("=")
        os.environ[name] = value  # the fixture's monkeypatch puts the old one back
    if "train" in arguments and "--config-file" in arguments:
        arguments += ONE_STEP
    if "tools/visualize_data.py" in arguments and "--config-file" in arguments:
        arguments += ["DATALOADER.NUM_WORKERS", "0"]
    if "demo" in arguments and "--config-file" in arguments:
        arguments += SMALL
        if "0" in arguments:  # a camera never ends
            arguments += ["--max-frames", "1"]
    if arguments[1:2] and arguments[1].startswith(("tools/visualize_a", "tools/visualize_r")):
        arguments += ("INPUT.MIN_SIZE_TEST", "240")  # holds the pixels that the pages look from
    program = arguments.pop(0)
    if program.endswith("vmt"):
        try:
            status = main(arguments)
        except SystemExit as end:
            status = end.code
    else:
        if program == "python":
            program = arguments.pop(0)
        script = (Path.cwd() / program).resolve()
        sys.path.insert(0, str(script.parent))
        sys.argv[:] = [program, *arguments]
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(program, run_name="__main__")
        status = ended.value.code
    assert not status, f"{command}: status {status}"


@pytest.mark.parametrize("page", PAGES)
def test_commands_of_a_page(page: str, world: Path) -> None:
    for block in blocks_of(page):
        if block.kind == "python" and page not in NOT_EXECUTED:
            exec(compile(block.text, f"{page}:{block.line}", "exec"), {"__name__": page})
        elif block.kind == "shell":
            for command in whole_commands(block):
                if not reason_not_to_run(command):
                    logger.info("%s:%d: %s", page, block.line, command)
                    run(command)
        elif block.kind == "other":
            known = any(block.text.startswith(start) for start in NO_COMMANDS)
            assert known, f"{page}:{block.line}: neither a command nor listed: {block.text}"


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_of_help(name: str, world: Path) -> None:
    if name == "vmt/cli/convert_annotations.py":
        (world / "train.json").unlink()
    for command in EXAMPLES[name]:
        again = command.startswith("python tools/vis") and command in commands_of_pages()
        if not reason_not_to_run(command) and not again:  # those draw for long
            logger.info(command)
            run(command)


def test_every_reason_is_needed() -> None:
    commands = [command for found in EXAMPLES.values() for command in found]
    commands += commands_of_pages()
    for start in NOT_RUN:
        assert any(command.startswith(start) for command in commands), start


def test_every_command_has_an_example() -> None:
    for path in (REPO / "vmt/cli").glob("*.py"):
        if path.stem not in ("__init__", "main", "streams"):
            assert EXAMPLES.get(f"vmt/cli/{path.name}"), path.name
