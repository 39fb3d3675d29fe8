"""Answers a replay from a landscape: what was measured, and in between what one of two unlike models says of it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from landscape import FOLDER, POOLS, Landscape, read
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.model_selection import GroupKFold

from tune.columns import Space
from tune.needs import affecting
from tune.replay import PROFILES, StagePlan, fit
from tune.sweep_file import Sweep, load_sweep

MODELS = ("trees", "process")
JUDGES = 64  # images that choose
FOLDS = 8
LENGTH, WAVES = 0.4, 64  # of what the masks' settings change from refinement to refinement


@lru_cache
def landscape_of(name: str) -> Landscape:
    """Read once."""
    return read(name)


def sweep_of(name: str, changes: Mapping[str, Any]) -> Sweep:
    """The landscape's sweep with changes."""
    return load_sweep(FOLDER / f"{name}.yaml", changes)


class Answers:
    """A tune.replay.Blackbox. Its images are drawn anew with every `draw`: JUDGES of the holdout pool choose, and what
    is reported is of those of the pool (with the network: and of the test images) that neither trained nor chose.

    Measured configurations are answered as they were measured. All others by a model of the measured ones, trees or a
    Gaussian process, and by a deviation, as large as the model is wrong about refinements that it has not seen: every
    training has one for itself, and every refinement one that changes smoothly with the settings of the masks, for of
    given heatmaps these are no matter of chance."""

    def __init__(self, name: str, sweep: Sweep, model: str, draw: int):
        self.name, self.sweep, self._model, self._draw = name, sweep, model, draw
        self._of = landscape_of(name)
        self._rows = [row for row in self._of.rows if row["seed"] == sweep.base_config().seed]
        numbers = [i for i, row in enumerate(self._of.rows) if row["seed"] == sweep.base_config().seed]
        self._space = Space(sweep)
        self._columns = {name: self._space.columns(keys) for name, keys in affecting(sweep).items()}
        pool = np.flatnonzero(self._of.pool == POOLS.index("holdout"))
        drawn = np.random.default_rng(draw).permutation(pool)
        self._judges, self._unseen = np.sort(drawn[:JUDGES]), np.sort(drawn[JUDGES:])
        points = np.array([self._space.row(row["parameters"]) for row in self._rows])
        self._x, self._groups = self._space.features(points), _groups(points[:, self._columns["refine"]])
        self._measured: dict[str, dict[bytes, np.ndarray]] = {}
        self._fitted: dict[str, tuple[Any, np.ndarray, np.ndarray]] = {}
        masks = np.stack([self._of.of_masks(images)[numbers] for images in (self._judges, self._unseen)], 1)
        self._learn("masks", points, self._x, masks, self._groups)
        if sweep.last_stage == "segment":
            # the test images come behind the holdout pool among those that networks were shown
            shown = np.concatenate([self._unseen, len(pool) + np.arange(self._of.sizes["test"])])
            own = [at for at, number in enumerate(numbers) if number in self._of.networks]
            networks = [[self._of.of_network(numbers[at], images) for images in (self._judges, shown)] for at in own]
            x = np.concatenate([self._x[own], masks[own] / 100], 1)
            self._learn("segment", points[own], x, np.array(networks), np.arange(len(own)))
        if sweep.early_stopping.name != "none":
            self._learn_cams(points, numbers)

    def _learn_cams(self, points: np.ndarray, numbers: list[int]) -> None:
        for stage in ("match", "refine", "heatmaps"):
            distinct = {self._key(stage, point): at for at, point in reversed([*enumerate(points)])}
            at = [i for i in distinct.values() if stage != "heatmaps" or self._rows[i]["late"] == 0]
            if stage == "heatmaps":
                scores = [float(self._of.at_scores(numbers[i], self._judges).max()) for i in at]
            else:  # of all images of the pool
                scores = [self._rows[i]["milestones"][stage] for i in at]
            self._learn(
                stage, points[at], self._own(stage, points[at]), np.array([scores, scores]).T, np.arange(len(at))
            )

    def _learn(self, stage: str, points: np.ndarray, x: np.ndarray, y: np.ndarray, groups: np.ndarray) -> None:
        self._measured[stage] = {self._key(stage, point): of for point, of in zip(points, y, strict=True)}
        noise = _noise(self.name, stage, self._model, x, y, groups)
        self._fitted[stage] = (_fit(self.name, stage, self._model, x, y), *noise)

    def _key(self, stage: str, row: np.ndarray) -> bytes:
        return row[self._columns[stage]].tobytes()

    def _own(self, stage: str, points: np.ndarray) -> np.ndarray:
        return self._space.unit(points)[:, self._columns[stage]]

    def stage_seconds(self, profile: str) -> dict[str, float]:
        """Median CPU seconds of every stage, those of masks and heatmaps for as many images as choose; or those of a
        profile of tune.replay."""
        if PROFILES[profile]:
            return PROFILES[profile]
        taken: dict[str, list[float]] = {}
        for row in self._rows:
            for stage, seconds in row["seconds"].items():
                taken.setdefault(stage, []).append(seconds)
        share = {stage: JUDGES / self._of.sizes["holdout"] for stage in ("heatmaps", "masks")}
        return {stage: float(np.median(of)) * share.get(stage, 1.0) for stage, of in taken.items()}

    def plan(self, parameters: dict[str, Any], seconds: dict[str, float], last: str) -> list[StagePlan]:
        """The stages of a trial that are judged, in order; the images that are only reported cost nothing here."""
        row = self._space.row(parameters)
        names = [name for name in self._columns if not name.startswith(("measured_", "rest_"))]
        scores = self._scores(row)
        return [
            StagePlan(name, self._key(name, row), seconds[name], scores.get(name))
            for name in names[: names.index(last) + 1]
        ]

    def _scores(self, row: np.ndarray) -> dict[str, list[float]]:
        found: dict[str, list[float]] = {}
        for stage in self._fitted:
            known = self._measured[stage].get(self._key(stage, row))
            if known is None:
                x = self._space.features(row[None]) if stage in ("masks", "segment") else self._own(stage, row[None])
                if stage == "segment":
                    x = np.concatenate([x, np.array([found["masks"]]) / 100], 1)
                model, of_groups, of_points = self._fitted[stage]
                known = model.predict(x)[0]
                own = self._smooth(row) if stage == "masks" else self._drawn(stage, row).standard_normal(2)
                known = known + of_groups @ self._drawn("refine", row).standard_normal(2) + of_points @ own
            found[stage] = np.clip(known, 0, 100).tolist()
        if "masks" in found:
            found.setdefault("classify", [0.0, 0.0])
        return found

    def _drawn(self, stage: str, row: np.ndarray) -> np.random.Generator:
        """Draws the same whenever this result is asked for."""
        content = b"".join([self._draw.to_bytes(4, "big"), stage.encode(), self._key(stage, row)])
        return np.random.default_rng(int.from_bytes(hashlib.sha256(content).digest()[:8], "big"))

    def _smooth(self, row: np.ndarray) -> np.ndarray:
        """Two functions of the masks' own settings, drawn for a refinement from a process of variance 1 and length
        LENGTH, by random Fourier features (Rahimi and Recht, 2007)."""
        rng = self._drawn("refine", row)
        rng.standard_normal(2)  # its own deviation
        own = [column for column in self._columns["masks"] if column not in self._columns["refine"]]
        waves = rng.standard_normal((WAVES, len(own))) / LENGTH @ self._space.unit(row[None])[0, own]
        phases, weights = rng.uniform(0, 2 * np.pi, WAVES), rng.standard_normal((2, WAVES))
        return np.asarray(weights @ np.cos(waves + phases)) * np.sqrt(2 / WAVES)


