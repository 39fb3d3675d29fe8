"""Whoever reaches Ray runs code as the user: on this machine it has a token of its own, on a cluster the user's, and
nothing is left of either."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from launches import sweep_of
from ray.exceptions import RayTaskError

from semples.errors import UserError
from semples.secrets import reveal
from tune import cluster
from tune.cluster import MODE, OWN_TOKEN, PATIENCE, TOKEN, TOKEN_PATH, Lives, joined
from tune.messages import Event, Restarted
from tune.nodes import NodeError, left_out
from tune.sweep_folder import without_secrets
from tune.values import Resources

GIVEN = {MODE: "disabled", TOKEN: "of a cluster", TOKEN_PATH: "/a/token"}


class Ray:
    """In the place of Ray: remembers how it was started, and with which environment."""

    def __init__(self, mode: str = "token", cpu: float = 4, gpu: float = 0):
        self.started: list[dict[str, Any]] = []
        self.environment: dict[str, str] = {}
        self.stopped = 0
        self._mode, self._have = mode, {"CPU": cpu, "GPU": gpu}

    def init(self, **options: Any) -> None:
        self.started.append(options)
        os.environ[MODE] = self._mode  # as Ray itself sets it with a token
        self.environment = dict(os.environ)

    def shutdown(self) -> None:
        self.stopped += 1

    def cluster_resources(self) -> dict[str, float]:
        return self._have


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in GIVEN.items():
        monkeypatch.setenv(name, value)


def test_ray_here_has_a_token_of_its_own_and_the_users_is_there_again_afterwards(
    environment: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = Ray()
    monkeypatch.setattr(cluster, "ray", ray)
    with joined(Resources(), None) as logs:
        assert ray.environment[TOKEN] == OWN_TOKEN and len(OWN_TOKEN) == 64 and TOKEN_PATH not in ray.environment
        assert os.stat(logs).st_mode & 0o077 == 0 and ray.started[0]["_temp_dir"] == logs
        assert ray.started[0]["address"] == "local" and ray.started[0]["include_dashboard"] is False
    assert {name: os.environ.get(name) for name in GIVEN} == GIVEN
    assert ray.stopped == 1 and not os.path.exists(logs)


def test_ray_without_a_token_is_not_used(environment: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "ray", ray := Ray(mode="disabled"))
    with pytest.raises(UserError, match="without a token, open to everyone"), joined(Resources(), None):
        pytest.fail("it was used")
    assert ray.stopped == 1 and os.environ[TOKEN] == GIVEN[TOKEN]


def test_a_machine_without_room_for_one_stage_is_said(environment: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "ray", Ray(cpu=2, gpu=1))
    for asked, said in (
        ({"cpu": 3, "gpu": 0}, "3 CPU, this machine has 2"),
        ({"cpu": 1, "gpu": 2}, "2 GPU, this machine has 1"),
        ({"cpu": 1, "gpu": 1, "cpu_only": 3}, "3 CPU, this machine has 2"),
    ):
        with pytest.raises(UserError, match=f"a stage asks for {said}"), joined(Resources(**asked), None):
            pytest.fail("it was used")
    for asked in ({"cpu": 2, "gpu": 1}, {"cpu": 2, "gpu": 0, "cpu_only": 3}):
        with joined(Resources(**asked), None):
            pass


def test_a_cluster_is_joined_with_what_the_user_has_for_it(environment: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "ray", ray := Ray())
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with joined(Resources(cpu=99), address) as logs:  # a cluster may grow
            assert ray.environment[TOKEN] == GIVEN[TOKEN] and ray.environment[TOKEN_PATH] == GIVEN[TOKEN_PATH]
            assert logs == "" and ray.started[0]["address"] == address
    assert ray.stopped == 1


def test_an_address_that_is_none_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "ray", ray := Ray())
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = f"127.0.0.1:{server.getsockname()[1]}"
    for address, said in {
        "ray://host:10001": "give HOST:PORT or auto", "host": "is not of the form HOST:PORT",
        "host:0": "is not of the form", "host:65536": "is not of the form", ":6379": "is not of the form",
        closed: "nobody answers there",
    }.items():  # fmt: skip
        with pytest.raises(UserError, match=said), joined(Resources(), address):
            pytest.fail("it was joined")
    assert not ray.started and PATIENCE <= 30


def test_a_trial_that_is_started_again_is_said_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[tuple[int, Event]] = []
    monkeypatch.setattr(cluster, "sick", lambda folder: [])
    for error in ("OutOfMemoryError: memory pressure", "ActorDiedError"):
        trial = SimpleNamespace(config={"number": 3}, get_pickled_error=lambda error=error: error)
        Lives(lambda *of_trial: said.append(of_trial), tmp_path).on_trial_recover(0, [], trial)
    assert said == [(3, Restarted("its node ran out of memory")), (3, Restarted("its process or node died"))]


def test_a_trial_that_died_on_a_sick_node_leaves_it_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[tuple[int, Event]] = []
    on_a, on_b = NodeError("a" * 56, "node-a", "data.root is not there"), NodeError("b" * 56, "node-b", "disk: full")
    monkeypatch.setattr(cluster, "sick", lambda folder: [on_b])
    for error in (RayTaskError("run_trial", "its trace", on_a), "ActorDiedError"):
        trial = SimpleNamespace(config={"number": 3}, get_pickled_error=lambda error=error: error)
        Lives(lambda *of_trial: said.append(of_trial), tmp_path).on_trial_recover(0, [], trial)
    assert said == [(3, Restarted(on_a.sentence)), (3, Restarted(on_b.sentence))]
    assert {*left_out(tmp_path)} == {"a" * 56, "b" * 56}


def test_a_sweep_is_written_without_its_passwords() -> None:
    places = {
        "study": "postgresql://ann:pa55word@h/x",
        "mlflow": "http://ann:pa55word@h",
        "store": "s3://ann:pa55word@h",
    }
    clean = without_secrets(sweep_of(**places))
    assert "pa55word" not in clean.model_dump_json()
    assert {what: reveal(getattr(clean, what), what) for what in places} == places
