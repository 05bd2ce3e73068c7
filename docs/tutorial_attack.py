"""Takes a new attack from its skeleton to a verified bundle, and writes what happened to docs/tutorial-attack.md.

``python docs/tutorial_attack.py`` does it in a copy of the project in a temporary folder, as a newcomer would in a checkout;
it takes some minutes. The tests do the same steps on a few images and hold the page against them.
"""

from __future__ import annotations

import difflib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "tutorial-attack.md"
COPIED = ("attacks", "bench", "defenses", "models", "pyproject.toml")

IDEA = """\
        total = torch.zeros_like(images)
        for _ in range(self.copies):
            if target.queries_left == 0:  # ask before every question: a threat model may limit them
                break
            noise = generator.uniform(-1, 1, images.shape[1:]).to(images)
            near = (images + self.spread * threat.size * noise).clamp(0, 1)
            total += target.quality_and_grad(near, objective.loss)[1]
        attacked = images - threat.size * steepest(total, threat.norm)
        return threat.snap(threat.project(attacked, images), images)
"""
"""The twist: the gradient of FGSM, averaged over noisy copies of the image."""


@dataclass(frozen=True)
class Step:
    """One thing that the newcomer does.

    Attributes:
        words: said before.
        command: typed; empty where a file is edited.
        small: the words of the command that tests replace, so that it takes them a moment.
        sure: what its output holds on every machine.
    """

    words: str
    command: str = ""
    small: tuple[tuple[str, str], ...] = ()
    sure: tuple[str, ...] = ()


STEPS = (
    Step("Begin with a file and its test. They pass as they are: the skeleton is FGSM, one step along the gradient's sign.",
         "iqarena new attack mine", sure=("attacks/mine.py", "tests/test_attacks_mine.py", "iqarena check mine")),
    Step("Put the idea where the TODOs are. The twist here: the gradient is averaged over noisy copies of the image, so "
         "that the step follows the slope of the neighbourhood, not of a single point."),
    Step("Its test still passes. On a linear model all copies have the same gradient, so it must still find the best "
         "attack there is, and the test knows that one in closed form.",
         "pytest tests/test_attacks_mine.py", sure=("2 passed",)),
    Step("Ask whether it does what it says of itself. Whatever fails says what to change; the table sets it beside random "
         "noise, `pgd` and the ensemble `standard`.", "iqarena check mine --model cnniqa --limit 1",
         (("--limit 1", "--limit 0"),), ("attack mine: all is well", "the same bytes under one seed")),
    Step("Run it, beside plain FGSM, on a model with and without a defense. Without `--model`, `--defense` and `--limit` "
         "it is run on all that the suite `quick` has, and with `--also-attack mine` also beside all attacks of that suite. "
         "`--keep-images` stores the attacked images.",
         "iqarena run --attack mine --attack fgsm --model cnniqa --defense none --defense jpeg --limit 12 --keep-images "
         "--out runs/mine",
         (("--defense jpeg --limit 12", "--limit 3"),), ("0 not ok", "runs/mine/summary.csv")),
    Step("Render the leaderboard of these results.", "iqarena leaderboard --results runs/mine --out runs/mine",
         sure=("runs/mine/leaderboard.md",)),
    Step("Pack it: source, records, and a few attacked images of each cell.",
         "iqarena submit attack mine --results runs/mine --out mine.zip", sure=("mine.zip: attack mine",)),
    Step("See what a maintainer sees. Without further words no code of the bundle runs: its images are checked pixel by "
         "pixel against the threat model and scored anew.", "iqarena verify mine.zip",
         sure=("attack mine: as claimed", "left open: its code was not run")),
    Step("The maintainer, having read the source, lets it run in a process with limits. The images that it makes are "
         "judged outside of that process.",
         "iqarena verify mine.zip --run-code", (("iqarena verify mine.zip --run-code", ""),), ("attack mine: as claimed",)),
)  # fmt: skip

HEAD = """# Your attack, from an idea to a verified bundle

This page is what came out when `python docs/tutorial_attack.py` went through it as a newcomer would, in a checkout of the
project where `pip install -e ".[test]"` had been run. From the first command to `mine` on a local leaderboard it is three:
`iqarena new attack mine`, `iqarena run --attack mine --out runs/mine` and
`iqarena leaderboard --results runs/mine --out runs/mine`. The others are for being sure, and for being believed.

Outside of a checkout `iqarena new attack mine` makes a package of its own with an entry point instead; `pip install -e` it,
and the rest is the same.
"""

_SHOWN = 24
"""Lines of an output that are shown."""


