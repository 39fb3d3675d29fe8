"""What a candidate costs, and that the suggestions know it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial
from scipy.integrate import quad
from scipy.stats import norm

from tune.columns import Space
from tune.cost_aware import CostAwareSampler, log_expected_improvement
from tune.costs import Costs
from tune.needs import affecting
from tune.records import compute_seconds, trial_record
from tune.replay import Table, replay
from tune.study import pareto_front
from tune.sweep_file import make_sweep
from tune.testing import JUDGED

SWEEP = make_sweep(
    {
        "name": "s", "selection": "holdout", "objective": "seg_miou", "trials": 9,
        "space": {
            "match.lambda_b": {"float": [0.25, 4], "log": True}, "prompts.count": {"int": [1, 4]},
            "prompts.init": {"choice": ["uniform", "normal", "word"]}, "masks.background": {"float": [0.3, 0.7]},
            "masks.band": {"float": [0, 0.2], "step": 0.1, "when": {"prompts.init": "word"}},
        },
    }
)  # fmt: skip
SECONDS = {
    "classify": 5.0,
    "match": 20.0,
    "prompts": 4.0,
    "refine": 20.0,
    "heatmaps": 2.0,
    "masks": 3.0,
    "segment": 30.0,
}


def ended(
    state: TrialState = TrialState.COMPLETE, last: str = "segment", **parameters: Any
) -> optuna.trial.FrozenTrial:
    given = SWEEP.searched({**SWEEP.default_parameters(), **{k.replace("__", "."): v for k, v in parameters.items()}})
    passed = list(SECONDS)[: list(SECONDS).index(last) + 1]
    stages = {name: {"seconds": SECONDS[name], "reused": False, "score": 40.0} for name in passed}
    distributions = {key: d for key, d in SWEEP.distributions().items() if key in given}
    value = 50.0 if state == TrialState.COMPLETE else None
    return create_trial(
        state=state, params=given, distributions=distributions, value=value, user_attrs={"stages": stages}
    )


def test_a_key_affects_its_stage_and_all_that_come_of_it() -> None:
    early = ("match.lambda_b", "prompts.count", "prompts.init")
    assert affecting(SWEEP) == {
        **{f"{of}_heatmaps": early for of in ("measured", "rest")},
        **{f"{of}_masks": (*early, "masks.background", "masks.band") for of in ("measured", "rest")},
        "classify": (),
        "match": ("match.lambda_b",),
        "prompts": early,
        "refine": early,
        "heatmaps": early,
        "masks": (*early, "masks.background", "masks.band"),
        "segment": (*early, "masks.background", "masks.band"),
    }
    pseudo = SWEEP.changed(**{"objective": ("pseudo_miou",)})
    assert list(affecting(pseudo)) == list(JUDGED)


def test_a_candidate_costs_what_is_not_stored() -> None:
    space = Space(SWEEP)
    costs = Costs(space, affecting(SWEEP), [ended(), ended(TrialState.PRUNED, "match", match__lambda_b=2.0)])
    candidates = [
        {},
        {"masks.background": 0.4},
        {"prompts.count": 2},
        {"match.lambda_b": 2.0},
        {"match.lambda_b": 3.0},
    ]
    rows = np.array([space.row({**SWEEP.default_parameters(), **changes}) for changes in candidates])
    assert costs.remaining(rows).tolist() == [0.0, 33.0, 59.0, 59.0, 79.0]
    assert costs.stopped(rows).tolist() == [False, False, False, True, False]


def test_one_loaded_node_does_not_make_a_stage_dear() -> None:
    trials = [ended(match__lambda_b=float(weight)) for weight in (1, 2, 3)]
    trials[1].user_attrs["stages"]["match"]["seconds"] = 1000.0
    costs = Costs(Space(SWEEP), affecting(SWEEP), trials)
    assert costs.seconds("match") == 20.0 and costs.whole == sum(SECONDS.values())


def test_rows_go_to_the_unit_cube_and_back() -> None:
    space = Space(SWEEP)
    rows = space.settled(space.of_unit(np.random.default_rng(0).random((500, 5))))
    assert np.allclose(space.settled(space.of_unit(space.unit(rows))), rows)
    lambda_b, count, init, background, band = rows.T
    assert lambda_b.min() >= 0.25 and lambda_b.max() <= 4 and np.median(lambda_b) == pytest.approx(1, rel=0.2)
    assert np.bincount(count.astype(int)).tolist()[1:] == pytest.approx([125] * 4, rel=0.3)
    assert set(init) == {0, 1, 2} and background.min() >= 0.3 and background.max() <= 0.7
    # searched with "word" only, in steps; else its base value
    assert set(band[init != 2]) == {0.0} and {round(value, 9) for value in band[init == 2]} == {0.0, 0.1, 0.2}
    assert "masks.band" not in space.parameters(rows[init != 2][0])


@pytest.mark.parametrize("z", [-30.0, -10.5, -9.5, -3.0, -0.1, 0.0, 0.1, 2.0, 8.0])
def test_the_expected_improvement_is_that_of_a_normal_variable(z: float) -> None:
    shifted = quad(lambda t: t * math.exp(-t * t / 2 + t * z), 0, np.inf)[0]  # E max(0, z + N), without exp(-z^2 / 2)
    expected = math.log(shifted) + norm.logpdf(z)
    assert log_expected_improvement(np.array([z]))[0] == pytest.approx(expected, abs=0.03 if z < -10 else 1e-6)


def suggest(trials: list[FrozenTrial], seed: int) -> dict[str, Any]:
    study = optuna.create_study(direction="maximize", sampler=CostAwareSampler(SWEEP, seed))
    study.add_trials(trials)
    trial = study.ask()
    for key, dimension in SWEEP.space.items():
        if dimension.is_active(trial.params):
            trial._suggest(key, SWEEP.distributions()[key])
    return trial.params


def test_a_result_at_which_a_trial_was_stopped_is_not_suggested_again() -> None:
    stopped = [ended(TrialState.PRUNED, "refine", prompts__count=2, masks__background=0.3 + i / 50) for i in range(6)]
    complete = [ended(masks__background=0.4 + i / 50) for i in range(6)]
    for seed in range(10):
        got = suggest([*complete, *stopped], seed)
        early = (got["match.lambda_b"], got["prompts.count"], got["prompts.init"])
        assert early != (1.0, 2, "uniform")


def test_a_result_is_not_avoided_because_a_network_was_stopped() -> None:
    """What it trained with may have been the reason."""
    known = ended(TrialState.PRUNED, "masks")
    within = create_trial(
        state=TrialState.PRUNED, params=known.params, distributions=known.distributions,
        user_attrs={**known.user_attrs, "epochs": {"segment": {"1": 30.0}}},
    )  # fmt: skip
    space = Space(SWEEP)
    for trial, avoided in ((known, True), (within, False)):
        costs = Costs(space, affecting(SWEEP), [trial])
        assert costs.stopped(space.rows([known])).tolist() == [avoided]


def test_cheap_variations_come_in_bursts_between_new_prefixes() -> None:
    table = Table()
    sweep = table.sweep.changed(**{"trials": 60, "sampler": "cost-aware", "early_stopping": "none"})
    done = replay(sweep.changed(**{"objective": ("pseudo_miou",)}), table)
    trials = done.study.get_trials(deepcopy=False)
    new = [not trial_record(t).stages["heatmaps"].reused for t in trials]
    assert 8 <= sum(new) <= 40
    # a burst never costs more than a new prefix and one variation
    cost = sum(table.seconds[name] for name in ("match", "prompts", "refine", "heatmaps", "masks"))
    burst = 0.0
    for trial, fresh in zip(trials, new, strict=True):
        computed = compute_seconds([trial_record(trial)])[0]
        burst = 0.0 if fresh else burst + computed
        assert burst < 1.5 * cost


def test_it_needs_a_fraction_of_the_compute_of_an_ordinary_search() -> None:
    table = Table()
    seconds: dict[str, list[float]] = {"cost-aware": [], "tpe": []}
    for sampler, found in seconds.items():
        for seed in range(3):
            changes = {"sampler": sampler, "seed": seed, "trials": 150, "objective": ("pseudo_miou",)}
            sweep = table.sweep.changed(**{"early_stopping": "none", **changes})
            enough = lambda end: bool(end.values) and end.values[0] >= 60.0  # noqa: E731
            found.append(replay(sweep, table, reuse=sampler == "cost-aware", enough=enough).ends[-1].spent)
    assert np.median(seconds["cost-aware"]) < np.median(seconds["tpe"]) / 2


def test_several_objectives_find_more_than_one_compromise() -> None:
    table = Table()
    objective = ("pseudo_miou", "seg_miou")
    sweep = table.sweep.changed(**{"trials": 40, "objective": objective, "sampler": "cost-aware"})
    found = np.array([trial.values for trial in pareto_front(replay(sweep, table).study, sweep)])
    assert len(found) > 1  # each better than the others in one of the two
    assert (np.diff(found[found[:, 0].argsort()], axis=0) * [1, -1] > 0).all()


def test_variations_of_a_prefix_keep_it_and_no_more() -> None:
    sampler, space = CostAwareSampler(SWEEP, 0), Space(SWEEP)
    leader = space.row({**SWEEP.default_parameters(), "prompts.init": "word", "masks.band": 0.2})
    kept = tuple(space.names.index(key) for key in ("match.lambda_b", "prompts.count", "prompts.init"))
    rows = sampler._variations(leader[None].repeat(8, 0), kept)
    assert (rows[:, list(kept)] == leader[list(kept)]).all()
    band = rows[:, space.names.index("masks.band")]
    assert set(np.round(band, 9)) == {0.0, 0.1, 0.2}  # the parent is kept, so it stays searched
    freed = sampler._variations(leader[None].repeat(8, 0), kept[:2])
    assert (freed == space.settled(freed.copy())).all()


def test_a_trial_that_was_lost_says_nothing_of_its_parameters() -> None:
    """One that failed does: as little as the worst."""

    def failed(state: str, background: float) -> FrozenTrial:
        trial = ended(TrialState.FAIL, "masks", masks__background=background)
        trial.set_user_attr("state", state)
        return trial

    study = optuna.create_study(direction="maximize")
    study.add_trials([ended(), ended(masks__background=0.4), failed("LOST", 0.6), failed("FAILED", 0.7)])
    sampler, trials = CostAwareSampler(SWEEP, 0), study.get_trials()
    rows, values = sampler._observations(trials)
    background = Space(SWEEP).names.index("masks.background")
    assert rows[:, background].tolist() == [0.5, 0.4, 0.7] and values.tolist() == [50.0, 50.0, 50.0]


def test_a_stage_costs_what_it_did_with_such_parameters() -> None:
    """`prompts.count` makes its stage three times as dear from end to end; the weight of `match` changes nothing."""
    rng = np.random.default_rng(0)
    trials = []
    for i in range(16):
        trials.append(ended(prompts__count=1 + i % 4, match__lambda_b=float(rng.uniform(0.25, 4))))
        trials[-1].user_attrs["stages"]["prompts"]["seconds"] = 4.0 * 3 ** (i % 4 / 3) * rng.uniform(0.95, 1.05)
    space = Space(SWEEP)
    costs = Costs(space, affecting(SWEEP), trials)
    asked = [{"prompts.count": count, "match.lambda_b": 0.7} for count in (1, 4)]
    rows = np.array([space.row({**SWEEP.default_parameters(), **changes}) for changes in asked])
    cheap, dear = costs.remaining(rows) - sum(SECONDS.values()) + SECONDS["classify"] + SECONDS["prompts"]
    assert cheap == pytest.approx(4.0, abs=1.0) and dear == pytest.approx(12.0, abs=1.5)
    few = Costs(space, affecting(SWEEP), trials[:5])
    assert few.remaining(rows)[0] == few.remaining(rows)[1]
