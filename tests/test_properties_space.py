"""What holds for every search space and every address, not only for those that somebody thought of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

import semples.secrets
from semples import strict_yaml
from semples.config import flatten, to_dict, with_changes
from semples.secrets import _parts, conceal, redact, reveal, secrets_of
from tune.columns import Space
from tune.searcher import StudySearcher
from tune.space import Dimension
from tune.sweep_file import Sweep, load_sweep, make_sweep
from tune.tracking import NullTracker
from tune.warm_start import prepare

MANY = settings(max_examples=30, deadline=None, derandomize=True)
# keys with numbers: base value, lowest and highest that the configuration allows
FLOATS = {"match.lambda_b": (1.0, 0.0, 50.0), "masks.background": (0.5, 0.0, 1.0), "classify.lr": (2e-3, 1e-9, 1.0)}
INTS = {"match.epochs": (3, 1, 900), "prompts.epochs": (10, 1, 900), "segment.epochs": (20, 1, 90)}
CHOICES: dict[str, tuple[Any, ...]] = {
    "prompts.init": ("uniform", "normal", "word"), "segment.test.flip": (True, False),
    "masks.crf.iterations": (10, 0, 3), "match.mask_eps": (0.01, 0.02, 0.5),
}  # fmt: skip


@st.composite
def dimensions(draw: st.DrawFn, key: str) -> dict[str, Any]:
    """A dimension of that key that includes its base value."""
    if key in CHOICES:
        others = draw(st.lists(st.sampled_from(CHOICES[key][1:]), unique=True, min_size=1))
        return {"choice": draw(st.permutations([CHOICES[key][0], *others]))}
    if key in INTS:
        base, least, most = INTS[key]
        step = draw(st.integers(1, 5))
        low = base - step * draw(st.integers(0, min(3, (base - least) // step)))
        high = base + step * draw(st.integers(1, 6))
        log = step == 1 and draw(st.booleans())
        return {"int": [low, min(high, most) if step == 1 else high], **({"log": True} if log else {})} | (
            {"step": step} if step > 1 else {}
        )
    base, least, most = FLOATS[key]
    if draw(st.booleans()):
        step = draw(st.sampled_from([0.001, 0.05, 0.125])) if base > 0.1 else 0.0005
        low, high = base - step * draw(st.integers(0, 3)), base + step * draw(st.integers(1, 3))
        return {"float": [round(low, 9), round(high, 9)], "step": step}
    low = base * draw(st.floats(0.01, 1.0))
    high = min(most, base * draw(st.floats(1.01, 50.0)))
    return {"float": [low, high], "log": draw(st.booleans())}


@st.composite
def sweeps(draw: st.DrawFn) -> Sweep:
    names = draw(st.lists(st.sampled_from([*CHOICES, *FLOATS, *INTS]), unique=True, min_size=1, max_size=6))
    space: dict[str, Any] = {}
    for name in names:
        dimension = draw(dimensions(name))
        parents = [key for key, above in space.items() if "choice" in above]
        if parents and draw(st.booleans()):
            dimension["when"] = {}
            for parent in draw(st.lists(st.sampled_from(parents), unique=True, min_size=1, max_size=2)):
                values = draw(st.lists(st.sampled_from(space[parent]["choice"]), unique=True, min_size=1))
                dimension["when"][parent] = values[0] if len(values) == 1 else values
        space[name] = dimension
    base = {key: CHOICES[key][0] for key in CHOICES} | {key: of[0] for key, of in (FLOATS | INTS).items()}
    tree = {"name": "s", "selection": "holdout", "objective": "seg_miou", "trials": 3, "base": base, "space": space}
    return make_sweep(tree)


def drawn(sweep: Sweep, seed: int, trials: int = 3) -> list[dict[str, Any]]:
    """Suggestions as a launch gives them."""
    sweep = sweep.changed(**{"sampler": "random", "seed": seed, "trials": None, "budget": 1.0})
    study = prepare(optuna.create_study(directions=sweep.directions), sweep)
    searcher = StudySearcher(study, sweep, NullTracker(), lambda number, parameters: "run", lambda *_: None)
    found = (searcher.suggest(str(i)) for i in range(trials))
    return [suggestion["parameters"] for suggestion in found if isinstance(suggestion, dict)]


@MANY
@given(sweeps())
def test_the_default_parameters_lie_in_the_space_and_give_the_base(sweep: Sweep) -> None:
    default = sweep.default_parameters()
    assert all(sweep.space[key].contains(value) for key, value in default.items())
    assert with_changes(sweep.base_config(), default, "test") == sweep.base_config()
    assert drawn(sweep, 0, 1) == [default]


@MANY
@given(sweeps(), st.integers(0, 1000))
def test_suggestions_lie_in_the_space_and_the_configuration_takes_them_as_they_are(sweep: Sweep, seed: int) -> None:
    for parameters in drawn(sweep, seed):
        flat = dict(flatten(to_dict(with_changes(sweep.base_config(), parameters, "test"))))
        for key, dimension in sweep.space.items():
            holds = all(parameters.get(of) in dimension.values_of(of) for of in dimension.when)
            active = holds and all(of in parameters for of in dimension.when)
            assert (key in parameters) == (active and key not in sweep.decided(parameters))
            if key not in parameters:
                assert flat[key] == sweep.base_values[key]
                continue
            value = parameters[key]
            assert flat[key] == value and isinstance(value, type(flat[key]))
            if dimension.choice:
                assert value in dimension.choice
                continue
            low, high = dimension.bounds
            assert low <= value <= high
            steps = (value - low) / (dimension.step or 1)
            assert abs(steps - round(steps)) < 1e-6 or not (dimension.step or dimension.int)


@MANY
@given(sweeps())
def test_a_space_goes_through_a_file(tmp_path_factory: pytest.TempPathFactory, sweep: Sweep) -> None:
    path = Path(tmp_path_factory.mktemp("sweep")) / "s.yaml"
    path.write_text(strict_yaml.dumps(sweep.model_dump(mode="json", exclude_none=True)))
    again = load_sweep(path)
    assert again.distributions() == sweep.distributions() and again.base_config() == sweep.base_config()
    assert list(again.space.items()) == list(sweep.space.items())


@MANY
@given(sweeps())
def test_a_space_has_the_scales_that_were_asked_for(sweep: Sweep) -> None:
    for key, distribution in sweep.distributions().items():
        dimension = sweep.space[key]
        if isinstance(distribution, CategoricalDistribution):
            assert distribution.choices == dimension.choice
            continue
        assert isinstance(distribution, IntDistribution if dimension.int else FloatDistribution)
        assert (distribution.low, distribution.high, distribution.log) == (*dimension.bounds, dimension.log)
        assert distribution.step == (dimension.step or (1 if dimension.int else None))


@MANY
@given(sweeps(), st.integers(0, 1000))
def test_points_go_to_the_unit_cube_and_back(sweep: Sweep, seed: int) -> None:
    space = Space(sweep)
    rows = space.settled(space.of_unit(np.random.default_rng(seed).random((40, len(space.names)))))
    unit = space.unit(rows)
    assert unit.min() >= 0 and unit.max() <= 1
    assert np.allclose(space.of_unit(unit), rows, rtol=1e-9, atol=1e-12)
    for row in rows:
        parameters = space.parameters(row)
        assert np.allclose(space.row(parameters), row, rtol=1e-12, atol=0)
        assert parameters == sweep.searched(parameters)
        assert all(sweep.space[key].contains(value) for key, value in parameters.items())


@MANY
@given(sweeps())
def test_the_corners_of_the_cube_are_the_ends_of_the_space(sweep: Sweep) -> None:
    space = Space(sweep)
    low, high = space.of_unit(np.array([[0.0] * len(space.names), [1.0] * len(space.names)]))
    for i, dimension in enumerate(sweep.space.values()):
        ends = (0, len(dimension.choice) - 1) if dimension.choice else dimension.bounds
        assert (low[i], high[i]) == pytest.approx(ends, rel=1e-9)


@MANY
@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 4))
def test_every_whole_number_has_the_same_share(low: int, count: int, step: int) -> None:
    ends = [low, low + step * count]
    tree = {"prompts.epochs": {"int": ends, "step": step}}
    sweep = make_sweep(
        {"name": "s", "selection": "holdout", "objective": "seg_miou", "trials": 1, "space": tree,
         "base": {"prompts.epochs": low}}
    )  # fmt: skip
    space = Space(sweep)
    fine = (np.arange(1000 * (count + 1)) + 0.5)[:, None] / (1000 * (count + 1))
    values, counts = np.unique(space.of_unit(fine), return_counts=True)
    assert values.tolist() == list(range(low, ends[1] + 1, step)) and np.ptp(counts) <= 2


@MANY
@given(st.floats(1e-6, 1.0), st.floats(1.5, 1e6), st.floats(0, 1))
def test_a_log_scale_has_equal_factors(low: float, factor: float, share: float) -> None:
    tree = {"classify.lr": {"float": [low, low * factor], "log": True}}
    sweep = make_sweep(
        {"name": "s", "selection": "holdout", "objective": "seg_miou", "trials": 1, "space": tree,
         "base": {"classify.lr": low}}
    )  # fmt: skip
    assert Space(sweep).of_unit(np.array([[share]]))[0, 0] == pytest.approx(low * factor**share, rel=1e-6)


@MANY
@given(dimensions("prompts.epochs") | dimensions("match.lambda_b") | dimensions("prompts.init"))
def test_what_is_probed_lies_in_the_dimension(tree: dict[str, Any]) -> None:
    dimension = Dimension.model_validate(tree)
    assert all(dimension.contains(value) for value in dimension.probe_values)
    assert {dimension.bounds[0], dimension.bounds[-1]} <= {*dimension.probe_values}
    if not dimension.choice:
        low, high = dimension.bounds
        assert not dimension.contains(low - 1) and not dimension.contains(high + 1)


@MANY
@given(dimensions("prompts.epochs") | dimensions("match.lambda_b") | dimensions("prompts.init"), st.integers(0, 99))
@example({"int": [1, 8], "log": True}, 0)
@example({"float": [1.0, 8.0], "log": True}, 0)
def test_what_is_suggested_is_of_the_dimension(tree: dict[str, Any], seed: int) -> None:
    dimension = Dimension.model_validate(tree)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed))
    trial = study.ask()
    dimension.suggest(trial, "key")
    assert trial.distributions == {"key": dimension.distribution()} and dimension.contains(trial.params["key"])


def test_a_dimension_contains_what_it_can_give_and_nothing_else() -> None:
    whole, even = Dimension(int=(1, 8)), Dimension(int=(2, 8), step=2)
    tenths, free = Dimension(float=(0.1, 0.5), step=0.1), Dimension(float=(0.1, 0.5))
    words = Dimension(choice=("word", "normal"))
    cases: list[tuple[Dimension, tuple[Any, ...], tuple[Any, ...]]] = [
        (whole, (1, 5, 8), (0, 9, 2.5, True, "4", None)),
        (even, (2, 4, 8), (3, 1, 10)),
        (tenths, (0.1, 0.1 + 0.2, 0.5), (0.25, 0.0, 0.6)),
        (free, (0.1, 0.123, 0.5), (0.09, 0.51, "0.2")),
        (words, ("word", "normal"), ("words", 1)),
    ]
    for dimension, values, others in cases:
        assert all(map(dimension.contains, values)) and not any(map(dimension.contains, others)), dimension


WORD = st.text("abcXYZ019-_.~", min_size=1, max_size=12)
SECRET = st.text("abcXYZ019-_.~!$*+:@", min_size=6, max_size=20).map(lambda text: f"Q{text}Q")  # no part of a word


@st.composite
def addresses(draw: st.DrawFn) -> tuple[str, list[str]]:
    """A URL and the secrets in it."""
    scheme, host, user = draw(st.sampled_from(["postgresql", "http", "s3", "sftp+x"])), draw(WORD), draw(WORD)
    password, token = draw(SECRET), draw(SECRET)
    secrets = []
    at = draw(st.sampled_from(["", f"{user}@", f"{user}:{password}@"]))
    if password in at:
        secrets.append(password)
    port = draw(st.sampled_from(["", ":5000"]))
    words = [f"x={draw(WORD)}"]
    if draw(st.booleans()):
        words.append(f"{draw(st.sampled_from(['password', 'token', 'sig', 'secret_key', 'apiKey']))}={token}")
        secrets.append(token)
    query = draw(st.sampled_from(["", f"?{'&'.join(draw(st.permutations(words)))}"]))
    secrets = [secret for secret in secrets if secret in at or secret in query]
    return f"{scheme}://{at}{host}{port}/{draw(WORD)}{query}", secrets


@settings(max_examples=50, deadline=None, derandomize=True)
@given(addresses())
def test_no_secret_of_an_address_is_shown_and_all_of_it_comes_back(address: tuple[str, list[str]]) -> None:
    url, secrets = address
    semples.secrets._whole.clear()  # what earlier addresses taught
    clean = conceal(url)
    assert reveal(clean, "study") == url and conceal(clean) == clean == redact(clean)
    assert _parts(clean)[1:] == ("", "")
    assert {*secrets} <= secrets_of(url) and not secrets_of(clean)
    shown = redact(f"cannot open '{url}': {' and '.join(secrets)} refused")
    for secret in secrets:
        assert secret not in shown and secret not in clean.partition("://")[2]
    if not secrets:
        assert clean == url and shown == f"cannot open '{url}':  refused"
    parts = url.partition("?")[0].replace(f":{secrets[0]}@", "@") if secrets else url
    assert clean.startswith(parts.partition("?")[0]), "host, user, port and path are as they were"
