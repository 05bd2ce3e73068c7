"""Reading of YAML that others have written: plain values, every key once, and a bounded size and depth."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import yaml

MAX_BYTES = 2**18
"""Largest size of a document; the reader is slow, and the largest of this project has 13 kB."""

MAX_VALUES = 50_000
"""Largest number of values of a document with its aliases written out: ten lines of aliases of aliases make gigabytes."""

MAX_DEPTH = 40
"""Deepest nesting of lists and mappings, with aliases written out."""


def read_yaml(content: bytes | str) -> tuple[yaml.Node | None, Any]:
    """Read one YAML document in UTF-8, or in UTF-16 with a byte-order mark, whatever the locale is.

    Returns:
        Its node, which has the line numbers, and its content; both are None where the document is empty.

    Raises:
        yaml.YAMLError: for everything else, with one line as its `problem`.
    """
    try:
        loader = yaml.SafeLoader(_text(content))
    except yaml.YAMLError as error:
        raise yaml.MarkedYAMLError(problem=f"not text ({getattr(error, 'reason', error)})") from None
    try:
        node = loader.get_single_node()
        if node is None:
            return None, None
        _measure(node, {})
        return node, loader.construct_document(node)
    except yaml.YAMLError:
        raise
    except RecursionError:
        raise yaml.MarkedYAMLError(problem="nested too deep") from None
    except Exception as error:  # a value that does not fit its tag, such as !!bool maybe, raises almost anything
        raise yaml.MarkedYAMLError(problem=f"a value is not of its type ({type(error).__name__}: {error})") from None
    finally:
        loader.dispose()


def _text(content: bytes | str) -> str:
    if len(content) > MAX_BYTES:
        raise yaml.MarkedYAMLError(problem=f"longer than {MAX_BYTES >> 10} KiB")
    if isinstance(content, str):
        return content
    try:
        return content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError:
        raise yaml.MarkedYAMLError(problem="not UTF-8") from None


def _measure(node: yaml.Node, known: dict[int, tuple[int, int] | None]) -> tuple[int, int]:
    """Return the number of values and the depth of a node with aliases written out; `known` has those of nodes before.

    Raises:
        yaml.MarkedYAMLError: for more than is allowed, an alias of what it is in, or a key that is there twice.
    """
    if id(node) in known:
        measured = known[id(node)]
        if measured is None:
            raise _error(node, "an alias contains itself")
        return measured
    known[id(node)] = None
    children = []
    if isinstance(node, yaml.MappingNode):
        _check_keys(node)
        children = [part for pair in node.value for part in pair]
    elif isinstance(node, yaml.SequenceNode):
        children = node.value
    sizes = [_measure(child, known) for child in children]
    values, depth = 1 + sum(size for size, _ in sizes), 1 + max((depth for _, depth in sizes), default=0)
    if values > MAX_VALUES:
        raise _error(node, f"more than {MAX_VALUES:,} values, with its aliases written out")
    if depth > MAX_DEPTH:
        raise _error(node, f"nested deeper than {MAX_DEPTH} levels")
    known[id(node)] = (values, depth)
    return values, depth


def _check_keys(node: yaml.MappingNode) -> None:
    lines: dict[Hashable, int] = {}
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode):
            name = (key.tag, key.value)
            if name in lines:
                raise _error(key, f"{key.value[:80]} is there twice, first in line {lines[name]}")
            lines[name] = key.start_mark.line + 1


def _error(node: yaml.Node, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
