#!/usr/bin/env python3
"""Verify YouTube-VIS 2019 and 2021 and OVIS: what is there, what is missing, what is wrong.

Example:
  python datasets/prepare_ytvis.py ytvis_2019_train ovis_train --decode 1
"""

from __future__ import annotations

from _common import parser, report

from vmt.utils.console import exit_with

SPLITS = [
    *(f"ytvis_{year}_{part}" for year in (2019, 2021) for part in ("train", "valid", "test")),
    *(f"ovis_{part}" for part in ("train", "valid", "test")),
]


def main() -> int:
    """Verify; returns the exit status."""
    arguments = parser(__doc__)
    arguments.add_argument("splits", nargs="*", metavar="SPLIT", help=f"of {', '.join(SPLITS)}")
    args = arguments.parse_args()
    unknown = [name for name in args.splits if name not in SPLITS]
    if unknown:
        arguments.error(f"unknown split {unknown[0]}; choose from {', '.join(SPLITS)}")
    return report(args.splits or SPLITS, args.root, args.decode)


if __name__ == "__main__":
    exit_with(main)
