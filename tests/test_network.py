"""What can be reached of a sweep from another host, which is a network namespace here."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import ray
from conftest import TINY
from probe import ASKING, DOING, UNAUTHENTICATED, UNIMPLEMENTED
from test_sweep import free_port, sweep_file, wait_for

pytestmark = pytest.mark.ray
PROBE = Path(__file__).with_name("probe.py")
BIN = Path(sys.executable).parent

Elsewhere = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Elsewhere]:
    """Runs a command on another host: a namespace whose only link leads here, with a home of its own."""
    ip, name = shutil.which("ip"), f"t{os.getpid()}"
    if ip is None:
        pytest.skip("no iproute2 here")
    made = subprocess.run([ip, "netns", "add", name], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no network namespaces here: {made.stderr.strip()}")
    link, net = f"v{os.getpid()}", f"10.{200 + os.getpid() % 50}.{os.getpid() // 50 % 250}"
    home = tmp_path / "elsewhere"
    home.mkdir()
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {"HOME": str(home)}
    try:
        for words in (
            ["link", "add", link, "type", "veth", "peer", "name", "far", "netns", name],
            ["addr", "add", f"{net}.1/24", "dev", link],
            ["link", "set", link, "up"],
            ["-n", name, "addr", "add", f"{net}.2/24", "dev", "far"],
            ["-n", name, "link", "set", "lo", "up"],
            ["-n", name, "link", "set", "far", "up"],
            ["-n", name, "route", "add", "default", "via", f"{net}.1"],
        ):
            subprocess.run([ip, *words], check=True, capture_output=True)

        def run(*words: object) -> subprocess.CompletedProcess[str]:
            command = [ip, "netns", "exec", name, *map(str, words)]
            return subprocess.run(command, capture_output=True, text=True, timeout=180, env=environment, cwd=home)

        yield run
    finally:
        subprocess.run([ip, "link", "del", link], capture_output=True)
        subprocess.run([ip, "netns", "del", name], capture_output=True)


def scan(elsewhere: Elsewhere, host: str) -> set[int]:
    """Ports of this host that answer."""
    done = elsewhere(sys.executable, PROBE, host)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


def ask(elsewhere: Elsewhere, host: str, ports: set[int], token: str = "") -> dict[int, dict[str, str]]:
    """By port and call what a stranger, or somebody with the token, is told."""
    done = elsewhere(sys.executable, PROBE, host, json.dumps(sorted(ports)), *[token] * bool(token))
    assert done.returncode == 0, done.stderr
    return {int(port): calls for port, calls in json.loads(done.stdout).items()}


def token_of(process: subprocess.Popen[bytes]) -> str:
    """The token of a sweep, as its own user can read it in the environment of Ray's processes."""
    (server,) = [child for child in psutil.Process(process.pid).children() if "gcs_server" in child.name()]
    return server.environ()["RAY_AUTH_TOKEN"]


JOIN = """
import ray, sys
try:
    ray.init(address=sys.argv[1], log_to_driver=False)
    print(ray.get(ray.remote(lambda: "ran").remote()))
except Exception as error:
    print(type(error).__name__)
"""


def test_a_running_sweep_and_its_ui_let_nobody_in(tmp_path: Path, elsewhere: Elsewhere) -> None:
    host, out, log = ray.util.get_node_ip_address(), tmp_path / "sweeps", tmp_path / "log"
    before = scan(elsewhere, host)
    file = sweep_file(tmp_path, trials=1, base={**TINY, "segment": {"epochs": 4000}})
    with log.open("wb") as screen:
        command = [str(BIN / "semples-tune"), "launch", str(file), "--out", str(out)]
        # not even where the user says so for a cluster of theirs
        sweep = subprocess.Popen(command, stdout=screen, stderr=screen, env={**os.environ, "RAY_AUTH_MODE": "disabled"})
    port = free_port()
    ui = None
    try:
        wait_for("trial   0  masks", log, sweep)
        ui = subprocess.Popen(
            [BIN / "semples-tune", "ui", "--out", out, "--port", str(port)], stdout=subprocess.DEVNULL
        )
        token = token_of(sweep)
        assert len(token) >= 32
        ports = scan(elsewhere, host) - before
        told, open_to = ask(elsewhere, host, ports), ask(elsewhere, host, ports, token)

        # head, node, driver and trial answer, and each refuses: to run a task (PushTask, RequestWorkerLease), to let a
        # node join (RegisterNode), to tell anything
        assert len(told) >= 5
        served: set[str] = set()
        for at, calls in told.items():
            assert set(calls.values()) <= {"", "401", UNIMPLEMENTED, UNAUTHENTICATED}, (at, calls)
            own = {call for call, answer in calls.items() if answer in ("401", UNAUTHENTICATED)}
            assert own, f"port {at} answers, but not as one of Ray's: {calls}"
            asking = own.difference(DOING)
            assert all(open_to[at][call] not in ("401", UNAUTHENTICATED) for call in asking), (at, open_to[at])
            served |= own
        assert {*ASKING, *DOING} <= served, "every service of Ray was found"

        gcs = next(p for p, calls in told.items() if calls[ASKING[0]] == UNAUTHENTICATED)
        assert elsewhere(sys.executable, "-c", JOIN, f"{host}:{gcs}").stdout.strip() == "ConnectionError"
        end = time.monotonic() + 60
        while time.monotonic() < end and port not in listening("127.0.0.1"):
            time.sleep(0.5)
        assert port in listening("127.0.0.1"), "the UI runs"
        assert port not in scan(elsewhere, host)
        assert sweep.poll() is None, log.read_text()
    finally:
        sweep.send_signal(signal.SIGINT)
        if ui is not None:
            ui.terminate()
            ui.wait(60)
        sweep.wait(60)
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert written and not [path for path in written if token.encode() in path.read_bytes()]
    assert (
        not (Path.home() / ".ray" / "auth_token").exists()
        or token not in (Path.home() / ".ray" / "auth_token").read_text()
    )


def listening(host: str) -> set[int]:
    """Ports on which somebody listens at an address."""
    return {c.laddr.port for c in psutil.net_connections("tcp") if c.status == "LISTEN" and c.laddr.ip == host}
