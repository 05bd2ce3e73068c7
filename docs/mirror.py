"""MkDocs hook: give the site the layout of the repository, so that relative links work in both.

Pages are the Markdown files at the root and in docs/. Files that they link to are copied: plots, cards, suites, source.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"\]\(([^)#\s]+)")
TEXT_AND_LINK = re.compile(r"\[(?P<text>[^\[\]]+)\]\((?P<target>[^)#\s:]+)\)")


def on_config(config: Any) -> Any:
    """Name anchors as GitHub does, except those that begin with a digit, which the theme's script cannot handle."""

    def anchor(heading: str, separator: str) -> str:
        name = re.sub(r"[^\w -]", "", heading.strip().lower()).replace(" ", separator)
        return f"step-{name}" if name[:1].isdigit() else name

    config.mdx_configs["toc"]["slugify"] = anchor
    return config


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Replace links to folders by their text: the site has the files of the repository, but no pages of its folders."""
    here = (ROOT / page.file.src_uri).parent

    def unlinked(match: re.Match[str]) -> str:
        return match["text"] if (here / unquote(match["target"])).is_dir() else match[0]

    return TEXT_AND_LINK.sub(unlinked, markdown)


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Add empty highlighter styles, which the theme's script for light and dark mode expects."""
    return output.replace("</head>", '<style id="hljs-light"></style><style id="hljs-dark"></style></head>', 1)


def on_files(files: Files, config: Any) -> Files:
    """Return all files of the site, instead of those that MkDocs found in docs/."""
    theme = [file for file in files if file.src_dir != config.docs_dir]
    pages = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
    paths = {path for page in pages for path in _linked(page)} | set(pages) | set((ROOT / "docs").glob("*.css"))
    uris = sorted(path.relative_to(ROOT).as_posix() for path in paths)
    return Files(theme + [File(uri, str(ROOT), config.site_dir, use_directory_urls=False) for uri in uris])


def _linked(page: Path) -> set[Path]:
    """Return the files of the repository that a page links to."""
    targets = (page.parent / unquote(link) for link in LINK.findall(page.read_text(encoding="utf-8")) if ":" not in link)
    return {path for target in targets if (path := target.resolve()).is_file() and path.is_relative_to(ROOT)}
