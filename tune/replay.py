"""The same sweep without the computing: trials are answered from a table of measured ones, on virtual workers in
virtual time. Searcher, study, sampler and early stopping are those of a real sweep.

The table holds configurations that were run (benchmarks/record.py); what was not is interpolated, see Table.
"""

from __future__ import annotations

import itertools
import json
import math
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import optuna
from optuna.trial import TrialState
from ray.tune.schedulers import TrialScheduler
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from semples.errors import UserError
from semples.pipeline.graph import graph
from tune.columns import Space
from tune.messages import Completed, Failed, Message, Progress, StageDone, State, Usage, encode
from tune.needs import affecting, on_gpu
from tune.parts import HEADLINES
from tune.records import trial_record
from tune.scheduler import scheduler_of
from tune.searcher import StudySearcher
from tune.study import succeeded
from tune.sweep_file import Sweep, find_sweep_file, load_sweep
from tune.tracking import NullTracker, Tracker
from tune.virtual import Clock, Machines
from tune.warm_start import prepare

TABLE = Path(__file__).parent / "replays" / "scenes.json"
# Images of VOC by what a stage that treats a set of them is called: 100 judge, 1,364 others have a true mask.
VOC_IMAGES = {"": 100, "measured_": 1364, "rest_": 9118}
HEATMAP = 0.0104  # seconds an image on the older card, estimated
MASK = 0.45  # measured: 0.36 to 0.54 s of CRF for photographs of 500 x 375 on one core
CORES = 16  # that a worker has for them
TEST_CRF = 1549 * 1.25  # measured: 1.1 to 1.4 s an image with 21 labels, on one core, for test images and holdout


def _voc(training: dict[str, float], network: float, heatmap: float) -> dict[str, float]:
    found = dict(training)
    for prefix, images in VOC_IMAGES.items():
        found |= {f"{prefix}heatmaps": heatmap * images, f"{prefix}masks": MASK / CORES * images}
    return {**found, "segment": network + TEST_CRF}


# Seconds of the stages: as measured (tune/replays), or estimated for the released settings on VOC: 60 epochs of every
# generator and 40 of DeepLabV3+ on ResNet-101 at 512 pixels (249 PFLOP) by multiply-adds. voc: a card that does 25
# TFLOP/s on the network and 10 on the rest. voc-h100: an H100, 240 TFLOP/s on the network; classify, match and refine
# wait for their data, which 8 cores load in 480 s.
PROFILES: dict[str, dict[str, float]] = {
    "measured": {},
    "voc": _voc({"classify": 880.0, "match": 1950.0, "prompts": 800.0, "refine": 1950.0}, 10200.0, HEATMAP),
    "voc-h100": _voc({"classify": 480.0, "match": 480.0, "prompts": 80.0, "refine": 480.0}, 1040.0, HEATMAP / 10),
}


def divisible(profile: str) -> dict[str, tuple[float, float]]:
    """By stage: seconds in it that a worker takes for what the CPUs of a cluster may share, and the CPU seconds that
    this is."""
    if not PROFILES[profile]:
        return {}
    masks = {f"{of}masks": (MASK / CORES * images, MASK * images) for of, images in VOC_IMAGES.items()}
    return {**masks, "segment": (TEST_CRF, TEST_CRF)}


@dataclass(frozen=True)
class StagePlan:
    """A stage of a replayed trial: its name, what trials share its result by, compute seconds on a worker, and mIoU [of
    the holdout, reported] where it is a milestone."""

    stage: str
    identity: bytes
    seconds: float
    scores: list[float] | None = None


class Blackbox(Protocol):
    """What a replay asks for the stages of a trial: a table, or trials that are computed."""

    def stage_seconds(self, profile: str) -> dict[str, float]:
        """Seconds of every stage under a profile of PROFILES."""

    def plan(self, parameters: dict[str, Any], seconds: dict[str, float], last: str) -> list[StagePlan]:
        """The stages of a trial up to `last`, in order."""


