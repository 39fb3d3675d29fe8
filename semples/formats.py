"""The formats of files that are written: each file says its number and who wrote it, and an older one is brought to
today's format step by step.

A file without a number has format 1: version 0.1.0 wrote none, and who writes a file by hand may leave it out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from semples.errors import UserError, cut, quoted

VERSION = version("semples-tune")
WRITTEN_BY = f"semples-tune {VERSION}"
STAMP = {
    "format": "Number of this file's format; without one it is read as by hand or by version 0.1.0.",
    "written_by": "Version that wrote this file.",
}
Step = Callable[[dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class Format:
    """The format of one kind of file. steps: what makes format 2 of format 1, format 3 of format 2, and so on; each
    takes and gives the whole tree, and raises UserError where it cannot."""

    steps: tuple[Step, ...]

    @property
    def number(self) -> int:
        """Of today's format."""
        return 1 + len(self.steps)

    def stamp(self) -> dict[str, Any]:
        """What a file that is written says of itself, at its top."""
        return {"format": self.number, "written_by": WRITTEN_BY}

    def read(self, tree: Mapping[str, Any], source: str) -> dict[str, Any]:
        """The content of a file in today's format, without the stamp. Raises UserError, with the file's name `source`,
        where it is of a newer format or says none that there is."""
        number = tree.get("format", 1)
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise UserError(
                f"{source}: format {quoted(number)} is none; put back what was there, or leave the line out"
            )
        if number > self.number:
            raise UserError(f"{source}: {newer(number, self.number, tree.get('written_by'))}")
        content = {key: value for key, value in tree.items() if key not in STAMP}
        for step in self.steps[number - 1 :]:
            try:
                content = step(content)
            except UserError as error:
                raise UserError(f"{source}: {error}") from None
        return content


def json_object(content: bytes) -> dict[str, Any]:
    """The JSON object of a file. Raises ValueError for anything else."""
    try:
        found = json.loads(content)
    except RecursionError:
        raise ValueError("too deep") from None
    if not isinstance(found, dict):
        raise ValueError("no object")
    return found


def newer(number: int, known: int, writer: Any) -> str:
    """What to say of a file whose format only a later version knows."""
    by = cut(str(writer)) if writer else "a later version of semples-tune"
    this = f"this is {VERSION}, which reads up to format {known}"
    return f"written by {by} (format {number}); {this}: update semples-tune"


def renamed(tree: Mapping[str, Any], names: Mapping[str, str], prefix: str = "") -> dict[str, Any]:
    """A copy of nested mappings with other names for some dotted keys, each in its old section and place. Raises
    UserError where a key stands there under both of its names."""
    result = {}
    for key, value in tree.items():
        name = names.get(f"{prefix}{key}", key).removeprefix(prefix)
        if name != key and name in tree:
            raise UserError(f"the key '{prefix}{key}' is '{prefix}{name}' now, and both are there; keep the new one")
        result[name] = renamed(value, names, f"{prefix}{key}.") if isinstance(value, Mapping) else value
    return result
