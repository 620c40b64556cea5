"""The Poisson sampler: every patient by a coin of its own, in every step anew.

Each statistical test states its false alarm: it accepts at p > 1e-20, so that over all of them
one in 10^18 runs fails by chance. Each has a positive control, a sampler with the fault that the
test is for, which it must reject at p < 1e-20.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from fedcohort.privacy.sampling import poisson_sample

Sampler = Callable[[int, float], NDArray[np.bool_]]
PATIENTS, STEPS, Q = 60, 4000, 0.1
ALARM = 1e-20


def draws(sampler: Sampler) -> NDArray[np.bool_]:
    """Return who was drawn in each of many steps, bool [STEPS, PATIENTS]."""
    return np.array([sampler(PATIENTS, Q) for _ in range(STEPS)])


@pytest.fixture(scope="module")
def drawn() -> NDArray[np.bool_]:
    return draws(poisson_sample)


# ---- samplers with a fault


def often(patients: int, probability: float) -> NDArray[np.bool_]:
    return poisson_sample(patients, 1.3 * probability)


def of_fixed_size(patients: int, probability: float) -> NDArray[np.bool_]:
    chosen = np.random.default_rng().permutation(patients)[: round(patients * probability)]
    return np.isin(np.arange(patients), chosen)


def in_couples(patients: int, probability: float) -> NDArray[np.bool_]:
    return np.repeat(poisson_sample(patients // 2, probability), 2)


class ByEpochs:
    """Shuffle, then deal out: everybody once in every ten steps."""

    def __init__(self) -> None:
        self._left: list[int] = []

    def __call__(self, patients: int, probability: float) -> NDArray[np.bool_]:
        if not self._left:
            self._left = list(np.random.default_rng().permutation(patients))
        batch, self._left = self._left[:6], self._left[6:]
        return np.isin(np.arange(patients), batch)


# ---- what is tested, as p-values


def by_frequency(found: NDArray[np.bool_]) -> float:
    """Chi-squared over patients: how often each was drawn against steps times q."""
    counts = found.sum(axis=0)
    square = ((counts - STEPS * Q) ** 2 / (STEPS * Q * (1 - Q))).sum()
    return float(stats.chi2.sf(square, PATIENTS))


def by_pairs(found: NDArray[np.bool_]) -> float:
    """The largest correlation of two patients, times the number of pairs (Bonferroni)."""
    centred = found - Q
    scores = centred.T @ centred / np.sqrt(STEPS) / (Q * (1 - Q))
    largest = np.abs(scores[np.triu_indices(PATIENTS, 1)]).max()
    return min(1.0, float(PATIENTS * (PATIENTS - 1) * stats.norm.sf(largest)))


def by_size(found: NDArray[np.bool_]) -> float:
    """The variance of the number drawn against N q (1 - q), on both sides."""
    sizes = found.sum(axis=1)
    square = ((sizes - PATIENTS * Q) ** 2).sum() / (PATIENTS * Q * (1 - Q))
    return 2 * float(min(stats.chi2.sf(square, STEPS), stats.chi2.cdf(square, STEPS)))


def by_steps(found: NDArray[np.bool_]) -> float:
    """Whether being drawn in one step tells of the next nine."""
    centred = found - Q
    scores = [
        (centred[lag:] * centred[:-lag]).sum() / np.sqrt(PATIENTS * (STEPS - lag)) / (Q * (1 - Q))
        for lag in range(1, 10)
    ]
    return min(1.0, float(2 * 9 * stats.norm.sf(np.abs(scores).max())))


Score = Callable[[NDArray[np.bool_]], float]
TESTS: list[tuple[Score, Sampler]] = [
    (by_frequency, often),
    (by_pairs, in_couples),
    (by_size, of_fixed_size),
    (by_steps, ByEpochs()),
]


@pytest.mark.parametrize("score", [score for score, _ in TESTS])
def test_it_draws_as_often_and_as_independently_as_it_says(
    drawn: NDArray[np.bool_], score: Score
) -> None:
    assert score(drawn) > ALARM


@pytest.mark.parametrize(("score", "faulty"), TESTS)
def test_a_sampler_with_the_fault_is_noticed(score: Score, faulty: Sampler) -> None:
    assert score(draws(faulty)) < ALARM


def test_each_patient_is_drawn_within_a_few_standard_errors_of_q(drawn: NDArray[np.bool_]) -> None:
    # 7 standard errors on 60 patients: a false alarm in 10^9 runs.
    error = np.sqrt(Q * (1 - Q) / STEPS)
    assert np.abs(drawn.mean(axis=0) - Q).max() < 7 * error


def test_a_sample_of_nobody_is_a_sample() -> None:
    # Three patients at 5 %: nobody in 86 of 100 steps. Never mended to "at least one".
    empty = sum(not poisson_sample(3, 0.05).any() for _ in range(STEPS))
    assert stats.binomtest(empty, STEPS, 0.95**3).pvalue > ALARM
    mended = sum((poisson_sample(3, 0.05) | [True, False, False]).sum() == 0 for _ in range(STEPS))
    assert stats.binomtest(mended, STEPS, 0.95**3).pvalue < ALARM


def test_nobody_and_one_patient_are_drawn_from_like_many() -> None:
    assert poisson_sample(0, 0.3).shape == (0,)
    once = sum(bool(poisson_sample(1, 0.3)[0]) for _ in range(STEPS))
    assert stats.binomtest(once, STEPS, 0.3).pvalue > ALARM
    assert poisson_sample(7, 1.0).all()


def test_a_coin_is_compared_as_an_integer_and_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    winning = 2**61  # of 2^64, for one eighth
    words = np.array([0, winning - 1, winning, 2**64 - 1], dtype=np.uint64)
    asked = []

    def coins(size: int) -> bytes:
        asked.append(size)
        return words.tobytes()

    monkeypatch.setattr("fedcohort.privacy.sampling.os.urandom", coins)
    assert poisson_sample(4, 0.125).tolist() == [True, True, False, False]
    assert asked == [32]  # the operating system's, eight bytes a patient


def test_no_seed_of_a_library_makes_it_repeat() -> None:
    found = []
    for _ in range(2):
        np.random.seed(1)  # noqa: NPY002
        random.seed(1)
        found.append(poisson_sample(500, 0.5).tobytes())
    assert found[0] != found[1]  # by chance once in 2^500


@pytest.mark.parametrize("probability", [0.0, -0.1, 1.1, np.nan, np.inf, 1e-30])
def test_a_probability_that_is_none_is_refused(probability: float) -> None:
    with pytest.raises(ValueError, match="probability"):
        poisson_sample(3, probability)
    with pytest.raises(ValueError, match="patients"):
        poisson_sample(-1, 0.5)
