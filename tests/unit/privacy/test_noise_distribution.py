"""The noise of an opened sum, as several doors make it: its shape, its scale, its independence.

Vectors come from `prepare`, the function that every release passes, and are added up as the
coordinator adds them. Each distribution is accepted at p > 1e-20 and 1.3 times its scale, or
1/1.3, rejected at p < 1e-20. What is measured in standard errors says how many.
"""

from __future__ import annotations

import functools
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import scipy.stats
from numpy.typing import NDArray

from fedcohort.fl_client.door import NoDisclosureRules, SiteTerms, prepare
from fedcohort.privacy.errors import PolicyError
from fedcohort.privacy.noise import MINIMUM_SHARE
from fedcohort.privacy.secagg.plain import UnsafePlaintextSum
from fedcohort.study.analysis import Contribution
from fedcohort.study.plan import Plan, PrivacyTerms, analysis_of
from fedcohort.study.rounds import RoundTerms, encoding_for

SIZE = 20_000
NEVER = 1e-20
CLIP = 1.0
MODEL = {"name": "logistic", "features": 2, "bound": 3.0}
# (m, c): fewest sites in a sum, and how many of them collude.
COMBOS = [(2, 0), (2, 1), (3, 1), (5, 2), (10, 8)]
WIDE, NARROW = 1.5, 2.0**-13  # z; the clip norm is 2^17 grid units, so sigma is 16 at the least

Integers = NDArray[np.int64]


class Free:
    """A ledger that refuses nothing."""

    def __init__(self) -> None:
        self.charged = 0

    def reserve(self, reservation: object) -> str:
        return "free"

    def charge(self, charge: object) -> str:
        self.charged += 1
        return "free"

    def unmask(self, unmasking: object) -> str:
        return "free"

    def check_unspent(self, unmasking: object) -> None:
        pass

    def close(self, plan_sha256: str) -> None:
        pass


def plan_of(
    survivors: int, colluders: int, z: float, sharing: Literal["sum", "each"] = "sum"
) -> Plan:
    return Plan(
        study="noisy",
        purpose="Look at the noise.",
        analysis="gradient",
        parameters={"model": MODEL, "steps": 3, "clip": CLIP},
        schema_sha256="0" * 64,
        sites=tuple(f"s{number:02d}" for number in range(survivors)),
        privacy=PrivacyTerms(
            epsilon=3.0,
            delta=1e-5,
            noise_multiplier=z,
            releases=4,
            clip=CLIP,
            sharing=sharing,
            min_survivors=survivors,
            colluders=colluders,
            bound="rdp",
        ),
        max_rounds=4,
        max_patients_per_site=1000,
        min_sites=survivors,
        secagg="plain",
        colluders=colluders,
        roster="simulation",
        expires="9999-12-31",
    )


def terms_of(plan: Plan, size: int = SIZE, round: int = 1) -> RoundTerms:
    encoding = encoding_for(plan, analysis_of(plan), size)
    return RoundTerms(
        plan_sha256=plan.sha256,
        attempt="00" * 16,
        round=round,
        sites=plan.sites,
        size=size,
        fraction_bits=encoding.fraction_bits,
        limit=encoding.limit,
        word_bits=encoding.word_bits,
        state_sha256="0" * 64,
    )


def prepared(
    plan: Plan, total: NDArray[np.float64], *, patients: int = 100, round: int = 1
) -> Integers:
    """What one site's door makes of a sum."""
    site = SiteTerms(ledger=Free(), disclosure=NoDisclosureRules())
    part = Contribution(total=total, patients=patients, sensitivity=CLIP)
    return prepare(part, terms_of(plan, total.size, round), plan, site).vector


@functools.lru_cache(maxsize=16)
def opened(survivors: int, colluders: int, z: float) -> tuple[Integers, float]:
    """The noise that is left of a sum when the colluders took theirs out, and its plan."""
    plan = plan_of(survivors, colluders, z)
    draw = np.random.default_rng(survivors)
    totals = draw.uniform(-9, 9, size=(survivors - colluders, SIZE))
    vectors = [prepared(plan, total) for total in totals]
    encoding = terms_of(plan).encoding
    signal = np.sum([encoding.encode(total) for total in totals], axis=0)
    sigma = z * encoding.sensitivity_units(CLIP, SIZE, 1000)
    return UnsafePlaintextSum(SIZE).add(vectors) - signal, sigma


