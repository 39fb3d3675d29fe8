"""The libraries that an installation takes: from a version that was tried up to where their interfaces may change."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LINES = [*PROJECT["dependencies"], *(line for extra in PROJECT["optional-dependencies"].values() for line in extra)]
REQUIREMENTS = [requirement for requirement in map(Requirement, LINES) if requirement.name != PROJECT["name"]]


def pinned(file: str) -> dict[str, Version]:
    lines = [line.split("==") for line in (ROOT / file).read_text().splitlines() if "==" in line]
    return {canonicalize_name(name): Version(version) for name, version in lines}


def bound(requirement: Requirement, operator: str) -> Version:
    (found,) = [spec.version for spec in requirement.specifier if spec.operator == operator]
    return Version(found)


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=lambda requirement: requirement.name)
def test_every_library_ends_before_its_next_incompatible_version(requirement: Requirement) -> None:
    """The next major version of what was tried, the next minor one where the major is 0."""
    lowest, end = bound(requirement, ">="), bound(requirement, "<")
    tried = pinned("constraints.txt").get(canonicalize_name(requirement.name), lowest)
    assert tried in requirement.specifier
    assert end == (Version(f"{tried.major + 1}") if tried.major else Version(f"0.{tried.minor + 1}"))


def test_the_lowest_versions_are_those_that_are_allowed() -> None:
    lowest = pinned("lowest.txt")
    assert lowest.keys() == {canonicalize_name(requirement.name) for requirement in REQUIREMENTS}
    for requirement in REQUIREMENTS:
        version, least = lowest[canonicalize_name(requirement.name)], bound(requirement, ">=")
        assert version in requirement.specifier
        # the first that there is: 6.0.3 where 6.0 has no build for today's Python
        assert version.release[: len(least.release)] == least.release, requirement.name
