"""Sweeps for the tests of the search that take no time: replays with made-up stages, and launches without Ray."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import optuna
import pytest
from conftest import TINY
from ray import tune as ray_tune
from ray.tune.schedulers import TrialScheduler

from semples.config import Config
from semples.errors import UserError
from semples.output import write_run
from semples.pipeline.compute import compute
from semples.pipeline.graph import STAGES, Stage
from semples.pipeline.run import run
from tune.driver import launch
from tune.replay import Replay, replay
from tune.study import load_study
from tune.sweep_file import Sweep, make_sweep
from tune.sweep_folder import load_launched
from tune.testing import MadeUp

LAMBDAS = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0)
CONTINUOUS = {"match.lambda_b": {"float": [1.0, 8.0]}}


def sweep_of(**changes: Any) -> Sweep:
    tree = {
        "name": "s", "selection": "holdout", "objective": "pseudo_miou", "trials": 8, "sampler": "grid",
        "report": "all", "gate": 1, "space": {"match.lambda_b": {"choice": LAMBDAS}}, **changes,
    }  # fmt: skip
    return make_sweep(tree)


def go(sweep: Sweep, study: optuna.Study | None = None, **options: Any) -> Replay:
    """One launch; `study`: of the launches before it."""
    answers = MadeUp(sweep, options.pop("judge", lambda p: 50.0 - p["match.lambda_b"]))
    return replay(sweep, answers, study=study, **options)


def _write_here(resources: Any, sweep: Path, result: Any, out: Path, on_loss: Any) -> None:
    write_run(result, out)


class Machine:
    """Ray's place in a launch, and the method's: trials run in this process, one after another, and their stages are
    made up. Everything else is real: study, store, folders, what is reported and recorded."""

    def __init__(self, patch: pytest.MonkeyPatch, mlflow: bool = False):
        self.asked: dict[str, Any] = {}  # of Ray
        self.configs: list[Config] = []  # that trials ran, by call
        self.computed: list[str] = []
        self.left, self.diverges = 10**9, 13.0  # stages until Ctrl-C; the weight with which training fails
        self.during: Callable[[], object] = lambda: None  # what somebody does while a trial runs
        self._report: Callable[..., None]
        for name, value in {
            "tune.driver.joined": lambda resources, address: nullcontext(""),
            "tune.driver.watched": lambda give_up, logs: nullcontext(),
            "tune.driver.check": lambda config: None,
            "tune.trial.run": self._run,
            "tune.outside.run": self._run,
            **{f"tune.{module}.stage_tasks": lambda *_: compute for module in ("trial", "outside")},
            **{f"tune.{module}.write_elsewhere": _write_here for module in ("trial", "outside")},
            "tune.driver.slots": lambda resources: 1,
            "tune.outside.slots": lambda resources: 1,
            "tune.outside.ray": SimpleNamespace(
                remote=_Task,
                wait=lambda tasks: (tasks[:1], tasks[1:]),
                get=lambda task: task(),
                exceptions=SimpleNamespace(RayError=RuntimeError),
            ),
            "semples.output._draw_gallery": lambda result, path: path.write_bytes(b"a picture"),
        }.items():
            patch.setattr(name, value)
        if not mlflow:
            patch.setattr("tune.driver.Store", lambda uri, folder: NoMlflow())
        patch.setattr(ray_tune, "with_parameters", self._with_parameters)
        patch.setattr(ray_tune, "with_resources", self._with_resources)
        patch.setattr(ray_tune, "Tuner", self._tuner)
        patch.setattr(ray_tune, "report", self._send)
        names = {stage.module: name for name, stage in STAGES.items()}
        patch.setattr(Stage, "load", lambda stage: partial(self._stage, names[stage.module]))
        patch.setattr(
            "semples.pipeline.compute.view", lambda config, name: config
        )  # every made-up stage reads lambda_b

    def _stage(self, name: str, config: Config, data: Any, inputs: Any, out: Path, log: Any) -> dict[str, float]:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        by_image, judges = STAGES[name].by_image, data.treated == "holdout"
        self.computed.append(name if judges else f"{data.treated}_{name}")
        # trials share the result of classify, so it cannot know their weight
        weight = 0.0 if name == "classify" else config.match.lambda_b
        value = 50.0 - weight + config.seed / 8
        for epoch in (1, 2):
            judged = {"seg_miou_judged": value - 2 + epoch} if name == "segment" else {}
            log(epoch, 2, loss=1.0 / epoch, lr=0.1 * epoch, **judged)
        for file in ("generator.safetensors", "prompts.safetensors", "network.safetensors"):
            (out / file).write_text(f"{name} {config.match.lambda_b}")
        if config.match.lambda_b == self.diverges:
            raise UserError("match diverged; lower match.lambda_b")
        metric = STAGES[name].milestone  # what is reported says the opposite of what chooses
        if metric is None:
            return {"nouns": 3.0}
        chooses, reported = {f"holdout/{metric}": value}, {metric: 100.0 - value}
        return (chooses if judges else reported) if by_image else chooses | reported

    def _run(self, config: Config, *words: Any, **named: Any) -> Any:
        self.configs.append(config)
        self.during()
        return run(config, *words, **named)

    def _with_parameters(self, function: Any, **given: Any) -> Any:
        self.asked |= given | {"of_stages": given["resources"]}
        return partial(function, **given)

    def _with_resources(self, function: Any, resources: Any) -> Any:
        self.asked["resources"] = resources
        return function

    def _tuner(self, trainable: Any, tune_config: Any, run_config: Any) -> Any:
        self.asked |= {"tune_config": tune_config, "run_config": run_config}
        return SimpleNamespace(fit=lambda: self._fit(trainable, tune_config))

    def _fit(self, trainable: Any, config: Any) -> None:
        number = 0
        while number != config.num_samples:
            suggestion = config.search_alg.suggest(f"id-{number}")
            if not isinstance(suggestion, dict):
                return
            messages: list[dict[str, Any]] = []
            stopped = StopIteration()

            def report(result: dict[str, Any], name: str = f"id-{number}", given: Any = suggestion) -> None:
                messages.append(result)  # noqa: B023
                trial = SimpleNamespace(config=given)
                if config.scheduler.on_trial_result(None, trial, result) == TrialScheduler.STOP:
                    raise KeyboardInterrupt(stopped)  # noqa: B023
                config.search_alg.on_trial_result(name, result)

            self._report = report
            try:
                with own_variables():
                    trainable(suggestion)
            except KeyboardInterrupt as end:
                if end.args != (stopped,):  # as Ray does it on Ctrl-C: it returns
                    return
            config.search_alg.on_trial_complete(f"id-{number}", messages[-1])
            number += 1

    def _send(self, result: dict[str, Any]) -> None:
        self._report(result)


class _Task:
    """A remote function of Ray, that runs when its result is asked for."""

    def __init__(self, function: Callable[..., Any]):
        self._function = function

    def options(self, **words: Any) -> _Task:
        return self

    def remote(self, *words: Any) -> Callable[[], Any]:
        def run_now() -> Any:
            with own_variables():
                return self._function(*words)

        return run_now


def own_variables() -> AbstractContextManager[Any]:
    """What runs in a process of its own elsewhere leaves no variables behind here."""
    return mock.patch.dict(os.environ)


class NoMlflow:
    uri = "none"

    def check(self) -> None: ...

    def holds(self, key: str) -> bool:
        return True

    def apply(self, entry: dict[str, Any]) -> None: ...


def launched(out: Path, **changes: Any) -> tuple[str, optuna.Study]:
    """Launch for real, but for Ray and the method; why it ended, and its study."""
    sweep = sweep_of(**{"base": TINY, "study": "journal", **changes})
    why = launch(sweep, out, None, lambda *_: None)
    return why, load_study(out / "s", load_launched(out / "s"))
