"""Integer noise on Poisson samples: nothing above continuous noise in RDP, a stated term in PLD."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from dp_accounting import rdp
from scipy import integrate, stats
from scipy.special import logsumexp

from fedcohort.experiments.guarantee import guarantee_of
from fedcohort.fl_client.price_check import check_price
from fedcohort.privacy import accounting
from fedcohort.privacy.accounting import calibrate, epsilon_of_event
from fedcohort.privacy.budget import ORDERS, Budget
from fedcohort.privacy.discreteness import LEAST_UNITS, Slack, epsilon_with_slack, slack
from fedcohort.privacy.mechanism import Mechanism
from fedcohort.privacy.secagg.encoding import Encoding
from fedcohort.study.plan import Plan, PrivacyTerms


def logs(sigma: float, mean: int, grid: np.ndarray) -> np.ndarray:
    """Logarithms of the discrete Gaussian's probabilities."""
    weights = -((grid - mean) ** 2) / (2 * sigma**2)
    return np.asarray(weights - logsumexp(weights))


def discrete(sigma: float, mean: int, grid: np.ndarray) -> np.ndarray:
    return np.asarray(np.exp(logs(sigma, mean, grid)))


def moments(sigma: float, shift: int, share: float, order: float) -> tuple[float, float]:
    """Renyi DP of one sampled step with discrete noise: adding a patient, and removing one."""
    grid = np.arange(-int(60 * sigma) - 60, int(60 * sigma) + 60 + shift).astype(float)
    without, with_ = logs(sigma, 0, grid), logs(sigma, shift, grid)
    mixed = np.logaddexp(math.log1p(-share) + without, math.log(share) + with_)

    def renyi(a: np.ndarray, b: np.ndarray) -> float:
        return float(logsumexp(order * a + (1 - order) * b)) / (order - 1)

    return renyi(mixed, without), renyi(without, mixed)


# ---- Renyi DP


@pytest.mark.parametrize("sigma", [0.6, 2.0, 7.5])  # also below what a share may be
@pytest.mark.parametrize("shift", [1, 2, 5])
@pytest.mark.parametrize("share", [0.01, 0.2, 0.7])
def test_at_integer_orders_discrete_noise_on_samples_costs_what_continuous_noise_does(
    sigma: float, shift: int, share: float
) -> None:
    mechanism = Mechanism(noise_multiplier=sigma / shift, sampling_probability=share)
    for order in (2, 3, 5):
        adding, removing = moments(sigma, shift, share, order)
        assert adding == pytest.approx(mechanism.rdp(order), rel=1e-9, abs=1e-13)
        assert removing <= adding * (1 + 1e-9) + 1e-13


def test_between_integer_orders_it_does_not() -> None:  # the positive control
    sigma, shift, share, order = 0.3, 1, 0.2, 2.5
    z = sigma / shift

    def term(x: float) -> float:
        ratio = (1 - share) + share * math.exp((2 * x * shift - shift**2) / (2 * sigma**2))
        return float(stats.norm.pdf(x, 0, sigma) * ratio**order)

    continuous = math.log(integrate.quad(term, -6, 12, limit=500)[0]) / (order - 1)
    adding, _ = moments(sigma, shift, share, order)
    assert abs(adding - continuous) > 0.01 * continuous, (z, adding, continuous)


def test_in_two_dimensions_as_well() -> None:
    sigma, share, order = 1.5, 0.3, 4
    axis = np.arange(-60, 61).astype(float)
    one, other = discrete(sigma, 0, axis), [discrete(sigma, shift, axis) for shift in (1, 2)]
    without, with_ = np.outer(one, one), np.outer(*other)
    keep = without > 1e-290
    ratio = (1 - share) + share * with_[keep] / without[keep]
    found = math.log(float(np.sum(without[keep] * ratio**order))) / (order - 1)
    mechanism = Mechanism(
        noise_multiplier=sigma / math.sqrt(5), sampling_probability=share
    )  # |(1, 2)| = sqrt(5)
    assert found == pytest.approx(mechanism.rdp(order), rel=1e-9)


