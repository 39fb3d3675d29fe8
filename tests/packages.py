"""Packages of others, as an installation leaves them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def install(site: Path, name: str, version: str, entry_points: Mapping[str, Mapping[str, str]]) -> None:
    """What pip writes of a distribution into the folder `site`, beside its modules. entry_points: objects by name, by
    group."""
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = [f"[{group}]\n{key} = {value}\n" for group, of in entry_points.items() for key, value in of.items()]
    (info / "entry_points.txt").write_text("".join(lines))
