"""YAML from files that others wrote: plain data, of bounded size, whatever aliases of aliases stand for."""

from __future__ import annotations

from collections import Counter
from itertools import accumulate
from pathlib import Path
from typing import Any

import yaml

from sb3_ppo_edu.serialization.text import sentence

LARGEST_YAML = 2**16
"""Bytes of a file. Settings have some thousand; PyYAML reads so many in about a second."""

MOST_NODES = 10_000
"""Values in a file, each counted as often as aliases repeat it."""

LONGEST_NUMBER = 100
"""Characters of a number; a seed of 128 bits has 39, and what is far longer is costly to compute with and to print."""

DEEPEST = 100
"""Lists and mappings in brackets, one in the other; PyYAML's time grows with the square of it."""


class _Loader(yaml.SafeLoader):
    """PyYAML's loader, which stops at too many values, half a character, and a key that stands twice in a mapping."""

    nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose what comes next, and count it."""
        self.nodes += 1
        if self.nodes > MOST_NODES:
            raise ValueError(f"more than {MOST_NODES:,} values")
        return super().compose_node(parent, index)

    def compose_scalar_node(self, anchor: Any) -> yaml.ScalarNode:
        """Compose a value, and look whether it is text that can be written again: escapes can say halves of characters."""
        node = super().compose_scalar_node(anchor)
        node.value.encode()
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Compose a mapping, and look at its keys."""
        node = super().compose_mapping_node(anchor)
        keys = Counter((key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        twice = [key for (_, key), times in keys.items() if times > 1]
        if twice:
            raise ValueError(f"the key {twice[0]!r} twice in a mapping, expected it once")
        return node


def read_yaml(path: Path) -> Any:
    """
    Read a YAML file of plain data.

    :param path: of the file
    :return: mappings, lists, numbers, strings and ``None``
    :raises ValueError: if it is no YAML, too large or too deep, or what its aliases stand for is
    :raises OSError: if it cannot be read
    """
    with path.open("rb") as file:
        content = file.read(LARGEST_YAML + 1)
    if len(content) > LARGEST_YAML:
        raise ValueError(f"{path}: found more than {LARGEST_YAML:,} bytes, expected settings, which have some thousand")
    try:
        text = content.decode("utf-8")
        if max(accumulate((one in "[{") - (one in "]}") for one in text), default=0) > DEEPEST:
            raise RecursionError
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        found = _count(node, {})
        if found > MOST_NODES:
            raise ValueError(f"aliases that stand for {found:,} values, expected at most {MOST_NODES:,}")
        return loader.construct_document(node)
    except RecursionError:
        raise ValueError(f"{path}: not readable as YAML: lists in lists, too deep; expected settings") from None
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError) as error:
        raise ValueError(f"{path}: not readable as YAML: {sentence(str(error))}") from error


def _count(node: yaml.Node, counted: dict[int, int]) -> int:
    """Count the values below a node; one that aliases repeat is counted each time, and walked once."""
    if id(node) not in counted:
        counted[id(node)] = 0
        if node.tag.endswith((":int", ":float")) and len(node.value) > LONGEST_NUMBER:
            raise ValueError(f"a number of {len(node.value):,} characters, expected at most {LONGEST_NUMBER}")
        below = [] if isinstance(node, yaml.ScalarNode) else node.value
        parts = [part for one in below for part in (one if isinstance(one, tuple) else (one,))]
        if any(counted.get(id(part)) == 0 for part in parts):
            raise ValueError("an alias of what it stands in, expected values that end")
        counted[id(node)] = 1 + sum(_count(part, counted) for part in parts)
    return counted[id(node)]
