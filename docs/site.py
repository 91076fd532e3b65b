"""What the site adds to this folder: pages that lie elsewhere in the repository.

A page links to another file of the repository by its relative path, as a code host shows it. Some of these files are outside the
folder that the site is built from. This hook of mkdocs adds them, and turns links to them into links on the site.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
ELSEWHERE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "training/README.md": "training.md",
    "tasks/README.md": "tasks.md",
    "tasks/prmbench/README.md": "lm-eval-tasks.md",
    "leaderboards/README.md": "shipped-entries.md",
    "leaderboards/leaderboard.md": "leaderboard.md",
}
"""File of the repository, and the page of the site that it becomes."""

_LINK = re.compile(r"(?<=\]\()([^)#:\s]+)(#[^)\s]*)?(?=\))")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie outside the documentation folder.

    Args:
        files: The files of the documentation folder.
        config: The site's configuration.

    Returns:
        The same files, and a page for each of `ELSEWHERE`.
    """
    for source, page in ELSEWHERE.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links between files of the repository into links between pages of the site.

    Args:
        markdown: The page's text.
        page: The page.
        config: The site's configuration.
        files: All files of the site.

    Returns:
        The text with its links as the site has them.
    """
    here = next(
        (source for source, name in ELSEWHERE.items() if name == page.file.src_uri), f"docs/{page.file.src_uri}"
    )

    def on_site(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(here), link[1]))
        target = ELSEWHERE.get(target, target.removeprefix("docs/"))
        return posixpath.relpath(target, posixpath.dirname(page.file.src_uri) or ".") + (link[2] or "")

    return _LINK.sub(on_site, markdown)
