"""The proof of docs/explanation/exact-pricing.md: constants to 50 digits, steps by oracles."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path

import dp_accounting
import numpy as np
import pytest
from mpmath import cos, erfc, exp, log, mp, mpf, pi, quad, sqrt
from numpy.typing import NDArray

from fedcohort.privacy.noise import NoiseTerms
from fedcohort.privacy.pld import gaussian_event, price
from fedcohort.privacy.secagg.encoding import (
    LARGEST_NOISED_COHORT,
    SHORT_WORD_FROM,
    Encoding,
    float_slack,
)

PAGE = Path(__file__).resolve().parents[3] / "docs/explanation/exact-pricing.md"

ROOM = 8  # eta^2: what of the noise's variance the randomised rounding takes
LEAST = 1024  # grid units: fewest that the credited noise may have
LEAST_SHARE = 4  # grid units: narrowest share
SLACK = "1e-5"  # of `Encoding.sensitivity_units`, up to 2^17 patients
FLOATS = "5e-6"  # the part of it that float summation and clipping may use
MOST_SHARES, MOST_COORDINATES, LARGEST_MU = 10_000, 2**40, 143


@pytest.fixture(autouse=True)
def fifty_digits() -> Iterator[None]:
    with mp.workdps(60):
        yield


def wave(variance: mpf) -> mpf:
    """e(sigma): how far the mass of a Gaussian on the integers may be from 1."""
    terms, m = [exp(-2 * pi**2 * variance)], 1
    while terms[-1] > terms[0] * mpf(10) ** -70:
        m += 1
        terms.append(exp(-2 * pi**2 * variance * m**2))
    return 2 * mp.fsum(terms)


def density(x: mpf, variance: mpf) -> mpf:
    return exp(-(mpf(x) ** 2) / (2 * variance)) / sqrt(2 * pi * variance)


def mass(centre: mpf, variance: mpf) -> mpf:
    """Theta: the Gaussian's density summed over the integers."""
    reach, near = int(17 * sqrt(variance)) + 3, int(mp.nint(centre))
    return mp.fsum(density(j - centre, variance) for j in range(near - reach, near + reach + 1))


def delta_gdp(epsilon: mpf, mu: mpf) -> mpf:
    def phi(x: mpf) -> mpf:
        return erfc(-x / sqrt(mpf(2))) / 2

    return phi(-epsilon / mu + mu / 2) - exp(epsilon) * phi(-epsilon / mu - mu / 2)


def drift(room: mpf, shares: int = 1) -> mpf:
    """Kappa: the most that one coordinate's log-probability differs, real against ideal."""
    off = wave(room)
    return -2 * shares * log(1 - off)


def claimed(epsilon: mpf, shift: mpf, variance: mpf, *, size: int = 1, shares: int = 1) -> mpf:
    """Delta of the theorem; any room below half of a share's variance may be taken."""
    share = variance / shares
    best = mpf(1)
    for room in (mpf(x) / 4 for x in range(3, 33)):
        if room < variance and (shares == 1 or room <= share / 2):
            off = drift(room, shares) * size
            mu = shift / sqrt(variance - room)
            best = min(best, exp(off) * delta_gdp(epsilon - 2 * off, mu))
    return best


def discrete(sigma: float, reach: int) -> NDArray[np.float64]:
    weight = np.exp(-((np.arange(-reach, reach + 1) / sigma) ** 2) / 2)
    return np.asarray(weight / math.fsum(weight))


def hockey_stick(one: NDArray[np.float64], other: NDArray[np.float64], epsilon: float) -> float:
    return math.fsum(np.maximum(one - math.exp(epsilon) * other, 0.0).ravel())


# --- the constants -------------------------------------------------------------------------


def constants() -> dict[str, mpf]:
    off = wave(mpf(ROOM))
    kappa = 2 * off / (1 - off)
    releases = mpf(10) ** 12 * LARGEST_MU**2
    shorter = ((1 + mpf(FLOATS)) / (1 + mpf(SLACK))) ** 2
    return {
        "e0": off,
        "kappa": kappa,
        "T": releases,
        "xi": kappa * MOST_SHARES * MOST_COORDINATES * releases,
        "s0": sqrt(ROOM / (1 - shorter)),
        "room at 1024": LEAST**2 * (1 - shorter),
        "tail": 2 * exp(-(mpf(200) ** 2) / 2),
    }


def test_every_constant_of_the_page_is_what_fifty_digits_say() -> None:
    rows = re.findall(r"^\| `([^`]+)` \|[^|]*\| ([0-9.e+-]+) \|$", PAGE.read_text("utf-8"), re.M)
    told = dict(rows)
    assert told.keys() == constants().keys()
    for name, value in constants().items():
        digits = len(re.sub(r"e.*|\D", "", told[name]).lstrip("0"))
        assert digits >= 50 or mpf(told[name]) == value, name
        assert abs(mpf(told[name]) / value - 1) < mpf(10) ** -49, name


