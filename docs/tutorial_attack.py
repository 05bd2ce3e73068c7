"""Write docs/tutorial-attack.md by running its steps: a new attack, from the template to a verified bundle.

``python docs/tutorial_attack.py`` runs them in a copy of the project in a temporary folder, as a newcomer would in a
checkout; it takes some minutes. The tests run the same steps on a few images and compare the page with them.
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
COPIED = ("attacks", "bench", "defenses", "iqarena", "models", "pyproject.toml", "setup.py")

IDEA = """\
        total = torch.zeros_like(images)
        for _ in range(self.copies):
            if target.queries_left == 0:  # check before every query: a threat model may limit them
                break
            noise = generator.uniform(-1, 1, images.shape[1:]).to(images)
            near = (images + self.spread * threat.size * noise).clamp(0, 1)
            total += target.quality_and_grad(near, objective.loss)[1]
        attacked = images - threat.size * steepest(total, threat.norm)
        return threat.snap(threat.project(attacked, images), images)
"""
"""The body of the new attack: the gradient of FGSM, averaged over noisy copies of the image."""


REPLACEMENTS = (
    ("from torch import Tensor\n", "import torch\nfrom torch import Tensor\n"),
    ("TODO what it is, and where it comes from (authors, venue, year, link).", "FGSM with gradients of noisy copies."),
    (
        "TODO in a sentence. As it stands: one step along the gradient's sign (l2: along the gradient).",
        "One step along the sign of the gradient, averaged over noisy copies of the image.",
    ),
    (
        "step_size: length of the step as a share of the threat's size, above 0.",
        "copies: number of noisy copies, at least 1.\n"
        "        spread: amplitude of the noise as a share of the threat's size, at least 0.",
    ),
    ("    step_size: float = 1.0\n", "    copies: int = 4\n    spread: float = 0.5\n"),
    ("if not self.step_size > 0:", "if self.copies < 1 or not self.spread >= 0:"),
    ("step_size must be above 0", "copies must be at least 1, and spread at least 0"),
    ("return 1, 1  # TODO forward and backward passes an image, at most", "return self.copies, self.copies"),
    ('  # TODO "score" if it asks for scores only, "none" if for nothing', ""),
    ("  # TODO the threat models that it supports", ""),
    ("  # TODO a link", ""),
)
"""Texts of the template and what takes their place, beside the body of ``run``."""


@dataclass(frozen=True)
class Step:
    """One step of the tutorial.

    Attributes:
        text: the heading, up to the first full stop, and what follows it.
        command: what is typed; empty where a file is edited.
        shortened: parts of the command with their replacements in tests, which then take a moment.
        expected: parts of the output that are the same on every machine.
    """

    text: str
    command: str = ""
    shortened: tuple[tuple[str, str], ...] = ()
    expected: tuple[str, ...] = ()


STEPS = (
    Step(
        "Create the attack and its test. Both pass unchanged: the template is FGSM, one step along the sign of the "
        "gradient.",
        "iqarena new attack mine",
        expected=("attacks/mine.py", "tests/attacks/test_mine.py", "iqarena check mine"),
    ),
    Step(
        "Replace the TODOs with your idea. Here the gradient is averaged over noisy copies of the image, so that the step "
        "follows the slope of a neighbourhood and not of a single point.",
    ),
    Step(
        "Run its test. On a linear model all copies have the same gradient, so the attack must still find the optimum, "
        "which the test knows in closed form.",
        "pytest tests/attacks/test_mine.py",
        expected=("2 passed",),
    ),
    Step(
        "Check that it behaves as it declares. Every failed check comes with advice; the last table compares the attack "
        "with random noise, `pgd` and the ensemble `standard`.",
        "iqarena check mine --model cnniqa --limit 1",
        (("--limit 1", "--limit 0"),),
        ("attack mine: all is well", "the same bytes under one seed"),
    ),
    Step(
        "Run it together with plain FGSM, on a model with and without a defense. Without `--model`, `--defense` and "
        "`--limit` it runs on everything in the suite `quick`, and with `--also-attack mine` together with all attacks "
        "of that suite. `--keep-images` stores the attacked images.",
        "iqarena run --attack mine --attack fgsm --model cnniqa --defense none --defense jpeg --limit 12 --keep-images "
        "--out runs/mine",
        (("--defense jpeg --limit 12", "--limit 3"),),
        ("0 not ok", "runs/mine/summary.csv"),
    ),
    Step(
        "Render the leaderboard of these results.",
        "iqarena leaderboard --results runs/mine --out runs/mine",
        expected=("runs/mine/leaderboard.md",),
    ),
    Step(
        "Pack a bundle. It holds source, records, and a few attacked images of each cell.",
        "iqarena submit attack mine --results runs/mine --out mine.zip",
        expected=("mine.zip: attack mine",),
    ),
    Step(
        "Verify the bundle, as a maintainer will. By default no code of the bundle is run: its images are checked pixel by "
        "pixel against the threat model and scored again.",
        "iqarena verify mine.zip",
        expected=("attack mine: as claimed", "left open: its code was not run"),
    ),
    Step(
        "Verify it with its code. A maintainer who has read the source can run it in a process with limits. The images that "
        "it makes are judged outside of that process.",
        "iqarena verify mine.zip --run-code",
        (("iqarena verify mine.zip --run-code", ""),),
        ("attack mine: as claimed",),
    ),
)

HEAD = """# Submit an attack, from an idea to a verified bundle

