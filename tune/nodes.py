"""The nodes of a cluster: whether each can compute the stages of a sweep, and which of them are left out meanwhile."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import ray
import yaml
from ray import cloudpickle
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from semples.config import Config, to_dict
from semples.data import load_data
from semples.errors import UserError, cut
from semples.pipeline.work import LostError
from semples.sources import LIBRARIES
from tune import examine
from tune.sweep_file import Sweep
from tune.sweep_folder import store_place
from tune.values import Resources

log = logging.getLogger(__name__)

T = TypeVar("T")
PARTS = ("answer", "package", "libraries", "folder", "disk", "GPU", "data", "weights", "clock")
PATIENCE = 120.0  # seconds for a node to look at itself
ROOM = 2e9  # bytes that must be free on a disk when a sweep is launched
SKEW = 5.0  # seconds by which clocks may differ: signs of life in leases are compared
AGAIN = 600.0  # seconds after which a node that was left out is tried again
LEFT_OUT = "nodes"  # folder of a sweep with a file for every node that is left out
GROWS = "ray_bootstrap_config.yaml"  # in the home of the head of a cluster that `ray up` made: what nodes may come
KUBERNETES = Path("/var/run/secrets/kubernetes.io")  # where pods find who they are


@dataclass(frozen=True)
class Node:
    """A node: its id for Ray, its name and address, and its resources."""

    id: str
    name: str
    address: str
    resources: Mapping[str, float]

    def __str__(self) -> str:
        return f"{self.name} ({self.id[:8]})"


class NodeError(Exception):
    """A node cannot compute for a reason of its own, which says nothing of what it was to compute."""

    def __init__(self, node: str, name: str, reason: str):
        super().__init__(node, name, reason)
        self.node, self.name, self.reason = node, name, reason

    @property
    def sentence(self) -> str:
        """What is said of it."""
        return f"node {self.name} ({self.node[:8]}) is left out: {self.reason}"


@dataclass(frozen=True)
class Kind:
    """Nodes that an autoscaler may bring: resources of each, and how many at most."""

    resources: Mapping[str, float]
    most: int


@dataclass(frozen=True)
class Defect:
    """What is wrong on a node, and what to do. part: of PARTS."""

    node: Node
    part: str
    what: str
    cure: str

    def __str__(self) -> str:
        return f"{self.node}: {self.part}: {self.what}; {self.cure}"


def alive() -> list[Node]:
    """The nodes of the cluster that this process has joined."""
    return [
        Node(of["NodeID"], of["NodeManagerHostname"], of["NodeManagerAddress"], of["Resources"])
        for of in ray.nodes()
        if of["Alive"]
    ]


def defects(
    nodes: Iterable[Node], resources: Resources, folders: Iterable[Path], config: Config | None = None, data: str = ""
) -> list[Defect]:
    """Have every node look at itself, side by side, and compare with this process. folders: that all nodes share, and
    that are there. config: of trials, with data and weights that nodes must have, and room for what they write; None
    for no look at these. data: the fingerprint of its data here."""
    cloudpickle.register_pickle_by_value(examine)  # the package may be missing there
    try:
        return list(_defects(list(nodes), resources, list(folders), config, data))
    finally:
        cloudpickle.unregister_pickle_by_value(examine)


def _defects(
    nodes: list[Node], resources: Resources, folders: list[Path], config: Config | None, data: str
) -> Iterable[Defect]:
    marks = {folder: folder / f".semples-tune-{uuid.uuid4().hex}" for folder in folders}
    try:
        for mark in marks.values():
            mark.write_text(mark.name)
        asked = {
            "code": examine.code(),
            "versions": examine.versions([*LIBRARIES.values()]),
            "folders": {str(folder): [mark.name, mark.name] for folder, mark in marks.items()},
            "config": to_dict(config) if config else None,
            "fingerprint": data,
            "room": ROOM if config else 0.0,
        }
        looking = {}
        for node in nodes:
            gpu = bool(resources.gpu and node.resources.get("GPU"))
            where = NodeAffinitySchedulingStrategy(node.id, soft=False)
            task = ray.remote(examine.examine).options(
                num_cpus=0, num_gpus=0.01 if gpu else 0, scheduling_strategy=where, max_retries=0
            )
            looking[task.remote({**asked, "gpu": gpu})] = node
        begun = time.time()
        done, late = ray.wait(list(looking), num_returns=len(looking), timeout=PATIENCE) if looking else ([], [])
        for task in done:
            yield from _of_node(looking[task], task, begun)
        for task in late:
            ray.cancel(task, force=True)
            waited = f"no answer in {PATIENCE:.0f} s"
            yield Defect(looking[task], "answer", waited, "see whether it hangs, or its GPU is held by others")
    finally:
        for mark in marks.values():
            mark.unlink(missing_ok=True)


def _of_node(node: Node, task: Any, begun: float) -> Iterable[Defect]:
    try:
        found = ray.get(task)
    except RayError as error:
        said = cut(" ".join(str(cause_of(error)).split()[-40:]), 200)
        yield Defect(node, "answer", f"nothing can be run there ({said})", "start Ray there with the same Python")
        return
    for part, (what, cure) in found["defects"].items():
        yield Defect(node, part, what, cure)
    for file in map(Path, found["left"]):
        with contextlib.suppress(OSError):
            file.unlink()
            continue
        unseen = f"what it writes into {file.parent} is not seen here"
        yield Defect(node, "folder", unseen, "mount the shared file system there")
    if not begun - SKEW <= found["time"] <= time.time() + SKEW:
        away = found["time"] - begun
        yield Defect(node, "clock", f"it differs by {away:+.0f} s", "have chrony or ntpd set it")


def require_room(resources: Resources, nodes: Iterable[Node], kinds: Sequence[Kind] | None) -> None:
    """Raise UserError where neither a node nor one of the `kinds` that may come can ever give what a stage needs.
    kinds: None where that is not known."""
    if kinds is None:
        return
    there = [node.resources for node in nodes]
    for on_gpu in (True, False):
        needs = needed(resources, on_gpu)
        if not any(_gives(of, needs) for of in [*there, *(kind.resources for kind in kinds)]):
            asks = " and ".join(f"{amount:g} {name}" for name, amount in needs.items() if amount)
            have = "; ".join(f"{of.get('CPU', 0):g} CPU, {of.get('GPU', 0):g} GPU" for of in there)
            raise UserError(f"resources: a stage asks for {asks}; no node of the cluster can give that ({have})")


def needed(resources: Resources, on_gpu: bool) -> dict[str, float]:
    """What a stage needs of a node, by Ray's names."""
    of_stage = resources.of_stage(on_gpu)
    return {"CPU": of_stage["num_cpus"], "GPU": of_stage["num_gpus"]}


