"""The process that a search learns from: its equations, and what it makes of luck and of beliefs."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import check_grad
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from tune import process
from tune.process import Points, Process, learn

LENGTHS = np.array([0.3, 0.8, 2.0])


def points(x: np.ndarray, *results: np.ndarray, beliefs: np.ndarray | None = None) -> Points:
    own = np.arange(len(x))
    return Points(x, np.stack([*results, own], 1), np.zeros((len(x), 0)) if beliefs is None else beliefs)


def drawn(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.random((n, 3))
    return x, np.sin(5 * x[:, 0]) + 0.5 * x[:, 1] + 0.1 * rng.standard_normal(n)


def theta(luck: float = 1e-9, noise: float = 0.01) -> np.ndarray:
    return np.log([1.5, *LENGTHS, luck, noise])


def test_without_luck_it_is_the_process_of_the_textbooks() -> None:
    x, y = drawn(30)
    own = Process(points(x[:20], np.arange(20)), y[:20], theta())
    mean, deviation = own.predict(points(x[20:], np.arange(20, 30)))
    kernel = ConstantKernel(1.5) * Matern(LENGTHS, nu=2.5) + WhiteKernel(0.01)
    other = GaussianProcessRegressor(kernel, optimizer=None).fit(x[:20], y[:20])
    expected, with_noise = other.predict(x[20:], return_std=True)
    assert mean == pytest.approx(expected, abs=1e-4)
    assert deviation == pytest.approx(np.sqrt(with_noise**2 - 0.01), abs=1e-3)


def test_the_search_for_its_scales_knows_where_it_falls(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = drawn(25)
    beliefs = np.random.default_rng(1).random((25, 2))
    seen = points(x, np.arange(25) // 5, beliefs=beliefs)
    losses = []
    monkeypatch.setattr(process, "minimize", lambda loss, start, **_: losses.append(loss) or type("", (), {"x": start}))
    learn(seen, y, None)
    at = theta(0.2, 0.1) + 0.1
    assert check_grad(lambda t: losses[0](t)[0], lambda t: losses[0](t)[1], at) < 1e-3


def test_it_learns_what_matters_and_how_much_noise_there_is() -> None:
    x, y = drawn(120)
    y = (y - y.mean()) / y.std()
    _, *lengths, luck, noise = np.exp(learn(points(x, np.arange(120) // 4), y, None))
    assert lengths[0] < lengths[1] < lengths[2]  # the last one does not matter at all
    assert noise < 0.1 and luck < 0.1


def test_few_observations_change_little() -> None:
    x, y = drawn(3)
    found = learn(points(x, np.arange(3)), (y - y.mean()) / y.std(), None)
    middle = np.array([process.AMPLITUDE[0], *[process.LENGTH[0]] * 3, *[process.LUCK[0]] * 2])
    assert np.abs(found - middle).max() < 1.0


def test_who_shares_a_result_shares_its_luck() -> None:
    """Two trials with the same refinement were better than all around them: a third one with it will be, too; one that
    refines anew with nearly the same parameters will not."""
    x = np.array([[0.2, 0.5, 0.5], [0.8, 0.5, 0.5], [0.5, 0.4, 0.5], [0.5, 0.6, 0.5]])
    y = np.array([-1.0, -1.0, 1.0, 1.0])
    seen = points(x, np.array([0, 1, 2, 2]))
    asked = Points(np.full((2, 3), 0.5), np.array([[2, 8], [3, 9]]), np.zeros((2, 0)))
    known = Process(seen, y, np.log([0.05, 3.0, 3.0, 3.0, 1.0, 0.01]))
    (same, anew), (sure, unsure) = known.predict(asked)
    assert same > 0.8 and abs(anew) < 0.3 and sure < 0.3 < unsure


def test_it_learns_how_much_is_luck() -> None:
    rng = np.random.default_rng(0)
    x, result = rng.random((120, 3)), np.repeat(np.arange(30), 4)
    y = rng.standard_normal(30)[result] + 0.1 * rng.standard_normal(120)
    amplitude, _, _, _, luck, noise = np.exp(learn(points(x, result), (y - y.mean()) / y.std(), None))
    assert luck > 5 * noise and luck > amplitude / 2


def test_a_belief_holds_until_trials_say_otherwise() -> None:
    x = np.linspace(0, 1, 9)[:, None].repeat(3, 1)
    beliefs = np.exp(-(((x[:, :1] - 0.5) / 0.1) ** 2) / 2)
    everywhere = points(x, np.arange(9), beliefs=beliefs)
    scales = np.log([0.1, 0.3, 0.3, 0.3, 1e-9, 0.01])
    before, _ = Process(everywhere[[0]], np.zeros(1), scales).predict(everywhere)
    assert before.argmax() == 4 and before[4] > 0.8
    tried, _ = Process(everywhere[[0, 4]], np.array([0.0, -1.0]), scales).predict(everywhere)
    assert tried[4] < -0.8 and tried.argmax() != 4


def test_a_belief_that_was_wrong_once_is_held_less_everywhere() -> None:
    """Of two trials with the believed value the second is far away in all other keys."""
    x = np.array([[0.0, 0.0, 0.0], [0.5, 0.0, 0.0], [0.5, 1.0, 1.0]])
    asked = points(x, np.arange(3), beliefs=np.array([[0.0], [1.0], [1.0]]))
    scales = np.log([0.1, 0.2, 0.2, 0.2, 1e-9, 0.01])
    before, _ = Process(asked[[0]], np.zeros(1), scales).predict(asked)
    after, deviation = Process(asked[[0, 1]], np.array([0.0, -1.0]), scales).predict(asked)
    assert before[2] == pytest.approx(1.0, abs=0.05) and after[2] < -0.5
    assert deviation[2] < 0.6, "it is known by now what the belief is worth"


def test_what_it_draws_is_what_it_predicts() -> None:
    x, y = drawn(12)
    known = Process(points(x[:8], np.arange(8) // 2), y[:8], theta(0.2))
    asked = Points(x[8:], np.array([[3, 20], [3, 21], [9, 22], [9, 23]]), np.zeros((4, 0)))
    mean, deviation = known.predict(asked)
    found = known.draw(asked, 20_000, np.random.default_rng(0))
    assert found.mean(0) == pytest.approx(mean, abs=0.03)
    assert found.std(0) == pytest.approx(deviation, rel=0.05)
    assert np.corrcoef(found.T)[2, 3] > 0.1  # they share what is not known yet