def _groups(prefixes: np.ndarray) -> np.ndarray:
    """The same number for the same prefix."""
    return np.unique(prefixes, axis=0, return_inverse=True)[1].ravel()


_LEARNED: dict[tuple[str, str], Any] = {}


def _fit(name: str, stage: str, model: str, x: np.ndarray, y: np.ndarray) -> Any:
    """A model for x (n, d) -> y (n, 2). A process learns its scales for a landscape once."""
    if model == "trees":
        return ExtraTreesRegressor(200, min_samples_leaf=2, random_state=0).fit(x, y)
    process = fit(x, y, _LEARNED.get((name, stage)))
    _LEARNED[name, stage] = {"theta": process.kernel_.theta}
    return process


_NOISE: dict[tuple[str, str, str], tuple[np.ndarray, np.ndarray]] = {}


def _noise(
    name: str, stage: str, model: str, x: np.ndarray, y: np.ndarray, groups: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """How wrong a model is about groups of points that it has not seen: for the two scores, square roots of the
    covariances of what the points of a group share, and of what each has for itself."""
    if (name, stage, model) in _NOISE:
        return _NOISE[name, stage, model]
    rest = np.zeros_like(y)
    folds = GroupKFold(min(FOLDS, len(np.unique(groups))))
    for seen, left in folds.split(x, groups=groups):
        rest[left] = y[left] - _fit(name, stage, model, x[seen], y[seen]).predict(x[left])
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    means = np.array([rest[of].mean(0) for of in members])
    within = np.concatenate([rest[of] - rest[of].mean(0) for of in members])
    freedom = len(rest) - len(members)
    own = within.T @ within / freedom if freedom else np.zeros((2, 2))
    shared = means.T @ means / len(means) - own * float(np.mean([1 / len(of) for of in members]))
    if not freedom:
        own, shared = shared, own
    _NOISE[name, stage, model] = _root(shared), _root(own)
    return _NOISE[name, stage, model]


def _root(covariance: np.ndarray) -> np.ndarray:
    """The symmetric square root; what is negative by chance counts as 0."""
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T)
