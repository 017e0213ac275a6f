#!/usr/bin/env python3
"""Verify DAVIS 2017 (480p), and write its splits as YouTube-VIS JSON if asked.

The splits are the lists in ``DAVIS/ImageSets/2017/{train,val}.txt``. Objects have no class: all
are ``object``.

Example:
  python datasets/prepare_davis.py --json datasets/DAVIS/ytvis
"""

from __future__ import annotations

from pathlib import Path

from _common import parser, report, say

from vmt.data.catalog import load_dataset, locate
from vmt.data.convert import write_ytvis_json
from vmt.data.records import VideoList
from vmt.utils.console import exit_with
from vmt.utils.errors import VmtError

NAME = "davis_2017"


def convert(root: str, output: Path) -> int:
    """Write one JSON per list of ``ImageSets``; returns the exit status."""
    data = load_dataset(NAME, root)
    records = {data[k].name: data[k] for k in range(len(data))}
    lists = locate(NAME, root).annotations.parents[1] / "ImageSets" / "2017"
    status = 0
    output.mkdir(parents=True, exist_ok=True)
    for part in ("train", "val"):
        file = lists / f"{part}.txt"
        if not file.is_file():
            say(f"! {file}: no such list; {part}.json is not written.")
            status = 1
            continue
        names = file.read_text(encoding="utf-8").split()
        lost = [name for name in names if name not in records]
        if lost:
            say(f"! {file}: {len(lost)} videos have no label maps (first: {lost[0]}).")
            status = 1
        own = [records[name] for name in names if name in records]
        written = write_ytvis_json(VideoList(NAME, data.categories, own), output / f"{part}.json")
        say(f"written: {output / f'{part}.json'} ({written.counts['videos']} videos)")
    return status


def main() -> int:
    """Verify, convert; returns the exit status."""
    arguments = parser(__doc__)
    arguments.add_argument("--json", type=Path, metavar="DIR", help="write train.json, val.json")
    args = arguments.parse_args()
    status = report([NAME], args.root, args.decode)
    if args.json is not None:
        try:
            status = max(status, convert(args.root, args.json))
        except VmtError as error:
            say(f"! {error}")
            return 1
    return status


if __name__ == "__main__":
    exit_with(main)
