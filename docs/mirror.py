"""Hook of mkdocs: the site is laid out as the repository is, so that a relative link is right in both.

Pages are the Markdown files at the root and in docs/. What they link to goes along as it is: plots, cards, suites, source.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from markdown.extensions.toc import slugify_unicode
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"\]\(([^)#\s]+)")


def on_config(config: Any) -> Any:
    """Headings are anchors as GitHub has them, but for those that begin with a digit, at which the theme's script fails."""

    def anchor(heading: str, separator: str) -> str:
        name: str = slugify_unicode(heading, separator)
        return f"step-{name}" if name[:1].isdigit() else name

    config.mdx_configs["toc"]["slugify"] = anchor
    return config


def on_post_page(output: str, page: Any, config: Any) -> str:
    """The theme's script of light and dark asks for the styles of a highlighter that is not there."""
    return output.replace("</head>", '<style id="hljs-light"></style><style id="hljs-dark"></style></head>', 1)


def on_files(files: Files, config: Any) -> Files:
    """All files of the site, in place of those that mkdocs has found in docs/."""
    kept = [file for file in files if file.src_dir != config.docs_dir]  # those of the theme
    pages = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
    named = {path for page in pages for path in _linked(page)} | set(pages) | set((ROOT / "docs").glob("*.css"))
    uris = sorted(path.relative_to(ROOT).as_posix() for path in named)
    return Files(kept + [File(uri, str(ROOT), config.site_dir, use_directory_urls=False) for uri in uris])


def _linked(page: Path) -> set[Path]:
    """Files of the repository that a page links to."""
    targets = (page.parent / unquote(link) for link in LINK.findall(page.read_text(encoding="utf-8")) if ":" not in link)
    return {path for target in targets if (path := target.resolve()).is_file() and path.is_relative_to(ROOT)}
