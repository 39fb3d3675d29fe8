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


STARTS = CONFIG["head_start_ray_commands"] + CONFIG["worker_start_ray_commands"]


def test_what_rays_validator_does_not_see() -> None:
    assert CONFIG["cluster_name"]
    assert CONFIG["head_node_type"] in CONFIG["available_node_types"]
    own = [source for source in CONFIG["file_mounts"].values() if not source.startswith("~")]
    assert own and all((ROOT / source).exists() for source in own)
    assert any("mlflow server" in command for command in CONFIG["head_start_ray_commands"])
    workers = [t for name, t in CONFIG["available_node_types"].items() if name != CONFIG["head_node_type"]]
    assert workers and all(t["max_workers"] > 0 for t in workers)


def test_every_node_has_the_token_where_ray_looks_for_it() -> None:
    home = f"/home/{CONFIG['auth']['ssh_user']}"
    source = CONFIG["file_mounts"][f"{home}/.ray/auth_token"]
    text = (ROOT / "cluster.yaml").read_text()
    assert f"(umask 077; openssl rand -hex 32 > {source})" in text, "how it is made, readable by the user alone"
    starts = [command for command in STARTS if "ray start" in command]
    assert len(starts) == 2 and all("RAY_AUTH_MODE=token ray start" in command for command in starts)


def test_mlflow_is_reached_through_the_tunnel_alone() -> None:
    servers = [command for command in STARTS if "mlflow server" in command]
    assert servers and all("--host 127.0.0.1 " in command for command in servers)
    assert "0.0.0.0" not in (ROOT / "cluster.yaml").read_text()
