"""A coordinator that asks a real node for one sum twice, to subtract one from the other.

Both sums are properly signed and masked. If a node hands the same prepared vector over under a
second name, the coordinator opens it once with a hospital and once without: the difference is
that hospital's vector, whatever the masks.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import secrets

import numpy as np
import pytest
from numpy.typing import NDArray

from fedcohort.experiments.simulation.federate import ceremony, simulated_node
from fedcohort.fl_client import site_study as study_module
from fedcohort.fl_client.node import Node, SecAggRequest
from fedcohort.privacy.errors import PolicyError, ProtocolError
from fedcohort.privacy.ledger.book import Book
from fedcohort.privacy.secagg.coordinator import CoordinatorSession
from fedcohort.privacy.secagg.site import ExpectedRound
from fedcohort.study.cohort import Cohort, Schema
from fedcohort.study.plan import Plan, analysis_of
from fedcohort.study.rounds import RoundTerms, expected_round, terms_for

SITES = ("a", "b", "c", "d", "e")
SCHEMA = Schema(
    name="twice", task="risk", features=("x",), bound=4.0, outcome="o", codebook_sha256="0" * 64
)
PLAN = Plan(
    study="twice",
    purpose="To be asked twice.",
    analysis="newton",
    parameters={"model": {"name": "logistic", "features": 1, "bound": 4.0}},
    schema_sha256=SCHEMA.sha256,
    sites=SITES,
    privacy=None,
    max_rounds=10,
    max_patients_per_site=1000,
    min_sites=4,
    secagg="masked",
    colluders=1,
    roster="simulation",
    expires="2999-01-01",
)


def cohort_of(number: int) -> Cohort:
    draw = np.random.default_rng(number)
    return Cohort(
        site=SITES[number],
        schema=SCHEMA,
        features=draw.normal(0, 1, (30, 1)).clip(-4, 4).astype(np.float32),
        patient=np.arange(30, dtype=np.uint64) + 100 * number,
        label=(draw.random(30) < 0.5).astype(np.float64),
    )


class Hostile:
    """A coordinator with a valid key that plans rounds as it likes."""

    def __init__(self) -> None:
        masking, sessions = ceremony(PLAN)
        self.cohorts = [cohort_of(number) for number in range(len(SITES))]
        self.nodes: dict[int, Node] = {
            place: simulated_node(cohort, PLAN, sessions[cohort.site])
            for place, cohort in enumerate(self.cohorts, start=1)
        }
        for node in self.nodes.values():
            node.propose(PLAN.to_json())
        self.session = CoordinatorSession(
            roster=masking.roster, identity=masking.identity, rounds=8
        )
        advertised = {
            place: node.secagg(self.ask("advertise", epoch=self.session.epoch, rounds=8))
            for place, node in self.nodes.items()
        }
        everyone = self.session.advertises(advertised)
        boxes = self.session.deliveries(
            {place: node.secagg(self.ask("share", *everyone)) for place, node in self.nodes.items()}
        )
        self.session.acknowledged(
            {
                place: node.secagg(self.ask("acknowledge", boxes[place]))
                for place, node in self.nodes.items()
            }
        )
        self.analysis = analysis_of(PLAN)
        self.state = self.analysis.initial()
        self.terms = terms_for(PLAN, self.analysis, self.state, secrets.token_hex(16))

    def ask(self, phase: str, *data: bytes, epoch: bytes = b"", rounds: int = 0) -> SecAggRequest:
        return SecAggRequest(
            phase=phase, plan_sha256=PLAN.sha256, epoch=epoch, rounds=rounds, data=data
        )

    def opened(self, name: bytes, people: tuple[int, ...]) -> NDArray[np.int64]:
        """Open the one sum under a name, over these members."""
        plan = self.session.plan_round(
            dataclasses.replace(expected_round(PLAN, self.terms), training_round=name),
            training_round=name,
            attempt=0,
            participants=people,
        )
        for place in people:
            answer = self.nodes[place].report(self.terms.to_json(), dict(self.state.arrays), plan)
            self.session.add_report(place, answer.report, answer.vector.tobytes())
        reports = self.session.survivors()
        commits = self.session.commits(
            {place: self.nodes[place].secagg(self.ask("commit", *reports)) for place in people}
        )
        opened = self.session.open_sum(
            {place: self.nodes[place].secagg(self.ask("unmask", *commits)) for place in people}
        )
        return opened.total.astype(np.int64)


def test_one_sum_has_one_name() -> None:
    hostile = Hostile()
    with pytest.raises(ProtocolError) as refused:
        hostile.opened(b"\1" * 32, (1, 2, 3, 4, 5))
    assert refused.value.code == "r0_15_round"


def test_the_right_name_is_opened_once() -> None:
    hostile = Hostile()
    name = bytes.fromhex(hostile.terms.sha256)
    hostile.opened(name, (1, 2, 3, 4, 5))
    with pytest.raises(ProtocolError) as refused:
        hostile.opened(name, (1, 2, 3, 4))
    assert refused.value.code == "r0_15_finished"


def nameless(plan: Plan, terms: RoundTerms) -> ExpectedRound:
    return dataclasses.replace(expected_round(plan, terms), training_round=b"")


def test_without_the_name_in_the_terms_the_ledger_still_knows_what_was_opened(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(study_module, "expected_round", nameless)
    hostile = Hostile()
    hostile.opened(b"\1" * 32, (1, 2, 3, 4, 5))
    with pytest.raises(PolicyError) as refused:
        hostile.opened(b"\2" * 32, (1, 2, 3, 4))
    assert refused.value.code == "sum_spent"


def test_without_the_name_in_the_terms_a_hospital_is_read(  # the positive control
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(study_module, "expected_round", nameless)
    monkeypatch.setattr(Book, "check_unspent", lambda self, unmasking: None)
    hostile = Hostile()
    everybody = hostile.opened(b"\1" * 32, (1, 2, 3, 4, 5))
    rest = hostile.opened(b"\2" * 32, (1, 2, 3, 4))
    stolen = hostile.terms.encoding.decode(everybody - rest)
    own = hostile.analysis.contribution(hostile.cohorts[4], hostile.state).total
    assert np.abs(stolen - own).max() < 1e-9


def test_a_plan_under_another_roster_is_refused() -> None:
    plan = dataclasses.replace(PLAN, roster="ab" * 32)
    _, sessions = ceremony(plan)
    node = simulated_node(cohort_of(0), plan, sessions["a"])
    with pytest.raises(PolicyError) as refused:
        node.propose(plan.to_json())
    assert refused.value.code == "roster_mismatch"


def test_a_plan_that_expired_after_it_was_accepted_is_not_answered() -> None:
    hostile = Hostile()
    node = hostile.nodes[1]
    node._today = lambda: dt.date(3000, 1, 1)
    for ask in (
        lambda: node.propose(PLAN.to_json()),
        lambda: node.report(hostile.terms.to_json(), dict(hostile.state.arrays), b""),
        lambda: node.secagg(hostile.ask("advertise", epoch=bytes(32), rounds=1)),
    ):
        with pytest.raises(PolicyError) as refused:
            ask()
        assert refused.value.code == "plan_expired"
