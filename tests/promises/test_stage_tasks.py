"""A trial waits while its stages are computed elsewhere, each with what it needs, and gets what it would have computed
itself. Ray is played by threads; tests/test_sweep.py has it for real."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import SMALL
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayTaskError, WorkerCrashedError

from semples import spread
from semples.config import parse, with_changes
from semples.data import load_data
from semples.errors import UserError
from semples.pipeline.graph import graph
from semples.pipeline.run import Event, Result, run
from semples.pipeline.work import LostError
from semples.run_folder import RESULT, read_run
from semples.stage import Stage
from semples.store import WORK, Store
from tune import examine, nodes, stage_tasks
from tune.messages import Lost, Restarted, State, decode, encode
from tune.searcher import how_it_ended
from tune.values import Resources

CONFIG, CPUS = parse(SMALL, "small"), Resources()


def unheard(what: str, reason: str) -> None:
    raise AssertionError(f"{what}: {reason}")


class Task:
    """A call in a thread of its own."""

    def __init__(self, call: Callable[[], Any]):
        self.value, self.error, self.ended = None, None, threading.Event()
        self.thread = threading.Thread(target=self._run, args=(call,), daemon=True)
        self.thread.start()

    def _run(self, call: Callable[[], Any]) -> None:
        try:
            self.value = call()
        except Exception as error:
            self.error = error
        self.ended.set()


class Ray:
    """asked: function and options of every task. deaths: what the next tasks that compute stages end with instead of
    their value, once they have computed. cancelled: tasks."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.deaths: list[Exception] = []
        self.cancelled: list[Task] = []
        self.held: list[Any] = []
        self.have = {"CPU": 3.0}
        self.sick: list[nodes.NodeError] = []  # that look at themselves when something died
        self.others = 0  # nodes besides the one on which all stages run

    def nodes(self) -> list[dict[str, Any]]:
        names = ["0123456789abcdef", *(f"other-{i}" for i in range(self.others))]
        place = {"NodeManagerHostname": "here", "NodeManagerAddress": "", "Resources": {"CPU": 8.0, "GPU": 2.0}}
        return [{"NodeID": name, "Alive": True, **place} for name in names]

    def get_runtime_context(self) -> Any:
        return SimpleNamespace(get_node_id=lambda: "0123456789abcdef")

    def cluster_resources(self) -> dict[str, float]:
        return self.have

    def remote(self, function: Callable[..., Any]) -> Any:
        def options(**words: Any) -> Any:
            def begin(*arguments: Any) -> Task:
                self.asked.append((function.__name__, words))
                return Task(lambda: self._call(function, arguments))

            return SimpleNamespace(remote=begin)

        return SimpleNamespace(options=options)

    def _call(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        value = function(*arguments)
        if self.deaths and function.__name__ == "compute_stage":
            raise self.deaths.pop(0)
        return value

    def wait(self, tasks: list[Task], timeout: float) -> tuple[list[Task], list[Task]]:
        (task,) = tasks
        return ([task], []) if task.ended.wait(timeout) else ([], [task])

    def get(self, task: Any) -> Any:
        if not isinstance(task, Task):
            return task
        task.ended.wait()
        if isinstance(task.error, (WorkerCrashedError, NodeDiedError, OutOfMemoryError)):
            raise task.error
        if task.error:
            raise RayTaskError("task", "its trace", task.error) from None
        return task.value

    def put(self, value: Any) -> Any:
        self.held.append(value)
        return value

    def cancel(self, task: Task) -> None:
        self.cancelled.append(task)


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Ray:
    played = Ray()
    monkeypatch.setattr(stage_tasks, "ray", played)
    monkeypatch.setattr(nodes, "ray", played)
    monkeypatch.setattr(nodes, "sick", lambda folder: played.sick)
    monkeypatch.setattr(stage_tasks, "LOOK_EVERY", 0.02)
    monkeypatch.setattr(stage_tasks, "_loaded", {})
    return played


def as_tasks(
    folder: Path, resources: Resources = CPUS, until: str | None = None, **changes: Any
) -> tuple[Result, list[Event], list[tuple[str, str]]]:
    events: list[Event] = []
    lost: list[tuple[str, str]] = []
    sweep = folder.with_name(f"{folder.name}-sweep")
    sweep.mkdir(exist_ok=True)
    computing = stage_tasks.stage_tasks(resources, sweep, examine.code(), lambda *words: lost.append(words))
    with Store(folder) as store:
        config = with_changes(CONFIG, changes, "test")
        return run(config, store, events.append, until, computing=computing), events, lost


def without_times(events: list[Event]) -> list[Any]:
    """Those that say something new."""
    found: list[Any] = []
    for event in events:
        said = (event.stage, event.epoch, event.epochs, event.values, event.metrics, event.curves)
        if event.values or event.metrics is not None:
            found.append(said)
    return found


def test_stages_as_tasks_give_what_a_run_in_one_process_gives(ray: Ray, small_run: Result, tmp_path: Path) -> None:
    told: list[Event] = []
    with Store(tmp_path / "here") as store:
        here = run(CONFIG, store, told.append)
    there, events, _ = as_tasks(tmp_path / "there")
    assert there.metrics == here.metrics == small_run.metrics
    assert {n: f.name for n, f in there.folders.items()} == {n: f.name for n, f in here.folders.items()}
    assert without_times(events) == without_times(told)
    for name, folder in there.folders.items():
        files = {path.name for path in folder.iterdir()}
        assert files == {path.name for path in here.folders[name].iterdir()}, "nothing is left of what it told"
        assert all(
            (folder / file).read_bytes() == (here.folders[name] / file).read_bytes()
            for file in files
            if file.endswith((".safetensors", ".zip"))
        )
    assert {event.node for event in events if event.metrics is not None} == {f"{os.uname().nodename} 01234567"}
    assert [name for name, _ in ray.asked] == ["compute_stage"] * len(there.folders)
    asked = len(ray.asked)
    again, _, _ = as_tasks(tmp_path / "there")
    assert again.metrics == here.metrics and len(ray.asked) == asked, "what is stored is asked of nobody"


def test_a_stage_is_given_what_it_needs_and_a_trial_nothing(
    ray: Ray, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("semples.pipeline.compute.resolve_device", lambda runtime: runtime)  # there is a GPU
    as_tasks(tmp_path / "gpu", Resources(cpu=4, gpu=0.5, cpu_only=2), "masks")
    on_gpu, others = {"num_cpus": 4, "num_gpus": 0.5}, {"num_cpus": 2, "num_gpus": 0}
    common = {"max_retries": 0, "scheduling_strategy": "DEFAULT", "label_selector": {}}
    assert [words for _, words in ray.asked] == [on_gpu | common] * 5 + [others | common]
    ray.asked.clear()
    as_tasks(tmp_path / "cpu", Resources(cpu=4, gpu=0, cpu_only=2), "masks")
    assert [words for _, words in ray.asked] == [{"num_cpus": 4, "num_gpus": 0} | common] * 6


def test_there_is_room_for_as_many_trials_as_for_stages(ray: Ray) -> None:
    ray.have = {"CPU": 16.0, "GPU": 2.0}
    assert stage_tasks.slots(Resources(cpu=2, gpu=0.5)) == 4
    assert stage_tasks.slots(Resources(cpu=8, gpu=0.5)) == 2
    assert stage_tasks.slots(Resources(cpu=2, gpu=0)) == 8
    ray.have = {}
    assert stage_tasks.slots(Resources(cpu=2, gpu=1)) == 1, "the cluster may grow"


@pytest.mark.parametrize("death", [WorkerCrashedError(), NodeDiedError("gone"), OutOfMemoryError("full")])
def test_a_stage_whose_process_died_is_computed_again_and_nothing_else(
    ray: Ray, death: Exception, small_run: Result, tmp_path: Path
) -> None:
    ray.deaths = [death]
    result, _, lost = as_tasks(tmp_path, until="match")
    reason = "its node ran out of memory" if isinstance(death, OutOfMemoryError) else "its process or node died"
    assert lost == [("classify", reason)]
    assert len(ray.asked) == 3 and result.folders["match"].name == small_run.folders["match"].name
    assert not list((tmp_path / WORK).glob("*"))


def test_a_stage_whose_processes_die_again_and_again_is_lost(ray: Ray, tmp_path: Path) -> None:
    ray.deaths = [WorkerCrashedError() for _ in range(9)]
    with pytest.raises(LostError, match="classify: its process or node died"):
        as_tasks(tmp_path)
    assert len(ray.asked) == 4
    message = decode(encode(Lost("classify: its process or node died")))
    end = how_it_ended(message, False, {})
    assert (end.state, end.reason) == (State.LOST, "classify: its process or node died more often than it is replaced")
    assert decode(encode(Restarted("it died", "match"))) == Restarted("it died", "match")


def test_each_attempt_has_a_folder_of_its_own_so_that_one_who_lives_after_all_harms_nothing(
    ray: Ray, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folders: list[Path] = []

    def stage(config: Any, data: Any, inputs: Any, out: Path, log: Any) -> dict[str, float]:
        folders.append(out)
        (out / "file").touch()
        return {}

    monkeypatch.setattr(Stage, "load", lambda own: stage)
    ray.deaths = [NodeDiedError("cut off")]
    as_tasks(tmp_path, until="classify")
    first, second = folders
    assert first != second and not first.exists() and first.parent == second.parent == tmp_path / WORK


def test_an_error_of_a_stage_is_that_of_the_run(ray: Ray, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fails(*words: Any) -> dict[str, float]:
        raise UserError("match diverged; lower match.lr")

    monkeypatch.setattr(Stage, "load", lambda own: fails)
    with pytest.raises(UserError, match=r"^match diverged; lower match\.lr$"):
        as_tasks(tmp_path)
    assert len(ray.asked) == 1, "it would fail again"


@pytest.mark.parametrize("gone", [False, True])
def test_an_error_of_a_part_of_a_stage_is_that_of_the_run_and_a_part_that_is_gone_is_no_error(
    ray: Ray, handed_over: None, monkeypatch: pytest.MonkeyPatch, gone: bool, tmp_path: Path
) -> None:
    def fails(thing: int) -> int:
        if thing:
            raise WorkerCrashedError() if gone else UserError("image 1 is broken; mend it")
        return thing

    def stage(config: Any, data: Any, inputs: Any, out: Path, log: Any) -> dict[str, float]:
        return {"sum": sum(spread.each(fails, range(9), 9))}

    monkeypatch.setattr(Stage, "load", lambda own: stage)
    with pytest.raises(LostError if gone else UserError, match="classify: its process" if gone else "^image 1 is"):
        as_tasks(tmp_path)


def test_half_a_line_is_no_news(tmp_path: Path) -> None:
    lines = stage_tasks.Lines(tmp_path / "told")
    assert list(lines.new()) == []
    for text, found in (('{"a": 1}\n{"b"', [{"a": 1}]), (": 2}\n", [{"b": 2}]), ('{"c\n{"d": 4}\n', [{"d": 4}])):
        with lines.path.open("a") as file:
            file.write(text)
        assert list(lines.new()) == found


def test_a_trial_that_is_stopped_interrupts_its_stage(
    ray: Ray, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    go_on = threading.Event()

    def stage(config: Any, data: Any, inputs: Any, out: Path, log: Any) -> dict[str, float]:
        log(1, 9, loss=1.0)
        go_on.wait(20)
        return {}

    def stop(event: Event) -> None:
        if event.epoch == 1:
            go_on.set()
            raise SystemExit

    monkeypatch.setattr(Stage, "load", lambda own: stage)
    computing = stage_tasks.stage_tasks(Resources(), tmp_path, "", lambda *words: None)
    with Store(tmp_path) as store, pytest.raises(SystemExit):
        run(CONFIG, store, stop, computing=computing)
    assert len(ray.cancelled) == 1


def test_a_stage_that_says_nothing_lets_its_trial_report_all_the_same(
    ray: Ray, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whoever stops a trial does so when it reports."""

    def stage(config: Any, data: Any, inputs: Any, out: Path, log: Any) -> dict[str, float]:
        (out / "file").touch()
        log(1, 2, loss=1.0)
        time.sleep(0.5)
        return {}

    monkeypatch.setattr(Stage, "load", lambda own: stage)
    _, events, _ = as_tasks(tmp_path, until="classify")
    silent = [event for event in events if event.epoch == 1 and not event.values]
    assert len(silent) > 5 and len([event for event in events if event.values]) == 1


def test_data_that_are_not_those_of_the_trial_are_refused(
    ray: Ray, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    data = load_data(CONFIG.data)
    monkeypatch.setattr(stage_tasks, "load_data", lambda *words: replace(data, fingerprint="0" * 32))
    with pytest.raises(UserError, match="changed while a trial ran"):
        as_tasks(tmp_path)


def test_a_stage_that_no_process_of_a_node_can_load_is_computed_on_another_node(ray: Ray, tmp_path: Path) -> None:
    ray.deaths = [RuntimeError("The remote function failed to import on the worker.")]
    ray.sick, ray.others = [nodes.NodeError("b" * 56, "node-b", "package: missing")], 1
    _, _, lost = as_tasks(tmp_path, until="match")
    assert lost[1:] == [("classify", "node node-b (bbbbbbbb) is left out: package: missing")]
    selectors = [words["label_selector"] for _, words in ray.asked]
    assert selectors == [{}, *[{"ray.io/node-id": f"!in({'b' * 56})"}] * 2]


def test_data_that_are_missing_on_a_node_do_not_fail_a_trial(
    ray: Ray, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    missing = [UserError("data.root: /data is not there")]

    def load(*words: Any) -> Any:
        if missing:
            raise missing.pop()
        return load_data(*words)

    monkeypatch.setattr(stage_tasks, "load_data", load)
    ray.others = 1
    result, _, lost = as_tasks(tmp_path, until="classify")
    assert "classify" in result.folders and len(lost) == 1 and "/data is not there" in lost[0][1]


def test_data_are_read_once_by_a_process_that_computes_stages(
    ray: Ray, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    reads: list[Any] = []
    monkeypatch.setattr(stage_tasks, "load_data", lambda *words: reads.append(words) or load_data(*words))
    as_tasks(tmp_path, until="match")
    as_tasks(tmp_path, until="match", seed=1)
    assert len(reads) == 1
    as_tasks(tmp_path, until="classify", **{"data.holdout": 5})
    assert len(reads) == 2
    changed = replace(load_data(CONFIG.data), fingerprint="f" * 32)
    monkeypatch.setattr("semples.pipeline.run.load_data", lambda *words: changed)
    monkeypatch.setattr(stage_tasks, "load_data", lambda *words: reads.append(words) or changed)
    as_tasks(tmp_path, until="classify", **{"data.holdout": 5})
    assert len(reads) == 3, "the files are others now"


def test_masks_and_predictions_of_many_tasks_are_those_of_one_process(
    ray: Ray, handed_over: None, small_run: Result, tmp_path: Path
) -> None:
    result, _, _ = as_tasks(tmp_path)
    assert result.metrics == small_run.metrics
    for name in ("masks", "measured_masks"):
        made, known = ((of.folders[name] / "images.zip").read_bytes() for of in (result, small_run))
        assert made == known
    parts = [words for name, words in ray.asked if name == "do_part"]
    assert len(parts) >= 10 and all(words["max_retries"] == 3 and words["num_gpus"] == 0 for words in parts)


def test_the_folder_of_a_trial_is_written_where_a_network_can_predict(
    ray: Ray, small_run: Result, tmp_path: Path
) -> None:
    stage_tasks.write_elsewhere(Resources(cpu=4, gpu=0.5), tmp_path, small_run, tmp_path / "run", unheard)
    assert ray.asked[0][1]["num_gpus"] == 0.5 and ray.asked[0][1]["num_cpus"] == 4
    config, result = read_run(tmp_path / "run")
    assert config == small_run.config and result["metrics"] == small_run.metrics
    assert (tmp_path / "run" / RESULT).exists() and (tmp_path / "run" / "gallery.png").stat().st_size > 1000
    to_masks = {n: f for n, f in small_run.folders.items() if not n.endswith("segment")}
    assert [*graph(CONFIG)][-1] == "segment"
    # of trials on GPUs, in a process that has none, as here
    on_gpu = with_changes(small_run.config, {"runtime.device": "cuda"}, "test")
    judged = replace(small_run, folders=to_masks, config=on_gpu)
    stage_tasks.write_elsewhere(Resources(cpu=4, gpu=0.5), tmp_path, judged, tmp_path / "masks", unheard)
    assert ray.asked[1][1]["num_gpus"] == 0 and read_run(tmp_path / "masks")[0] == on_gpu
