"""MLflow lacks nothing of a sweep: every entry of the queue arrives, in order, once, whatever happens in between."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from launches import Machine, launched
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from packages import install

from semples.errors import UserError
from tune import mlflow_writer
from tune.driver import DONE
from tune.mlflow_writer import HopelessError, Store, Writer, entries, unwritten, written
from tune.testing import own
from tune.tracking import KEY, PARENT, QUEUE, STATUS, MlflowQueue


class Mlflow:
    """In the place of MLflow's client: runs in memory, with its limits on what a call takes."""

    def __init__(self) -> None:
        self.runs: dict[str, dict[str, Any]] = {}
        self.calls: list[tuple[Any, ...]] = []
        self.away = self.refuses = False  # at any call; from the first one on

    def __call__(self, uri: str) -> Mlflow:
        return self

    def get_experiment_by_name(self, name: str) -> Any:
        if self.refuses:
            raise MlflowException("connection refused")
        return SimpleNamespace(lifecycle_stage="active", experiment_id="1")

    def search_runs(self, experiments: list[str], question: str, max_results: int) -> list[Any]:
        key = question.rpartition("= '")[2].rstrip("'")
        return [
            SimpleNamespace(info=SimpleNamespace(run_id=r)) for r, of in self.runs.items() if of["tags"][KEY] == key
        ]

    def create_run(self, experiment: str, start: int, tags: dict[str, str], name: str) -> Any:
        self._say("create", name)
        run = f"id-{len(self.runs)}"
        self.runs[run] = {"tags": dict(tags), "params": {}, "metrics": [], "files": [], "name": name, "start": start}
        return SimpleNamespace(info=SimpleNamespace(run_id=run))

    def log_batch(self, run: str, metrics: Any = (), params: Any = (), tags: Any = ()) -> None:
        self._say("log", run, *[m.key for m in metrics], *[t.key for t in tags])
        assert len(metrics) <= 1000 and len(params) <= 100, "more than MLflow takes at once"
        assert all(len(p.value) <= 6000 for p in params) and all(len(t.value) <= 5000 for t in tags)
        self.runs[run]["metrics"] += metrics
        self.runs[run]["params"] |= {p.key: p.value for p in params}
        self.runs[run]["tags"] |= {t.key: t.value for t in tags}

    def log_artifact(self, run: str, file: str) -> None:
        self._say("file", run, Path(file).name)
        self.runs[run]["files"].append(Path(file).name)

    def update_run(self, run: str, status: str) -> None:
        self.runs[run]["status"] = status

    def set_terminated(self, run: str, status: str, when: int) -> None:
        self.runs[run] |= {"status": status, "end": when}

    def _say(self, *call: Any) -> None:
        if self.away:
            raise MlflowException("connection refused")
        self.calls.append(call)


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mlflow]:
    made = Mlflow()
    monkeypatch.setattr(mlflow_writer, "MlflowClient", made)
    yield made


def writer_of(folder: Path) -> Writer:
    return Writer(Store("http://host:1", folder), folder)


def a_sweep(folder: Path) -> MlflowQueue:
    tracker = MlflowQueue(folder)
    tracker.start("key", "s", "", {"trials": 2, "a": {"b": [1, 2]}}, {"kind": "sweep"})
    tracker.start("key-0000", "s-0000", "key", {"match": {"lr": 0.1}}, {"kind": "trial"})
    tracker.log("key-0000", [{"loss": 2.0}, {"loss": 1.0}], "match/")
    tracker.tag("key-0000", node="n")
    tracker.attach("key-0000", Path("trials/0000/result.json"), Path("trials/0000/none.txt"))
    tracker.end("key-0000", "COMPLETE")
    tracker.end("key", "STOPPED")
    (folder / "trials" / "0000").mkdir(parents=True, exist_ok=True)
    (folder / "trials" / "0000" / "result.json").write_text("{}")
    return tracker


def metrics_of(run: dict[str, Any]) -> list[tuple[str, float, int]]:
    return [(m.key, m.value, m.step) for m in run["metrics"]]


def test_what_was_queued_arrives_whole(tmp_path: Path, mlflow: Mlflow) -> None:
    a_sweep(tmp_path)
    assert unwritten(tmp_path) == 7
    writer_of(tmp_path).catch_up()
    sweep, trial = mlflow.runs.values()
    assert sweep["params"] == {"trials": "2", "a.b": "[1, 2]"} and trial["params"] == {"match.lr": "0.1"}
    assert trial["tags"] == {
        "kind": "trial", KEY: "key-0000", PARENT: "id-0", "state": "COMPLETE", "node": "n",
    } and (sweep["status"], trial["status"]) == ("KILLED", "FINISHED")  # fmt: skip
    assert metrics_of(trial) == [("match/loss", 2.0, 1), ("match/loss", 1.0, 2)]
    assert trial["files"] == ["result.json"] and unwritten(tmp_path) == 0


