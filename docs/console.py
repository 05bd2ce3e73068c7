"""Runs what tutorials tell people to type, and puts below each command what it says.

``python docs/console.py docs/tutorial-compare.md …`` goes through each page in a copy of the project. A block that
a comment names (``<!-- my_model.py -->``) is a file and is written; of a console block the first line is a command, the rest
its output. `docs/tutorial_attack.py` writes the tutorial that edits what a command has written.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

from tutorial_attack import checkout, shown

BLOCK = re.compile(
    r"<!-- (?P<file>[\w.-]+) -->\n```\w+\n(?P<text>.*?)```|```console\n\$ (?P<command>.+?)\n.*?```", re.DOTALL
)


def again(page: str, home: Path, do: Callable[[str], str]) -> str:
    """The page with the outputs of now.

    Args:
        page: its Markdown.
        home: where its files go.
        do: runs a command there and returns its output.
    """

    def block(found: re.Match[str]) -> str:
        if found["file"]:
            (home / found["file"]).write_text(found["text"], encoding="utf-8")
            return found[0]
        return f"```console\n$ {found['command']}\n{shown(do(found['command']))}\n```"

    return BLOCK.sub(block, page)


def main() -> None:
    """Go through the pages that are named."""
    for name in sys.argv[1:]:
        page = Path(name)
        with checkout("docs", "results", "leaderboard.md") as (home, do):
            page.write_text(again(page.read_text(encoding="utf-8"), home, do), encoding="utf-8")


if __name__ == "__main__":
    main()
