"""The audit's statistics: right on Gaussians whose privacy is known, silent where nothing is seen.

Randomness is seeded: what fails once fails always.
"""

from __future__ import annotations

import math
from typing import Any

import dp_accounting
import numpy as np
import pytest
from dp_accounting.pld import PLDAccountant
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, nct

from fedcohort.privacy.audit import ASSUMPTIONS, Audit, audit, epsilon_of_mu
from fedcohort.privacy.audit import _clopper_pearson_upper as upper
from fedcohort.privacy.audit import _mu_of_scores as mu_of_scores

DELTA = 1e-5


def scores(mu: float, runs: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    return draw.normal(size=runs), draw.normal(mu, 1.0, size=runs)


def audited(mu: float, runs: int = 500, seed: int = 0, **options: Any) -> Audit:
    return audit(*scores(mu, runs, seed), delta=DELTA, **options)


# ---- mu to epsilon


@pytest.mark.parametrize("mu", [0.05, 0.2, 0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("delta", [1e-2, 1e-5, 1e-9])
def test_mu_costs_what_googles_accountant_says(mu: float, delta: float) -> None:
    accountant = PLDAccountant(dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE)
    accountant.compose(dp_accounting.GaussianDpEvent(1 / mu))
    theirs = accountant.get_epsilon(delta)  # rounded up on its grid of 1e-4
    assert theirs - 2e-3 < epsilon_of_mu(mu, delta) <= theirs + 1e-9


def test_the_table_of_the_literature() -> None:
    # One Gaussian of sigma 1, 3.7306 (epsilon 1), 1.3906 (3), at delta 1e-5: Balle & Wang 2018.
    for sigma, epsilon in ((1.0, 4.3772), (3.7306, 1.0), (1.3906, 3.0), (0.6002, 8.0)):
        assert epsilon_of_mu(1 / sigma, DELTA) == pytest.approx(epsilon, abs=6e-4)


@given(mu=st.floats(1e-3, 200), more=st.floats(1.01, 3), delta=st.floats(1e-12, 0.5))
def test_more_mu_and_less_delta_cost_more(mu: float, more: float, delta: float) -> None:
    assert epsilon_of_mu(mu * more, delta) >= epsilon_of_mu(mu, delta)
    assert epsilon_of_mu(mu, delta / 2) >= epsilon_of_mu(mu, delta)


def test_the_ends_of_mu() -> None:
    assert epsilon_of_mu(0.0, DELTA) == epsilon_of_mu(-3.0, DELTA) == 0.0
    assert epsilon_of_mu(1e-9, DELTA) == 0.0  # delta alone allows it
    assert epsilon_of_mu(math.inf, DELTA) == math.inf
    assert epsilon_of_mu(1000.0, DELTA) == pytest.approx(500_000, rel=0.01)
    for mu, delta in ((math.nan, DELTA), (1.0, 0.0), (1.0, 1.0), (1.0, math.nan)):
        with pytest.raises(ValueError, match="delta"):
            epsilon_of_mu(mu, delta)


# ---- the parts


def test_the_binomial_bound_is_clopper_and_pearsons() -> None:
    for seen, trials in ((0, 250), (1, 250), (125, 250), (249, 250), (250, 250)):
        theirs = binomtest(seen, trials).proportion_ci(0.95, method="exact").high
        assert upper(np.array([seen]), trials, 0.025)[0] == pytest.approx(theirs, rel=1e-9)


@pytest.mark.parametrize("runs", [500, 4000])
@pytest.mark.parametrize("estimate", [0.0, 0.3, 0.7, 1.4, 3.0])
@pytest.mark.parametrize("confidence", [0.95, 1 - 1e-6])
def test_the_bound_on_a_difference_is_the_noncentral_ts(
    runs: int, estimate: float, confidence: float
) -> None:
    half = np.tile([-1.0, 1.0], runs // 2) / math.sqrt(runs / (runs - 1))
    found = mu_of_scores(half, half + estimate, confidence)
    seen = estimate * math.sqrt(runs / 2)  # the t statistic
    # Were mu the bound, a t as large as this one would come with the missing confidence.
    missing = 1 - nct.cdf(seen, 2 * runs - 2, found * math.sqrt(runs / 2))
    # Far out the approximation errs more: one in a million becomes two at the worst.
    low, high = (0.99, 1.01) if confidence == 0.95 else (0.9, 2.0)
    assert low < missing / (1 - confidence) < high


# ---- the whole


@pytest.mark.parametrize("mu", [0.0, 0.25, 0.7, 2.0])
@pytest.mark.parametrize(("confidence", "most"), [(0.95, 40), (0.6, 209)])
def test_it_stays_below_the_truth_as_often_as_it_says(
    mu: float, confidence: float, most: int
) -> None:
    """400 audits: 20 or 160 above expected at the most, and 5 standard deviations are given.

    A threshold chosen on the runs that it is judged by would show at a confidence of 0.6.
    """
    truth = epsilon_of_mu(mu, DELTA)
    found = [audited(mu, runs=200, seed=seed, confidence=confidence) for seed in range(400)]
    for bound in ASSUMPTIONS:
        above = sum(audit.refutes(truth, bound) for audit in found)
        assert above <= most, bound
        if bound == "gaussian" and mu > 0.5:
            assert above >= most // 10  # it is no looser than it need be


def test_each_assumption_buys_sight_and_more_runs_do_too() -> None:
    truth = epsilon_of_mu(0.7, DELTA)
    for runs, least in ((500, 0.6), (4000, 0.85)):
        found = [audited(0.7, runs=runs, seed=seed) for seed in range(10)]
        means = [np.mean([getattr(audit, bound) for audit in found]) for bound in ASSUMPTIONS]
        assert 0 < means[0] < means[1] < means[2] < truth
        assert means[2] > least * truth


def test_twice_the_mu_of_the_claim_is_found_with_500_runs() -> None:
    claim = epsilon_of_mu(0.7, DELTA)
    found = [audited(1.4, seed=seed, confidence=1 - 1e-6) for seed in range(50)]
    assert all(audit.refutes(claim) for audit in found)


def test_scores_that_tell_nothing_or_the_wrong_way_give_zero() -> None:
    for mu in (0.0, -2.0):
        found = audited(mu, confidence=0.999)
        assert (found.clopper_pearson, found.gdp, found.gaussian) == (0.0, 0.0, 0.0)
    same = audit(np.zeros(50), np.zeros(50), delta=DELTA)
    assert (same.clopper_pearson, same.gdp, same.gaussian) == (0.0, 0.0, 0.0)


def test_scores_without_noise_are_told_apart_as_well_as_the_runs_allow() -> None:
    found = audit(np.zeros(500), np.ones(500), delta=DELTA)
    assert found.gaussian == math.inf
    # 250 runs without an error, 97.5 % each: an error rate of 1.5 % is not ruled out.
    rate = 1 - 0.025 ** (1 / 250)
    assert found.clopper_pearson == pytest.approx(math.log((1 - rate - DELTA) / rate))
    assert found.clopper_pearson < found.gdp < math.inf


def test_an_assumption_that_fails_is_what_the_first_bound_is_for() -> None:
    # Scores that are far out once in ten runs, with the canary or without, and else the same.
    draw = np.random.default_rng(1)
    without, with_canary = draw.normal(size=4000), draw.normal(size=4000)
    with_canary[draw.random(4000) < 0.1] += 50.0
    found = audit(without, with_canary, delta=DELTA)
    assert found.clopper_pearson > 2.5 > found.gaussian


@pytest.mark.parametrize(
    ("without", "present", "options"),
    [
        (np.zeros(19), np.zeros(50), {}),
        (np.zeros(50), np.zeros(19), {}),
        (np.zeros((50, 2)), np.zeros(50), {}),
        (np.append(np.zeros(50), math.nan), np.zeros(50), {}),
        (np.zeros(50), np.append(np.zeros(50), math.inf), {}),
        (np.zeros(50), np.zeros(50), {"delta": 0.0}),
        (np.zeros(50), np.zeros(50), {"delta": math.nan}),
        (np.zeros(50), np.zeros(50), {"confidence": 1.0}),
        (np.zeros(50), np.zeros(50), {"confidence": 0.5}),
    ],
)
def test_what_cannot_be_judged_is_refused(
    without: np.ndarray, present: np.ndarray, options: dict[str, float]
) -> None:
    with pytest.raises(ValueError, match=r"finite scores|out of range"):
        audit(without, present, **{"delta": DELTA, **options})


def test_every_number_is_told_with_what_it_assumes() -> None:
    told = str(audited(0.7))
    assert all(assumed in told for assumed in ASSUMPTIONS.values())
    assert "500 runs a side, 95% confidence, delta 1e-05" in told
    assert "one below it proves nothing" in told
