"""The files with which people start a cluster, for the tests of them."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent
RAY_UP = ("cluster.yaml", "cluster/local.yaml")
# what opens each file: the command to use it
COMMANDS = {
    "cluster.yaml": "ray up cluster.yaml",
    "cluster/local.yaml": "RAY_UP_enable_autoscaler_v2=0 ray up cluster/local.yaml",
    "cluster/node.sh": "bash ~/semples-tune/cluster/node.sh /shared",
    "cluster/slurm.sh": "sbatch cluster/slurm.sh SWEEP",
    "cluster/kuberay.yaml": "kubectl apply -f cluster/kuberay.yaml",
    "cluster/Dockerfile": "docker build -f cluster/Dockerfile -t CHANGE-ME/semples-tune:0.2.0 .",
}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def text_of(file: str) -> str:
    return (ROOT / file).read_text()


def config_of(file: str) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load(text_of(file))
    return config


def kuberay() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(text_of("cluster/kuberay.yaml")))


def dockerfile() -> list[tuple[str, str]]:
    """Its instructions with their arguments, without comments."""
    lines = [line for line in text_of("cluster/Dockerfile").splitlines() if not line.startswith("#")]
    whole = "\n".join(lines).replace("\\\n", " ")
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in whole.splitlines() if line)]


def commands_of(file: str) -> list[str]:
    """Every shell command of a file that is none itself."""
    if file in RAY_UP:
        return [one for key, given in config_of(file).items() if key.endswith("_commands") for one in given]
    if file.endswith("Dockerfile"):
        return [rest for name, rest in dockerfile() if name == "RUN"]
    if file.endswith("kuberay.yaml"):
        return [kuberay()[-1]["spec"]["entrypoint"]]
    return [text_of(file)]


def header_of(file: str) -> str:
    """The comment at its top."""
    match = re.match(r"(?:#!.*\n)?((?:#.*\n)+)", text_of(file))
    return match[1] if match else ""


def stand_in(folder: Path, name: str, script: str) -> None:
    """A program of that name in the folder, to be put on the PATH."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/usr/bin/env bash\n{script}\n")
    (folder / name).chmod(0o755)


def bash(command: str, environment: dict[str, str], **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", "-c", command], env=environment, text=True, capture_output=True, **options)
