"""List the recipes that come with VMT, by the names that --config-file takes.

A recipe is a whole training: network, data sets, schedule, start weights. `vmt inspect NAME` says
what one holds; a YAML of your own may build on one (`_BASE_: hq_ytvis/vmt_R50`).

Example:
  vmt configs hq_ytvis
"""

from __future__ import annotations

import argparse

from vmt.utils.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``vmt configs``."""
    parser.add_argument("word", nargs="?", default="", help="only names that contain it")
    parser.add_argument("--folder", action="store_true", help="where the files lie, and no more")


def run(args: argparse.Namespace) -> int:
    """Print the names, a paragraph per folder."""
    from vmt.config.find import config_folder, config_names

    if args.folder:
        print(config_folder())
        return 0
    names = [name for name in config_names() if args.word in name]
    if not names:
        raise ConfigError(f"no config's name contains {args.word!r}; `vmt configs` lists all.")
    before = ""
    for name in names:
        folder = name.rpartition("/")[0]
        if before and folder != before:
            print()
        print(name)
        before = folder
    return 0
