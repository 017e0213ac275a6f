"""Say what this installation can do, and what to do about each missing piece.

Exit status 0 when everything required works, 1 when something required is broken.

Example:
  vmt doctor --json
"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``vmt doctor``."""
    parser.add_argument("--json", action="store_true", help="the report for machines")


def run(args: argparse.Namespace) -> int:
    """Print the report; returns the exit status."""
    from vmt.apps.doctor import examine, report

    facts = examine()
    print(report(facts, as_json=args.json))
    return 1 if any(fact.state == "broken" for fact in facts) else 0
