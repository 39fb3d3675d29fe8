"""The contract of a sampler: all that a sweep file can name, and one of another package."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tune.testing import SamplerContract


class TestOurs(SamplerContract):
    @pytest.fixture(params=["cost-aware", "tpe", "gp", "nsga2", "nsga3", "random", "sobol"])
    def sampler(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)


class TestOfOneObjective(SamplerContract):
    several = False

    @pytest.fixture
    def sampler(self) -> Mapping[str, Any]:
        return {"name": "cmaes", "n_startup_trials": 3}


class TestOfAnotherPackage(SamplerContract):
    @pytest.fixture
    def sampler(self, other_package: Path) -> Mapping[str, Any]:
        return {"name": "highest", "step": 0.5}
