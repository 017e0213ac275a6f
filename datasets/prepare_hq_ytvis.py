#!/usr/bin/env python3
"""Verify HQ-YTVIS, and cut other annotation files of the same videos by its splits.

The three files of HQ-YTVIS divide the 2,238 training videos of YouTube-VIS 2019; all frames lie in
``ytvis_2019/train``. The script checks files, frames and masks, and that no video stands in two
splits. ``--cut FILE`` divides another file of these videos, such as the original ``train.json``
with its coarser masks, into one file per split; videos are matched by their folder's name. Of
train.json they are the data sets hq_ytvis_{train,val,test}_coarse, if they lie where they go by
default.

Example:
  python datasets/prepare_hq_ytvis.py
  python datasets/prepare_hq_ytvis.py --cut datasets/ytvis_2019/train.json
"""

from __future__ import annotations

from pathlib import Path

from _common import parser, report, say

from cocoapi_hq.exceptions import ScoringError
from cocoapi_hq.io.json_file import read_json, write_json
from vmt.data.catalog import data_root, load_dataset
from vmt.data.datasets.splits import HQ_YTVIS_COARSE as COARSE
from vmt.utils.console import exit_with
from vmt.utils.errors import VmtError

PARTS = ("train", "val", "test")


def video_names(root: str) -> dict[str, set[str]]:
    """Names of the videos of each split that can be read."""
    names = {}
    for part in PARTS:
        try:
            data = load_dataset(f"hq_ytvis_{part}", root)
        except VmtError:
            continue
        names[part] = {data[k].name for k in range(len(data))}
    return names


def overlaps(names: dict[str, set[str]]) -> list[str]:
    """One sentence per pair of splits that share videos."""
    sentences = []
    for i, first in enumerate(PARTS):
        for second in PARTS[i + 1 :]:
            shared = sorted(names.get(first, set()) & names.get(second, set()))
            if shared:
                sentences.append(
                    f"{first} and {second} share {len(shared)} videos (first: {shared[0]})"
                )
    return sentences


def cut(path: Path, names: dict[str, set[str]], output: Path) -> list[str]:
    """Divide an annotation file; returns a line per file written.

    Raises:
        ScoringError: a file cannot be written.
    """
    content = read_json(path)
    folder_of = {v["id"]: Path(v["file_names"][0]).parent.name for v in content["videos"]}
    output.mkdir(parents=True, exist_ok=True)
    lines = []
    for part, own in names.items():
        ids = {key for key, folder in folder_of.items() if folder in own}
        piece = dict(content)
        piece["videos"] = [v for v in content["videos"] if v["id"] in ids]
        rows = content.get("annotations") or []
        piece["annotations"] = [a for a in rows if a["video_id"] in ids]
        target = output / f"{path.stem}-{part}.json"
        if target.absolute() == path.absolute():
            raise ScoringError(f"{target}: would overwrite the input; give another folder.")
        write_json(target, piece)
        lost = len(own) - len(ids)
        note = f"; {lost} videos of the split are not in {path.name}" if lost else ""
        lines.append(
            f"written: {target} ({len(ids)} videos, {len(piece['annotations'])} annotations{note})"
        )
    return lines


def main() -> int:
    """Verify, cut; returns the exit status."""
    arguments = parser(__doc__)
    arguments.add_argument("--cut", type=Path, metavar="FILE", help="annotation file to divide")
    arguments.add_argument(
        "--output", type=Path, metavar="DIR", help="for the divided files; default: hq_ytvis/coarse"
    )
    args = arguments.parse_args()
    if args.cut is None and args.output is not None:
        arguments.error("--output DIR is for the files of --cut FILE")
    status = report([f"hq_ytvis_{part}" for part in PARTS], args.root, args.decode)
    names = video_names(args.root)
    for line in overlaps(names):
        say(f"! {line}")
        status = 1
    if args.cut is None:
        return status
    if len(names) < len(PARTS):
        say("! --cut needs the three files of HQ-YTVIS.")
        return 1
    try:
        for line in cut(args.cut, names, args.output or data_root(args.root) / COARSE):
            say(line)
    except (OSError, ScoringError, KeyError, TypeError, IndexError) as error:
        say(f"! {args.cut}: cannot be divided ({error}).")
        return 1
    return status


if __name__ == "__main__":
    exit_with(main)