def test_the_order_is_that_of_the_queue(tmp_path: Path, mlflow: Mlflow) -> None:
    a_sweep(tmp_path)
    writer_of(tmp_path).catch_up()
    told = [call[:1] if call[0] == "create" else call for call in mlflow.calls if len(call) > 2 or call[0] == "create"]
    assert [call[0] for call in told] == ["create", "log", "create", "log", "log", "log", "file", "log", "log"]
    times = [entry["time"] for _, entry in entries(tmp_path)]
    assert times == sorted(times) and mlflow.runs["id-0"]["start"] == times[0]
    assert mlflow.runs["id-1"]["end"] == times[5], "when it happened, not when it was written"


def test_what_is_done_twice_is_there_once(tmp_path: Path, mlflow: Mlflow) -> None:
    a_sweep(tmp_path)
    writer_of(tmp_path).catch_up()
    ends = [end for end, _ in entries(tmp_path)]
    for position in (0, ends[3]):  # all of it, or from the middle
        (tmp_path / "mlflow.written").write_text(str(position))
        writer_of(tmp_path).catch_up()
        assert [run["name"] for run in mlflow.runs.values()] == ["s", "s-0000"]
        assert {*metrics_of(mlflow.runs["id-1"])} == {("match/loss", 2.0, 1), ("match/loss", 1.0, 2)}
        assert mlflow.runs["id-1"]["status"] == "FINISHED"


def test_a_retried_trial_adds_no_points_to_its_curves(tmp_path: Path, mlflow: Mlflow) -> None:
    tracker = a_sweep(tmp_path)
    writer_of(tmp_path).catch_up()
    tracker.log("key-0000", [{"loss": 2.0}, {"loss": 1.0}], "match/")
    tracker.log("key-0000", [{"loss": 2.0}, {"loss": 1.0}], "refine/")
    writer_of(tmp_path).catch_up()
    assert len(metrics_of(mlflow.runs["id-1"])) == 4


def test_after_an_outage_it_goes_on_with_the_entry_that_failed(tmp_path: Path, mlflow: Mlflow) -> None:
    tracker = a_sweep(tmp_path)
    writer_of(tmp_path).catch_up()
    mlflow.away = True
    tracker.reopen("key")
    tracker.log("key", [{"trials": 3.0}])
    writer = writer_of(tmp_path)
    with pytest.raises(MlflowException):
        writer.catch_up()
    assert unwritten(tmp_path) == 2
    mlflow.away = False
    writer.catch_up()
    assert unwritten(tmp_path) == 0 and metrics_of(mlflow.runs["id-0"]) == [("trials", 3.0, 1)]
    assert mlflow.runs["id-0"]["status"] == "RUNNING" and mlflow.runs["id-0"]["tags"]["state"] == "RUNNING"


def test_an_entry_that_mlflow_will_never_take_does_not_hold_up_the_others(
    tmp_path: Path, mlflow: Mlflow, caplog: pytest.LogCaptureFixture
) -> None:
    a_sweep(tmp_path)
    writer_of(tmp_path).catch_up()
    MlflowQueue(tmp_path).log("nobody", [{"x": 1.0}])  # whose run somebody deleted
    MlflowQueue(tmp_path).tag("key", note="here")
    with caplog.at_level("WARNING"):
        writer_of(tmp_path).catch_up()
    assert "does not take an entry of run nobody" in caplog.text and mlflow.runs["id-0"]["tags"]["note"] == "here"
    with pytest.raises(HopelessError):
        Store("http://host:1", tmp_path).apply({"what": "log", "run": "nobody", "time": 0, "metrics": []})


def test_what_a_crash_left_of_a_line_spoils_no_other(tmp_path: Path, mlflow: Mlflow) -> None:
    tracker = a_sweep(tmp_path)
    with (tmp_path / QUEUE).open("a") as file:
        file.write('\n{"what": "tag", "run": "key", "ti')
    assert unwritten(tmp_path) == 7
    tracker.tag("key", note="here")
    with (tmp_path / QUEUE).open("a") as file:
        file.write('\n{"what": "tag"')  # not whole yet
    writer_of(tmp_path).catch_up()
    assert mlflow.runs["id-0"]["tags"]["note"] == "here" and unwritten(tmp_path) == 0
    assert written(tmp_path) < (tmp_path / QUEUE).stat().st_size


def test_what_a_full_disk_refused_is_appended_with_the_next(tmp_path: Path, mlflow: Mlflow) -> None:
    (tmp_path / "s").mkdir()
    tracker = a_sweep(tmp_path / "s")
    (tmp_path / "s").rename(tmp_path / "away")
    tracker.tag("key", one="1")
    tracker.tag("key", two="2")
    (tmp_path / "away").rename(tmp_path / "s")
    tracker.tag("key", three="3")
    assert [next(iter(e["tags"])) for _, e in [*entries(tmp_path / "s")][-3:]] == ["one", "two", "three"]