def test_the_wave_is_its_first_term_and_a_geometric_rest() -> None:
    first = exp(-2 * pi**2 * ROOM)
    assert 2 * first <= wave(mpf(ROOM)) <= 2 * first / (1 - first**3)
    assert wave(mpf(ROOM)) < mpf("5.3e-69")


@pytest.mark.parametrize("variance", ["0.09", "0.25", "1", "2", "8"])
def test_lemma_1_the_mass_on_shifted_integers_is_one_but_for_the_wave(variance: str) -> None:
    v = mpf(variance)
    for step in range(11):
        c = mpf(step) / 20
        series = 1 + 2 * mp.fsum(
            exp(-2 * pi**2 * v * m**2) * cos(2 * pi * m * c) for m in range(1, 12)
        )
        assert abs(mass(c, v) - series) < mpf(10) ** -49
        assert abs(mass(c, v) - 1) <= wave(v) * (1 + mpf(10) ** -40) + mpf(10) ** -55
    assert abs(mass(mpf(0), v) - 1) > wave(v) * mpf("0.999") - mpf(10) ** -55  # no idle bound


@pytest.mark.parametrize(("variance", "room"), [("9", "0.25"), ("9", "1")])
def test_lemma_2_rounding_a_gaussian_at_random_gives_the_discrete_one_but_for_the_wave(
    variance: str, room: str
) -> None:
    """The integral is taken as it stands, by quadrature, against the lemma's two sides."""
    v, eta = mpf(variance), mpf(room)
    with mp.workdps(20):
        for k in (0, 4):
            found = quad(
                lambda u, k=k: density(u, v - eta) * density(k - u, eta) / mass(u, eta),
                [k - 10, *range(k - 4, k + 5), k + 10],
            )
            off, whole = wave(eta), density(mpf(k), v)
            assert whole / (1 + off) - mpf(10) ** -14 <= found
            assert found <= whole / (1 - off) + mpf(10) ** -14
    if eta == mpf("0.25"):
        assert abs(found / whole - 1) > 1e-6  # there is something to bound


@pytest.mark.parametrize("sigmas", [(0.6, 0.6), (1, 1, 1), (1, 0.7, 2), (2, 2, 2, 2), (4, 4)])
def test_lemma_3_a_sum_of_shares_is_the_gaussian_but_for_a_wave_a_share(
    sigmas: tuple[float, ...],
) -> None:
    reach = int(12 * max(sigmas))
    total = {0: mpf(1)}
    for sigma in sigmas:
        v = mpf(sigma) ** 2
        share = {k: density(mpf(k), v) / mass(mpf(0), v) for k in range(-reach, reach + 1)}
        keys = range(min(total) - reach, max(total) + reach + 1)
        total = {
            k: mp.fsum(total[j] * share[k - j] for j in total if -reach <= k - j <= reach)
            for k in keys
        }
    variance = mp.fsum(mpf(sigma) ** 2 for sigma in sigmas)
    narrowest = mpf(min(sigmas)) ** 2
    bound = -(2 * len(sigmas) - 1) * log(1 - wave(narrowest / 2))
    # Truncating a share beyond 12 sigma takes less than 1e-30 of what is compared.
    for k in range(int(3 * sqrt(variance)) + 1):
        assert abs(log(total[k] / density(mpf(k), variance))) <= bound + mpf(10) ** -26


# --- the Gaussian's curve ------------------------------------------------------------------


@pytest.mark.parametrize("delta", [1e-4, 1e-5, 1e-8])
@pytest.mark.parametrize("epsilon", [0.1, 0.5, 1.0, 3.0, 10.0])
def test_the_curve_is_googles_exact_gaussian(epsilon: float, delta: float) -> None:
    sigma = float(dp_accounting.get_sigma_gaussian(epsilon, delta))
    assert float(delta_gdp(mpf(epsilon), 1 / mpf(sigma))) == pytest.approx(delta, rel=1e-6)


# --- oracles: the true divergence of small discrete mechanisms ------------------------------


