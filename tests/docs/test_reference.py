"""docs/reference/config.md is what ``make docs`` writes, and knows every key."""

from __future__ import annotations

import re
from pathlib import Path

from tests.docs.blocks import REPO
from tools.make_docs import PAGE, config_page, key_files
from vmt.config.defaults import default_config


def keys(node: dict[str, object], start: str = "") -> set[str]:
    found = set()
    for name, value in node.items():
        found |= keys(value, f"{start}{name}.") if isinstance(value, dict) else {start + name}
    return found


def test_the_page_is_as_the_keys_are() -> None:
    assert PAGE.read_text() == config_page(key_files()), "stale: run make docs"


def test_every_key_has_a_row() -> None:
    cells = [line.split("|")[1] for line in PAGE.read_text().splitlines() if line[:3] == "| `"]
    assert sorted(re.findall("`(.+?)`", " ".join(cells))) == sorted(keys(default_config()))


def test_a_comment_belongs_to_the_keys_below_it(tmp_path: Path) -> None:
    file = tmp_path / "toy.py"
    file.write_text(
        '"""Toys; all values [D]."""\n'
        "def add_keys(cfg):\n"
        "    cfg.MODEL.TOY = Node()\n"
        "    # Two lines,\n"
        "    # see docs/methods/vmt.md#context.\n"
        "    cfg.MODEL.TOY.A = 1\n"
        "    cfg.MODEL.TOY.B = [2, 3]\n"
        "    # Another.\n"
        "    cfg.MODEL.TOY.C = ''\n"
    )
    page = config_page([file])
    assert "## toy\n\nToys; all values [D]. Defined in `toy.py`." in page
    link = "[methods/vmt.md](../methods/vmt.md#context)"
    assert f"| `MODEL.TOY.A`<br>`MODEL.TOY.B` | `1`<br>`[2, 3]` | Two lines, see {link}. |" in page
    assert "| `MODEL.TOY.C` | `''` | Another. |" in page


def test_architecture_names_every_room() -> None:
    text = (REPO / "docs/architecture.md").read_text()
    for place, start in (("vmt", "vmt/"), ("vmt/modeling", "")):
        rooms = {path.parent.name for path in (REPO / place).glob("*/__init__.py")}
        missing = {room for room in rooms if f"`{start}{room}`" not in text}
        assert not missing, f"{place}: {sorted(missing)}"
    for path in re.findall(r"`((?:vmt|modeling)/[\w/.]+)`", text):
        assert (REPO / "vmt" / path.removeprefix("vmt/")).exists(), path