def edit(plugin: Path) -> str:
    """Put the idea into the skeleton; returns the change as a diff.

    Raises:
        ValueError: where the skeleton is not what the edit was made for.
    """
    before = plugin.read_text(encoding="utf-8")
    after = before[: before.index("        if target.queries_left")] + IDEA
    for old, new in (
        ("from torch import Tensor\n", "import torch\nfrom torch import Tensor\n"),
        ("TODO what it is, and where it comes from (authors, venue, year, link).", "FGSM with gradients of noisy copies."),
        ("TODO in a sentence. As it stands: one step along the gradient's sign (l2: along the gradient).",
         "One step along the sign of the gradient, averaged over noisy copies of the image."),
        ("step_size: length of the step as a share of the threat's size, above 0.",
         "copies: how many.\n        spread: of the noise, as a share of the threat's size, from 0 on."),
        ("    step_size: float = 1.0\n", "    copies: int = 4\n    spread: float = 0.5\n"),
        ("if not self.step_size > 0:", "if self.copies < 1 or not self.spread >= 0:"),
        ("step_size must be above 0", "copies must be at least 1, and spread at least 0"),
        ("return 1, 1  # TODO forward and backward passes an image, at most", "return self.copies, self.copies"),
        ("  # TODO \"score\" if it asks for scores only, \"none\" if for nothing", ""),
        ("  # TODO the threat models that it supports", ""), ("  # TODO a link", ""),
    ):  # fmt: skip
        if old not in after:
            raise ValueError(f"the skeleton has no {old!r}")
        after = after.replace(old, new)
    plugin.write_text(after, encoding="utf-8")
    name = f"attacks/{plugin.name}"
    return "".join(difflib.unified_diff(before.splitlines(True), after.splitlines(True), name, name, n=1))


def page(do: Callable[[str], str], plugin: Path) -> str:
    """The page, from what the commands say.

    Args:
        do: runs a command and returns its output.
        plugin: the skeleton's file, once it is there.
    """
    parts = [HEAD]
    for number, step in enumerate(STEPS, start=1):
        parts.append(f"## {number}. {step.words.partition('. ')[0].rstrip('.')}\n")
        if rest := step.words.partition(". ")[2]:
            parts.append(f"{rest}\n")
        if step.command:
            parts.append(f"```console\n$ {step.command}\n{shown(do(step.command))}\n```\n")
        else:
            parts.append(f"```diff\n{edit(plugin)}```\n")
        if "leaderboard" in step.command:
            parts.append("The first lines of its table:\n")
            text = (plugin.parents[1] / "runs/mine/leaderboard.md").read_text(encoding="utf-8")
            rows = [line for line in text.splitlines() if line.startswith("|")][:6]
            parts.append("\n".join(rows).replace("](../../", "](../") + "\n")  # as seen from docs/
    return "\n".join(parts)


def shown(output: str) -> str:
    """An output as the page has it: without what only a moment is true of, and not at length."""
    lines = [line.rstrip() for line in output.splitlines() if line.strip() and " s left" not in line]
    lines = [re.sub(r"in \d+\.\d+ ?s.*", "in a moment", line) for line in lines]
    if len(lines) > _SHOWN:
        left = len(lines) - _SHOWN + 1
        lines = [*lines[: _SHOWN - 8], f"… {left} more lines …", *lines[-7:]]
    return "\n".join(lines)


@contextmanager
def checkout(*more: str) -> Iterator[tuple[Path, Callable[[str], str]]]:
    """A copy of the project in a temporary folder, and what runs a command in it and returns its output.

    Args:
        more: files and folders that are copied beside the packages.
    """
    with tempfile.TemporaryDirectory(prefix="iqarena-tutorial-") as name:
        home = Path(name).resolve()
        for part in (*COPIED, *more):
            source = ROOT / part
            if source.is_dir():
                shutil.copytree(source, home / part, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, home / part)
        (home / "tests").mkdir()
        environment = os.environ | {"PYTHONPATH": str(home), "COLUMNS": "118", "NO_COLOR": "1"}

        def do(command: str) -> str:
            started = time.perf_counter()
            tool, *words = shlex.split(command)
            module = {"iqarena": ["-m", "iqarena"], "pytest": ["-m", "pytest"], "python": []}[tool]
            done = subprocess.run(
                [sys.executable, *module, *words], cwd=home, env=environment, capture_output=True, text=True, check=False
            )
            print(f"{time.perf_counter() - started:6.1f} s  {command}", flush=True)
            if done.returncode:
                sys.exit(f"{command}: exit {done.returncode}\n{done.stdout}{done.stderr}")
            return done.stdout.replace(str(home) + "/", "")

        yield home, do


def main() -> None:
    """Do it all, and write the page."""
    with checkout() as (home, do):
        PAGE.write_text(page(do, home / "attacks/mine.py"), encoding="utf-8")
    print(PAGE.relative_to(ROOT))


if __name__ == "__main__":
    main()