@pytest.mark.parametrize("sigma", [3, 4, 8])
def test_in_one_dimension_the_true_divergence_is_below_the_claim_and_near_it(sigma: int) -> None:
    variance, near = mpf(sigma) ** 2, mpf(0)
    reach = 40 * sigma  # beyond lies less than 1e-340
    whole = mass(mpf(0), variance)
    weight = [density(mpf(k), variance) / whole for k in range(-reach, reach + 1)]
    for shift in (1, 2, sigma // 2 + 1, sigma, 2 * sigma):
        for step in range(9):
            epsilon = mpf(step) / 2
            true = mp.fsum(
                max(mpf(0), one - exp(epsilon) * other)
                for one, other in zip(weight[:-shift], weight[shift:], strict=True)
            )
            claim = claimed(epsilon, mpf(shift), variance)
            assert true <= claim
            near = max(near, true / claim)
    assert near > 0.9  # it is the mechanism's own number, not a loose one


@pytest.mark.parametrize("shift", [(1, 1), (3, 4), (2, 0), (5, 1)])
@pytest.mark.parametrize("sigma", [3.0, 5.5])
def test_in_two_dimensions_too(sigma: float, shift: tuple[int, int]) -> None:
    one = discrete(sigma, int(14 * sigma))
    plane = np.outer(one, one)
    moved = np.roll(plane, shift, axis=(0, 1))  # what wraps around has no weight
    for epsilon in (0.0, 0.25, 0.5, 1.0, 2.0, 3.0):
        claim = claimed(
            mpf(epsilon), sqrt(mpf(shift[0] ** 2 + shift[1] ** 2)), mpf(sigma) ** 2, size=2
        )
        assert hockey_stick(plane, moved, epsilon) <= float(claim) * (1 + 1e-12) + 1e-14


@pytest.mark.parametrize("size", [4, 25, 144])
def test_in_many_dimensions_too(size: int) -> None:
    """One unit in each coordinate: the likelihood sees the coordinates' sum alone."""
    sigma, total = 4.0, np.ones(1)
    for _ in range(size):
        total = np.convolve(total, discrete(sigma, 60))
    place = np.arange(len(total)) - len(total) // 2
    ratio = (place - size / 2) / sigma**2  # log of shifted over unshifted, at a sum of `place`
    for epsilon in (0.0, 0.5, 1.0, 3.0):
        # E over the unshifted of (e^ratio - e^epsilon)_+
        true = math.fsum(total * np.maximum(np.exp(np.minimum(ratio, 300)) - math.exp(epsilon), 0))
        claim = claimed(mpf(epsilon), sqrt(mpf(size)), mpf(sigma) ** 2, size=size)
        assert true <= float(claim) * (1 + 1e-9)
        assert true > 0.8 * float(claim) or claim < 1e-3


@pytest.mark.parametrize("shares", [2, 3, 6])
@pytest.mark.parametrize("sigma", [2.0, 4.0])
def test_of_sums_of_shares_too_in_one_and_two_dimensions(sigma: float, shares: int) -> None:
    total = np.ones(1)
    for _ in range(shares):
        total = np.convolve(total, discrete(sigma, int(12 * sigma)))
    whole = sigma * math.sqrt(shares)
    variance = mpf(sigma) ** 2 * shares
    for shift in (1, 2, round(whole)):
        for epsilon in (0.0, 0.25, 1.0, 2.0):
            true = hockey_stick(total, np.roll(total, shift), epsilon)
            claim = claimed(mpf(epsilon), mpf(shift), variance, shares=shares)
            assert true <= float(claim) * (1 + 1e-12) + 1e-14
    middle = slice(len(total) // 2 - int(9 * whole), len(total) // 2 + int(9 * whole) + 1)
    plane = np.outer(total[middle], total[middle])
    for epsilon in (0.25, 1.0):
        true = hockey_stick(plane, np.roll(plane, (2, 1), axis=(0, 1)), epsilon)
        claim = claimed(mpf(epsilon), sqrt(mpf(5)), variance, size=2, shares=shares)
        assert true <= float(claim) * (1 + 1e-12) + 1e-13


# --- the premises, as the product meets them ------------------------------------------------


@pytest.mark.parametrize("clip", [1e-3, 0.6, 1.0, 3.7, 1e4])
@pytest.mark.parametrize("size", [1, 14, 497, 100_000, SHORT_WORD_FROM + 1, 10**7])
def test_a_patient_weighs_8192_grid_units_or_more(clip: float, size: int) -> None:
    grid = Encoding.for_noisy_sum(
        clip_norm=clip,
        max_patients=2**17,
        sites=10,
        noise_multiplier=3.0,
        size=size,
        word_bits=32 if size > SHORT_WORD_FROM else 64,
    )
    assert math.ldexp(clip, grid.fraction_bits) >= 2**13


@pytest.mark.parametrize("patients", [1, 2**17, 10**6, LARGEST_NOISED_COHORT])
@pytest.mark.parametrize("survivors", [3, 10, 200])
@pytest.mark.parametrize("noise", [0.125, 1.0, 30.0, 1e5])
def test_noise_of_1024_units_pays_for_the_room_out_of_the_slack(
    noise: float, survivors: int, patients: int
) -> None:
    """The door's shares give mu <= 1/z: s^2 - 8 >= (z D)^2, D with the floats' slack."""
    grid = Encoding(fraction_bits=13, limit=2**40)
    terms = NoiseTerms(noise_multiplier=noise, sharing="sum", min_survivors=survivors, colluders=1)
    share = mpf(terms.share_sigma(grid.sensitivity_units(1.0, 14, patients)))
    credited = share**2 * (survivors - 1)
    floats = mpf(FLOATS) + mpf(float_slack(patients)) - mpf(SLACK)
    patient = (mpf(grid.scale) + sqrt(mpf(14))) * (1 + floats)
    assert credited >= LEAST**2
    assert share >= LEAST_SHARE
    assert credited - ROOM >= (mpf(noise) * patient) ** 2


def test_the_threshold_has_room_and_is_no_pedantry() -> None:
    found = constants()
    assert found["s0"] < LEAST
    assert found["room at 1024"] > ROOM
    assert found["room at 1024"] * (800 / mpf(LEAST)) ** 2 < ROOM  # there the slack is too short


@pytest.mark.parametrize("delta", [1e-3, 1e-5, 1e-10])
@pytest.mark.parametrize("epsilon", [0.01, 0.5, 1, 3, 10, 100])
def test_half_a_billionth_of_mu_pays_for_all_drift_that_a_ledger_can_meet(
    epsilon: float, delta: float
) -> None:
    """Corollary: delta of the real transcript at the shortened mu is below that of the budget."""
    low, high = mpf("1e-6"), mpf(LARGEST_MU)
    for _ in range(190):
        middle = (low + high) / 2
        low, high = (middle, high) if delta_gdp(mpf(epsilon), middle) < delta else (low, middle)
    off = mpf("1e-16")  # twenty powers of ten more than xi
    assert constants()["xi"] < off * mpf(10) ** -19
    paid = low * (1 - mpf("5e-10"))
    assert exp(off) * delta_gdp(mpf(epsilon) - 2 * off, paid) < delta


def test_it_does_for_every_budget_with_delta_from_1e_20_to_a_half() -> None:
    """The crude bound of the page: 6 xi against h mu times the least density."""
    a = mpf("9.3")
    assert erfc(a / sqrt(mpf(2))) / 2 < mpf("1e-20")
    least = density(a + mpf("0.01"), mpf(1))
    assert mpf("5e-10") * mpf("1e-6") * least > 6 * constants()["xi"]
    # mu of the largest epsilon that a budget may have: mu / 2 - epsilon / mu < 1.
    assert 1 + sqrt(1 + 2 * mpf("1e4")) < LARGEST_MU
    # The sampler's word saturates beyond 200 deviations: what that may add to delta.
    draws = MOST_SHARES * MOST_COORDINATES * constants()["T"]
    assert (1 + exp(mpf("1e4"))) * draws * constants()["tail"] < mpf("1e-4000")


def test_what_is_printed_is_rounded_up_by_more_than_the_drift() -> None:
    """Corollary 4: 1e-11 more of epsilon takes more off delta than 6 xi, at its flattest."""
    a, mu = mpf("9.31"), mpf(LARGEST_MU)
    assert erfc((a - mpf("0.001")) / sqrt(mpf(2))) / 2 < mpf(
        "1e-20"
    )  # so delta >= 1e-20 is a > -9.3
    # The slope by epsilon is exp(epsilon) Phi(b), with b = a - mu and exp(epsilon) phi(b) = phi(a),
    # and Phi(b) > phi(b) |b| / (b^2 + 1).
    b = a + mu
    slope = density(a, mpf(1)) * b / (b**2 + 1)
    assert mpf("1e-11") * slope > 6 * constants()["xi"]
    for epsilon, noise, releases, delta in ((1.0, 20.0, 20, 1e-6), (3.0, 0.125, 1, 1e-20)):
        printed = price(gaussian_event(noise, releases), delta).epsilon
        root = sqrt(mpf(releases)) / mpf(noise)
        off = 2 * constants()["xi"]
        assert exp(off) * delta_gdp(mpf(printed) - off, root) < delta
        assert delta_gdp(mpf(printed) * (1 - mpf("1e-9")) - mpf("1e-9"), root) > delta, epsilon


@pytest.mark.parametrize("clip", [1e-3, 0.5, 0.500001, 1.0, 1e6])
def test_the_samplers_word_ends_thousands_of_deviations_away(clip: float) -> None:
    most = 1e6  # of `Mechanism`: the largest noise multiplier
    grid = Encoding.for_noisy_sum(
        clip_norm=clip, max_patients=1, sites=1, noise_multiplier=most, size=MOST_COORDINATES
    )
    assert 2**63 / (most * grid.sensitivity_units(clip, MOST_COORDINATES, 1)) > 8000
