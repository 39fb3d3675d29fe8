"""A part of the search that is chosen by name in the sweep file, with its settings: `tpe`, or {name: tpe, ...}."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from pydantic import ConfigDict, Field, GetJsonSchemaHandler, TypeAdapter, model_serializer, model_validator
from pydantic_core import CoreSchema

from semples import registry
from semples.config import Args, Section
from semples.errors import UserError, cut

_SETTINGS: TypeAdapter[dict[str, Any]] = TypeAdapter(Args)


class Choice(Section):
    """name: of a part that is here or an entry point of another package. Everything else are its settings."""

    model_config = ConfigDict(extra="allow")

    name: str = Field(min_length=1, description="Name of the part.")

    @property
    def settings(self) -> dict[str, Any]:
        """By name."""
        return dict(self.model_extra or {})

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _finite_settings(self) -> Choice:
        _SETTINGS.validate_python(self.settings)
        return self

    @model_serializer
    def _short(self) -> str | dict[str, Any]:
        return {"name": self.name, **self.settings} if self.settings else self.name

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        name = {"type": "string", "minLength": 1}
        properties = {"name": {**name, "description": "Name of the part; what stands beside it are its settings."}}
        return {"anyOf": [name, {"type": "object", "properties": properties, "required": ["name"]}]}


def create(choice: Choice, key: str, group: str, own: Mapping[str, str], *given: Any) -> Any:
    """What the callable of that name makes of `given` and its settings. key: where it was chosen.

    Raises UserError for a name that there is not, and for settings that it does not take.
    """
    make = registry.find(group, own, choice.name, key).load()
    try:
        inspect.signature(make).bind(*given, **choice.settings)
    except TypeError as error:
        raise UserError(f"{key} '{choice.name}': {error}") from None
    try:
        return make(*given, **choice.settings)
    except (TypeError, ValueError) as error:
        raise UserError(f"{key} '{choice.name}' does not take these settings: {cut(str(error), 200)}") from None
