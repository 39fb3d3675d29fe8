"""YAML as people mean it: the one reader and writer of every file and word in this format.

A key stands once; nothing is deeper or, with its aliases written out, larger than a person writes; 1e-4 is a number;
010 is ten; 1:30 and 2024-01-01 are text. Nothing in a file is executed.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from semples.errors import UserError, cut

DEEPEST, LARGEST = 50, 100_000  # levels and values, aliases written out
MOST_BYTES = 10_000_000
NUMBERS = {
    "int": (re.compile(r"[-+]?(?:0b[01]+|0o[0-7]+|0x[0-9a-fA-F]+|[0-9][0-9_]*)$"), "-+0123456789"),
    "float": (
        re.compile(
            r"(?:[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*|[0-9][0-9_]*(?=[eE]))(?:[eE][-+]?[0-9]+)?"
            r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
        ),
        "-+0123456789.",
    ),
}


class _Loader(yaml.SafeLoader):
    # plain words that are no text: YAML 1.1's, but for numbers and dates
    yaml_implicit_resolvers = {  # noqa: RUF012 - the name and form that PyYAML looks for
        first: [(tag, form) for tag, form in rules if tag.rpartition(":")[2] not in (*NUMBERS, "timestamp")]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    _level = 0

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        self._level += 1
        if self._level > DEEPEST:
            raise yaml.YAMLError(f"it is more than {DEEPEST} levels deep")
        node = super().compose_node(parent, index)
        self._level -= 1
        return node

    def compose_mapping_node(self, anchor: Any) -> MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, ScalarNode):
                if (key.tag, key.value) in seen:
                    line = key.start_mark.line + 1
                    raise yaml.YAMLError(f"line {line}: the key '{key.value}' is there twice; keep one")
                seen.add((key.tag, key.value))
        return node

    def get_single_node(self) -> Node | None:
        node = super().get_single_node()
        if node is not None:
            _weigh(node, {})
        return node


class _Dumper(yaml.SafeDumper):
    """Puts quotes around what this loader, or another of YAML 1.1, would not take for text."""


def _whole_number(loader: _Loader, node: ScalarNode) -> int:
    word = loader.construct_scalar(node).replace("_", "")
    return int(word, 0) if word.lstrip("+-")[1:2] in ("b", "o", "x") else int(word)


_Loader.add_constructor("tag:yaml.org,2002:int", _whole_number)
for _kind in (_Loader, _Dumper):
    for _name, (_form, _first) in NUMBERS.items():
        _kind.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", _form, list(_first))


def _weigh(node: Node, known: dict[int, tuple[int, int] | None]) -> tuple[int, int]:
    """Values and levels of a node with its aliases written out. An anchor stands before its aliases, so what one names
    was weighed before, or is being weighed: a circle."""
    if id(node) in known:
        if (found := known[id(node)]) is None:
            raise yaml.YAMLError("an alias names what it stands in")
        return found
    known[id(node)] = None
    below: list[Node] = []
    if isinstance(node, SequenceNode):
        below = node.value
    elif isinstance(node, MappingNode):
        below = [part for pair in node.value for part in pair]
    weights = [_weigh(child, known) for child in below]
    size, levels = 1 + sum(size for size, _ in weights), 1 + max((levels for _, levels in weights), default=0)
    if size > LARGEST or levels > DEEPEST:
        raise yaml.YAMLError(f"with its aliases it has more than {LARGEST} values or {DEEPEST} levels")
    known[id(node)] = size, levels
    return size, levels


def loads(text: str, source: str) -> Any:
    """The value of a YAML text; `source` names it in errors. Raises UserError for what is not YAML in this sense."""
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        raise UserError(f"{source}: not valid YAML: {cut(str(error), 200)}") from None


def read(path: Path) -> Any:
    """The value of a YAML file. Raises UserError if it is missing, no plain file, unreadable or not YAML."""
    try:
        if not path.is_file():
            raise UserError(f"{path}: {'is no plain file' if path.exists() else 'no such file'}")
        if path.stat().st_size > MOST_BYTES:
            raise UserError(f"{path}: has more than {MOST_BYTES // 10**6} MB, which is no configuration")
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({cut(str(error))})") from None
    return loads(text, str(path))


def dumps(tree: Any, flat: bool = False) -> str:
    """YAML of plain values, keys in their order; `flat`: what has no sections of its own on one line."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, default_flow_style=None if flat else False, width=120)
