"""Links of the pages, and pages and rows that the code names, exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.blocks import PAGES, REPO

#: A page of docs/ that code, a config or a test names, with the row or heading after "#".
NAMED = re.compile(r"\b(docs/[\w/]+\.md)(?:#([\w-]+))?")
LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    """Names that a "#" may lead to: rows that have one, and headings as GitHub writes them."""
    text = page.read_text()
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    slugs = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings}
    return slugs | set(re.findall(r'<a id="([\w-]+)">', text))


def check(page: Path, anchor: str, place: str) -> None:
    assert page.exists(), f"{place}: {page} does not exist"
    assert not anchor or anchor in anchors(page), f"{place}: {page} has no #{anchor}"


@pytest.mark.parametrize("page", PAGES)
def test_links_of_a_page(page: str) -> None:
    for link in LINK.findall((REPO / page).read_text()):
        name, _, anchor = link.partition("#")
        if not name.startswith(("http:", "https:")):
            check((REPO / page).parent / name if name else REPO / page, anchor, page)


def test_pages_that_files_name() -> None:
    for folder in ("vmt", "cocoapi_hq", "tools", "benchmarks", "configs", "datasets"):
        for kind in ("*.py", "*.yaml"):
            for file in (REPO / folder).rglob(kind):
                for page, anchor in NAMED.findall(file.read_text()):
                    check(REPO / page, anchor, str(file.relative_to(REPO)))


@pytest.mark.parametrize("page", PAGES)
def test_files_that_a_page_names(page: str) -> None:
    """A file of the tree in code font: from the clone, the page's folder, vmt/ or vmt/modeling/."""
    places = (REPO, (REPO / page).parent, *(REPO / name for name in ("vmt", "vmt/modeling")))
    quadtree = REPO / "vmt/modeling/refiners/quadtree"
    for name in re.findall(r"`([\w/-]+\.(?:py|md))`", (REPO / page).read_text()):
        assert any((place / name).exists() for place in (*places, quadtree)), f"{page}: {name}"
