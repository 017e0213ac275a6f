"""Blocks of commands and of Python in Markdown pages and in the Examples of --help."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
PAGES = (
    *("README.md", "INSTALL.md", "USAGE.md", "CONTRIBUTING.md", "datasets/README.md"),
    *("cocoapi_hq/README.md", "benchmarks/README.md", "vmt/weights/README.md"),
    *sorted(str(path.relative_to(REPO)) for path in (REPO / "docs").rglob("*.md")),
)
#: What a line of a shell begins with.
SHELL = (
    *("vmt", "python", "make", "pip", "source", "torchrun", "srun", "ffmpeg", "labelme", "mkdir"),
    *("ln", "cd", "for", "export", "head=", "#!/bin/bash", "DETECTRON2_DATASETS=", "VMT_"),
    *(".venv/bin/", "tools/", "set ", "done", "do ", "#SBATCH"),
)
#: First line of a block that is a whole file of the tree.
FILE = re.compile(r"# ((?:vmt|configs)/[\w/-]+\.(?:py|yaml))\n")


@dataclass(frozen=True)
class Block:
    """Some lines of a page.

    Args:
        page: of the repository.
        line: number of its first line.
        kind: "shell", "python", "file" (its first line is a comment with the path) or "other".
        text: without indentation.
    """

    page: str
    line: int
    kind: str
    text: str

    def commands(self) -> list[str]:
        """The commands of a shell block, one line each, without comments."""
        joined = re.sub(r"\\\n\s*", " ", self.text)
        lines = (re.sub(r" +", " ", line.split("  #")[0]).strip() for line in joined.splitlines())
        return [line for line in lines if line and not line.startswith("#")]


def blocks_of(page: str) -> Iterator[Block]:
    """Fenced and indented blocks of a Markdown page."""
    lines = (REPO / page).read_text().splitlines()
    index, in_list = 0, False
    while index < len(lines):
        line = lines[index]
        if line.startswith("```"):
            end = next(k for k in range(index + 1, len(lines)) if lines[k].startswith("```"))
            yield _block(page, index + 1, lines[index + 1 : end], line.strip("` "))
            index = end + 1
            continue
        if line.strip():
            in_list = bool(re.match(r"(\d+\.|-) ", line)) or (in_list and line.startswith(" "))
        margin = 7 if in_list else 4
        starts = line.startswith(" " * margin) and (not index or not lines[index - 1].strip())
        if starts and line.strip():
            end = index
            while end < len(lines) and (lines[end].startswith(" " * margin) or not lines[end]):
                end += 1
            yield _block(page, index, lines[index:end], "")
            index = end
            continue
        index += 1


def _block(page: str, line: int, lines: list[str], language: str) -> Block:
    indents = [len(text) - len(text.lstrip()) for text in lines if text.strip()]
    text = "\n".join(part[min(indents, default=0) :] for part in lines).strip("\n")
    kind = "other"
    if FILE.match(text):
        kind = "file"
    elif language == "python":
        kind = "python"
    elif text.startswith(SHELL):
        kind = "shell"
    return Block(page, line + 1, kind, text)


def files_of(page: str) -> dict[str, str]:
    """Files that a page holds as blocks: path in the clone -> content."""
    texts = [block.text for block in blocks_of(page) if block.kind == "file"]
    return {text.split()[1]: text.partition("\n")[2] + "\n" for text in texts}


def example_of_help(path: Path) -> list[str]:
    """Commands below "Example" in the docstring of a script or command; [] without any."""
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    found = re.search(r"^Examples?:\n((?:[ ]+.*\n?|\n)+)", text, re.MULTILINE)
    if not found:
        return []
    lines = [line.strip() for line in found.group(1).splitlines()]
    block = Block(str(path.relative_to(REPO)), 0, "shell", "\n".join(lines))
    return block.commands()


def words(command: str) -> list[str]:
    """Arguments as a shell would split them."""
    return shlex.split(command)
