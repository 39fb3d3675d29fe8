"""Packages of others, as an installation leaves them."""

from __future__ import annotations

import shutil
import tomllib
from collections.abc import Mapping
from pathlib import Path

OTHER = Path(__file__).parent / "other_package"


def install(site: Path, name: str, version: str, entry_points: Mapping[str, Mapping[str, str]]) -> None:
    """What pip writes of a distribution into the folder `site`, beside its modules. entry_points: objects by name, by
    group."""
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = [f"[{group}]\n{key} = {value}\n" for group, of in entry_points.items() for key, value in of.items()]
    (info / "entry_points.txt").write_text("".join(lines))


def install_other(site: Path) -> None:
    """Install tests/other_package as pip would: its modules and what its pyproject says."""
    project = tomllib.loads((OTHER / "pyproject.toml").read_text())["project"]
    install(site, project["name"], project["version"], project["entry-points"])
    for path in OTHER.glob("*.py"):
        shutil.copy(path, site)
