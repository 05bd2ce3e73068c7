"""`iqarena new`: write a plugin and its test, which pass unchanged, with TODOs for the new idea.

The other modules of this package are the templates, under the name `my-idea`; they are tested as they are.
"""

from __future__ import annotations

import keyword
import re
from pathlib import Path

from iqarena.bench.checkout import ROOT
from iqarena.bench.errors import UserError
from iqarena.bench.registry import NAME, REGISTRIES

HERE = Path(__file__).parent

FOLDERS = {"attack": "attacks", "defense": "defenses/purification", "model": "models"}
"""The folder of each kind of plugin in the project."""

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
{name} = "{module}:{class_name}"

[tool.setuptools]
py-modules = ["{module}"]
"""


def new(kind: str, name: str, package: Path | None = None) -> tuple[list[Path], list[str]]:
    """Write a plugin and its test, into the project or as a separate package.

    Args:
        kind: "attack", "defense" or "model".
        name: registry name: lower-case letters, digits and dashes.
        package: folder of the package; if left out, the project when called from its checkout, else ``iqarena-NAME`` here.

    Returns:
        The files written, and the commands to run next.

    Raises:
        UserError: where the name is taken or invalid, or a file exists already; nothing is written then.
    """
    module_name = name.replace("-", "_")
    class_name = "".join(part.capitalize() for part in name.split("-"))
    _check(kind, name, module_name, class_name)
    if package is None and not _in_checkout():
        package = Path(f"iqarena-{name}")
    if package is None:
        folder = FOLDERS[kind]
        plugin, test = ROOT / folder / f"{module_name}.py", ROOT / "tests" / f"{kind}s" / f"test_{module_name}.py"
        module, texts = f"iqarena.{folder.replace('/', '.')}.{module_name}", {}
        commands = [f"pytest {test.relative_to(ROOT)}"]
    else:
        module = f"iqarena_{module_name}"
        plugin, test = package / f"{module}.py", package / "tests" / f"test_{module_name}.py"
        pyproject = _PYPROJECT.format(kind=kind, name=name, module=module, class_name=class_name)
        texts = {package / "pyproject.toml": pyproject}
        commands = [f"pip install -e {package}", f"pytest {test}"]
    for path, template in ((plugin, f"{kind}.py"), (test, f"test_{kind}.py")):
        text = (HERE / template).read_text(encoding="utf-8").replace(f"iqarena.bench.cli.new.{kind}", module)
        texts[path] = _sorted(text.replace("my-idea", name).replace("my_idea", module_name).replace("MyIdea", class_name))
    _write(texts)
    return list(texts), [*commands, f"iqarena check {name}"]


def _in_checkout() -> bool:
    """Check whether the working folder is in the checkout from which the project runs."""
    return (ROOT / "pyproject.toml").is_file() and Path.cwd().is_relative_to(ROOT)


def _check(kind: str, name: str, module_name: str, class_name: str) -> None:
    if not NAME.fullmatch(name) or len(name) > _LONGEST:
        raise UserError(f"{name!r} is no name: small letters and digits, joined by dashes, at most {_LONGEST} in all")
    if REGISTRIES[kind].entry(name) is not None:
        raise UserError(f"{name!r} is taken; `iqarena list {kind}s` has all names")
    identifiers = set(re.findall(r"\w+", (HERE / f"{kind}.py").read_text(encoding="utf-8")))
    if keyword.iskeyword(module_name) or {module_name, class_name} & identifiers:
        raise UserError(f"{name!r} is a word that the file itself uses; choose another")


def _sorted(text: str) -> str:
    """Sort the project's imports as the linter requires, whatever the name of the new module."""
    lines = text.split("\n")
    first = next(index for index, line in enumerate(lines) if line.startswith("from iqarena"))
    last = next(index for index, line in enumerate(lines) if index > first and not line.startswith("from "))
    return "\n".join([*lines[:first], *sorted(lines[first:last]), *lines[last:]])


def _write(texts: dict[Path, str]) -> None:
    existing = [path for path in texts if path.exists()]
    if existing:
        raise UserError(f"{existing[0]} is there already; nothing was written")
    try:
        for path, text in texts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None
