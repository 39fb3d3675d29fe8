"""The files for `ray up`. No test has a cloud or another machine: Ray's own validator, a stand-in for AWS, and programs
in the place of pip, MLflow and sudo show what can be shown without."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import ray.autoscaler
from cluster_files import RAY_UP, ROOT, bash, config_of, header_of, stand_in, text_of
from moto import mock_aws
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler._private.util import prepare_config, validate_config

CONFIG = config_of("cluster.yaml")


def starts(config: dict[str, Any]) -> list[str]:
    return [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]


@pytest.mark.parametrize("file", RAY_UP)
def test_ray_accepts_it(file: str) -> None:
    validate_config(prepare_config(config_of(file)))


def test_rays_validator_is_awake() -> None:
    with pytest.raises(Exception, match=r"head_nodetype|Additional properties"):
        validate_config(prepare_config({**CONFIG, "head_nodetype": "head"}))


@pytest.mark.parametrize("file", RAY_UP)
def test_what_rays_validator_does_not_see(file: str) -> None:
    config = config_of(file)
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    assert config["provider"].keys() <= schema["properties"]["provider"]["properties"].keys()
    assert config["cluster_name"]
    own = [source for source in config["file_mounts"].values() if not source.startswith("~")]
    assert own and all((ROOT / source).exists() for source in own)
    assert f"ray up {file}\n" in header_of(file)


@pytest.mark.parametrize("file", RAY_UP)
def test_every_node_has_the_token_where_ray_looks_for_it(file: str) -> None:
    config = config_of(file)
    home = f"/home/{config['auth']['ssh_user']}" if file == "cluster.yaml" else "~"
    source = config["file_mounts"][f"{home}/.ray/auth_token"]
    assert f"(umask 077; openssl rand -hex 32 > {source})" in header_of(file), "how it is made, for the user alone"
    assert config["setup_commands"][0] == "chmod 700 ~/.ray && chmod 600 ~/.ray/auth_token"
    started = [command for command in starts(config) if "ray start" in command]
    assert len(started) == 2 and all("RAY_AUTH_MODE=token ray start" in command for command in started)


@pytest.mark.parametrize("file", RAY_UP)
def test_mlflow_is_started_once_and_is_reached_through_the_tunnel_alone(file: str, tmp_path: Path) -> None:
    (server,) = [command for command in starts(config_of(file)) if "mlflow server" in command]
    stand_in(tmp_path / "bin", "curl", f"test -e {tmp_path}/up")
    stand_in(tmp_path / "bin", "mlflow", f'echo "$@" >> {tmp_path}/calls; touch {tmp_path}/up')
    environment = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "HOME": str(tmp_path)}
    for _ in range(2):
        # as Ray runs it, so that it stands in the command line of a shell. 9 is what `bash` reads to its end: it waits
        # for what is left running, too
        bash(f"exec 9>&1; ({server.replace('/tmp/', f'{tmp_path}/')})", environment, timeout=60)
    (call,) = (tmp_path / "calls").read_text().splitlines()
    store = (
        "postgresql+psycopg:///mlflow?host=/var/run/postgresql"
        if file == "cluster.yaml"
        else f"sqlite:///{tmp_path}/mlflow.db"
    )
    assert call.split() == [
        "server", "--host", "127.0.0.1", "--port", "5000", "--backend-store-uri", store,
        "--artifacts-destination", "/shared/mlartifacts",
    ]  # fmt: skip
    assert f"ray attach {file} -p 5000" in header_of(file)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, dict[str, Any]]]:
    """By node type what a stand-in for EC2 was asked for, through Ray's own provider. It knows the names of all
    parameters and instance types, but starts nothing, and has no image of the kind that the file names."""
    with pytest.MonkeyPatch.context() as patch, mock_aws():
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "none")
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))  # Ray makes a key there
        region = CONFIG["provider"]["region"]
        ec2, iam = boto3.client("ec2", region), boto3.client("iam", region)
        role = "ray-autoscaler-v1"  # which Ray would make, and wait for
        iam.create_instance_profile(InstanceProfileName=role)
        iam.create_role(RoleName=role, AssumeRolePolicyDocument="{}")
        iam.add_role_to_instance_profile(InstanceProfileName=role, RoleName=role)
        image = ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
        config = prepare_config(config_of("cluster.yaml"))
        for kind in config["available_node_types"].values():
            assert kind["node_config"].pop("ImageId") == "ami-CHANGE-ME"
            kind["node_config"]["ImageId"] = image
        config = AWSNodeProvider.bootstrap_config(AWSNodeProvider.fillout_available_node_types_resources(config))
        provider = AWSNodeProvider(config["provider"], config["cluster_name"])
        for name, kind in config["available_node_types"].items():
            provider.create_node(kind["node_config"], {"ray-user-node-type": name}, 1)
        made = [one for of in ec2.describe_instances()["Reservations"] for one in of["Instances"]]
        sizes = {one["VolumeId"]: one["Size"] for one in ec2.describe_volumes()["Volumes"]}
        yield {
            next(tag["Value"] for tag in one["Tags"] if tag["Key"] == "ray-user-node-type"): {
                **one, "GB": sizes[one["BlockDeviceMappings"][0]["Ebs"]["VolumeId"]]
            }
            for one in made
        }  # fmt: skip


def test_aws_is_asked_for_a_head_on_demand_and_spot_workers(nodes: dict[str, dict[str, Any]]) -> None:
    assert nodes["head"].get("InstanceLifecycle") is None and nodes["gpu_worker"]["InstanceLifecycle"] == "spot"
    assert all(node["GB"] >= 100 for node in nodes.values()), "room for the package, 7 GB packed and unpacked, and data"


def test_workers_come_together_and_go_when_they_are_idle() -> None:
    kinds = CONFIG["available_node_types"]
    assert CONFIG["head_node_type"] == "head" and kinds["head"]["resources"] == {"CPU": 0}
    assert kinds["gpu_worker"]["min_workers"] == 0
    assert kinds["gpu_worker"]["max_workers"] == CONFIG["max_workers"] == CONFIG["upscaling_speed"] > 1


class Node:
    """A machine on which cluster/node.sh is run. pip and `python3 -m venv` have stand-ins; the rest is real."""

    def __init__(self, folder: Path):
        self.home, self.shared, self._log = folder / "home", folder / "shared", folder / "installed"
        clone = self.home / "semples-tune"
        (clone / "cluster").mkdir(parents=True)
        self.shared.mkdir()
        for name in ("pyproject.toml", "constraints.txt", "cluster/node.sh"):
            shutil.copy(ROOT / name, clone / name)
        self.clone = clone
        stand_in(folder / "bin", "pip", f'echo "$@" >> {self._log}')
        venv = f'mkdir -p "$3/bin" && cp {folder}/bin/pip "$3/bin/pip"'
        stand_in(folder / "bin", "python3", f"if [[ $1 == -m ]]; then {venv}; else echo Python 3.12.3; fi")
        self.environment = {"PATH": f"{folder}/bin:{os.environ['PATH']}", "HOME": str(self.home)}

    def set_up(self) -> None:
        (command,) = [one for one in CONFIG["setup_commands"] if "node.sh" in one]
        done = bash(command.replace("/shared", str(self.shared)), self.environment)
        assert done.returncode == 0, done.stderr

    def installed(self) -> list[str]:
        return self._log.read_text().splitlines()


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def test_the_first_node_installs_and_later_ones_unpack(node: Node) -> None:
    node.set_up()
    clone = node.clone
    assert node.installed() == [
        f"install --quiet --constraint {clone}/constraints.txt --editable {clone}[postgresql,s3]"
    ]
    (packed,) = (node.shared / "venvs").iterdir()
    assert packed.suffix == ".tar" and packed.stat().st_mode & 0o077 == 0, "nobody else may read or change it"
    node.set_up()
    shutil.rmtree(node.home / "venv")  # another node
    node.set_up()
    assert (node.home / "venv/bin/pip").exists() and len(node.installed()) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a file to somebody else")
def test_an_archive_of_somebody_else_is_not_unpacked(node: Node) -> None:
    node.set_up()
    (packed,) = (node.shared / "venvs").iterdir()
    os.chown(packed, 12345, 12345)
    shutil.rmtree(node.home / "venv")
    node.set_up()
    assert len(node.installed()) == 2


def test_a_node_that_is_ready_does_nothing_again(node: Node) -> None:
    node.set_up()
    (node.home / "venv/of_today").touch()
    node.set_up()
    assert (node.home / "venv/of_today").exists()


def test_an_interrupted_installation_is_made_anew(node: Node) -> None:
    (node.home / "venv").mkdir(parents=True)
    (node.home / "venv/half").touch()
    node.set_up()
    assert (node.home / "venv/bin/pip").exists() and not (node.home / "venv/half").exists()


def test_other_requirements_are_another_installation(node: Node) -> None:
    node.set_up()
    for name in ("constraints.txt", "pyproject.toml"):
        (node.clone / name).write_text("# other")
        node.set_up()
    assert len(node.installed()) == 3 and len([*(node.shared / "venvs").iterdir()]) == 3


def test_ray_and_whoever_logs_in_find_the_package_and_shared_weights(node: Node) -> None:
    node.set_up()
    node.set_up()
    assert len((node.home / ".bashrc").read_text().splitlines()) == 1
    said = bash("source ~/.bashrc; type -P pip; echo $HF_HOME $TORCH_HOME", node.environment).stdout.split()
    weights = node.shared / "weights"
    assert said == [f"{node.home}/venv/bin/pip", f"{weights}/huggingface", f"{weights}/torch"]


def test_a_new_head_begins_with_the_copy_of_mlflows_database(tmp_path: Path) -> None:
    pgserver = pytest.importorskip("pgserver")
    server = pgserver.get_server(tmp_path / "postgresql")
    try:
        stand_in(tmp_path / "bin", "sudo", 'shift 2; exec "$1" -U postgres "${@:2}"')
        stand_in(tmp_path / "bin", "crontab", f"cat > {tmp_path}/crontab")
        programs = Path(pgserver.__file__).parent / "pginstall" / "bin"
        environment = {
            "PATH": f"{tmp_path}/bin:{programs}:{os.environ['PATH']}",
            "PGHOST": server.get_uri().split("host=")[1],
        }
        create, copy = (
            command.replace("/shared", str(tmp_path))
            for command in CONFIG["head_setup_commands"]
            if "createdb" in command or "crontab" in command
        )

        def run(command: str, code: int = 0) -> str:
            done = bash(command, environment)
            assert done.returncode == code, done.stderr
            return done.stdout.strip()

        run(create)
        run('psql -d mlflow -c "create table t (a int)" && psql -d mlflow -c "insert into t values (7)"')
        run(create)  # `ray up` again
        run(copy)
        minutes, *_, command = (tmp_path / "crontab").read_text().strip().split(maxsplit=5)
        assert minutes == "*/10"
        run(command)
        run("dropdb -U postgres mlflow && dropuser -U postgres $(id -un)")
        whole = (tmp_path / "mlflow.sql").read_text()
        (tmp_path / "mlflow.sql").write_text(whole + "of another program;")
        for _ in range(2):
            run(create, code=1)
        (tmp_path / "mlflow.sql").write_text(whole)
        run(create)
        assert run("psql -d mlflow -tAc 'select a from t'") == "7"
    finally:
        server.cleanup()
    assert "pg_dump -d mlflow -f /shared/mlflow.sql" in header_of("cluster.yaml")


def test_the_image_can_install_torch() -> None:
    assert "latest_dlami" not in text_of("cluster.yaml")
    assert "base-oss-nvidia-driver-gpu-ubuntu-24.04/latest/ami-id" in header_of("cluster.yaml")
