#!/usr/bin/env python3
"""Write docs/reference/config.md: every config key with its default and the comment above it.

The page follows the sources, vmt/config/defaults.py and vmt/config/keys/*.py, in their order.
``make docs`` runs this; a test fails while the page differs from the keys.

Example:
  python tools/make_docs.py --check
"""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path

from vmt.utils.console import exit_with

REPO = Path(__file__).resolve().parents[1]
PAGE = REPO / "docs/reference/config.md"
CONFIG = REPO / "vmt/config"
HEAD = """# Config keys

Written by `make docs` from the comments above the keys in `vmt/config/`: change those, not this
page. A YAML says only what differs from these defaults; any key may be overridden at the end of a
command ([train](../howto/train.md)). Sources: [S] SeqFormer's code, [R] released VMT code, [P] VMT
paper, [V] SeqFormer's detectron2 port, [D] our [decision](../decisions.md).
"""


@dataclass
class Group:
    """Keys below one comment.

    Args:
        text: the comment, one line; "" without one.
        rows: (key, default) in the order of the source.
    """

    text: str
    rows: list[tuple[str, str]] = field(default_factory=list)


def groups_of(source: str) -> Iterator[Group]:
    """The keys of a file, ``cfg.A.B = value``; those without a comment share the one before."""
    lines = source.splitlines()
    group = Group("")
    for statement in ast.walk(ast.parse(source)):
        if not isinstance(statement, ast.Assign):
            continue
        (target, *_), value = statement.targets, ast.unparse(statement.value)
        key = ast.unparse(target).removeprefix("cfg.")
        if not ast.unparse(target).startswith("cfg.") or value.endswith("Node()"):
            continue
        text = _comment_above(lines, statement.lineno)
        if text or not group.rows:
            yield from [group] if group.rows else []
            group = Group(text)
        group.rows.append((key, value))
    yield from [group] if group.rows else []


def _comment_above(lines: Sequence[str], number: int) -> str:
    """The lines of comment that end above line ``number`` (from 1), as one."""
    above = (line.strip() for line in reversed(lines[: number - 1]))
    block = takewhile(lambda line: line.startswith("#"), above)
    return " ".join(line.lstrip("#: ") for line in reversed(list(block)))


def config_page(files: Sequence[Path]) -> str:
    """The page for these files."""
    parts = [HEAD]
    for file in files:
        source = file.read_text()
        if groups := list(groups_of(source)):
            about = (ast.get_docstring(ast.parse(source)) or "").partition("\n\n")[0]
            place = file.relative_to(REPO) if file.is_relative_to(REPO) else file.name
            parts.append(f"## {file.stem}\n\n{_cell(about)} Defined in `{place}`.\n")
            parts.append("| key | default | what it does |\n|---|---|---|")
            parts += [*map(_row, groups), ""]
    return "\n".join(parts).rstrip() + "\n"


def _row(group: Group) -> str:
    keys = "<br>".join(f"`{key}`" for key, _ in group.rows)
    values = "<br>".join(f"`{value}`" for _, value in group.rows)
    return f"| {keys} | {values} | {_cell(group.text)} |"


def _cell(text: str) -> str:
    """A comment as Markdown: pages of docs/ are links, "<" and "|" mean themselves."""
    text = text.replace("|", "\\|").replace("<", "&lt;")
    return re.sub(r"docs/([\w/]+\.md)(#[\w-]+)?", r"[\1](../\1\2)", text)


def key_files() -> list[Path]:
    """Where keys are defined."""
    return [CONFIG / "defaults.py", *sorted((CONFIG / "keys").glob("[!_]*.py"))]


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page, or say whether it is stale."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing; status 1 if stale")
    arguments = parser.parse_args(argv)
    text = config_page(key_files())
    if arguments.check:
        stale = not PAGE.exists() or PAGE.read_text() != text
        print(f"{PAGE.name} is {'stale: run make docs' if stale else 'as the keys are'}")
        return int(stale)
    PAGE.write_text(text)
    print(PAGE)
    return 0


if __name__ == "__main__":
    exit_with(main)
