"""Which kinds of mask generators there are, here and in other packages, and where."""

from __future__ import annotations

from importlib.metadata import EntryPoint

from semples import registry

GENERATORS = {"cnn": "semples.generators.cnn:Cnn", "weaktr": "semples.generators.weaktr:WeakTr"}
GROUP = "semples.generators"


def find(kind: str) -> EntryPoint:
    """Where the generators of a kind come from. Raises UserError for an unknown one."""
    return registry.find(GROUP, GENERATORS, kind, "generator.kind")