class Table:
    """Milestones and seconds of the stages for any parameters of the table's sweep.

    Of measured parameters the measured scores are given. In between a Gaussian process for each milestone interpolates
    over the keys that affect it and the scores of the milestone before; a stage takes the mean of its seconds.

    sweep: the one that was measured, with `changes` of its keys (sampler, trials, ...). rows: as written by
    benchmarks/record.py.
    """

    def __init__(self, path: Path = TABLE, changes: Mapping[str, Any] = {}):
        stored = json.loads(path.read_text())
        self.rows: list[dict[str, Any]] = stored["rows"]
        self.sweep = load_sweep(find_sweep_file(stored["sweep"]), {**stored["base"], **changes})
        self._space = Space(self.sweep)
        self.columns = {name: self._space.columns(keys) for name, keys in affecting(self.sweep).items()}
        self._measured: dict[str, dict[bytes, list[float]]] = {}
        self._models: dict[str, GaussianProcessRegressor] = {}
        self.seconds: dict[str, float] = {}
        before, stages = "", graph(self.sweep.base_config())
        for name in self.columns:
            rows = [row for row in self.rows if name in row["seconds"]]
            if not rows and stages[name].of:  # there were no such images
                self.seconds[name] = 0.0
                continue
            if not rows:
                raise UserError(f"{path}: no trial of this table has the stage '{name}', so it cannot be replayed")
            self.seconds[name] = float(np.mean([row["seconds"][name] for row in rows]))
            if stages[name].milestone is None:
                continue
            distinct = {self._key(name, self._space.row(row["parameters"])): row for row in rows}
            self._measured[name] = {key: row["milestones"][name] for key, row in distinct.items()}
            if not self.columns[name]:  # the same for all
                continue
            x = np.stack(
                [self._features(name, row["parameters"], row["milestones"], before) for row in distinct.values()]
            )
            scales = stored["surrogate"][name] if "surrogate" in stored else None
            self._models[name] = fit(x, np.array(list(self._measured[name].values())), scales)
            before = name

    @property
    def scales(self) -> dict[str, dict[str, Any]]:
        """What the processes learned, to be written into the table."""
        return {name: _scales(model.kernel_) for name, model in self._models.items()}

    def _key(self, name: str, row: np.ndarray) -> bytes:
        return row[self.columns[name]].tobytes()

    def _features(
        self, name: str, parameters: dict[str, Any], scores: dict[str, list[float]], before: str
    ) -> np.ndarray:
        own = self._space.unit(self._space.row(parameters)[None])[0][self.columns[name]]
        return np.concatenate([own, np.array(scores[before]) / 100 if before else []])

    def stage_seconds(self, profile: str) -> dict[str, float]:
        """Seconds of every stage under a profile of PROFILES."""
        return PROFILES[profile] or self.seconds

    def plan(self, parameters: dict[str, Any], seconds: dict[str, float], last: str) -> list[StagePlan]:
        """The stages of a trial up to `last`, in order."""
        row, scores = self._space.row(parameters), self.scores(parameters)
        names = list(self.columns)[: list(self.columns).index(last) + 1]
        return [StagePlan(name, self._key(name, row), seconds[name], scores.get(name)) for name in names]

    def scores(self, parameters: dict[str, Any]) -> dict[str, list[float]]:
        """By milestone: mIoU [of the holdout, reported]."""
        row, before = self._space.row(parameters), ""
        found: dict[str, list[float]] = {}
        for name, measured in self._measured.items():
            known = measured.get(self._key(name, row))
            if known is None:
                features = self._features(name, parameters, found, before)
                known = self._models[name].predict(features[None])[0].tolist()
            found[name] = known
            before = name if name in self._models else before
        return found


def _kernel(width: int) -> Any:
    return ConstantKernel(1.0, (0.1, 10.0)) * Matern(np.full(width, 1.0), (0.1, 20.0), nu=2.5) + WhiteKernel(
        0.1, (1e-3, 2.0)
    )


def fit(x: np.ndarray, y: np.ndarray, scales: dict[str, Any] | None) -> GaussianProcessRegressor:
    """A process for x (n, d) -> y (n, 2); its scales are learned unless they are given."""
    kernel = _kernel(x.shape[1])
    if scales:
        kernel = kernel.clone_with_theta(np.array(scales["theta"]))
    optimizer = None if scales else "fmin_l_bfgs_b"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a scale at its bound is fine
        return GaussianProcessRegressor(kernel, optimizer=optimizer, normalize_y=True).fit(x, y)


