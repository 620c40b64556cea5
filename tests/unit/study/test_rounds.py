"""Round terms: what one sum binds, computed alike by both sides."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedcohort.privacy.errors import PolicyError, ProtocolError
from fedcohort.privacy.secagg.encoding import LARGEST_NOISED_COHORT, Encoding
from fedcohort.study.analysis import State
from fedcohort.study.plan import Plan, PrivacyTerms, analysis_of
from fedcohort.study.rounds import RoundTerms, encoding_for, state_sha256, terms_for

TEXT = st.text(max_size=10)
TERMS = st.builds(
    RoundTerms,
    plan_sha256=TEXT,
    attempt=TEXT,
    round=st.integers(0, 10**6),
    sites=st.lists(TEXT, max_size=4).map(tuple),
    size=st.integers(0, 10**6),
    fraction_bits=st.integers(-100, 45),
    limit=st.integers(1, 2**62),
    state_sha256=TEXT,
)
LOGISTIC = {"name": "logistic", "features": 3, "bound": 2.0}


def plan(*, private: bool, patients: int = 1000) -> Plan:
    terms = PrivacyTerms(
        epsilon=3.0,
        delta=1e-5,
        noise_multiplier=8.0,
        releases=6,
        clip=1.0,
        sharing="sum",
        min_survivors=3,
        colluders=1,
        bound="rdp",
    )
    return Plan(
        study="s",
        purpose="p",
        analysis="gradient",
        parameters={"model": LOGISTIC, "steps": 5, "clip": 1.0 if private else None},
        schema_sha256="0" * 64,
        sites=("a", "b", "c"),
        privacy=terms if private else None,
        max_rounds=6,
        max_patients_per_site=patients,
        min_sites=3,
        secagg="plain",
        colluders=1,
        roster="simulation",
        expires="2027-01-01",
    )


@given(TERMS)
def test_terms_read_back_are_the_terms(terms: RoundTerms) -> None:
    back = RoundTerms.from_json(terms.to_json())
    assert back == terms
    assert back.sha256 == terms.sha256
    assert back.to_json() == terms.to_json()


@given(TERMS, TERMS)
def test_other_terms_have_another_hash(one: RoundTerms, other: RoundTerms) -> None:
    assert (one == other) == (one.sha256 == other.sha256)


def test_any_field_changes_the_hash() -> None:
    private = plan(private=True)
    analysis = analysis_of(private)
    terms = terms_for(private, analysis, analysis.initial(), "00")
    for field in dataclasses.fields(RoundTerms):
        value: Any = getattr(terms, field.name)
        more: Any = {int: 1, str: "x", tuple: ("x",)}[type(value)]
        assert dataclasses.replace(terms, **{field.name: value + more}).sha256 != terms.sha256


@pytest.mark.parametrize(
    "text", ["", "{", "null", "[]", "3", "{}", '{"sites":5}', '{"sites":[],"noise":0}']
)
def test_what_is_no_terms_is_refused(text: str) -> None:
    with pytest.raises(ProtocolError) as refused:
        RoundTerms.from_json(text)
    assert refused.value.code == "terms_unreadable"


def test_a_missing_or_unknown_field_is_refused() -> None:
    document = json.loads(
        terms_for(
            plan(private=False),
            analysis_of(plan(private=False)),
            analysis_of(plan(private=False)).initial(),
            "00",
        ).to_json()
    )
    texts = [json.dumps({**document, "noise": 0})]
    texts += [json.dumps({k: v for k, v in document.items() if k != gone}) for gone in document]
    for text in texts:
        with pytest.raises(ProtocolError) as refused:
            RoundTerms.from_json(text)
        assert refused.value.code == "terms_unreadable"


def test_both_sides_compute_the_same_terms() -> None:
    for private in (False, True):
        here, there = plan(private=private), Plan.from_json(plan(private=private).to_json())
        state = State(round=3, arrays={"theta": np.zeros(4), "count": np.ones(1)})
        one = terms_for(here, analysis_of(here), state, "00")
        assert one == terms_for(there, analysis_of(there), state, "00")
        assert (one.round, one.size, one.sites) == (3, 4, ("a", "b", "c"))


def test_a_noisy_grid_gives_a_patient_thousands_of_units_and_a_plain_one_all_there_are() -> None:
    private, plain = plan(private=True), plan(private=False)
    noisy = encoding_for(private, analysis_of(private), 4)
    assert 2**13 <= noisy.scale * 1.0 <= 2**14
    fine = encoding_for(plain, analysis_of(plain), 4)
    assert fine == Encoding.for_sum(site_bound=1000 * 2.0, sites=3)
    assert fine.fraction_bits > 40


def test_a_plan_whose_sum_would_overflow_is_refused_before_any_round() -> None:
    too_large = plan(private=True, patients=2**60)
    with pytest.raises(PolicyError) as refused:
        encoding_for(too_large, analysis_of(too_large), 4)
    assert refused.value.code == "encoding_overflow"


@pytest.mark.parametrize("sharing", ["sum", "each", "local"])
def test_a_noised_plan_over_more_patients_than_the_slack_is_proved_for_is_refused(
    sharing: Literal["sum", "each", "local"],
) -> None:
    """On both sides, before any round: `terms_for` is what both of them call."""
    private = plan(private=True, patients=LARGEST_NOISED_COHORT)
    assert private.privacy is not None
    privacy = dataclasses.replace(private.privacy, sharing=sharing)
    within = dataclasses.replace(private, privacy=privacy)
    beyond = dataclasses.replace(within, max_patients_per_site=LARGEST_NOISED_COHORT + 1)
    analysis = analysis_of(within)
    terms_for(within, analysis, analysis.initial(), "00")
    with pytest.raises(PolicyError) as refused:
        terms_for(beyond, analysis, analysis.initial(), "00")
    assert refused.value.code == "too_many_patients"
    exact = plan(private=False, patients=2**40)
    terms_for(exact, analysis_of(exact), analysis_of(exact).initial(), "00")  # no noise, no limit


@given(
    st.dictionaries(
        TEXT, st.lists(st.floats(allow_nan=True), max_size=4).map(np.array), max_size=3
    ),
    TEXT,
)
def test_the_hash_of_a_state_covers_names_shapes_and_values(
    arrays: dict[str, np.ndarray], name: str
) -> None:
    before = state_sha256(arrays)
    assert before == state_sha256(dict(reversed(arrays.items())))
    value = np.array([1.0, 2.0])
    base = {**arrays, name: value}
    changed = [
        {**base, name: value[::-1]},
        {**base, name: value[:1]},
        {**base, name: value[:, None]},
        {**base, name: np.nextafter(value, 9.0)},
        {**arrays, name + "x": value},
    ]
    assert all(state_sha256(other) != state_sha256(base) for other in changed)
