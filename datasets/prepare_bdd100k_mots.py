#!/usr/bin/env python3
"""Verify BDD100K MOTS, and write it as YouTube-VIS JSON if asked.

Training reads the original labels (bitmasks, or Scalabel JSON); the JSON is for other tools, and is
quicker to read than thousands of PNG files.

Example:
  python datasets/prepare_bdd100k_mots.py
  python datasets/prepare_bdd100k_mots.py --json datasets/bdd100k/mots_ytvis
"""

from __future__ import annotations

from pathlib import Path

from _common import parser, report, say

from vmt.data.catalog import load_dataset
from vmt.data.convert import write_ytvis_json
from vmt.utils.console import exit_with
from vmt.utils.errors import VmtError

PARTS = ("train", "val")


def main() -> int:
    """Verify, convert; returns the exit status."""
    arguments = parser(__doc__)
    arguments.add_argument("--json", type=Path, metavar="DIR", help="write train.json, val.json")
    args = arguments.parse_args()
    status = report([f"bdd100k_mots_{part}" for part in PARTS], args.root, args.decode)
    if args.json is None:
        return status
    args.json.mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        try:
            written = write_ytvis_json(
                load_dataset(f"bdd100k_mots_{part}", args.root), args.json / f"{part}.json"
            )
        except VmtError as error:
            say(f"! {error}")
            status = 1
            continue
        counts = ", ".join(f"{count} {name}" for name, count in written.counts.items())
        say(f"written: {args.json / f'{part}.json'} ({counts})")
    return status


if __name__ == "__main__":
    exit_with(main)
