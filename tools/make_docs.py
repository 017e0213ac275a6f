#!/usr/bin/env python3
"""Write docs/reference/config.md: every config key with its default and the comment above it.

The page follows the sources, vmt/config/keys/*.py and vmt/config/defaults.py, in their order.
``make docs`` runs this; a test fails while the page differs from the keys.

Example:
  python tools/make_docs.py --check
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path

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
        rows: (name within the section, default) in the order of the source.
    """

    text: str
    rows: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class Section:
    """A node of the config.

    Args:
        name: for instance ``MODEL.REFINER``; "" for keys without a node.
        text: the comment beside it.
        files: those that define its keys.
        groups: its keys.
    """

    name: str
    text: str = ""
    files: list[str] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)


def comment_above(lines: Sequence[str], number: int) -> str:
    """The lines of comment that end above line ``number`` (from 1), as one."""
    above = (line.strip() for line in reversed(lines[: number - 1]))
    block = takewhile(lambda line: line.startswith("#"), above)
    return " ".join(line.lstrip("#: ") for line in reversed(list(block)))


def comment_beside(line: str) -> str:
    """The comment behind the code of a line; "" without one."""
    return line.partition("  # ")[2].strip()


def read_sections(file: Path, sections: dict[str, Section]) -> None:
    """Add the keys of a file; ``cfg.A.B = value`` is a key, ``cfg.A = Node()`` a section."""
    source = file.read_text()
    lines = source.splitlines()
    place = str(file.relative_to(REPO)) if file.is_relative_to(REPO) else file.name
    names = {"cfg": ""}
    for statement in ast.walk(ast.parse(source)):
        if not isinstance(statement, ast.Assign):
            continue
        key = next((k for t in statement.targets if (k := _key(t, names))), "")
        if not key:
            alias, value = statement.targets[0], _key(statement.value, names)
            if isinstance(alias, ast.Name) and value:
                names[alias.id] = value
            continue
        names |= {t.id: key for t in statement.targets if isinstance(t, ast.Name)}
        if ast.unparse(statement.value).endswith("Node()"):
            text = comment_beside(lines[statement.lineno - 1])
            sections[key] = Section(key, text or comment_above(lines, statement.lineno))
            continue
        node, _, name = key.rpartition(".")
        section = sections.setdefault(node, Section(node))
        text = comment_above(lines, statement.lineno)
        if text or place not in section.files:
            section.groups.append(Group(text))
        if place not in section.files:
            section.files.append(place)
        section.groups[-1].rows.append((name, ast.unparse(statement.value)))


def _key(target: ast.expr, names: dict[str, str]) -> str:
    """Full name of the key or section that an expression means; "" of anything else."""
    if isinstance(target, ast.Name):
        return names.get(target.id, "")
    if isinstance(target, ast.Attribute):
        root: ast.expr = target
        while isinstance(root, ast.Attribute):
            root = root.value
        if isinstance(root, ast.Name) and root.id in names:
            rest = ast.unparse(target).partition(".")[2]
            return f"{names[root.id]}.{rest}".lstrip(".")
    return ""


def config_page(files: Sequence[Path]) -> str:
    """The page for these files."""
    sections: dict[str, Section] = {}
    for file in files:
        read_sections(file, sections)
    parts = [HEAD]
    for section in filter(lambda section: section.groups, sections.values()):
        parts.append(f"## {f'`{section.name}`' if section.name else 'Without a section'}\n")
        about = (
            f"{section.text[:1].upper()}{section.text[1:].rstrip('.')}. " if section.text else ""
        )
        parts.append(
            f"{_cell(about)}Defined in {', '.join(f'`{name}`' for name in section.files)}.\n"
        )
        parts.append("| key | default | what it does |\n|---|---|---|")
        parts += [_row(group) for group in section.groups]
        parts.append("")
    return "\n".join(parts).rstrip() + "\n"


def _row(group: Group) -> str:
    keys = "<br>".join(f"`{name}`" for name, _ in group.rows)
    values = "<br>".join(f"`{value}`" for _, value in group.rows)
    return f"| {keys} | {values} | {_cell(group.text)} |"


def _cell(text: str) -> str:
    """A comment as Markdown: pages of docs/ are links, "<" and "|" mean themselves."""
    text = text.replace("|", "\\|").replace("<", "&lt;")
    return re.sub(r"docs/([\w/]+\.md)(#[\w-]+)?", r"[\1](../\1\2)", text)


def key_files() -> list[Path]:
    """Where keys are defined, general ones first."""
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
    sys.exit(main())