def p_by_cells(samples: Integers, sigma: float, cells: int = 100) -> float:
    """Chi-squared against the exact discrete Gaussian, in cells of about equal probability."""
    reach = math.ceil(14 * sigma)
    support = np.arange(-reach, reach + 1)
    cumulative = np.cumsum(np.exp(-((support / sigma) ** 2) / 2))
    cumulative /= cumulative[-1]
    last = np.unique(np.searchsorted(cumulative, np.arange(1, cells) / cells))
    expected = np.diff(np.concatenate([[0.0], cumulative[last], [1.0]])) * samples.size
    places = np.searchsorted(support[last], samples)
    observed = np.bincount(places, minlength=expected.size)
    return float(scipy.stats.chisquare(observed, expected).pvalue)


@pytest.mark.parametrize(("survivors", "colluders"), COMBOS)
@pytest.mark.parametrize("z", [WIDE, NARROW], ids=["wide", "narrow"])
def test_what_the_colluders_cannot_take_out_of_a_sum_is_the_planned_noise(
    survivors: int, colluders: int, z: float
) -> None:
    noise, sigma = opened(survivors, colluders, z)
    assert p_by_cells(noise, sigma) > NEVER
    assert p_by_cells(noise, 1.3 * sigma) < NEVER
    assert p_by_cells(noise, sigma / 1.3) < NEVER


def test_its_deviation_is_within_two_percent_of_the_plan() -> None:
    """9 standard errors over all combinations, 7 in each: a false alarm in 1e11.

    One colluder more or less in the shares would move it by 12 % or more in any of them.
    """
    squares = []
    for survivors, colluders in COMBOS:
        noise, sigma = opened(survivors, colluders, WIDE)
        squares.append(float(np.mean((noise / sigma) ** 2)))
        assert abs(math.sqrt(squares[-1]) - 1) < 0.035, (survivors, colluders)
    assert abs(math.sqrt(np.mean(squares)) - 1) < 0.02


def correlations(calls: NDArray[np.float64]) -> float:
    """The largest correlation, of values, squares and neighbours, in standard errors."""
    worst = 0.0
    for values in (calls, (calls - calls.mean()) ** 2):
        off = np.corrcoef(values) - np.eye(len(values))
        shifted = [np.corrcoef(values[:, lag:], values[:, :-lag]) for lag in (1, 2, 7)]
        between = [np.abs(both[len(values) :, : len(values)]).max() for both in shifted]
        worst = max(worst, float(np.abs(off).max()), *map(float, between))
    return worst * math.sqrt(calls.shape[1])


def test_coordinates_rounds_and_hospitals_are_independent() -> None:
    """No correlation of 126 beyond 10 standard errors: a false alarm in 1e20."""
    plan, zeros = plan_of(3, 1, WIDE), np.zeros(SIZE)
    calls = [prepared(plan, zeros, round=number) for number in (1, 2) for _ in ("a", "b", "c")]
    assert correlations(np.array(calls, dtype=float)) < 10


@pytest.mark.parametrize(
    "spoil",
    [
        lambda calls: np.vstack([calls[0], calls[0]]),  # one hospital's noise is another's
        lambda calls: np.vstack([calls[0], np.roll(calls[0], 1)]),  # the next coordinate's
        lambda calls: np.vstack([calls[0], -calls[0]]),  # noise that would cancel
        lambda calls: np.vstack([calls[0], np.abs(calls[0]) * np.sign(calls[1])]),  # its size
        lambda calls: np.vstack([calls[0], 0.2 * calls[0] + calls[1]]),  # a fifth of it
    ],
)
def test_noise_that_is_not_independent_is_noticed(  # the positive control
    spoil: Callable[[NDArray[np.float64]], NDArray[np.float64]],
) -> None:
    plan, zeros = plan_of(3, 1, WIDE), np.zeros(SIZE)
    calls = np.array([prepared(plan, zeros) for _ in range(2)], dtype=float)
    assert correlations(spoil(calls)) > 10


SCRIPT = f"""
import random, sys
import numpy as np
random.seed(1); np.random.seed(1)
sys.path.insert(0, {str(Path(__file__).parent)!r})
import test_noise_distribution as here
vector = here.prepared(here.plan_of(3, 1, here.WIDE), np.zeros(32))
print(vector.tobytes().hex(), hash("a"), random.random(), np.random.random())
"""


def test_processes_with_every_seed_fixed_draw_different_noise() -> None:
    env = os.environ | {"PYTHONHASHSEED": "0"}
    told = [
        subprocess.run(
            [sys.executable, "-c", SCRIPT], env=env, capture_output=True, text=True, check=True
        ).stdout.split()
        for _ in range(2)
    ]
    assert told[0][0] != told[1][0]
    assert told[0][1:] == told[1][1:]  # the control: all else was fixed


