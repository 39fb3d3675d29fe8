"""Nodes look at themselves; those that cannot compute are named with what to do, and left out for a while."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import SMALL
from ray.exceptions import NodeDiedError, RayTaskError

from semples.config import parse, to_dict
from semples.data import load_data
from semples.errors import UserError
from semples.pipeline.work import LostError
from semples.sources import LIBRARIES
from tune import examine, nodes
from tune.nodes import Kind, Node, NodeError, defects, kinds_to_come, left_out, on_sound_nodes, require_room
from tune.values import Resources

CONFIG = parse(SMALL, "small")
A, B = (Node(name * 56, f"node-{name}", "10.0.0.1", {"CPU": 8.0}) for name in "ab")


@pytest.fixture
def asked(tmp_path: Path) -> dict[str, Any]:
    """What a driver on this very machine asks."""
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "mark").write_text("mark")
    return {
        "code": examine.code(), "versions": examine.versions([*LIBRARIES.values()]),
        "folders": {str(tmp_path / "shared"): ["mark", "mark"]}, "config": to_dict(CONFIG),
        "fingerprint": load_data(CONFIG.data, CONFIG.selection).fingerprint, "gpu": False, "room": 0.0,
    }  # fmt: skip


def test_a_sound_node_has_no_defect(asked: dict[str, Any], tmp_path: Path) -> None:
    begun = time.time()
    found = examine.examine(asked)
    assert found["defects"] == {} and begun <= found["time"] <= time.time()
    (left,) = found["left"]
    assert Path(left).parent == tmp_path / "shared" and Path(left).read_text() == "mark"


def test_every_defect_is_found_and_its_cure_named(
    asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def of(part: str, **changes: Any) -> tuple[str, str]:
        found = examine.examine({**asked, **changes})["defects"]
        assert [*found] == [part], found
        return found[part][0], found[part][1]

    other = {**asked["versions"], "semples-tune": "9.9.9"}
    assert of("package", versions=other) == (f"semples-tune {asked['versions']['semples-tune']}, here 9.9.9",
                                             "install 9.9.9 there")  # fmt: skip
    assert of("package", code="0" * 64) == ("other code of the same version", "install the same commit there")
    torch = asked["versions"]["torch"]
    what, cure = of("libraries", versions={**asked["versions"], "torch": "0.1"})
    assert what == f"torch {torch}" and cure == "pip install torch==0.1"
    elsewhere = tmp_path / "elsewhere"
    assert of("folder", folders={str(elsewhere): ["mark", "mark"]})[0] == f"{elsewhere} is not the shared one"
    (tmp_path / "shared" / "mark").write_text("of another driver")
    assert "is not the shared one" in of("folder")[0]
    (tmp_path / "shared" / "mark").write_text("mark")
    # a GPU: this machine has none that torch could use
    what, cure = of("GPU", gpu=True)
    assert "torch cannot use it" in what and "nvidia-smi" in cure
    what, cure = of("data", fingerprint="0" * 32)
    assert what.startswith("other images") and "copy the data" in cure
    missing = parse({**SMALL, "data": {"kind": "folder", "root": str(tmp_path / "gone")}}, "test")
    assert "gone" in of("data", config=to_dict(missing))[0]
    weights = parse({**SMALL, "clip": {"pretrained": str(tmp_path / "clip.pt")}}, "test")
    what, cure = of("weights", config=to_dict(weights))
    assert "clip.pt" in what and "weights" in cure
    assert "GB are free" in of("disk", room=1e18)[0]
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "no-such-place"))
    assert "cannot be written" in of("disk", config=None)[0]


def test_a_node_without_the_package_says_so(asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examine, "find_spec", lambda name: None)
    found = examine.examine(asked)["defects"]
    assert "semples-tune is not installed for" in found["package"][0]
    assert "data" not in found and "weights" not in found  # of which nothing is known


def test_a_folder_that_cannot_be_written_is_not_taken_for_shared(
    asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, text: str) -> int:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "write_text", full)
    assert "Read-only" in examine.examine(asked)["defects"]["folder"][0]


class Ray:
    """Nodes that look at themselves in this process. instead: by id of a node what its task raises, or what it finds
    instead; None: it never answers."""

    def __init__(self) -> None:
        self.instead: dict[str, Any] = {}
        self.where: list[str] = []
        self.cancelled: list[Any] = []

    def remote(self, function: Any) -> Any:
        def options(scheduling_strategy: Any, **words: Any) -> Any:
            self.where.append(scheduling_strategy.node_id)
            assert not scheduling_strategy.soft and words["num_cpus"] == 0
            return SimpleNamespace(remote=lambda asked: (scheduling_strategy.node_id, function, json.dumps(asked)))

        return SimpleNamespace(options=options)

    def wait(self, tasks: list[Any], num_returns: int, timeout: float) -> tuple[list[Any], list[Any]]:
        late = [task for task in tasks if self.instead.get(task[0], 0) is None]
        return [task for task in tasks if task not in late], late

    def cancel(self, task: Any, force: bool) -> None:
        self.cancelled.append(task[0])

    def get(self, task: Any) -> Any:
        node, function, asked = task
        instead = self.instead.get(node)
        if isinstance(instead, Exception):
            raise instead
        found = function(json.loads(asked))
        return {**found, **(instead or {})}


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ray]:
    played = Ray()
    monkeypatch.setattr(nodes, "ray", played)
    yield played


def test_all_nodes_are_looked_at_and_nothing_is_left_behind(ray: Ray, tmp_path: Path) -> None:
    assert defects([A, B], Resources(), [tmp_path]) == []
    assert ray.where == [A.id, B.id] and [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    ("instead", "part", "what"),
    [
        (NodeDiedError("it went"), "answer", "nothing can be run there"),
        (RayTaskError("examine", "its trace", ImportError("no such thing")), "answer", "no such thing"),
        (None, "answer", "no answer in 120 s"),
        ({"time": time.time() + 86400}, "clock", r"it differs by \+8\d{4} s"),
        ({"left": ["/no/such/file"]}, "folder", "what it writes into /no/such is not seen here"),
        ({"defects": {"disk": ["full", "make room"]}}, "disk", "full"),
    ],
)
def test_what_a_node_says_or_does_not_say_is_a_defect_of_that_node(
    ray: Ray, tmp_path: Path, instead: Any, part: str, what: str
) -> None:
    ray.instead[B.id] = instead
    (found,) = defects([A, B], Resources(), [tmp_path])
    assert found.node == B and found.part == part and found.cure
    assert re.search(what, found.what)
    assert ray.cancelled == ([B.id] if instead is None else [])
    assert str(found).startswith("node-b (bbbbbbbb): ")


def attempts(monkeypatch: pytest.MonkeyPatch, *raised: Exception, there: tuple[Node, ...] = (A, B)) -> Any:
    """What is tried: it raises these one after another, then gives 5. on: on which nodes, each time."""
    monkeypatch.setattr(nodes, "alive", lambda: [*there])
    left, on = [*raised], list[dict[str, str]]()

    def attempt(where: dict[str, str]) -> int:
        on.append(where)
        if left:
            raise left.pop(0)
        return 5

    attempt.on = on  # type: ignore[attr-defined]
    return attempt


NEEDS = {"CPU": 1.0, "GPU": 0.0}


def test_a_node_that_cannot_compute_is_left_out_and_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken, said = NodeError(A.id, A.name, "disk: full"), list[str]()
    attempt = attempts(monkeypatch, broken, broken)  # the second was there before the first was known
    assert on_sound_nodes(tmp_path, NEEDS, attempt, said.append) == 5
    selector = {"ray.io/node-id": f"!in({A.id})"}
    assert attempt.on == [{}, selector, selector]
    assert said == ["node node-a (aaaaaaaa) is left out: disk: full"]
    assert left_out(tmp_path) == {A.id: "node-a (aaaaaaaa): disk: full"}


def test_a_node_that_was_left_out_is_tried_again_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes.leave_out(tmp_path, NodeError(A.id, A.name, "data: gone"))
    assert nodes.others(tmp_path)
    long_ago = time.time() - nodes.AGAIN - 1
    os.utime(tmp_path / nodes.LEFT_OUT / A.id, (long_ago, long_ago))
    assert nodes.others(tmp_path) == {} and left_out(tmp_path) == {}


@pytest.mark.parametrize("there", [(A,), (A, Node(B.id, B.name, "", {"CPU": 0.0}))])
def test_the_last_node_that_could_compute_is_not_left_out_but_its_reason_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: tuple[Node, ...]
) -> None:
    attempt = attempts(monkeypatch, NodeError(A.id, A.name, "data: gone"), there=there)
    with pytest.raises(UserError, match="node-a: data: gone"):
        on_sound_nodes(tmp_path, NEEDS, attempt, lambda sentence: None)
    assert left_out(tmp_path) == {}


def test_something_that_died_on_a_sick_node_is_the_fault_of_the_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(nodes, "sick", lambda folder: [NodeError(B.id, B.name, "package: missing")])
    attempt = attempts(monkeypatch, LostError("refine: its process or node died"))
    assert on_sound_nodes(tmp_path, NEEDS, attempt, said.append) == 5
    assert said == ["node node-b (bbbbbbbb) is left out: package: missing"]
    monkeypatch.setattr(nodes, "sick", lambda folder: [])
    with pytest.raises(LostError, match="refine"):
        on_sound_nodes(tmp_path, NEEDS, attempts(monkeypatch, LostError("refine: it died")), said.append)


def test_another_reason_may_be_found_before_a_node_is_blamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def changed(sentence: str) -> None:
        raise UserError("data: changed")

    with pytest.raises(UserError, match="data: changed"):
        on_sound_nodes(tmp_path, NEEDS, attempts(monkeypatch, NodeError(A.id, A.name, "data")), changed)
    assert left_out(tmp_path) == {}


def test_nodes_look_at_themselves_when_something_died_but_for_those_that_do_not_answer(
    ray: Ray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known, sound = (Node(name * 56, f"node-{name}", "", {}) for name in "cd")
    monkeypatch.setattr(nodes, "alive", lambda: [A, B, known, sound])
    ray.instead = {
        A.id: NodeDiedError("it went"),
        B.id: {"defects": {"package": ["missing", "install it"]}, "time": 0.0},
    }
    nodes.leave_out(tmp_path, NodeError("c" * 56, "node-c", "known"))
    monkeypatch.setattr(nodes, "ROOM", 1e18)  # little room is no reason why something died
    assert [(of.node, of.reason) for of in nodes.sick(tmp_path)] == [(B.id, "package: missing")]
    assert ray.where == [A.id, B.id, sound.id]


def test_what_no_node_can_ever_give_is_said(tmp_path: Path) -> None:
    half = Resources(cpu=2, gpu=0.5)
    with pytest.raises(UserError, match=r"a stage asks for 2 CPU and 0\.5 GPU; no node .* can give .* .8 CPU, 0 GPU"):
        require_room(half, [A, B], [])
    require_room(half, [A, Node("c", "c", "", {"CPU": 2.0, "GPU": 1.0})], [])
    require_room(half, [A], [Kind({"CPU": 8.0, "GPU": 1.0}, 4)])
    require_room(half, [A], None)  # nobody knows what may come
    with pytest.raises(UserError, match=r"asks for 2 CPU and 0\.5 GPU"):
        require_room(half, [A, Node("c", "c", "", {"CPU": 1.0, "GPU": 1.0})], [])  # not on one node
    with pytest.raises(UserError, match="asks for 16 CPU;"):
        require_room(Resources(cpu=16), [A, B], [])


def test_what_an_autoscaler_may_bring_is_known_on_its_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "KUBERNETES", tmp_path / "kubernetes")
    assert kinds_to_come(tmp_path) == []
    (tmp_path / nodes.GROWS).write_text(
        "head_node_type: head\navailable_node_types:\n  head: {resources: {CPU: 0}, max_workers: 0}\n"
        "  gpu: {resources: {CPU: 8, GPU: 1}, max_workers: 4}\n  none: {resources: {CPU: 1}, max_workers: 0}\n"
    )
    assert kinds_to_come(tmp_path) == [Kind({"CPU": 8, "GPU": 1}, 4)]
    (tmp_path / nodes.GROWS).write_text("head_node_type: h\navailable_node_types: {h: {}, gpu: {max_workers: 2}}\n")
    assert kinds_to_come(tmp_path) is None
    (tmp_path / nodes.GROWS).unlink()
    (tmp_path / "kubernetes").mkdir()
    assert kinds_to_come(tmp_path) is None


def test_there_is_work_for_all_nodes_that_may_come_at_once() -> None:
    half = Resources(cpu=2, gpu=0.5)
    assert nodes.room_to_come(half, 3, []) == 4  # a cluster that does not grow may all the same be given a node
    assert nodes.room_to_come(half, 1, [Kind({"CPU": 8, "GPU": 1}, 4), Kind({"CPU": 2, "GPU": 4}, 2)]) == 10
    assert nodes.room_to_come(half, 3, None) == 6


def test_what_fails_for_a_reason_of_the_node_blames_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    context = SimpleNamespace(get_node_id=lambda: "a" * 8)
    monkeypatch.setattr(nodes, "ray", SimpleNamespace(get_runtime_context=lambda: context))
    with pytest.raises(NodeError) as caught, nodes.blamed():
        raise UserError("data.root /data is not there")
    assert (caught.value.node, caught.value.reason) == ("a" * 8, "data.root /data is not there")
    with pytest.raises(RuntimeError, match="its own fault"), nodes.blamed(always=False):
        raise RuntimeError("its own fault")
    with pytest.raises(NodeError) as caught, nodes.blamed(always=False, gpu=True):  # there is none here
        raise RuntimeError("CUDA error: unspecified launch failure")
    assert "GPU: torch cannot use it" in caught.value.reason
    with pytest.raises(UserError, match="its user's"), nodes.blamed(always=False, gpu=True):
        raise UserError("its user's")
    nodes.same_code(examine.code())
    with pytest.raises(NodeError) as caught, nodes.blamed():
        nodes.same_code("0" * 64)
    assert "install the same commit" in caught.value.reason
