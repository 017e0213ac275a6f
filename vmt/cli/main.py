"""Entry of the ``vmt`` console: finds the command, runs it, turns user errors into one line.

A command is a module of this package with ``add_arguments(parser)`` and ``run(args) -> int``; its
docstring is its help text and closes with an example. It is imported only when it is asked for.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
from collections.abc import Sequence

from vmt.utils.console import open_ended_streams
from vmt.utils.errors import USER_ERRORS
from vmt.utils.threads import let_threads_sleep
from vmt.version import __version__

#: command -> (module, one line for the overview)
COMMANDS = {
    "train": ("vmt.cli.train", "train on data sets or your own videos; evaluate with --eval-only"),
    "demo": ("vmt.cli.demo", "video in, tracklets out: results.json, tracks.csv, overlay.mp4"),
    "eval": ("vmt.cli.evaluate", "score result files: tube mask AP, tube boundary AP, MOTS, HOTA"),
    "check-annotations": ("vmt.cli.check_annotations", "list every defect of an annotation file"),
    "convert-annotations": (
        "vmt.cli.convert_annotations",
        "labelme, CVAT, VIA, COCO with video ids, PNG folders, MOTS -> YouTube-VIS JSON",
    ),
    "split": ("vmt.cli.split", "cut an annotation file by a frozen list of video ids"),
    "refine": ("vmt.cli.refine", "coarse masks in, sharp masks out: JSON, label maps, polygons"),
    "app": ("vmt.cli.app", "a page in the browser: find, draw, sharpen and save objects"),
    "degrade": ("vmt.cli.degrade", "make clean masks coarse, to test what should sharpen them"),
    "convert": ("vmt.cli.convert", "published weight file <-> our names"),
    "export": ("vmt.cli.export", "write a network as ONNX or a program of torch.export"),
    "configs": ("vmt.cli.configs", "list the recipes that come with VMT, by the names they go by"),
    "inspect": ("vmt.cli.inspect", "say what a weight, annotation or config file is"),
    "zoo": ("vmt.cli.zoo", "list and fetch published weights"),
    "doctor": ("vmt.cli.doctor", "what this installation can do, and what is missing"),
}


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {about}" for name, (_, about) in COMMANDS.items()]
    return "\n".join(
        ["commands:", *lines, "", "`vmt COMMAND --help` shows options and an example."]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: arguments without the program name; ``sys.argv[1:]`` if None.

    Returns:
        Exit status: 0 done, 1 a check did not hold, 2 bad input, 130 interrupted.
    """
    let_threads_sleep()
    with open_ended_streams():
        return _run(list(sys.argv[1:] if argv is None else argv))


def _run(argv: list[str]) -> int:
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    if not argv or argv[0] not in COMMANDS:
        parser = argparse.ArgumentParser(
            prog="vmt",
            description="High-quality video instance segmentation.",
            epilog=_overview(),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.add_argument("--version", action="version", version=f"vmt {__version__}")
        parser.add_argument("command", choices=list(COMMANDS), metavar="COMMAND")
        parser.parse_args(argv)
        return 2
    name, rest = argv[0], argv[1:]
    module = importlib.import_module(COMMANDS[name][0])
    parser = argparse.ArgumentParser(
        prog=f"vmt {name}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    args = parser.parse_args(rest)
    try:
        return int(module.run(args))
    except USER_ERRORS as error:
        print(f"vmt {name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"vmt {name}: interrupted; files finished so far are complete.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
