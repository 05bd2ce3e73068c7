"""Run `iqarena check` on every plugin whose file differs from a commit: ``python .github/check_changed.py COMMIT``."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("attacks", "defenses", "models")


def changed(commit: str) -> list[str]:
    """Return the files of the plugin folders that differ from the merge base with a commit, without deleted ones."""
    command = ["git", "diff", "--name-only", "--diff-filter=d", f"{commit}...HEAD", "--", *(f"{f}/*.py" for f in FOLDERS)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()


def plugins_in(files: Iterable[str]) -> list[str]:
    """Return the registry names of the classes in these files, without bridges, which need a variant."""
    from iqarena.bench.registry import ATTACKS, DEFENSES, MODELS

    modules = {"iqarena." + file.removesuffix(".py").replace("/", ".") for file in files}
    names = []
    for registry in (ATTACKS, DEFENSES, MODELS):
        for name, entry in registry.entries.items():
            broken = entry.cls is None and any(module.endswith("." + name.replace("-", "_")) for module in modules)
            if broken or (entry.cls is not None and entry.cls.__module__ in modules and not name.endswith(":")):
                names.append(name)
    return sorted(set(names))


def main() -> None:
    """Check them all; exit with 1 where a check fails."""
    names = plugins_in(changed(sys.argv[1]))
    if not names:
        print("no plugin was changed")
    failed = [
        name for name in names if subprocess.run([sys.executable, "-m", "iqarena", "check", name], check=False).returncode
    ]
    if failed:
        sys.exit(f"iqarena check failed for: {', '.join(failed)}")


if __name__ == "__main__":
    main()