`python docs/tutorial_attack.py` wrote this page by running the commands in a checkout of the project, as a newcomer would
after `pip install -e ".[test]"`. Three of them take a new attack to a local leaderboard: `iqarena new attack mine`,
`iqarena run --attack mine --out runs/mine` and `iqarena leaderboard --results runs/mine --out runs/mine`. The others check
the attack and prepare its submission.

Outside of a checkout `iqarena new attack mine` makes a separate package with an entry point; install it with
`pip install -e`, and the other steps are the same.
"""

MAX_LINES = 24
"""Lines of an output that the page shows."""


def edit(plugin: Path) -> str:
    """Replace the TODOs of the template, and return the change as a diff.

    Raises:
        ValueError: where the template lacks a text that is to be replaced.
    """
    before = plugin.read_text(encoding="utf-8")
    after = before[: before.index("        if target.queries_left")] + IDEA
    for old, new in REPLACEMENTS:
        if old not in after:
            raise ValueError(f"the template has no {old!r}")
        after = after.replace(old, new)
    plugin.write_text(after, encoding="utf-8")
    name = f"attacks/{plugin.name}"
    return "".join(difflib.unified_diff(before.splitlines(True), after.splitlines(True), name, name, n=1))


def page(run: Callable[[str], str], plugin: Path) -> str:
    """Return the page, with the output of every command.

    Args:
        run: runs a command and returns its output.
        plugin: the file of the new attack, once it exists.
    """
    parts = [HEAD]
    for number, step in enumerate(STEPS, start=1):
        heading, _, rest = step.text.partition(". ")
        parts.append(f"## {number}. {heading.rstrip('.')}\n")
        if rest:
            parts.append(f"{rest}\n")
        if step.command:
            parts.append(f"```console\n$ {step.command}\n{shortened(run(step.command))}\n```\n")
        else:
            parts.append(f"```diff\n{edit(plugin)}```\n")
        if "leaderboard" in step.command:
            parts.append("The first lines of its table:\n")
            text = (plugin.parents[1] / "runs/mine/leaderboard.md").read_text(encoding="utf-8")
            rows = [line for line in text.splitlines() if line.startswith("|")][:6]
            parts.append("\n".join(rows).replace("](../../", "](../") + "\n")  # as seen from docs/
    return "\n".join(parts)


def shortened(output: str) -> str:
    """Return an output as the page shows it: without progress and times, cut to `MAX_LINES` lines."""
    lines = [line.rstrip() for line in output.splitlines() if line.strip() and " s left" not in line]
    lines = [re.sub(r"in \d+\.\d+ ?s.*", "in a moment", line) for line in lines]
    if len(lines) > MAX_LINES:
        left = len(lines) - MAX_LINES + 1
        lines = [*lines[: MAX_LINES - 8], f"… {left} more lines …", *lines[-7:]]
    return "\n".join(lines)


@contextmanager
def checkout(*extra: str) -> Iterator[tuple[Path, Callable[[str], str]]]:
    """Copy the project into a temporary folder; yield the folder, and a function that runs a command there.

    Args:
        extra: files and folders to copy besides the packages.
    """
    with tempfile.TemporaryDirectory(prefix="iqarena-tutorial-") as name:
        home = Path(name).resolve()
        for part in (*COPIED, *extra):
            source = ROOT / part
            if source.is_dir():
                shutil.copytree(source, home / part, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, home / part)
        (home / "tests").mkdir()
        environment = os.environ | {"PYTHONPATH": str(home), "COLUMNS": "118", "NO_COLOR": "1"}

        def run(command: str) -> str:
            started = time.perf_counter()
            tool, *arguments = shlex.split(command)
            module = {"iqarena": ["-m", "iqarena"], "pytest": ["-m", "pytest"], "python": []}[tool]
            done = subprocess.run(
                [sys.executable, *module, *arguments], cwd=home, env=environment, capture_output=True, text=True, check=False
            )
            print(f"{time.perf_counter() - started:6.1f} s  {command}", flush=True)
            if done.returncode:
                sys.exit(f"{command}: exit {done.returncode}\n{done.stdout}{done.stderr}")
            return done.stdout.replace(str(home) + "/", "")

        yield home, run


def main() -> None:
    """Run the steps, and write the page."""
    with checkout() as (home, run):
        PAGE.write_text(page(run, home / "attacks/mine.py"), encoding="utf-8")
    print(PAGE.relative_to(ROOT))


if __name__ == "__main__":
    main()
