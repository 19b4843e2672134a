"""A hook of mkdocs (mkdocs.yml): the pages at the repository's root join those of docs/, and links lead where the site has them.

README.md is the site's first page. Trap: a link to a source file has no place on the site; it leads to the repository where mkdocs.yml
names one (`repo_url`), else its text alone stays.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
ROOT_PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
}
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|mailto:|#)([^)\s#]+)(#[^)\s]*)?\)")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages of the root, as pages of docs/."""
    from mkdocs.structure.files import File  # here, so that a test reads this file without mkdocs

    for name, page in ROOT_PAGES.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=relink(text, "", config.repo_url)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Point the links of a page of docs/ at what the site has."""
    if page.file.src_uri in ROOT_PAGES.values():
        return markdown
    return relink(markdown, "docs", config.repo_url)


def relink(text: str, folder: str, repo_url: str | None) -> str:
    """A page that lies in `folder` of the repository, with links as a page of the site's root needs them."""

    def replace(link: re.Match[str]) -> str:
        mark, words, target, anchor = link.groups(default="")
        path = posixpath.normpath(posixpath.join(folder, target))
        if path.startswith("docs/"):
            return f"{mark}[{words}]({path.removeprefix('docs/')}{anchor})"
        if path in ROOT_PAGES:
            return f"{mark}[{words}]({ROOT_PAGES[path]}{anchor})"
        if repo_url:
            return f"{mark}[{words}]({repo_url.rstrip('/')}/blob/main/{path})"
        return words

    return LINK.sub(replace, text)