def test_rounds_attempts_and_hospitals_draw_different_noise_under_one_seed() -> None:
    plan, drawn = plan_of(3, 1, WIDE), set()
    for number in (1, 1, 2, 3):
        np.random.seed(7)  # noqa: NPY002 - the global one is what must not matter
        drawn.add(prepared(plan, np.zeros(32), round=number).tobytes())
    assert len(drawn) == 4


# ---- noise is there, whoever is not


@pytest.mark.parametrize(("sharing", "share"), [("sum", math.sqrt(1 / 2)), ("each", 1.0)])
@pytest.mark.parametrize(("z", "patients"), [(WIDE, 0), (WIDE, 1), (1e-3, 0), (1e-3, 100)])
def test_there_is_noise_for_nobody_and_when_epsilon_is_large(
    sharing: Literal["sum", "each"], share: float, z: float, patients: int
) -> None:
    """An empty hospital and a frozen model send zeros: 10 standard errors about their noise."""
    plan = plan_of(3, 1, z, sharing)
    vector = prepared(plan, np.zeros(2000), patients=patients)
    sigma = share * z * terms_of(plan, 2000).encoding.sensitivity_units(CLIP, 2000, 1000)
    assert abs(float(np.mean((vector / sigma) ** 2)) - 1) < 10 * math.sqrt(2 / 2000)


@pytest.mark.parametrize("sign", [1, -1])
def test_noise_is_never_held_within_the_grids_limit(sign: int) -> None:
    """A sum beyond its bound is held there, and its noise is not: half of it goes further."""
    plan = plan_of(2, 1, WIDE)
    encoding = terms_of(plan, 2000).encoding
    beyond = sign * (prepared(plan, np.full(2000, sign * 1e9)) - sign * encoding.limit)
    assert abs(float(np.mean(beyond > 0)) - 0.5) < 5 / math.sqrt(2000)  # 10 standard errors
    sigma = WIDE * encoding.sensitivity_units(CLIP, 2000, 1000)
    assert p_by_cells(beyond, sigma) > NEVER
    assert p_by_cells(np.minimum(beyond, 0), sigma) < NEVER  # the control: held


def test_a_plan_whose_share_is_too_narrow_releases_nothing_whatever_the_data() -> None:
    units = terms_of(plan_of(3, 1, 1.0), 50).encoding.sensitivity_units(CLIP, 50, 1000)
    least = MINIMUM_SHARE * math.sqrt(2) / units  # z at which a share of m - c = 2 is just wide
    assert prepared(plan_of(3, 1, least * 1.001), np.zeros(50)).shape == (50,)
    plan, ledger = plan_of(3, 1, least * 0.999), Free()
    with pytest.raises(PolicyError) as refused:
        terms_of(plan, 50)  # before a record is looked at
    assert refused.value.code == "noise_share_too_small"
    # And if somebody made its terms all the same: nothing is drawn.
    site = SiteTerms(ledger=ledger, disclosure=NoDisclosureRules())
    for total in (np.zeros(50), np.full(50, 5.0), np.full(50, 1e30)):
        part = Contribution(total=total, patients=3, sensitivity=CLIP)
        with pytest.raises(ValueError, match="grid units"):
            prepare(part, terms_of(plan_of(3, 1, least * 1.001), 50), plan, site)
    assert ledger.charged == 3  # each paid for and none made: what fails is wasted, never free


# ---- the low-order bits


def on_the_grid(outputs: NDArray[np.float64], bits: int) -> float:
    """Share of the small outputs that are multiples of 2^-bits."""
    small = outputs[np.abs(outputs) < 0.25]
    return float(np.mean(np.ldexp(small, bits) == np.rint(np.ldexp(small, bits))))


def test_low_order_bits_of_a_released_sum_tell_nothing() -> None:
    """A float sampler's outputs tell 0 from 1 by their last bits; ours are integers throughout.

    Source: Mironov 2012, "On significance of the least significant bits for differential
    privacy".
    """
    plan = plan_of(2, 1, WIDE)
    encoding, shares = terms_of(plan).encoding, []
    for true in (0.0, 1.0):
        vector = prepared(plan, np.full(SIZE, true))
        assert vector.dtype == np.int64
        outputs = encoding.decode(vector)
        shares.append([on_the_grid(outputs, bits) for bits in (encoding.fraction_bits, 53)])
        assert np.array_equal(np.rint(outputs * encoding.scale), vector)
    assert shares == [[1.0, 1.0], [1.0, 1.0]]
    # The control: the textbook mechanism, on the same two inputs.
    draw = np.random.default_rng(0)
    textbook = [on_the_grid(true + draw.normal(0.0, WIDE, SIZE), 53) for true in (0.0, 1.0)]
    assert textbook[0] < 0.3
    assert textbook[1] == 1.0
