#!/usr/bin/env python3
"""Score HQ-YTVIS results: the published command, on top of ``vmt eval``.

Example:
    python tools/eval_hqvis.py --save-path results.json --gt instances.json

Without ``--gt`` the file is looked for as ``hq_ytvis/ytvis_hq-test.json`` under
``$DETECTRON2_DATASETS`` (``datasets`` by default). Further options go to ``vmt eval``.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

if __package__ in (None, ""):  # run as a script from a checkout that is not installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from vmt.cli.main import main as vmt_main


def main(argv: Sequence[str] | None = None) -> int:
    """Translate the published options and score; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--save-path", required=True, help="result file to score")
    parser.add_argument("--gt", help="annotation file")
    args, rest = parser.parse_known_args(argv)
    root = Path(os.environ.get("DETECTRON2_DATASETS", "datasets"))
    gt = args.gt or str(root / "hq_ytvis" / "ytvis_hq-test.json")
    command = ["eval", "--gt", gt, "--results", args.save_path, "--protocol", "hq_ytvis"]
    return vmt_main([*command, *rest])


if __name__ == "__main__":
    sys.exit(main())