def room_to_come(resources: Resources, room: int, kinds: Sequence[Kind] | None) -> int:
    """How many stages there is to be work for where a cluster has room for so many now: one more than that, or as many
    as it may grow to, so that all nodes come at once and not one after another."""
    if kinds is None:
        return 2 * room
    most = (kind.most * stages_in(kind.resources, resources) for kind in kinds)
    return max(room + 1, sum(most))


def stages_in(have: Mapping[str, float], resources: Resources) -> int:
    """How many stages there is room for: of those that use a GPU, if trials use one."""
    needs = needed(resources, True)
    return int(min(have.get(name, 0) / amount for name, amount in needs.items() if amount))


def _gives(have: Mapping[str, float], needs: Mapping[str, float]) -> bool:
    return all(have.get(name, 0) >= amount for name, amount in needs.items())


def kinds_to_come(home: Path) -> list[Kind] | None:
    """The kinds of nodes that an autoscaler may bring: none where there is none, None where that is not known. home: of
    the user on the head, where this process runs."""
    file = home / GROWS
    if not file.exists():
        return None if KUBERNETES.exists() else []
    tree = yaml.safe_load(file.read_text())
    kinds = [of for name, of in tree["available_node_types"].items() if name != tree.get("head_node_type")]
    if any("resources" not in kind for kind in kinds):
        return None
    return [Kind(kind["resources"], kind.get("max_workers", 0)) for kind in kinds if kind.get("max_workers", 0)]


def examined(sweep: Sweep, folder: Path, kinds: Sequence[Kind] | None) -> tuple[list[Node], list[Defect]]:
    """The nodes of the cluster that this process has joined, and what is wrong on them for a sweep in this folder. All
    nodes must share it, and that of its store; of a folder that is not there yet the nearest one above it. Raises
    UserError where neither a node nor one of the `kinds` that may come can ever give what a stage needs."""
    nodes, config = alive(), sweep.base_config()
    require_room(sweep.resources, nodes, kinds)
    store = store_place(sweep, folder)
    shared = [folder, *([] if "://" in store else [Path(store)])]
    there = {next(of for of in (place, *place.parents) if of.is_dir()) for place in shared}
    data = load_data(config.data, config.selection).fingerprint
    return nodes, defects(nodes, sweep.resources, there, config, data)


