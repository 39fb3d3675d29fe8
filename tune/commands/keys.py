"""`semples-tune keys`: what every key of a sweep file means."""

from __future__ import annotations

from semples.commands.options import KeyPrefix, SchemaAsJson


def keys(prefix: KeyPrefix = "", json: SchemaAsJson = False) -> None:
    """Every key of a sweep file: its values, its default and what it means. Those of `base`, and those that `space` may
    name, are shown by `semples keys`."""
    from semples.keys import show
    from tune.keys import sweep_keys, sweep_schema

    show(sweep_keys(), sweep_schema(), prefix, json)
