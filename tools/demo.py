#!/usr/bin/env python3
"""Video in, tracklets out: the same as ``vmt demo`` (``--help`` shows the options)."""

import sys

from vmt.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["demo", *sys.argv[1:]]))
