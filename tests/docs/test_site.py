"""The pages as a code host shows them, and what the site's reference holds. `make docs` checks the links of the site itself."""

from __future__ import annotations

import re
from pathlib import Path

import pages
import pytest

import prmbench

_LINK = re.compile(r"\]\(([^)\s]+)\)")
_FENCED = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)


def headings(page: Path) -> set[str]:
    """Anchors of a page's headings, as a code host makes them."""
    text = _FENCED.sub("", page.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", pages.PAGES)
def test_links_lead_to_files_and_headings(page):
    path = pages.ROOT / page
    for link in _LINK.findall(_FENCED.sub("", path.read_text(encoding="utf-8"))):
        if "://" in link:
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), f"{page}: {link}: no such file"
        assert not anchor or anchor in headings(target), f"{page}: {link}: no such heading"


def test_every_public_name_is_in_the_reference():
    text = "".join(path.read_text(encoding="utf-8") for path in (pages.ROOT / "docs" / "reference").glob("*.md"))
    assert set(prmbench.__all__) <= set(re.findall(r"^::: prmbench\.(\w+)$", text, flags=re.MULTILINE))
