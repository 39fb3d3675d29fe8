"""Every key says what it means."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from semples.config import Config
from tune.sweep_file import Sweep


def undescribed(schema: dict[str, Any], prefix: str = "") -> list[str]:
    """Names of properties, in a schema and its definitions, of which it says nothing."""
    found = [f"{prefix}{name}" for name, of in schema.get("properties", {}).items() if not of.get("description")]
    return found + [key for name, of in schema.get("$defs", {}).items() for key in undescribed(of, f"{name}.")]


@pytest.mark.parametrize("model", [Config, Sweep], ids=lambda model: model.__name__)
def test_every_key_is_described(model: type[BaseModel]) -> None:
    assert not undescribed(model.model_json_schema())
