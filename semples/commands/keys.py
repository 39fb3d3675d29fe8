"""`semples keys`: what every key of a configuration means."""

from __future__ import annotations

from semples.commands.options import KeyPrefix, SchemaAsJson


def keys(prefix: KeyPrefix = "", json: SchemaAsJson = False) -> None:
    """Every key of a configuration: its values, its default and what it means."""
    from semples.keys import config_schema, show

    show(config_schema(), config_schema(), prefix, json)