def leave_out_unfit(sweep: Sweep, folder: Path, kinds: Sequence[Kind] | None) -> None:
    """Look at all nodes, and leave out those on which something is wrong, which is said. Raises UserError where none is
    left, or can come, that could compute a stage."""
    nodes, found = examined(sweep, folder, kinds)
    for of in found:
        log.warning("%s; it is left out", of)
        leave_out(folder, NodeError(of.node.id, of.node.name, f"{of.part}: {of.what}"))
    sound = [node for node in nodes if node not in [of.node for of in found]]
    if found:
        try:
            require_room(sweep.resources, sound, kinds)
        except UserError:
            raise UserError(f"no node is left that could compute: {'; '.join(map(str, found))}") from None


def sick(folder: Path) -> list[NodeError]:
    """Have the nodes look at themselves because something died: those, not left out yet, that lack what it takes to
    compute anything for the sweep in a folder."""
    nodes = [node for node in alive() if node.id not in left_out(folder)]
    found = defects(nodes, Resources(), [folder])
    lethal = [of for of in found if of.part not in ("answer", "clock")]
    return [NodeError(of.node.id, of.node.name, f"{of.part}: {of.what}") for of in lethal]


def leave_out(folder: Path, error: NodeError) -> None:
    """Remember that a node is not to compute for the sweep in a folder for a while."""
    place = folder / LEFT_OUT / error.node
    place.parent.mkdir(exist_ok=True)
    place.write_text(json.dumps({"name": error.name, "reason": error.reason}))


def left_out(folder: Path) -> dict[str, str]:
    """By id of a node that is left out now, its name and why."""
    found = {}
    for place in (folder / LEFT_OUT).glob("*"):
        with contextlib.suppress(OSError, ValueError):  # another process writes it
            if time.time() - place.stat().st_mtime < AGAIN:
                said = json.loads(place.read_text())
                found[place.name] = f"{said['name']} ({place.name[:8]}): {said['reason']}"
    return found


def others(folder: Path) -> dict[str, str]:
    """What Ray takes as `label_selector` so that no node that is left out computes."""
    out = left_out(folder)
    return {"ray.io/node-id": f"!in({','.join(sorted(out))})"} if out else {}


def cause_of(error: Any) -> Any:
    """What a task raised, also in a task that it called, for which Ray raised this error."""
    while isinstance(error, RayTaskError):
        error = error.cause
    return error


def on_sound_nodes(
    sweep: Path, needs: Mapping[str, float], attempt: Callable[[dict[str, str]], T], on_out: Callable[[str], None]
) -> T:
    """What `attempt` gives, which is told on which nodes (see `others`), and is tried again where one of them cannot:
    that one is left out, and `on_out` told, which may raise another reason. Raises UserError where no other is there
    that gives what it needs, and LostError where something died on a node that can compute."""
    while True:
        try:
            return attempt(others(sweep))
        except NodeError as error:
            found = [error]
        except LostError:
            if not (found := sick(sweep)):
                raise
        for of in found:
            out = {*left_out(sweep), of.node}
            if not any(node.id not in out and _gives(node.resources, needs) for node in alive()):
                raise UserError(f"{of.name}: {of.reason}") from None
            if of.node not in left_out(sweep):
                on_out(of.sentence)
            leave_out(sweep, of)


@contextlib.contextmanager
def blamed(always: bool = True, gpu: bool = False) -> Iterator[None]:
    """Raises NodeError for what fails in the block: that is the fault of the node on which this process runs, `always`,
    or where this node has a fault of its own. gpu: whether its GPU is looked at."""
    try:
        yield
    except (UserError, OSError, ImportError, RuntimeError) as error:
        reason = str(error)
        if not always:
            if isinstance(error, UserError) or not (faults := examine.own_faults(gpu)):
                raise
            reason = "; ".join(f"{part}: {what}" for part, (what, _) in faults.items())
        raise NodeError(ray.get_runtime_context().get_node_id(), socket.gethostname(), cut(reason, 300)) from None


@cache
def same_code(code: str) -> None:
    """Raise ImportError where this node has other code of the package than whoever launched the sweep."""
    if code and examine.code() != code:
        raise ImportError(f"its {examine.PACKAGE} is other code than the launch's; install the same commit there")
