"""List the weights of the package and the published files, or download one of these.

A download that breaks off goes on where it stopped, when the command is given again. No checksums
are published: the first download records the SHA-256 of what it got in FILE.sha256, later ones
must agree with it.

Example:
  vmt zoo --download vmt_r50 --output weights
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

from vmt.checkpoint.methods.base import ZooFile
from vmt.checkpoint.zoo import ZOO, zoo_file
from vmt.inference.package_detector import (
    DETECTOR,
    RECIPE,
    missing_weights,
    shipped_weights,
    ships,
    weights_file,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``vmt zoo``."""
    parser.add_argument("--download", metavar="NAME", help="fetch this file; see the list")
    parser.add_argument(
        "--output", metavar="DIR", type=Path, default=Path("weights"), help="default: weights"
    )
    parser.add_argument("--url", help="fetch from this mirror in place of the authors' link")
    parser.add_argument("--json", action="store_true", help="the list for machines")


def run(args: argparse.Namespace) -> int:
    """Print the list or fetch a file; see the module's docstring."""
    if args.download == DETECTOR:
        print(f"{shipped_weights()}: {DETECTOR} comes with the package; nothing is to be fetched")
        return 0
    if args.download:
        return _download(zoo_file(args.download), args.output, args.url)
    if args.json:
        print(json.dumps([dataclasses.asdict(file) for file in ZOO.values()], indent=1))
        return 0
    print("\n".join(_package_lines()), end="\n\n")
    for file in ZOO.values():
        print("\n".join(_lines(file)), end="\n\n")
    direct = ", ".join(name for name, file in ZOO.items() if file.url)
    pages = ", ".join(name for name, file in ZOO.items() if not file.url)
    print(f"Fetch one:  vmt zoo --download NAME --output DIR, with NAME one of {direct}.")
    if pages:
        print(f"By hand:    {pages}: get the file from the page named as its source")
        print("            and pass its path as --weights.")
    print("Offline:    download it elsewhere, copy it here, and pass its path as --weights.")
    print("Checksums:  none are published; the first download records its own in FILE.sha256.")
    return 0


def _package_lines() -> list[str]:
    place = f"shipped: {weights_file()}" if ships() else missing_weights()
    return [
        f"{DETECTOR}: QDTrack, EfficientNet-Lite0; persons, animals, vehicles, other things",
        f"  config    configs/{RECIPE}.yaml",
        f"  source    {place}",
        "  licence   of the weights: Apache-2.0",
    ]


def _lines(file: ZooFile) -> list[str]:
    scores = ", ".join(f"{name} {value:.1f}" for name, value in file.expected.items())
    link = file.page if file.url else f"{file.page} (see the project page; no direct link known)"
    expected = [f"  expected  {scores} on {file.evaluated_on}"] if scores else []
    return [
        f"{file.name}: {file.about}",
        *expected,
        f"  config    {file.config}",
        f"  source    {link}",
        f"  licence   of the weights: {file.licence}",
    ]


def _download(file: ZooFile, folder: Path, url: str | None) -> int:
    from vmt.apps.weights import fetch_with_bar

    fetched = fetch_with_bar(file, folder, url)
    checked = {
        "published": "equals the published one",
        "recorded": "equals the recorded one",
        "nothing": "recorded beside it: none is published to compare with",
    }[fetched.checked_against]
    print(f"{fetched.path}: {'complete' if fetched.downloaded else 'was there already'}")
    print(f"  SHA-256 {fetched.sha256}, {checked}")
    command = "train" if file.starts else "demo"
    print(f"  use: vmt {command} --config-file {file.config} --weights {fetched.path} ...")
    return 0