def test_more_values_than_mlflow_takes_at_once_arrive_all(tmp_path: Path, mlflow: Mlflow) -> None:
    tracker = MlflowQueue(tmp_path)
    tracker.start("key", "s", "", {f"p{i}": "x" * 7000 for i in range(250)}, {"long": "y" * 6000})
    tracker.log("key", [{f"m{i}": float(i) for i in range(1100)} for _ in range(2)])
    writer_of(tmp_path).catch_up()
    (run,) = mlflow.runs.values()
    assert len(run["params"]) == 250 and len({(m.key, m.step) for m in run["metrics"]}) == 2200
    assert len(run["params"]["p0"]) == 6000 and len(run["tags"]["long"]) == 5000


def test_every_end_has_a_status_of_mlflow() -> None:
    assert STATUS == {
        "COMPLETE": "FINISHED", "PRUNED": "FINISHED", "FAILED": "FAILED", "LOST": "FAILED", "STOPPED": "KILLED",
    }  # fmt: skip


def test_numbers_arrive_as_they_are(tmp_path: Path, mlflow: Mlflow) -> None:
    tracker = a_sweep(tmp_path)
    tracker.log("key", [{"a": 0.1 + 0.2, "b": 1e-300, "c": 12345678901.0}])
    writer_of(tmp_path).catch_up()
    points: list[Metric] = mlflow.runs["id-0"]["metrics"]
    assert {p.key: p.value for p in points} == {"a": 0.1 + 0.2, "b": 1e-300, "c": 12345678901.0}
    assert {p.timestamp for p in points} == {list(entries(tmp_path))[-1][1]["time"]}
    assert all(json.loads(line) for line in (tmp_path / QUEUE).read_text().split("\n") if line)


DIARY = """
class Diary:
    def __init__(self, folder, file="diary.txt", most=10**6):
        self.file, self.most, self.told = folder / file, most, []

    def __getattr__(self, call):
        def tell(*words, **named):
            self.told.append(call)
            if len(self.told) == self.most + 1:
                raise ConnectionError("the pen is dry, for once")
            self.file.write_text(" ".join(self.told))
        return tell
"""


def test_a_tracker_of_another_package_that_fails_is_left_out_and_the_sweep_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one is told all that MLflow is told, in the same order."""
    names = {"diary": "of_diaries:Diary", "torn": "of_diaries:Diary"}
    install(tmp_path / "site", "diaries", "1.0", {"tune.trackers": names})
    (tmp_path / "site" / "of_diaries.py").write_text(DIARY)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    Machine(monkeypatch)
    out, torn = tmp_path / "out", {"name": "torn", "file": "torn.txt", "most": 3}
    why, study = launched(out, trials=2, trackers=[torn, "diary"])
    assert why == DONE and len(own(study)) == 2
    told = [entry["what"] for _, entry in entries(out / "s")]
    assert len(told) > 20 and (out / "s" / "diary.txt").read_text().split() == told
    assert (out / "s" / "torn.txt").read_text().split() == told[:3]


def test_of_two_writers_one_works_and_the_other_sees_what_it_wrote(tmp_path: Path, mlflow: Mlflow) -> None:
    tracker = a_sweep(tmp_path)
    with writer_of(tmp_path) as one, writer_of(tmp_path) as other:
        assert one.close(5) == 0 and other.close(5) == 0
        tracker.tag("key", note="here")
    with writer_of(tmp_path) as third:
        assert third.close(5) == 0
    assert [run["name"] for run in mlflow.runs.values()] == ["s", "s-0000"]
    assert len(metrics_of(mlflow.runs["id-1"])) == 2 and mlflow.runs["id-0"]["tags"]["note"] == "here"


@pytest.mark.parametrize("study", ["", "journal"])
def test_a_sweep_goes_on_in_its_run_while_mlflow_is_away_and_none_is_begun(
    study: str, tmp_path: Path, mlflow: Mlflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    Machine(monkeypatch, mlflow=True)
    mlflow.refuses = True
    with pytest.raises(UserError, match="cannot be used: connection refused"):
        launched(tmp_path, study=study, trials=1)
    assert not (tmp_path / "s" / "sweep.yaml").exists()
    mlflow.refuses = False
    launched(tmp_path, study=study, trials=1)
    mlflow.refuses = True
    close = Writer.close
    monkeypatch.setattr(Writer, "close", lambda writer, patience=0.0: close(writer, 0))  # waits for nobody
    launched(tmp_path, study=study, trials=2)
    began = [entry for _, entry in entries(tmp_path / "s") if entry["what"] == "start"]
    (key,) = {entry["run"] for entry in began if not entry["parent"]}
    assert [entry["run"] for entry in began if entry["parent"]] == [f"{key}-0000", f"{key}-0001"]
    assert [entry["run"] for _, entry in entries(tmp_path / "s") if entry["what"] == "reopen"] == [key]
    mlflow.refuses = False
    mlflow.runs.clear()
    with pytest.raises(UserError, match="does not hold this sweep; go on in the store it began in"):
        launched(tmp_path, study=study, trials=3)