def _scales(kernel: Any) -> dict[str, Any]:
    return {
        "theta": [round(float(value), 4) for value in kernel.theta],
        "noise": round(float(kernel.get_params()["k2__noise_level"]), 4),
    }


@dataclass(frozen=True)
class TrialEnd:
    """A trial that ended: when, in virtual seconds; its state, and the values of its objectives where it is COMPLETE;
    the compute seconds of all trials until then."""

    clock: float
    number: int
    state: State
    values: list[float]
    spent: float


@dataclass
class Replay:
    """What a replayed sweep did. suggestions: real seconds of every suggestion. begun: when the last trial began, in
    virtual seconds. computing: from when to when a worker computed a stage, or machines did, with the time for which it
    waited for what it needs."""

    study: optuna.Study
    workers: int
    ends: list[TrialEnd] = field(default_factory=list)
    suggestions: list[float] = field(default_factory=list)
    begun: float = 0.0
    computing: list[tuple[float, float]] = field(default_factory=list)

    @property
    def busy(self) -> float:
        """Share of their time that the workers computed, until there was nothing left to begin."""
        seconds = sum(min(end, self.begun) - start for start, end in self.computing if start < self.begun)
        return seconds / (self.workers * self.begun)


@dataclass
class _Trial:
    """A trial on a worker: its stages, and how many of them it has passed."""

    identity: str
    config: dict[str, Any]  # as Ray's trials have it, for the scheduler
    plan: list[StagePlan]
    injected_fault: str
    passed: int = 0


