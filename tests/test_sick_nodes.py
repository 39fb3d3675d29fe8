"""Sweeps on a cluster of which not every node can compute: raylets on this machine, each with its own environment."""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY
from test_sweep import free_port, program, study_of, sweep_file, wait_for, wait_until

from tune.records import trial_record

pytestmark = [pytest.mark.ray, pytest.mark.slow]
# what a node has that lacks the package
WITHOUT = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("semples", "tune"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
"""

Join = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Join]]:
    """A head on which nothing is computed: its address, and what lets a node with so many CPUs and such an environment
    join it."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    port, nodes = free_port(), list[subprocess.Popen[bytes]]()
    address = f"127.0.0.1:{port}"

    def start(*words: str, **environment: str) -> subprocess.Popen[bytes]:
        with (tmp_path / f"node-{len(nodes)}.log").open("wb") as log:
            command = [str(Path(sys.executable).parent / "ray"), "start", "--block", "--disable-usage-stats", *words]
            nodes.append(
                subprocess.Popen(
                    command, stdout=log, stderr=log, env={**os.environ, **environment}, start_new_session=True
                )
            )
        return nodes[-1]

    start("--head", "--num-cpus", "0", "--port", str(port), "--include-dashboard", "false",
          "--node-ip-address", "127.0.0.1")  # fmt: skip
    try:
        yield (
            address,
            lambda cpus=1, **environment: start(
                "--address", address, "--num-cpus", str(cpus), "--node-ip-address", "127.0.0.1", **environment
            ),
        )
    finally:
        for node in reversed(nodes):  # the head last, which the others tell that they go
            node.send_signal(signal.SIGTERM)
            node.wait(60)


def without_package(folder: Path) -> dict[str, str]:
    """Environment of a node that lacks the package."""
    place = folder / "without"
    place.mkdir(exist_ok=True)
    (place / "sitecustomize.py").write_text(WITHOUT)
    return {"PYTHONPATH": str(place)}


def nodes_of(address: str, at_least: int) -> None:
    """Wait until so many nodes are there."""
    look = "import ray, sys; ray.init(address=sys.argv[1], log_to_driver=False); print(len(ray.nodes()))"

    def there() -> bool:
        done = subprocess.run([sys.executable, "-c", look, address], capture_output=True, text=True, check=False)
        return done.stdout.strip().isdecimal() and int(done.stdout) >= at_least

    wait_until(there)


def small_sweep(folder: Path, **changes: Any) -> Path:
    given = {"objective": "pseudo_miou", "trials": 3, "parallel": 0, "base": TINY, "report": "leaders", **changes}
    return sweep_file(folder, **given)


def test_a_node_without_the_package_is_named_and_left_out(tmp_path: Path, cluster: tuple[str, Join]) -> None:
    address, join = cluster
    join()
    nodes_of(address, 2)
    join(cpus=4, **without_package(tmp_path))
    nodes_of(address, 3)
    out, file = tmp_path / "sweeps", small_sweep(tmp_path)
    checked = program("semples-tune", "check", file, "--out", out, "--address", address, "--json")
    assert checked.returncode == 2, checked.stderr
    (defect,) = [of for of in json.loads(checked.stdout)["defects"] if of["part"] == "package"]
    assert "not installed" in defect["what"] and "install semples-tune" in defect["cure"]
    # what no node can give is said before anything else
    greedy = program("semples-tune", "launch", file, "--out", out, "--address", address, "resources.gpu=0.5")
    assert greedy.returncode == 2 and "1 CPU and 0.5 GPU; no node" in " ".join(greedy.stderr.split()), greedy.stderr
    assert not (out / "tiny" / "sweep.yaml").exists()
    done = program("semples-tune", "launch", file, "--out", out, "--address", address)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(re.findall(r"package: .* is not installed .* it is left out", " ".join(done.stderr.split()))) == 1
    study = study_of(out)
    assert [trial_record(trial).state.value for trial in study.get_trials()] == ["COMPLETE"] * 3
    nodes = {of.node for trial in study.get_trials() for of in trial_record(trial).stages.values()}
    assert nodes and defect["node"][:8] not in " ".join(nodes)


def test_a_node_that_comes_later_without_the_package_eats_no_trial(tmp_path: Path, cluster: tuple[str, Join]) -> None:
    address, join = cluster
    join()
    nodes_of(address, 2)
    out, log = tmp_path / "sweeps", tmp_path / "log"
    file = small_sweep(tmp_path, trials=4, base={**TINY, "classify": {"epochs": 8}})
    command = [Path(sys.executable).parent / "semples-tune", "launch", file, "--out", out, "--address", address]
    with log.open("wb") as screen:
        sweep = subprocess.Popen(command, stdout=screen, stderr=screen)
    wait_for("classify", log, sweep)
    join(cpus=4, **without_package(tmp_path))
    assert sweep.wait(300) == 0, log.read_text()
    assert "is left out" in log.read_text()
    states = [trial_record(trial).state.value for trial in study_of(out).get_trials()]
    assert states == ["COMPLETE"] * 4, log.read_text()
