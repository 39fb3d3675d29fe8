from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parent.parent
CONFIG = yaml.safe_load((ROOT / "cluster.yaml").read_text())


def test_ray_accepts_it() -> None:
    validate_config(prepare_config(CONFIG))


def test_rays_validator_is_awake() -> None:
    with pytest.raises(Exception, match=r"head_nodetype|Additional properties"):
        validate_config(prepare_config({**CONFIG, "head_nodetype": "head"}))


def test_what_rays_validator_does_not_see() -> None:
    assert CONFIG["cluster_name"]
    assert CONFIG["head_node_type"] in CONFIG["available_node_types"]
    assert all((ROOT / source).exists() for source in CONFIG["file_mounts"].values())
    starts = CONFIG["head_start_ray_commands"] + CONFIG["worker_start_ray_commands"]
    assert all("RAY_AUTH_MODE=" in command for command in starts if "ray start" in command)
    assert any("mlflow server" in command for command in CONFIG["head_start_ray_commands"])
    workers = [t for name, t in CONFIG["available_node_types"].items() if name != CONFIG["head_node_type"]]
    assert workers and all(t["max_workers"] > 0 for t in workers)