def replay(
    sweep: Sweep,
    table: Blackbox,
    workers: int = 1,
    profile: str = "measured",
    reuse: bool = True,
    study: optuna.Study | None = None,
    tracker: Tracker | None = None,
    start_run: Callable[[int, dict[str, Any]], str] = lambda number, parameters: "",
    injected_fault: Callable[[int], str] = lambda number: "",
    enough: Callable[[TrialEnd], bool] = lambda end: False,
    machines: Machines | None = None,
    sampler: optuna.samplers.BaseSampler | None = None,
) -> Replay:
    """Run the sweep until it ends by itself or `enough` of a trial's end: on `workers` virtual workers, each of which
    one trial has to itself, or on `machines`, where each stage has what it needs while it is computed.

    profile: of PROFILES. reuse: whether trials share their stages. study: to go on with; a new one in memory by
    default. injected_fault: by trial number "" or what becomes of it instead of its end: "fail", "nan", "lost", or
    "retried" (its process dies once at half of its way). sampler: instead of the sweep's own. A suggestion takes the
    driver as long as it really takes.
    """
    if sweep.analytic:
        raise UserError(
            f"{', '.join(sweep.analytic)} cannot be replayed where trials take the best value by results of their own; "
            "take it out of the space"
        )
    study = prepare(study or optuna.create_study(directions=sweep.directions), sweep)
    study.sampler = sampler or study.sampler
    result, clock, spent, driver = Replay(study, machines.slots if machines else workers), Clock(), 0.0, 0.0
    room = (lambda: machines.slots) if machines else (lambda: math.inf)
    searcher = StudySearcher(study, sweep, tracker or NullTracker(), start_run, lambda *_: None, room)
    scheduler, uses_gpu = scheduler_of(sweep, study), on_gpu(sweep)
    seconds, shared, chosen = table.stage_seconds(profile), divisible(profile), _which(sweep)
    left = np.inf if sweep.trials is None else sweep.trials - len(succeeded(study))
    there: set[tuple[str, bytes]] = set()  # results
    wanted: dict[tuple[str, bytes], list[Callable[[], None]]] = {}  # that are being computed: who waits for them
    order, running = itertools.count(), 0

    def go_on(trial: _Trial) -> None:
        if trial.passed == len(trial.plan):
            clock.at(clock.now, lambda: tell(trial, _last_message(trial, sweep)))
            return
        plan = trial.plan[trial.passed]
        which, since = (plan.stage, plan.identity), clock.now
        waits = reuse and which in wanted
        if machines:
            at = Progress(plan.stage, 0, 1, "another trial" if waits else "")
            searcher.on_trial_result(trial.identity, encode(at))

        def done(reused: bool) -> None:
            score = plan.scores[chosen] if plan.scores else None
            tell(trial, StageDone(plan.stage, {}, (), plan.seconds, reused, score))

        def computed() -> None:
            result.computing.append((since, clock.now))
            there.add(which)
            done(False)
            for waiting in wanted.pop(which, ()):
                waiting()

        if waits:
            wanted[which].append(lambda: done(True))
        elif reuse and which in there:
            clock.at(clock.now, lambda: done(True))
        else:
            if reuse:
                wanted[which] = []
            if machines:
                of_worker, cpu = shared.get(plan.stage, (0.0, 0.0))
                machines.compute(clock, plan.stage in uses_gpu, plan.seconds - of_worker, cpu, computed)
            else:
                clock.at(clock.now + plan.seconds, computed)

    def end_trial(trial: _Trial, last: dict[str, Any], error: bool = False) -> None:
        nonlocal running, left
        searcher.on_trial_complete(trial.identity, last, error)
        running -= 1
        ended = study.get_trials(deepcopy=False)[trial.config["number"]]
        left -= ended.state != TrialState.FAIL
        values = ended.values if ended.state == TrialState.COMPLETE else []
        result.ends.append(TrialEnd(clock.now, ended.number, trial_record(ended).state, values, spent))

    def tell(trial: _Trial, message: Message) -> None:
        nonlocal spent
        last = encode(message)
        if isinstance(message, StageDone) and not message.reused:
            spent += message.seconds
        if scheduler.on_trial_result(None, trial, last) == TrialScheduler.STOP:
            return end_trial(trial, last)
        searcher.on_trial_result(trial.identity, last)
        trial.passed += 1
        half_way = trial.passed * 2 >= len(trial.plan)
        if isinstance(message, Completed | Failed):
            return end_trial(trial, last)
        if half_way and trial.injected_fault == "lost":
            return end_trial(trial, last, error=True)
        if half_way and trial.injected_fault == "retried":
            trial.injected_fault, trial.passed = "", 0
        return go_on(trial)

    while True:
        while left > running and (machines or running < workers):
            start = time.perf_counter()
            suggestion = searcher.suggest(identity := str(next(order)))
            took = time.perf_counter() - start
            if suggestion is None:
                break
            result.suggestions.append(took)
            if not isinstance(suggestion, dict):
                left = 0
                break
            result.begun = driver = max(driver, clock.now) + took
            running += 1
            plan = table.plan(suggestion["parameters"], seconds, sweep.last_stage)
            fault = injected_fault(suggestion["number"])
            trial = _Trial(identity, {"number": suggestion["number"]}, plan, fault)
            clock.at(driver, partial(go_on, trial))
        if not clock.go_on() or (result.ends and enough(result.ends[-1])):
            break
    return result


def _which(sweep: Sweep) -> int:
    """Which of a milestone's two scores chooses."""
    if sweep.selection == "proxy":
        raise UserError("selection=proxy cannot be replayed: the table holds mIoU only")
    return int(sweep.selection == "oracle")


def _last_message(trial: _Trial, sweep: Sweep) -> Message:
    if trial.injected_fault == "fail":
        return Failed("as the replay was told")
    milestones = {stage: metric for metric, stage in HEADLINES.items()}
    scores = {milestones[plan.stage]: plan.scores for plan in trial.plan if plan.scores and plan.stage in milestones}
    chosen, reported = ({name: of[which] for name, of in scores.items()} for which in (_which(sweep), 1))
    usage = Usage(sum(plan.seconds for plan in trial.plan))
    values = [objective.value(chosen, usage) for objective in sweep.objectives]
    if trial.injected_fault == "nan":
        values = [math.nan] * len(values)
    return Completed(tuple(values), reported, usage)
