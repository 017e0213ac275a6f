#!/usr/bin/env python3
"""Coarse masks in, sharp masks out: the same as ``vmt refine`` (``--help`` shows the options)."""

import sys

from vmt.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["refine", *sys.argv[1:]]))