def test_samples_are_priced_at_integer_orders_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the ledger's currency, in `epsilon_of_event`, and so in a hospital's price check."""
    asked: list[Any] = []
    made = rdp.RdpAccountant

    def accountant(orders: list[float], *rest: Any) -> Any:
        asked.extend(orders)
        return made(orders, *rest)

    monkeypatch.setattr(rdp, "RdpAccountant", accountant)
    sampled = Mechanism(noise_multiplier=2.0, sampling_probability=0.2)
    epsilon_of_event(sampled.event(101), 1e-5)
    check_price(plan_of(NOISY))
    assert asked
    assert all(order == int(order) for order in asked)
    assert all(type(order) is int for order in ORDERS)
    assert type(Budget(epsilon=1.0, delta=1e-5).order) is int
    assert any(order != int(order) for order in accounting._TENTHS)


# ---- privacy loss distributions


@pytest.mark.parametrize("sigma", [2.0, 5.0, 40.0])
@pytest.mark.parametrize("reach", [12.0, 13.0, 22.0])
def test_rounded_and_discrete_noise_differ_by_the_stated_factors(
    sigma: float, reach: float
) -> None:
    ks = np.arange(0, min(int(reach * sigma), int(36 * sigma)) + 1)
    discrete_log = -(ks**2) / (2 * sigma**2) - math.log(
        1 + 2 * sum(math.exp(-(j**2) / (2 * sigma**2)) for j in range(1, int(50 * sigma)))
    )
    root = sigma * math.sqrt(2)
    rounded = np.array(
        [
            math.erf(0.5 / root)
            if k == 0
            else (math.erfc((k - 0.5) / root) - math.erfc((k + 0.5) / root)) / 2
            for k in ks.tolist()
        ]
    )
    ratio = np.log(rounded) - discrete_log
    lo = 1 / (24 * sigma**2 - 1)
    hi = reach**2 / (24 * sigma**2) + 3 * math.exp(-2 * math.pi**2 * sigma**2)
    assert ratio.min() >= -lo * (1 + 1e-6) - 1e-12
    assert ratio.max() <= hi * (1 + 1e-6) + 1e-12
    # Neither is far from what is reached: half as much would not do.
    assert ratio.min() < -lo / 2
    assert ratio.max() > hi / 2


def hockey(p: np.ndarray, q: np.ndarray, epsilon: float) -> float:
    return float(np.maximum(p - math.exp(epsilon) * q, 0).sum())


@pytest.mark.parametrize("share", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("steps", [1, 2])
def test_the_stated_slack_covers_what_discrete_noise_really_costs(share: float, steps: int) -> None:
    """All probabilities, on a grid so coarse that the slack is large: z = 1 in 4 units."""
    sigma, shift = 4.0, 4
    grid = np.arange(-120, 125).astype(float)
    root = sigma * math.sqrt(2)

    def rounded(mean: int) -> np.ndarray:
        edges = np.append(grid - 0.5, grid[-1] + 0.5) - mean
        upper = np.array([math.erfc(edge / root) / 2 for edge in edges])
        return np.asarray(-np.diff(upper))

    lo = 1 / (24 * sigma**2 - 1)
    hi = 13**2 / (24 * sigma**2) + 3 * math.exp(-2 * math.pi**2 * sigma**2)
    tau = 2 * steps * math.exp(-72)

    def pair(noise: Any) -> tuple[np.ndarray, np.ndarray]:
        q = noise(0)
        p = (1 - share) * q + share * noise(shift)
        both = (p, q)
        if steps == 2:
            both = (np.outer(p, p).ravel(), np.outer(q, q).ravel())
        return both

    exact, continuous = pair(lambda mean: discrete(sigma, mean, grid)), pair(rounded)
    for epsilon in np.linspace(0.0, 4.0, 21):
        for one, other in ((0, 1), (1, 0)):  # a patient added, and one removed
            said = hockey(continuous[one], continuous[other], epsilon)
            true = hockey(exact[one], exact[other], epsilon + steps * (lo + hi))
            assert true <= math.exp(steps * lo) * said + tau + 1e-15


@pytest.mark.parametrize("size", [1, 2, 20, 999, 1000, 1001, 4000, 4001, 10**5, 10**6])
@pytest.mark.parametrize("clip", [1e-3, 0.6, 1.0, 1.999, 2.0, 1e3])
@pytest.mark.parametrize("z", [0.1, 1.0, 5.0, 60.0])
def test_the_slack_is_that_of_the_grid_of_every_step(size: int, clip: float, z: float) -> None:
    encoding = Encoding.for_noisy_sum(
        clip_norm=clip, max_patients=2**17, sites=1, noise_multiplier=z, size=size
    )
    sigma = z * encoding.sensitivity_units(clip, size, 2**17)
    steps = 101
    lo = 1 / (24 * sigma**2 - 1)
    hi = (12 + 1 / z) ** 2 / (24 * sigma**2) + 3 * math.exp(-2 * math.pi**2 * sigma**2)
    stated = slack(z, steps)
    assert steps * size * (lo + hi) <= stated.epsilon
    assert math.exp(-steps * size * lo) >= stated.shrink
    assert 2 * steps * size * math.exp(-72) <= stated.tau


def test_what_is_too_coarse_or_too_likely_is_stated_as_no_protection() -> None:
    assert slack(1.9 / LEAST_UNITS, 1) == Slack(math.inf, 0.0, 1.0)
    sampled = Mechanism(noise_multiplier=1.0, sampling_probability=0.2)
    assert epsilon_with_slack(sampled, 101, 1e-25) == math.inf
    assert epsilon_with_slack(sampled, 0, 1e-5) == 0.0
    assert math.isfinite(epsilon_with_slack(sampled, 101, 1e-12))


NOISY = PrivacyTerms(
    epsilon=3.0,
    delta=1e-5,
    noise_multiplier=calibrate(3.0, 1e-5, 101, 0.2),
    releases=101,
    clip=2.0,
    sharing="local",
    min_survivors=3,
    colluders=0,
    bound="pld",
    sampling_probability=0.2,
)


def plan_of(terms: PrivacyTerms) -> Plan:
    return Plan(
        study="s",
        purpose="p",
        analysis="averaging",
        parameters={
            "model": {"name": "logistic", "features": 4, "bound": 3.0},
            "rounds": 20,
            "local_steps": 5,
            "clip": terms.clip,
            "noise_multiplier": terms.noise_multiplier,
            "sampling_probability": terms.sampling_probability,
        },
        schema_sha256="0" * 64,
        sites=("a", "b", "c"),
        privacy=terms,
        max_rounds=21,
        max_patients_per_site=1000,
        min_sites=3,
        secagg="plain",
        colluders=0,
        roster="simulation",
        expires="2999-01-01",
    )


def test_the_epsilon_that_is_stated_holds_the_slack() -> None:
    given = guarantee_of(NOISY)
    found = slack(NOISY.noise_multiplier, 101)
    assert given.bound == "pld"
    assert given.epsilon >= given.same_variance_epsilon + found.epsilon
    assert given.epsilon <= given.same_variance_epsilon + 2 * found.epsilon + 1e-3
    assert given.sites_per_person[0] == given.epsilon
    two = slack(NOISY.noise_multiplier, 202)  # each hospital's own steps
    continuous = accounting.epsilon_of(NOISY.noise_multiplier, 202, 1e-5, 0.2)
    assert two.epsilon < given.sites_per_person[1] < continuous
    assert given.epsilon <= NOISY.epsilon  # what the plan states, by Renyi DP, is more
