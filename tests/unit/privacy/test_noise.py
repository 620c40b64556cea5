"""The noise: of the scale it says, exactly discrete, and owing nothing to any seed.

Each distribution is accepted at p > 1e-20 and 1.3 times its scale rejected at p < 1e-20, so
the tests bite and a correct sampler fails one of them less than once in 1e19 runs.
"""

from __future__ import annotations

import math
import os
import random

import numpy as np
import pytest
import scipy.stats

from fedcohort.privacy.noise import MINIMUM_SHARE, NoiseTerms, Sharing, discrete_gaussian

SAMPLES = 20_000
NEVER = 1e-20


def p_by_shape(samples: np.ndarray, sigma: float) -> float:
    """Kolmogorov-Smirnov against the Gaussian; for scales at which steps of 1 are fine."""
    return float(scipy.stats.kstest(samples, "norm", args=(0.0, sigma)).pvalue)


def p_by_cells(samples: np.ndarray, sigma: float) -> float:
    """Chi-squared against the exact discrete Gaussian; for scales of a few units."""
    reach = math.ceil(4 * sigma)
    support = np.arange(-20 * reach, 20 * reach + 1)
    mass = np.exp(-(support**2) / (2 * sigma**2))
    mass /= mass.sum()
    inner = np.abs(support) <= reach
    expected = np.append(mass[inner], mass[~inner].sum()) * samples.size
    seen = np.array([(samples == value).sum() for value in support[inner]])
    observed = np.append(seen, samples.size - seen.sum())
    return float(scipy.stats.chisquare(observed, expected).pvalue)


@pytest.mark.parametrize("sigma", [500.0, 8192.0, 3e5, 1e12])
def test_a_wide_noise_is_gaussian_of_its_scale(sigma: float) -> None:
    samples = discrete_gaussian(SAMPLES, sigma)
    assert p_by_shape(samples, sigma) > NEVER
    assert p_by_shape(samples, 1.3 * sigma) < NEVER
    assert p_by_shape(samples, sigma / 1.3) < NEVER


@pytest.mark.parametrize("sigma", [2.0, 2.5, 7.3])
def test_a_narrow_noise_has_the_exact_discrete_distribution(sigma: float) -> None:
    samples = discrete_gaussian(SAMPLES, sigma)
    assert p_by_cells(samples, sigma) > NEVER
    assert p_by_cells(samples, 1.3 * sigma) < NEVER
    assert p_by_cells(samples, sigma / 1.3) < NEVER


@pytest.mark.parametrize("sigma", [1.999, 0.0, -3.0, math.nan, math.inf])
def test_a_share_too_narrow_for_the_proof_is_refused(sigma: float) -> None:
    with pytest.raises(ValueError, match="grid units"):
        discrete_gaussian(4, sigma)
    assert MINIMUM_SHARE == 2.0


def test_it_is_integers_of_the_length_asked_for() -> None:
    for size in (0, 1, 1000):
        samples = discrete_gaussian(size, 100.0)
        assert samples.dtype == np.int64
        assert samples.shape == (size,)


def test_no_seed_of_any_library_matters() -> None:
    draws = []
    for _ in range(3):
        np.random.seed(0)  # noqa: NPY002 - the global one is what must not matter
        random.seed(0)
        try:
            import torch
        except ModuleNotFoundError:
            pass
        else:
            torch.manual_seed(0)
        draws.append(discrete_gaussian(64, 1000.0))
    assert len({draw.tobytes() for draw in draws}) == 3


def test_no_fork_repeats_another() -> None:
    discrete_gaussian(1, 1000.0)  # the sampler exists before the processes part
    children = []
    for _ in range(2):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:  # pragma: no cover - in the child
            try:
                os.write(writer, discrete_gaussian(64, 1000.0).tobytes())
            finally:
                os._exit(0)
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            children.append(pipe.read())
        os.waitpid(child, 0)
    draws = {*children, discrete_gaussian(64, 1000.0).tobytes()}
    assert all(len(draw) == 64 * 8 for draw in draws)
    assert len(draws) == 3


def test_calls_and_coordinates_are_independent() -> None:
    calls = np.stack([discrete_gaussian(SAMPLES, 1000.0) for _ in range(3)]).astype(float)
    # 10 standard errors: once in 1e23.
    bound = 10 / math.sqrt(SAMPLES)
    between = np.corrcoef(calls)
    assert np.abs(between - np.eye(3)).max() < bound
    for lag in (1, 2, 7):
        assert abs(float(np.corrcoef(calls[0, lag:], calls[0, :-lag])[0, 1])) < bound
    squares = calls**2
    assert np.abs(np.corrcoef(squares) - np.eye(3)).max() < bound


# ---- shares


def terms(sharing: Sharing, survivors: int, colluders: int, z: float = 1.5) -> NoiseTerms:
    return NoiseTerms(
        noise_multiplier=z, sharing=sharing, min_survivors=survivors, colluders=colluders
    )


@pytest.mark.parametrize(
    ("survivors", "colluders"), [(1, 0), (2, 1), (3, 0), (3, 1), (5, 2), (10, 1), (10, 9)]
)
def test_the_shares_of_those_who_do_not_collude_add_up_to_the_noise_that_counts(
    survivors: int, colluders: int
) -> None:
    """Within 6.9 standard errors, 4 % for three honest sites or fewer: a false alarm in 2e11."""
    sensitivity, honest = 8192.0, survivors - colluders
    share, target = terms("sum", survivors, colluders).share_sigma(sensitivity), 1.5 * sensitivity
    assert honest * share**2 == pytest.approx(target**2)
    size = 60_000 if honest <= 3 else 6_000
    opened = np.sum([discrete_gaussian(size, share) for _ in range(honest)], axis=0)
    ratio, tolerance = opened.astype(float).var() / target**2, 6.9 * math.sqrt(2 / size)
    assert abs(ratio - 1) < tolerance
    # One colluder more or less would be seen: it moves the variance by more than that.
    if honest <= 3:
        assert abs(ratio * (honest + 1) / honest - 1) > tolerance


def test_full_noise_at_every_site_asks_nobody_else() -> None:
    for survivors, colluders in ((2, 0), (5, 2), (30, 29)):
        assert terms("each", survivors, colluders).share_sigma(100.0) == 150.0


def test_more_survivors_than_promised_only_add_noise() -> None:
    one = terms("sum", 3, 1).share_sigma(1.0)
    for present in range(3, 9):
        assert (present - 1) * one**2 >= (1.5**2) * (1 - 1e-12)


def test_the_cost_of_one_release_is_one_over_twice_z_squared() -> None:
    assert terms("sum", 3, 1, z=2.0).rho == 0.125


@pytest.mark.parametrize("z", [0.0, -1.0, math.nan, math.inf])
def test_a_noise_multiplier_that_is_none_is_refused(z: float) -> None:
    with pytest.raises(ValueError, match="noise_multiplier"):
        terms("sum", 2, 1, z=z)


@pytest.mark.parametrize(("survivors", "colluders"), [(1, 1), (2, 3), (0, 0), (3, -1)])
def test_somebody_must_be_left_who_does_not_collude(survivors: int, colluders: int) -> None:
    with pytest.raises(ValueError, match="must exceed colluders"):
        terms("sum", survivors, colluders)
