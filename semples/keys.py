"""What the keys of a file mean: a JSON schema, by which editors complete and check it, and the same as a table."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from semples.config import FORMAT, UNIONS, Config
from semples.errors import UserError, cut, nearest
from semples.formats import STAMP, Format

DIALECT = "https://json-schema.org/draft/2020-12/schema"
ANY = "KEY"  # stands for keys that are free
WORDS = {"string": "text", "boolean": "true | false", "object": "mapping", "null": "empty"}
SIGNS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


@dataclass(frozen=True)
class Key:
    """A key, or a section of keys. name: dotted; kind: of its section where that has several forms, else "". schema:
    its JSON schema."""

    name: str
    kind: str
    schema: Mapping[str, Any]
    is_section: bool


def schema_of(model: type[BaseModel], form: Format) -> dict[str, Any]:
    """The JSON schema of the files of a model, with the keys by which a file says its format."""
    schema = _without_noise(model.model_json_schema())
    number = {"type": "integer", "minimum": 1, "maximum": form.number, "description": STAMP["format"]}
    writer = {"type": "string", "description": STAMP["written_by"]}
    own = {"format": number, "written_by": writer, **schema["properties"]}
    return {"$schema": DIALECT, "title": f"{model.__name__} of semples-tune", **schema, "properties": own}


def config_schema() -> dict[str, Any]:
    """The JSON schema of configurations and presets, which may leave out what has a default or is given elsewhere."""
    schema = schema_of(Config, FORMAT)
    # the kind alone is needed, where a section has several forms and this is not the default one
    needed = {form.__name__ for forms in UNIONS.values() for form in list(forms.values())[1:]}
    parts = {name: part | ({"required": ["kind"]} if name in needed else {}) for name, part in schema["$defs"].items()}
    return {**schema, "$defs": parts}


def _without_noise(tree: Any) -> Any:
    """A schema without titles, which repeat the keys, and without the defaults of sections, which repeat theirs."""
    if isinstance(tree, list):
        return [_without_noise(part) for part in tree]
    if not isinstance(tree, dict):
        return tree
    noise = {"title", "discriminator", *(["default"] if "$ref" in tree or "oneOf" in tree else [])}
    return {key: _without_noise(part) for key, part in tree.items() if key not in noise}


def walk(schema: Mapping[str, Any]) -> Iterator[Key]:
    """Sections and keys of a schema in order, a section before what is in it."""
    return _walk(schema["$defs"], schema, "", "")


def _walk(parts: Mapping[str, Any], section: Mapping[str, Any], prefix: str, kind: str) -> Iterator[Key]:
    for key, node in section["properties"].items():
        name = f"{prefix}{key}"
        free = _section(parts, node.get("additionalProperties"))
        forms = [_section(parts, form) for form in node.get("oneOf", [node])]
        may_be = [form for form in node.get("anyOf", []) if _section(parts, form)]  # or be empty
        yield Key(name, kind, node, bool(free) or all(forms))
        if free:
            yield from _walk(parts, free, f"{name}.{ANY}.", kind)
        for form in may_be:
            yield from _walk(parts, _section(parts, form), f"{name}.", kind)
        for form in filter(None, forms):
            own = form["properties"]["kind"].get("const", "other") if "oneOf" in node else kind
            yield from _walk(parts, form, f"{name}.", own)


def _section(parts: Mapping[str, Any], node: Any) -> Any:
    """The section that a node of a schema is or refers to, None where it is none."""
    found = parts[node["$ref"].rpartition("/")[2]] if isinstance(node, dict) and "$ref" in node else node
    return found if isinstance(found, dict) and "properties" in found else None


def form_of(node: Mapping[str, Any]) -> str:
    """Type and range of a key's values, in words."""
    if "anyOf" in node:
        return " or ".join(dict.fromkeys(form_of(form) for form in node["anyOf"]))
    if "const" in node or "enum" in node:
        return " | ".join(map(str, node.get("enum", [node.get("const")])))
    if "prefixItems" in node:
        return f"[{', '.join(form_of(item) for item in node['prefixItems'])}]"
    if "items" in node:
        return f"list of {form_of(node['items'])}"
    if "$ref" in node:
        return WORDS["object"]
    word = WORDS.get(node.get("type", ""), node.get("type", "anything"))
    if "minimum" in node and "maximum" in node:
        word += f" {node['minimum']:.10g} to {node['maximum']:.10g}"
    else:
        word += ",".join(f" {sign} {node[bound]:.10g}" for bound, sign in SIGNS.items() if bound in node)
    return word + (f", multiple of {node['multipleOf']:g}" if "multipleOf" in node else "")


def default_of(node: Mapping[str, Any]) -> str:
    """A key's default as YAML has it, shortened; "required" where it has none."""
    if "default" not in node:
        return "required"
    if node["default"] is None:
        return ""
    return node["default"] or "''" if isinstance(node["default"], str) else cut(json.dumps(node["default"]), 40)


def show(schema: Mapping[str, Any], full: Mapping[str, Any], prefix: str, as_json: bool) -> None:
    """Print the keys of a schema that begin with `prefix` as a table, or `full`, the schema for editors, as JSON.
    Raises UserError where no key begins so."""
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Column, Table  # noqa: PLC0415

    if as_json:
        print(json.dumps(full, indent=1))
        return
    found = [key for key in walk(schema) if not key.is_section and key.name not in STAMP]
    chosen: Sequence[Key] = [key for key in found if key.name.startswith(prefix)]
    if not chosen:
        raise UserError(f"no key begins with '{cut(prefix)}'{nearest(prefix, [key.name for key in found])}")
    table = Table(Column("key", no_wrap=True), "values", "default", "meaning")
    for key in chosen:
        name = f"{key.name} ({key.kind})" if key.kind else key.name
        table.add_row(name, form_of(key.schema), default_of(key.schema), key.schema.get("description", ""))
    Console(markup=False, emoji=False, highlight=False).print(table)
