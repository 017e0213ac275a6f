#!/usr/bin/env python3
"""Verify BDD100K MOTS, and write it as YouTube-VIS JSON if asked.

Training reads the original labels (bitmasks, or Scalabel JSON); the JSON is for other tools, and is
quicker to read than thousands of PNG files. Without names all parts are looked at: train and val,
the frames of test, and the detection set for pre-training.

Example:
  python datasets/prepare_bdd100k_mots.py
  python datasets/prepare_bdd100k_mots.py bdd100k_mots_train bdd100k_mots_val --decode 1
  python datasets/prepare_bdd100k_mots.py --json datasets/bdd100k/mots_ytvis
"""

from __future__ import annotations

from pathlib import Path

from _common import parser, report, say

from cocoapi_hq.io.listing import list_folders
from vmt.data.catalog import load_dataset, locate
from vmt.data.convert import write_ytvis_json
from vmt.data.listing import list_frames
from vmt.utils.console import exit_with
from vmt.utils.errors import VmtError

#: Parts with masks.
PARTS = ("train", "val")
SPLITS = [
    *(f"bdd100k_mots_{part}" for part in (*PARTS, "test")),
    *(f"bdd100k_det_{part}" for part in PARTS),
]


def main() -> int:
    """Verify, convert; returns the exit status."""
    arguments = parser(__doc__)
    arguments.add_argument("splits", nargs="*", metavar="SPLIT", help=f"of {', '.join(SPLITS)}")
    arguments.add_argument("--json", type=Path, metavar="DIR", help="write train.json, val.json")
    args = arguments.parse_args()
    unknown = [name for name in args.splits if name not in SPLITS]
    if unknown:
        arguments.error(f"unknown split {unknown[0]}; choose from {', '.join(SPLITS)}")
    names = args.splits or SPLITS
    status = report(names, args.root, args.decode)
    for part in PARTS:
        if f"bdd100k_mots_{part}" in names:
            status |= _say_unlabelled(f"bdd100k_mots_{part}", args.root)
    return status if args.json is None else status | _write_json(args.json, args.root)


def _say_unlabelled(name: str, root: str) -> int:
    """Name videos and frames without labels; 1 if there are any."""
    try:
        place = locate(name, root)
        data = place.load()
        known = {data[k].name: {Path(f).name for f in data[k].file_names} for k in range(len(data))}
        lost = {
            folder.name: [p.name for p in list_frames(folder).values() if p.name not in labelled]
            for folder in list_folders(place.images)
            for labelled in [known.get(folder.name, set())]
        }
    except VmtError:
        return 0  # the report has said it
    lost = {video: frames for video, frames in lost.items() if frames}
    for video, frames in list(lost.items())[:20]:
        say(f"! {name}: video {video} has {len(frames)} frames without labels (first: {frames[0]})")
    return 1 if lost else 0


def _write_json(folder: Path, root: str) -> int:
    """Write train.json and val.json; 1 if one cannot be."""
    folder.mkdir(parents=True, exist_ok=True)
    status = 0
    for part in PARTS:
        try:
            written = write_ytvis_json(
                load_dataset(f"bdd100k_mots_{part}", root), folder / f"{part}.json"
            )
        except VmtError as error:
            say(f"! {error}")
            status = 1
            continue
        counts = ", ".join(f"{count} {name}" for name, count in written.counts.items())
        say(f"written: {folder / f'{part}.json'} ({counts})")
    return status


if __name__ == "__main__":
    exit_with(main)
