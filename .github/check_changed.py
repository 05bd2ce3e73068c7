"""Runs `iqarena check` on every plugin whose file differs from a commit: ``python .github/check_changed.py COMMIT``."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("attacks", "defenses", "models")


def changed(commit: str) -> list[str]:
    """Files of the plugin folders that differ from where this branch left the commit's, deleted ones left out."""
    words = ["git", "diff", "--name-only", "--diff-filter=d", f"{commit}...HEAD", "--", *(f"{f}/*.py" for f in FOLDERS)]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()


def plugins_in(files: Iterable[str]) -> list[str]:
    """The registry names of the classes in these files; bridges, which are nothing without a variant, left out."""
    from iqarena.bench.registry import ATTACKS, DEFENSES, MODELS

    modules = {file.removesuffix(".py").replace("/", ".") for file in files}
    found = []
    for registry in (ATTACKS, DEFENSES, MODELS):
        for name, entry in registry.entries.items():
            broken = entry.made is None and any(module.endswith("." + name.replace("-", "_")) for module in modules)
            if broken or (entry.made is not None and entry.made.__module__ in modules and not name.endswith(":")):
                found.append(name)
    return sorted(set(found))


def main() -> None:
    """Check them all; exit 1 where one is not well."""
    names = plugins_in(changed(sys.argv[1]))
    if not names:
        print("no plugin has changed")
    failed = [
        name for name in names if subprocess.run([sys.executable, "-m", "iqarena", "check", name], check=False).returncode
    ]
    if failed:
        sys.exit(f"not well: {', '.join(failed)}")


if __name__ == "__main__":
    main()
