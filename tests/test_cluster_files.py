"""The files for SLURM and Kubernetes, and what holds for all files with which a cluster is started.

SLURM, Ray and the sweep have stand-ins here, and Kubernetes has none. So these tests show what slurm.sh does with the
signals and commands of SLURM as its manual describes them, and that the parts of the others fit together; not that a
cluster takes them, nor that an image of the names in them is there."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
from cluster_files import (
    COMMANDS,
    PROJECT,
    ROOT,
    commands_of,
    dockerfile,
    header_of,
    kuberay,
    stand_in,
    text_of,
)
from packaging.specifiers import SpecifierSet

OF_RAY = next(line for line in text_of("constraints.txt").splitlines() if line.startswith("ray==")).removeprefix(
    "ray=="
)
# Python and glibc of the systems that the files name
SYSTEMS = {"ubuntu-24.04": ("3.12", (2, 39)), "bookworm": ("3.12", (2, 36))}


@pytest.mark.parametrize("file", COMMANDS)
def test_a_file_opens_with_the_command_to_use_it(file: str) -> None:
    assert header_of(file).startswith(f"# {COMMANDS[file]}")


def test_no_file_is_without_tests() -> None:
    assert {f"cluster/{path.name}" for path in (ROOT / "cluster").iterdir()} | {"cluster.yaml"} == COMMANDS.keys()


@pytest.mark.parametrize("file", COMMANDS)
def test_every_command_is_one(file: str) -> None:
    commands = commands_of(file)
    assert commands
    for command in commands:
        checked = subprocess.run(["bash", "-n"], input=command, text=True, capture_output=True)
        assert checked.returncode == 0, f"{command}: {checked.stderr}"


@pytest.mark.parametrize("file", COMMANDS)
def test_what_is_to_be_changed_is_said_at_the_top(file: str) -> None:
    placeholders = set(re.findall(r"[\w-]*CHANGE-ME", text_of(file).removeprefix(header_of(file))))
    assert all(name in header_of(file) or "every CHANGE-ME" in header_of(file) for name in placeholders)


@pytest.mark.parametrize("file", COMMANDS)
def test_a_token_goes_from_file_to_file_alone(file: str) -> None:
    text = text_of(file)
    assert not re.search(r"RAY_AUTH_TOKEN\b|auth_token: *[\"']?\w{16}|\b[0-9a-f]{32,}\b|password=", text)
    for made in re.finditer(r".*openssl rand.*", text):
        assert re.search(r"\(umask 077; openssl rand -hex 32 > \S+\)", made[0])


@pytest.mark.parametrize("file", COMMANDS)
def test_nothing_but_ray_listens_on_other_than_loopback(file: str) -> None:
    assert set(re.findall(r"--host[ =,]+\"?([\w.:]+)", text_of(file))) <= {"127.0.0.1"}
    assert not re.search(r"0\.0\.0\.0|RAY_AUTH_MODE=(?!token)|dashboard-host", text_of(file))


@pytest.mark.parametrize("system", SYSTEMS)
def test_what_a_system_has_is_enough_for_torch_and_the_package(system: str) -> None:
    assert any(system in text_of(file) for file in COMMANDS)
    python, glibc = SYSTEMS[system]
    assert python in SpecifierSet(PROJECT["requires-python"])
    needed = re.search(r"manylinux_(\d+)_(\d+)", distribution("torch").read_text("WHEEL") or "")
    assert needed and glibc >= (int(needed[1]), int(needed[2]))


# SLURM


class Slurm:
    """A job of two nodes. What is called writes a line into a file of its name; the sweep's first two launches last
    until they are told to end."""

    def __init__(self, folder: Path):
        self.folder, self.home = folder, folder / "home"
        self.home.mkdir()
        own = folder / "bin"
        stand_in(own, "scontrol", f'[[ $1 == show ]] && printf "n1\\nn2\\n" || echo "$@" >> {folder}/scontrol')
        stand_in(own, "srun", f'echo "$@" >> {folder}/srun; while [[ $1 == -* ]]; do shift; done; exec "$@"')
        # as `ray symmetric-run` on the first node: what stands after -- is a child of it
        ray = f'echo "$RAY_AUTH_MODE $(cat "$RAY_AUTH_TOKEN_PATH") $@" >> {folder}/ray'
        run = f'[[ -e {folder}/slow ]] && exec sleep 60; while [[ $1 != -- ]]; do shift; done; "${{@:2}}"; code=$?'
        stop = f"[[ -e {folder}/linger ]] && touch {folder}/stopping && sleep 1"
        stand_in(own, "ray", f"{ray}; {run}; {stop}; exit $code")
        stand_in(
            own, "semples-tune",
            f'trap "kill %1; exit 130" TERM; printf "%s|" "$@" >> {folder}/launches; echo >> {folder}/launches\n'
            f"[[ $(wc -l < {folder}/launches) -gt ${{LAST:-2}} ]] || {{ sleep 60 & wait; }}",
        )  # fmt: skip
        self.environment = {
            "PATH": f"{own}:{os.environ['PATH']}", "HOME": str(self.home), "TMPDIR": str(folder), "SLURM_JOB_ID": "7",
            "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_NUM_NODES": "2", "SLURM_CPUS_PER_TASK": "16",
        }  # fmt: skip

    def begin(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        command = ["bash", str(ROOT / "cluster/slurm.sh"), *arguments]
        return subprocess.Popen(command, env=self.environment | environment, text=True, stderr=subprocess.PIPE)

    def lines(self, name: str) -> list[str]:
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []

    def wait_for(self, name: str, lines: int) -> None:
        end = time.monotonic() + 60
        while len(self.lines(name)) < lines:
            assert time.monotonic() < end, f"{name} was not called {lines} times"
            time.sleep(0.02)


@pytest.fixture
def slurm(tmp_path: Path) -> Slurm:
    return Slurm(tmp_path)


def ended(job: subprocess.Popen[str]) -> int:
    job.communicate(timeout=60)
    return job.returncode


def test_a_job_out_of_time_ends_in_order_and_goes_on_with_the_same_command(slurm: Slurm) -> None:
    asked = ("mine.yaml", "--out", "/scratch/a b", "trials=3")
    for times in (1, 2):
        job = slurm.begin(*asked)
        slurm.wait_for("launches", times)
        job.send_signal(signal.SIGUSR1)
        assert ended(job) == 130
        assert slurm.lines("scontrol") == ["requeue 7"] * times
    assert ended(slurm.begin(*asked)) == 0
    assert len(slurm.lines("scontrol")) == 2, "what is done is not queued again"
    assert (
        slurm.lines("launches") == ["launch|mine.yaml|--address|n1:6379|study=journal|--out|/scratch/a b|trials=3|"] * 3
    )


def test_a_job_that_is_cancelled_ends_in_order_and_stays_away(slurm: Slurm) -> None:
    job = slurm.begin("mine.yaml")
    slurm.wait_for("launches", 1)
    job.terminate()
    assert ended(job) == 130 and not slurm.lines("scontrol")


def test_a_job_out_of_time_before_the_sweep_began_is_queued_again(slurm: Slurm) -> None:
    (slurm.folder / "slow").touch()
    job = slurm.begin("mine.yaml")
    slurm.wait_for("ray", 1)
    job.send_signal(signal.SIGUSR1)
    assert ended(job) != 0
    assert slurm.lines("scontrol") == ["requeue 7"] and not slurm.lines("launches")


def test_a_job_out_of_time_whose_sweep_is_done_is_left_to_end(slurm: Slurm) -> None:
    (slurm.folder / "linger").touch()
    job = slurm.begin("mine.yaml", LAST="0")
    while not (slurm.folder / "stopping").exists():  # of Ray, which takes its time
        assert job.poll() is None
        time.sleep(0.02)
    job.send_signal(signal.SIGUSR1)
    assert ended(job) == 0 and not slurm.lines("scontrol")


def test_ray_that_cannot_be_started_is_an_error(slurm: Slurm) -> None:
    stand_in(slurm.folder / "bin", "ray", "exit 0")  # as symmetric-run ends then
    job = slurm.begin("mine.yaml")
    assert "Ray could not be started" in job.communicate(timeout=60)[1] and job.returncode == 1


def test_a_sweep_that_fails_is_not_queued_again(slurm: Slurm) -> None:
    stand_in(slurm.folder / "bin", "semples-tune", "exit 2")
    assert ended(slurm.begin("mine.yaml")) == 2 and not slurm.lines("scontrol")


def test_ray_runs_on_all_nodes_with_one_token_for_the_user_alone(slurm: Slurm) -> None:
    assert ended(slurm.begin("mine.yaml", LAST="0")) == 0
    assert ended(slurm.begin("mine.yaml", LAST="0")) == 0
    (file,) = (path for path in slurm.home.iterdir())
    assert file.name == ".semples-tune-token" and file.stat().st_mode & 0o077 == 0
    token = file.read_text().strip()
    assert len(token) == 64
    for line in slurm.lines("ray"):
        mode, given, command = line.split(maxsplit=2)
        assert (mode, given) == ("token", token)
        assert command.startswith("symmetric-run --address n1:6379 --min-nodes 2 --num-cpus=16 -- ")
    (first, again) = slurm.lines("srun")
    assert first.startswith("--nodes=2 --ntasks=2 --cpus-per-task=16 ") and token not in first + again


def test_jobs_that_begin_together_make_one_token(slurm: Slurm) -> None:
    stand_in(slurm.folder / "bin", "openssl", "sleep $SLURM_JOB_ID; echo of job $SLURM_JOB_ID")
    jobs = [slurm.begin("mine.yaml", LAST="0", SLURM_JOB_ID=number) for number in ("1", "2")]
    assert [ended(job) for job in jobs] == [0, 0]
    assert (slurm.home / ".semples-tune-token").read_text() == "of job 1\n"
    assert [line.split()[1:4] for line in slurm.lines("ray")] == [["of", "job", "1"]] * 2


def test_a_job_without_a_sweep_is_said(slurm: Slurm) -> None:
    job = slurm.begin()
    assert "give a sweep file" in job.communicate(timeout=60)[1] and job.returncode != 0


def test_slurm_is_asked_for_what_the_file_relies_on() -> None:
    asked = set(re.findall(r"^#SBATCH --(\S+)$", text_of("cluster/slurm.sh"), re.M))
    assert {"requeue", "exclusive", "ntasks-per-node=1", "open-mode=append"} <= asked
    (seconds,) = (one.removeprefix("signal=B:USR1@") for one in asked if one.startswith("signal="))
    assert int(seconds) >= 120, "the sweep ends in order, then Ray's nodes, which takes a minute"


# Kubernetes

# of KubeRay 1.5.1, as far as the file uses them
OF_JOB = {"entrypoint", "backoffLimit", "shutdownAfterJobFinishes", "rayClusterSpec", "submissionMode", "suspend"}
OF_CLUSTER = {
    "rayVersion", "authOptions", "enableInTreeAutoscaling", "autoscalerOptions", "headGroupSpec", "workerGroupSpecs",
}  # fmt: skip
OF_WORKERS = {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}

*CLAIMS, JOB = kuberay()
CLUSTER = JOB["spec"]["rayClusterSpec"]
(WORKERS,) = CLUSTER["workerGroupSpecs"]
PODS: list[dict[str, Any]] = [group["template"]["spec"] for group in (CLUSTER["headGroupSpec"], WORKERS)]


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod.get("initContainers", []), *pod["containers"]]


def test_the_objects_are_those_of_kuberay() -> None:
    assert (JOB["apiVersion"], JOB["kind"]) == ("ray.io/v1", "RayJob")
    assert {claim["kind"] for claim in CLAIMS} == {"PersistentVolumeClaim"}, "and no Service: nothing is to be reached"
    assert JOB["spec"].keys() <= OF_JOB and CLUSTER.keys() <= OF_CLUSTER and WORKERS.keys() <= OF_WORKERS
    assert CLUSTER["headGroupSpec"].keys() <= OF_WORKERS


def test_ray_has_a_token_and_the_version_of_the_package() -> None:
    assert CLUSTER["authOptions"] == {"mode": "token"} and CLUSTER["rayVersion"] == OF_RAY
    images = {container["image"] for pod in PODS for container in containers(pod)}
    assert images == {f"CHANGE-ME/semples-tune:{PROJECT['version']}"}
    assert f"-t {images.pop()} ." in header_of("cluster/Dockerfile")


def test_what_is_mounted_is_there() -> None:
    claims = {claim["metadata"]["name"] for claim in CLAIMS}
    for pod in PODS:
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        mounted = [mount["name"] for container in containers(pod) for mount in container["volumeMounts"]]
        assert {*mounted} == volumes.keys()
        assert {
            one["persistentVolumeClaim"]["claimName"] for one in volumes.values() if "persistentVolumeClaim" in one
        } <= claims
        for one in volumes.values():
            assert "configMap" not in one or f"create configmap {one['configMap']['name']} " in header_of(
                "cluster/kuberay.yaml"
            )
    shared = [
        {m["mountPath"] for m in c["volumeMounts"] if m["name"] == "shared"} for pod in PODS for c in containers(pod)
    ]
    assert shared == [{"/shared"}] * 3


def test_the_sweep_finds_its_file_and_its_server() -> None:
    head = PODS[0]["containers"][0]
    assert {"name": "sweep", "mountPath": "/sweep"} in head["volumeMounts"]
    assert "--from-file=sweep.yaml=mine.yaml" in header_of("cluster/kuberay.yaml")
    words = JOB["spec"]["entrypoint"].split()
    assert words[:3] == ["semples-tune", "launch", "/sweep/sweep.yaml"]
    assert {"study=journal", "mlflow=http://localhost:5000", "/shared/sweeps"} <= {*words}
    (server,) = PODS[0]["initContainers"]
    assert server["restartPolicy"] == "Always" and server["startupProbe"]["exec"], "it is there before the sweep begins"
    assert server["command"][:4] == ["mlflow", "server", "--host", "127.0.0.1"]


def test_workers_have_the_gpus_and_come_and_go() -> None:
    gpus = [c["resources"]["limits"].get("nvidia.com/gpu", 0) for pod in PODS for c in containers(pod)]
    assert gpus == [0, 0, 1] and CLUSTER["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}
    assert CLUSTER["enableInTreeAutoscaling"] and WORKERS["minReplicas"] == 0 < WORKERS["maxReplicas"]


def test_deleting_the_job_as_the_file_says_keeps_the_results() -> None:
    said = header_of("cluster/kuberay.yaml")
    assert f"kubectl delete rayjob {JOB['metadata']['name']}" in said and "`kubectl delete -f` would" in said


# the image


def test_the_image_has_what_it_copies_and_a_user_of_its_own() -> None:
    steps = dockerfile()
    bases = {rest.removesuffix(" AS build") for name, rest in steps if name == "FROM"}
    (base,) = bases
    version, system = re.fullmatch(r"python:(\d+\.\d+)\.\d+-slim-(\w+)", base).groups()  # type: ignore[union-attr]
    assert SYSTEMS[system][0] == version, "pinned, and the one that is checked above"
    copied = [rest.split()[:-1] for name, rest in steps if name == "COPY" and not rest.startswith("--from")]
    assert copied and all((ROOT / source).exists() for sources in copied for source in sources)
    needed = {"pyproject.toml", "constraints.txt", PROJECT["readme"], *PROJECT["license-files"], "semples", "tune"}
    assert needed == {source for sources in copied for source in sources}
    (user,) = {rest for name, rest in steps if name == "USER"}
    assert steps[-2:] == [("USER", user), ("WORKDIR", "/home/semples")]
    assert all(pod["securityContext"]["runAsUser"] == int(user) for pod in PODS)
    assert any(f"--uid {user} " in rest for name, rest in steps if name == "RUN")


def test_the_image_has_the_versions_that_were_tested_and_what_kuberay_calls() -> None:
    (install,) = (rest for name, rest in dockerfile() if name == "RUN" and "pip install" in rest)
    assert "--constraint constraints.txt" in install and '"ray[default]"' in install
    *_, last = (rest for name, rest in dockerfile() if name == "RUN" and "apt-get" in rest)
    assert " wget " in last
    assert ("COPY", "--from=build /installed /usr/local") in dockerfile(), "on the PATH of a login shell"
