"""The plan: one canonical text, one hash, and nothing unreadable read."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedcohort.privacy.errors import ConfigError, PolicyError
from fedcohort.privacy.mechanism import Mechanism
from fedcohort.study.analyses.gradient import Gradient
from fedcohort.study.analyses.newton import Newton
from fedcohort.study.holdout import Holdout
from fedcohort.study.models.hazard import Hazard
from fedcohort.study.plan import (
    PLAN_FORMAT,
    Plan,
    PrivacyTerms,
    analysis_of,
    model_of,
    reservation_of,
)

TEXT = st.text(max_size=12)
POSITIVE = st.floats(min_value=1e-6, max_value=1e6)
JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    # A list in a tuple's clothes and a number as a key are spelt one way only.
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def privacy_terms(draw: st.DrawFn, sites: int) -> PrivacyTerms:
    survivors = draw(st.integers(1, sites))
    sharings: tuple[Literal["sum", "each", "local"], ...] = ("sum", "each", "local")
    sharing = draw(st.sampled_from(sharings))
    return PrivacyTerms(
        epsilon=draw(POSITIVE),
        delta=draw(st.floats(min_value=1e-12, max_value=0.5)),
        noise_multiplier=draw(POSITIVE),
        releases=draw(st.integers(1, 1000)),
        clip=draw(st.floats(min_value=1e-3, max_value=1e6)),
        sharing=sharing,
        min_survivors=survivors,
        colluders=draw(st.integers(0, survivors - 1)),
        bound=draw(TEXT),
        sampling_probability=draw(st.floats(1e-6, 1.0)) if sharing == "local" else 1.0,
    )


def holdouts() -> st.SearchStrategy[Holdout]:
    return st.builds(
        Holdout,
        key=st.text("0123456789abcdef", min_size=64, max_size=64),
        test_fraction=st.floats(0.05, 0.95),
        histogram=st.just(False),  # what else a histogram asks for is in test_holdout.py
        bins=st.integers(2, 100),
    )


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    sites = tuple(sorted(draw(st.sets(TEXT, min_size=1, max_size=5))))
    return Plan(
        study=draw(TEXT),
        purpose=draw(TEXT),
        analysis=draw(TEXT),
        parameters=draw(st.dictionaries(TEXT, JSON_VALUES, max_size=4)),
        schema_sha256=draw(TEXT),
        sites=sites,
        privacy=draw(st.none() | privacy_terms(len(sites))),
        max_rounds=draw(st.integers(1, 10**6)),
        max_patients_per_site=draw(st.integers(1, 2**40)),
        min_sites=draw(st.integers(1, len(sites))),
        secagg="plain",
        colluders=1,
        roster="simulation",
        expires=draw(st.dates()).isoformat(),
        holdout=draw(st.none() | holdouts()),
    )


TERMS = PrivacyTerms(
    epsilon=3.0,
    delta=1e-5,
    noise_multiplier=8.0,
    releases=41,
    clip=1.0,
    sharing="sum",
    min_survivors=2,
    colluders=1,
    bound="rdp",
)
PLAN = Plan(
    study="s",
    purpose="p",
    analysis="gradient",
    parameters={
        "model": {"name": "hazard", "features": 3, "bound": 2.0, "horizon_days": 365.0},
        "steps": 40,
        "clip": 1.0,
    },
    schema_sha256="0" * 64,
    sites=("a", "b", "c"),
    privacy=TERMS,
    max_rounds=41,
    max_patients_per_site=1000,
    min_sites=3,
    secagg="plain",
    colluders=1,
    roster="simulation",
    expires="2027-01-01",
)


@given(plans())
def test_a_plan_read_back_is_the_plan(plan: Plan) -> None:
    text = plan.to_json()
    back = Plan.from_json(text)
    assert back == plan
    assert back.to_json() == text
    assert back.sha256 == plan.sha256


@given(plans())
def test_the_text_is_canonical_whatever_order_it_is_written_in(plan: Plan) -> None:
    document = json.loads(plan.to_json())
    shuffled = json.dumps(dict(reversed(document.items())), indent=2)
    assert Plan.from_json(shuffled).to_json() == plan.to_json()


def test_the_canonical_form_is_this_one() -> None:
    # A change here changes the hash of every plan that a hospital has approved.
    text = PLAN.to_json()
    assert text.startswith('{"analysis":"gradient","colluders":1,"expires":"2027-01-01","format":')
    assert json.loads(text)["format"] == PLAN_FORMAT == "fedcohort.plan/1"
    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))
    assert PLAN.sha256 == hashlib.sha256(text.encode()).hexdigest()
    assert PLAN.sha256 == "69e66f9f94a4f99fbbe02a9326216b2ec80432700f5a8ef2ee5bd865e8dd3b10"


CHANGED: dict[str, Any] = {
    "colluders": 0,
    "roster": "ab" * 32,
    "study": "t",
    "purpose": "q",
    "analysis": "newton",
    "parameters": {},
    "schema_sha256": "1" * 64,
    "sites": ("a", "b", "d"),
    "privacy": None,
    "max_rounds": 42,
    "max_patients_per_site": 1001,
    "min_sites": 2,
    "expires": "2027-01-02",
}
CHANGED_TERMS: dict[str, Any] = {
    "epsilon": 3.0000000000000004,
    "delta": 1.0000000000000002e-05,
    "noise_multiplier": 8.000000000000002,
    "releases": 42,
    "clip": 1.0000000000000002,
    "sharing": "each",
    "min_survivors": 3,
    "colluders": 0,
    "bound": "pld",
    "sampling_probability": 0.9999999999999999,
}


def changed(facts: Any, **fields: Any) -> Any:
    return dataclasses.replace(facts, **fields)


ONE_VALUE = {"secagg", "unit", "relation"}  # checked apart, or of one value only


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Plan)])
def test_any_field_changes_the_hash(field: str) -> None:
    if field in ONE_VALUE:
        with pytest.raises(ConfigError):
            changed(PLAN, **{field: "other"})
        return
    assert dataclasses.replace(PLAN, **{field: CHANGED[field]}).sha256 != PLAN.sha256


def test_masks_change_the_hash() -> None:
    plain = dataclasses.replace(PLAN, privacy=None, min_sites=3)
    assert dataclasses.replace(plain, secagg="masked").sha256 != plain.sha256


def test_a_masked_plan_opens_no_sum_of_fewer_sites_than_its_threshold() -> None:
    with pytest.raises(ConfigError):
        dataclasses.replace(PLAN, privacy=None, min_sites=2, secagg="masked")


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(PrivacyTerms)])
def test_any_privacy_term_changes_the_hash(field: str) -> None:
    if field in ONE_VALUE:
        with pytest.raises(ConfigError):
            changed(TERMS, **{field: "other"})
        return
    # Samples are drawn in local steps only.
    terms = changed(TERMS, sharing="local") if field == "sampling_probability" else TERMS
    before = dataclasses.replace(PLAN, privacy=terms)
    terms = dataclasses.replace(terms, **{field: CHANGED_TERMS[field]})
    assert dataclasses.replace(PLAN, privacy=terms).sha256 != before.sha256


@pytest.mark.parametrize("sharing", ["sum", "each"])
def test_there_are_no_samples_where_noise_is_in_the_sum(sharing: str) -> None:
    with pytest.raises(ConfigError) as refused:
        changed(TERMS, sharing=sharing, sampling_probability=0.5)
    assert refused.value.code == "privacy_range"


@pytest.mark.parametrize("probability", [0.0, -0.1, 1.0000001, float("nan"), float("inf")])
def test_a_sampling_probability_that_is_none_is_refused(probability: float) -> None:
    with pytest.raises(ConfigError):
        changed(TERMS, sharing="local", sampling_probability=probability)


def test_what_a_plan_sets_aside_is_all_that_it_states() -> None:
    asked = reservation_of(PLAN)
    assert asked.plan_sha256 == PLAN.sha256
    assert (asked.study, asked.purpose, asked.analysis) == ("s", "p", "gradient")
    assert (asked.rounds, asked.releases, asked.clip) == (41, 41, 1.0)
    assert (asked.sharing, asked.min_survivors, asked.colluders) == ("sum", 2, 1)
    assert asked.mechanism == Mechanism(noise_multiplier=8.0)
    local = changed(TERMS, sharing="local", sampling_probability=0.25)
    sampled = reservation_of(dataclasses.replace(PLAN, privacy=local)).mechanism
    assert sampled == Mechanism(noise_multiplier=8.0, sampling_probability=0.25)
    plain = reservation_of(dataclasses.replace(PLAN, privacy=None))
    assert (plain.mechanism, plain.releases, plain.clip, plain.sharing) == (None, 0, None, None)
    assert (plain.rounds, plain.min_survivors, plain.colluders) == (41, 3, 1)


def refusal_of(text: str) -> PolicyError:
    with pytest.raises(PolicyError) as refused:
        Plan.from_json(text)
    assert refused.value.code == "plan_unreadable"
    assert refused.value.hint
    return refused.value


def bent(**changes: object) -> str:
    return json.dumps({**json.loads(PLAN.to_json()), **changes})


def bent_terms(**changes: object) -> str:
    document = json.loads(PLAN.to_json())
    return json.dumps({**document, "privacy": {**document["privacy"], **changes}})


@pytest.mark.parametrize(
    "text",
    ["", "{", "null", "[]", "3", '"plan"', "NaN", "[" * 100_000, '{"format":"fedcohort.plan/1"}'],
    ids=lambda text: text[:12] or "empty",
)
def test_what_is_no_plan_is_refused(text: str) -> None:
    refusal_of(text)


def test_another_format_is_refused() -> None:
    refusal_of(bent(format="fedcohort.plan/2"))
    refusal_of(bent(format=None))


@pytest.mark.parametrize("field", [*json.loads(PLAN.to_json())])
def test_a_missing_field_is_refused(field: str) -> None:
    # `privacy` above all: a plan without it would be one that promises nothing.
    document = json.loads(PLAN.to_json())
    del document[field]
    refusal_of(json.dumps(document))


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(PrivacyTerms)])
def test_a_missing_privacy_term_is_refused(field: str) -> None:
    document = json.loads(PLAN.to_json())
    del document["privacy"][field]
    refusal_of(json.dumps(document))


def test_an_unknown_field_is_refused() -> None:
    refusal_of(bent(noise="none"))
    refusal_of(bent_terms(reviewed=True))


WRONG: dict[str, list[object]] = {
    "str": [1, None, ["a"], True],
    "int": ["1", 1.5, None, True, [1]],
    "float": ["1", None, True, [1.0]],
    "tuple[str, ...]": ["abc", [1, 2, 3], [["a"]], {"a": 1}, None, 3],
    "Mapping[str, Any]": [[], "x", None, 3],
    "PrivacyTerms | None": [[], "x", 3, False, 0, {}],
    "Literal['sum', 'each', 'local']": ["SUM", 1, None, ["sum"], {}],
}


@pytest.mark.parametrize("field", dataclasses.fields(Plan), ids=lambda field: str(field.name))
def test_a_value_of_another_type_is_refused(field: dataclasses.Field[Any]) -> None:
    for value in WRONG[str(field.type)]:
        refusal_of(bent(**{field.name: value}))


@pytest.mark.parametrize(
    "field", dataclasses.fields(PrivacyTerms), ids=lambda field: str(field.name)
)
def test_a_privacy_term_of_another_type_is_refused(field: dataclasses.Field[Any]) -> None:
    for value in WRONG[str(field.type)]:
        refusal_of(bent_terms(**{field.name: value}))


@pytest.mark.parametrize(
    "text",
    [
        bent_terms(epsilon=float("nan")),
        bent_terms(epsilon=float("inf")),
        bent_terms(epsilon=10**400),
        bent_terms(noise_multiplier=0.0),
        bent_terms(noise_multiplier=-1.0),
        bent_terms(clip=0),
        bent_terms(delta=0.0),
        bent_terms(delta=1),
        bent_terms(delta=float("nan")),
        bent_terms(releases=0),
        bent_terms(releases=-5),
        bent_terms(colluders=-1),
        bent_terms(colluders=2),
        bent_terms(min_survivors=0),
        bent_terms(min_survivors=4),
        bent(parameters={"l2": float("nan")}),
        bent(study="\ud800"),
        bent(sites=[]),
        bent(sites=["b", "a", "c"]),
        bent(sites=["a", "a", "b"]),
        bent(max_rounds=0),
        bent(max_patients_per_site=0),
        bent(min_sites=0),
        bent(min_sites=4),
        bent(secagg="none"),
        bent(expires="tomorrow"),
        bent(expires="2027-01-01T00:00"),
    ],
)
def test_an_impossible_value_is_refused(text: str) -> None:
    refusal_of(text)


def read_or_refused(text: str) -> Plan | None:
    """Read a plan, or None where it is refused; nothing else may happen."""
    try:
        return Plan.from_json(text)
    except PolicyError:
        refusal_of(text)
        return None


@given(st.text(max_size=40))
def test_any_text_is_a_plan_or_a_refusal(text: str) -> None:
    refusal_of(text)


@given(field=st.sampled_from([*json.loads(PLAN.to_json())]), value=JSON_VALUES)
def test_any_value_is_read_or_refused(field: str, value: object) -> None:
    plan = read_or_refused(bent(**{field: value}))
    if plan is not None:
        assert Plan.from_json(plan.to_json()) == plan


@given(field=st.sampled_from(sorted(CHANGED_TERMS)), value=JSON_VALUES)
def test_any_privacy_term_is_read_or_refused(field: str, value: object) -> None:
    plan = read_or_refused(bent_terms(**{field: value}))
    if plan is not None:
        assert plan.privacy is not None
        plan.privacy.noise()  # and what was read can be used


def test_parameters_are_spelt_one_way_only() -> None:
    one = dataclasses.replace(PLAN, parameters={"hidden": (16, 8)})
    other = dataclasses.replace(PLAN, parameters={"hidden": [16, 8]})
    assert one == other
    assert one.sha256 == other.sha256


def test_it_names_an_analysis_and_its_model() -> None:
    analysis = analysis_of(PLAN)
    assert analysis == Gradient(
        model=Hazard(features=3, bound=2.0, horizon_days=365.0), steps=40, clip=1.0
    )
    assert analysis.releases == TERMS.releases
    parameters = {"model": {"name": "logistic", "features": 3, "bound": 2.0}}
    newton = analysis_of(dataclasses.replace(PLAN, analysis="newton", parameters=parameters))
    assert isinstance(newton, Newton)
    assert model_of(parameters["model"]) == newton.model


def test_the_cost_is_a_division_that_a_reviewer_can_redo() -> None:
    assert TERMS.mechanism.rdp(2) * TERMS.releases == 2 * 41 / (2 * 8.0**2)


def test_the_door_adds_the_noise_that_is_promised_unless_local_steps_do() -> None:
    noise = TERMS.noise()
    assert noise is not None
    assert (noise.noise_multiplier, noise.sharing) == (8.0, "sum")
    assert (noise.min_survivors, noise.colluders) == (2, 1)
    each = dataclasses.replace(TERMS, sharing="each").noise()
    assert each is not None
    assert each.sharing == "each"
    assert dataclasses.replace(TERMS, sharing="local").noise() is None
