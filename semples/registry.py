"""What there is of a kind, here and in other packages: both are entry points, MODULE:OBJECT, found by name."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from semples.errors import UserError, cut, nearest


def known(group: str, own: Mapping[str, str]) -> dict[str, EntryPoint]:
    """By name: those of this package (`own`, MODULE:OBJECT) and those that other packages add to the group. A name of
    this package cannot be taken by another."""
    ours = {name: EntryPoint(name, value, group) for name, value in own.items()}
    return ours | {entry.name: entry for entry in entry_points(group=group) if entry.name not in ours}


def find(group: str, own: Mapping[str, str], name: str, key: str) -> EntryPoint:
    """The one of this name, not loaded yet. key: where the name was given. Raises UserError where there is none."""
    if name in own:  # without asking all that is installed, which takes time
        return EntryPoint(name, own[name], group)
    there = known(group, own)
    if name not in there:
        ours = f"neither {', '.join(own)} nor an" if own else "no"
        raise UserError(
            f"{key} '{cut(name)}' is {ours} entry point of the group {group}{nearest(name, there)}; is its package "
            "installed?"
        )
    return there[name]


def load(entry: EntryPoint, key: str) -> Any:
    """The object of an entry point. key: where its name was given. Raises UserError where another package's cannot be
    loaded."""
    try:
        return entry.load()
    except (ImportError, AttributeError) as error:
        if entry.dist is None:
            raise  # it is one of our own
        raise UserError(
            f"{key} '{cut(entry.name)}': its package gives no {entry.value} ({cut(str(error), 200)}); mend or remove it"
        ) from None
