"""Run the commands of tutorials again, and write their outputs into the pages.

``python docs/console.py docs/tutorial-compare.md …`` runs the commands of each page in a copy of the project. A code
block after a comment with a file name (``<!-- my_model.py -->``) is written to that file. The first line of a ``console``
block is a command, and the other lines are its output. docs/tutorial_attack.py writes the tutorial
that edits a generated file.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

from tutorial_attack import checkout, shortened

BLOCK = re.compile(
    r"<!-- (?P<file>[\w.-]+) -->\n```\w+\n(?P<text>.*?)```|```console\n\$ (?P<command>.+?)\n.*?```", re.DOTALL
)


def with_outputs(page: str, home: Path, run: Callable[[str], str]) -> str:
    """Return a page with the current outputs of its commands.

    Args:
        page: its Markdown.
        home: folder for the files that it contains.
        run: runs a command in that folder and returns its output.
    """

    def block(match: re.Match[str]) -> str:
        if match["file"]:
            (home / match["file"]).write_text(match["text"], encoding="utf-8")
            return match[0]
        return f"```console\n$ {match['command']}\n{shortened(run(match['command']))}\n```"

    return BLOCK.sub(block, page)


def main() -> None:
    """Write the outputs into the pages named on the command line."""
    for name in sys.argv[1:]:
        page = Path(name)
        with checkout("docs", "results", "leaderboard.md") as (home, run):
            page.write_text(with_outputs(page.read_text(encoding="utf-8"), home, run), encoding="utf-8")


if __name__ == "__main__":
    main()
