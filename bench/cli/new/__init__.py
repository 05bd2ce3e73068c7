"""`iqarena new`: a plugin that passes as it is, and its test, with TODOs where the idea goes.

The modules beside this one are what is written, under the name `my-idea`; they are tested as they stand.
"""

from __future__ import annotations

import keyword
import re
from pathlib import Path

from iqarena.bench.checkout import ROOT
from iqarena.bench.errors import UserError
from iqarena.bench.registry import NAME, REGISTRIES

HERE = Path(__file__).parent

PLACES = {"attack": "attacks", "defense": "defenses/purification", "model": "models"}
"""Where in the project a plugin of a kind goes."""

_LONGEST = 40

_PYPROJECT = """\
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "iqarena-{name}"
version = "0.1.0"
description = "TODO"
requires-python = ">=3.11"
dependencies = ["iqarena"]

[project.entry-points."iqarena.{kind}s"]
{name} = "{module}:{made}"

[tool.setuptools]
py-modules = ["{module}"]
"""


def new(kind: str, name: str, package: Path | None = None) -> tuple[list[Path], list[str]]:
    """Write a plugin and its test, into the project or as a package of its own.

    Args:
        kind: "attack", "defense" or "model".
        name: registry name: small letters, digits and dashes.
        package: folder of the package; if left out, the project itself where that is worked in, else ``iqarena-NAME`` here.

    Returns:
        The files written, and the commands that come next.

    Raises:
        UserError: where the name is taken or is none, or where a file is in the way; nothing is written then.
    """
    own = name.replace("-", "_")
    made = "".join(part.capitalize() for part in name.split("-"))
    _check(kind, name, own, made)
    if package is None and not _in_checkout():
        package = Path(f"iqarena-{name}")
    if package is None:
        place = PLACES[kind]
        plugin, test = ROOT / place / f"{own}.py", ROOT / "tests" / f"test_{kind}s_{own}.py"
        module, texts = f"{place.replace('/', '.')}.{own}", {}
        after = [f"pytest {test.relative_to(ROOT)}"]
    else:
        module = f"iqarena_{own}"
        plugin, test = package / f"{module}.py", package / "tests" / f"test_{own}.py"
        pyproject = _PYPROJECT.format(kind=kind, name=name, module=module, made=made)
        texts = {package / "pyproject.toml": pyproject}
        after = [f"pip install -e {package}", f"pytest {test}"]
    for path, template in ((plugin, f"{kind}.py"), (test, f"test_{kind}.py")):
        text = (HERE / template).read_text(encoding="utf-8").replace(f"iqarena.bench.cli.new.{kind}", module)
        texts[path] = _sorted(text.replace("my-idea", name).replace("my_idea", own).replace("MyIdea", made))
    _write(texts)
    return list(texts), [*after, f"iqarena check {name}"]


def _in_checkout() -> bool:
    """Whether the working folder is in a checkout of the project, the one that runs."""
    return (ROOT / "pyproject.toml").is_file() and Path.cwd().is_relative_to(ROOT)


def _check(kind: str, name: str, own: str, made: str) -> None:
    if not NAME.fullmatch(name) or len(name) > _LONGEST:
        raise UserError(f"{name!r} is no name: small letters and digits, joined by dashes, at most {_LONGEST} in all")
    if REGISTRIES[kind].entry(name) is not None:
        raise UserError(f"{name!r} is taken; `iqarena list {kind}s` has all names")
    words = set(re.findall(r"\w+", (HERE / f"{kind}.py").read_text(encoding="utf-8")))
    if keyword.iskeyword(own) or {own, made} & words:
        raise UserError(f"{name!r} is a word that the file itself uses; choose another")


def _sorted(text: str) -> str:
    """With the project's imports in the order that the linter wants, whatever the new module is called."""
    lines = text.split("\n")
    first = next(
        place for place, line in enumerate(lines) if re.match(r"from (attacks|bench|defenses|models|iqarena)", line)
    )
    last = next(place for place, line in enumerate(lines) if place > first and not line.startswith("from "))
    return "\n".join([*lines[:first], *sorted(lines[first:last]), *lines[last:]])


def _write(texts: dict[Path, str]) -> None:
    there = [path for path in texts if path.exists()]
    if there:
        raise UserError(f"{there[0]} is there already; nothing was written")
    try:
        for path, text in texts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None
