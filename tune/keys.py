"""What the keys of a sweep file mean, as a JSON schema for editors: it knows the keys of `base` and of `space`, too."""

from __future__ import annotations

from typing import Any

from semples.formats import STAMP
from semples.keys import config_schema, schema_of, walk
from tune.space import is_shared
from tune.sweep_file import FORMAT, Sweep

# keys of other libraries and packages
ARGS, DATA_ARGS = r"^((generator|segment)\.args|stages)\.", r"^data\.args\."


def sweep_keys() -> dict[str, Any]:
    """The JSON schema of the keys of a sweep itself."""
    return schema_of(Sweep, FORMAT)


def sweep_schema() -> dict[str, Any]:
    """The same with the keys of the configuration: below `base`, nested or dotted, and those that can be searched below
    `space`."""
    schema, config = sweep_keys(), config_schema()
    properties = {name: node for name, node in config["properties"].items() if name not in STAMP}
    dotted: dict[str, list[Any]] = {}
    searched: dict[str, Any] = {}
    for key in walk({**config, "properties": properties}):
        if "." in key.name and key.schema not in dotted.setdefault(key.name, []):
            dotted[key.name].append(key.schema)
        single = not key.is_section and key.schema.get("type") not in ("array", "object")
        if single and not is_shared(key.name) and not key.name.endswith(".kind"):
            searched[key.name] = {"$ref": "#/$defs/Dimension", "description": key.schema.get("description", "")}
    base = {
        "properties": properties | {name: one[0] if len(one) == 1 else {"anyOf": one} for name, one in dotted.items()},
        "patternProperties": {ARGS: {}, DATA_ARGS: {}},
        "additionalProperties": False,
    }
    space = {
        "properties": searched,
        "patternProperties": {ARGS: {"$ref": "#/$defs/Dimension"}},
        "additionalProperties": False,
    }
    own = schema["properties"]
    return {
        **schema,
        "$defs": config["$defs"] | schema["$defs"],
        "properties": {**own, "base": own["base"] | base, "space": own["space"] | space},
    }
