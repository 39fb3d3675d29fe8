"""What `import tune` offers: a sweep launched from Python, and what came of one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna

from semples.config import Config
from semples.errors import UserError
from semples.run_folder import read_run
from tune.environment import quiet, variables
from tune.messages import RunCallback, TrialCallback
from tune.places import trial_folder
from tune.records import reported_later, trial_record
from tune.study import load_study, pareto_front, ranked
from tune.sweep_file import Sweep, find_sweep_file, load_sweep, parse_sweep
from tune.sweep_folder import best_figures, load_launched, without_secrets

if TYPE_CHECKING:
    import pandas as pd

    from tune.verdict import Verdict


@dataclass(frozen=True)
class SweepResults:
    """A sweep, as it was launched, and its trials until now.

    folder: where it is. study: the Optuna study, for reading. ended: why the launch that gave these results ended, ""
    where it was interrupted or where they were only loaded.
    """

    folder: Path
    sweep: Sweep
    study: optuna.Study
    ended: str = ""

    @property
    def trials(self) -> pd.DataFrame:
        """One row a trial, by its number: state, reason, the objectives (`objective/NAME`), the metrics of the whole
        run (mIoU in percent), usage_seconds, usage_gpu_gb, duplicate_of, and the searched keys by name."""
        import pandas as pd  # noqa: PLC0415 - takes half a second

        rows, later = [], reported_later(self.study)
        for trial in self.study.get_trials(deepcopy=False):
            record = trial_record(trial, later)
            row: dict[str, Any] = {"state": record.state.value, "reason": record.reason}
            if record.metrics:
                row |= self.sweep.by_objective(trial.values) | record.metrics
            if record.usage:
                row |= {"usage_seconds": record.usage.seconds, "usage_gpu_gb": record.usage.gpu_gb}
            rows.append(row | {"duplicate_of": record.duplicate_of} | trial.params)
        return pd.DataFrame(rows, index=pd.RangeIndex(len(rows), name="trial"))

    @property
    def best(self) -> Config:
        """The configuration of the best trial. Raises UserError where none is complete."""
        for trial in ranked(self.study, self.sweep):
            return read_run(trial_folder(self.folder, trial.number))[0]
        raise UserError(f"{self.folder}: no trial is complete yet")

    @property
    def pareto_front(self) -> list[Config]:
        """The configurations that no other beats in all objectives; with one objective the best."""
        front = pareto_front(self.study, self.sweep)
        return [read_run(trial_folder(self.folder, trial.number))[0] for trial in front]

    @property
    def verdict(self) -> Verdict | None:
        """Which finalist is better than the default over seeds, if any; None where none were compared yet."""
        from tune.verdict import has_record, read_verdict  # noqa: PLC0415 - takes half a second

        return read_verdict(self.folder) if has_record(self.folder) else None

    @property
    def figures(self) -> dict[str, float]:
        """Objectives and reported mIoUs of the best trial, as `best_NAME`; empty where none is complete."""
        return best_figures(self.study, self.sweep)


def load(folder: str | Path) -> SweepResults:
    """What is known of the sweep in a folder; it may be running. Nothing is changed there. Raises UserError where there
    is none, or a damaged one."""
    folder = Path(folder).expanduser().resolve()
    sweep = load_launched(folder)
    return SweepResults(folder, sweep, load_study(folder, sweep))


def launch(
    sweep: str | Path | Mapping[str, Any] | Sweep,
    changes: Mapping[str, Any] = {},
    *,
    out: str | Path = "sweeps",
    address: str | None = None,
    on_event: TrialCallback = lambda number, event: None,
    on_run: RunCallback = lambda finalist, seed, problem: None,
) -> SweepResults:
    """Run a sweep, or go on with it: what `semples-tune launch` does; finished trials are never repeated.

    sweep: a sweep file, the name of one of the package (scenes, voc, ...), the content of one, or a Sweep. changes:
    keys of the sweep file (trials, resources.gpu) or of the configuration that every trial starts from
    (segment.epochs). out: the folder of sweeps. address: of a Ray cluster, HOST:PORT or auto; without one Ray is
    started on this machine. on_event: called with the number of a trial and what happened to it, see tune.messages.
    on_run: called when a run of the confirmation has ended, with the finalist, the seed, and what went wrong or "".

    It may run in any thread; only in the main one it ends in order on SIGTERM and Ctrl-C, and then gives what there is
    so far, with `ended` = "". Raises UserError for what its user can put right.
    """
    if isinstance(sweep, Sweep):
        if changes:
            raise UserError("changes belong to a sweep file; change a Sweep by its method `changed`")
        spec = sweep
    elif isinstance(sweep, Mapping):
        spec = parse_sweep(sweep, "sweep", changes)
    else:
        spec = load_sweep(find_sweep_file(str(sweep)), changes)
    folder = Path(out).expanduser()
    with variables():
        from tune.driver import launch as drive  # noqa: PLC0415 - Ray and MLflow read the variables

        with quiet():
            ended = drive(without_secrets(spec), folder, address, on_event, on_run)
    return replace(load(folder / spec.name), ended=ended)
