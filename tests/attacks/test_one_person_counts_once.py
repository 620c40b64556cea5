"""One person, many rows, names and hospitals: still one patient, or priced for what it is.

The adversary is a data set as hospitals have them: ids typed in five ways, values that no table
should hold, the same person at two hospitals.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import brentq

from fedcohort.datasets import Extract, LoadOptions, load_table
from fedcohort.privacy.accounting import epsilon_of_event, for_sites
from fedcohort.privacy.audit import epsilon_of_mu
from fedcohort.privacy.mechanism import Mechanism
from fedcohort.study.analyses.gradient import Gradient
from fedcohort.study.cohort import Cohort, Schema
from fedcohort.study.models.logistic import Logistic

# ---- the table


CODEBOOK = """
columns:
  age: {type: number, range: [0, 110], centre: 60, scale: 10}
  lab: {type: number, range: [0, 50], centre: 5, scale: 5}
"""


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Extract]:
    (tmp_path / "codebook.yaml").write_text(CODEBOOK)

    def loaded(frame: pd.DataFrame, *, codebook: bool = True) -> Extract:
        frame.to_csv(tmp_path / "extract.csv", index=False)
        options = LoadOptions(
            site="hospital",
            patient="record",
            outcome="ill",
            codebook=tmp_path / "codebook.yaml" if codebook else None,
        )
        return load_table(tmp_path / "extract.csv", options)

    return loaded


def table(records: list[str]) -> pd.DataFrame:
    draw, rows = np.random.default_rng(5), len(records)
    return pd.DataFrame(
        {
            "record": records,
            "hospital": "north",
            "age": draw.integers(30, 90, rows).astype(str),
            "lab": draw.integers(1, 40, rows).astype(str),
            "ill": [str(number % 2) for number in range(rows)],
        }
    )


def with_extreme(frame: pd.DataFrame, value: str) -> pd.DataFrame:
    return pd.concat([frame, frame.tail(1).assign(record="extreme", age=value, lab=value)])


@pytest.mark.parametrize("value", ["109", "1e300", "-1e300", "", "NaN", "inf"])
def test_one_patients_values_move_nobody_elses_encoding_and_no_bound(
    load: Callable[..., Extract], value: str
) -> None:
    frame = table([f"p{number}" for number in range(60)])
    alone, joined = load(frame), load(with_extreme(frame, value))
    one, other = alone.cohorts[0], joined.cohorts[0]
    assert alone.schema == joined.schema
    assert np.array_equal(other.features[:60], one.features)
    assert np.isfinite(other.features).all()
    assert np.abs(other.features).max() <= joined.schema.bound


def test_without_a_codebook_they_do_and_no_noise_is_promised(  # the positive control
    load: Callable[..., Extract],
) -> None:
    frame = table([f"p{number}" for number in range(60)])
    alone = load(frame, codebook=False)
    joined = load(with_extreme(frame, "109"), codebook=False)
    assert not np.array_equal(joined.cohorts[0].features[:60], alone.cohorts[0].features)
    assert not alone.schema.public


SPELLINGS = ["K-01", "k-01", " K-01 ", "K- 01", "\uff2b-01"]  # the last with a full-width K


def test_one_person_under_many_spellings_is_one_patient_and_weighs_one_clip_norm(
    load: Callable[..., Extract],
) -> None:
    others = [f"p{number}" for number in range(60)]
    clip = 0.05
    analysis = Gradient(model=Logistic(features=2, bound=5.0), clip=clip)
    state = dataclasses.replace(analysis.initial(), round=1)
    moved = []
    for names in (SPELLINGS, [f"q{number}" for number in range(5)]):
        frame = table([*others, *names])
        frame.loc[60:, ["age", "lab", "ill"]] = ["90", "40", "0"]
        cohort = load(frame).cohorts[0]
        whole = analysis.contribution(cohort, state).total
        rest = analysis.contribution(cohort.take(np.arange(60)), state).total
        moved.append((cohort.patients, float(np.linalg.norm(whole - rest))))
    assert [patients for patients, _ in moved] == [61, 65]
    # The second is the control: five persons.
    assert [weight for _, weight in moved] == pytest.approx([clip, 5 * clip])


# ---- the same person in two hospitals


def cohort_of(site: str) -> Cohort:
    """20 patients, the first of whom weighs a clip norm."""
    draw = np.random.default_rng(ord(site))
    features = np.clip(draw.normal(size=(20, 2)), -3, 3).astype(np.float32)
    features[0] = 3.0
    return Cohort(
        site=site,
        schema=Schema(
            name="drawn",
            task="risk",
            features=("x0", "x1"),
            bound=3.0,
            outcome="y",
            codebook_sha256="0" * 64,
        ),
        features=features,
        patient=np.arange(20, dtype=np.uint64),
        label=np.append(1.0, np.arange(19) % 2),
    )


def test_a_patient_of_two_hospitals_moves_one_sum_by_twice_the_clip_norm_and_is_priced_so() -> None:
    analysis = Gradient(model=Logistic(features=2, bound=3.0), clip=0.5)
    state = dataclasses.replace(analysis.initial(), round=1)
    mine = np.array([True] + [False] * 19)
    moved = np.zeros(3)
    for site in ("a", "b"):
        cohort = cohort_of(site)
        parts = [analysis.contribution(c, state).total for c in (cohort, cohort.take(~mine))]
        moved += parts[0] - parts[1]
    assert np.linalg.norm(moved) == pytest.approx(2 * 0.5)
    one = Mechanism(noise_multiplier=4.0)
    expected = 4.0 * 0.5 / np.linalg.norm(moved)
    assert for_sites(one, 2, "sum").noise_multiplier == pytest.approx(expected)
    # Noise of one hospital each: the two releases are two Gaussians, mu grows by the root.
    for sharing in ("each", "local"):
        twice = for_sites(one, 2, sharing)
        assert epsilon_of_event(twice.event(3), 1e-5) == pytest.approx(
            epsilon_of_event(one.event(6), 1e-5)
        )


@pytest.mark.parametrize(("epsilon", "twice"), [(1.0, 2.15), (3.0, 6.71)])
def test_twice_the_sensitivity_is_more_than_twice_the_epsilon(epsilon: float, twice: float) -> None:
    """By Dong, Roth, Su 2022, Cor. 2.13: a product of clip norms is no product of epsilons."""
    mu = float(brentq(lambda mu: epsilon_of_mu(mu, 1e-5) - epsilon, 0.01, 5.0))
    assert epsilon_of_mu(2 * mu, 1e-5) == pytest.approx(twice, abs=0.01)
    for sharing, sites in (("sum", 2), ("sum", 3), ("each", 2), ("local", 3)):
        for number in (1, 12):
            one = Mechanism(noise_multiplier=math.sqrt(number) / mu)
            bound = epsilon_of_event(for_sites(one, sites, sharing).event(number), 1e-5)
            factor = sites if sharing == "sum" else math.sqrt(sites)
            exact = epsilon_of_mu(factor * mu, 1e-5)
            assert exact <= bound < 1.2 * exact
