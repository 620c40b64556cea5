"""Masked sums through Flower: the same integers, whatever drops out, and nothing else to see."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from flwr.app import Message

from fedcohort.experiments.simulation import federate as federate_module
from fedcohort.experiments.simulation import flower_compat, local_grid
from fedcohort.experiments.simulation.federate import federate
from fedcohort.experiments.simulation.local_grid import Fault, InProcessGrid
from fedcohort.fl_client.governance.day_limits import TIMES
from fedcohort.fl_client.node import Node
from fedcohort.fl_server.coordinator import Outcome
from fedcohort.fl_server.rounds import Patience
from fedcohort.privacy.accounting import BOUND, calibrate
from fedcohort.privacy.errors import ProtocolError
from fedcohort.privacy.ledger.book import MemoryLedger
from fedcohort.privacy.ledger.charges import Charge
from fedcohort.privacy.secagg.messages import ShareOf, Unmask
from fedcohort.privacy.secagg.site import SiteSession
from fedcohort.study.cohort import Cohort, Schema
from fedcohort.study.plan import Plan, PrivacyTerms

SITES = ("a", "b", "c", "d", "e")
PATIENTS = 173  # a count that is easy to find in bytes
SCHEMA = Schema(
    name="masked",
    task="risk",
    features=("x", "y"),
    bound=4.0,
    outcome="o",
    codebook_sha256="0" * 64,
)
QUICK = Patience(timeout_s=0.3, attempts=2)
MODEL = {"name": "logistic", "features": 2, "bound": 4.0}


@pytest.fixture(scope="module")
def cohorts() -> list[Cohort]:
    """Five hospitals of 173 patients."""
    random = np.random.default_rng(5)
    made = []
    for number, site in enumerate(SITES):
        features = random.normal(0, 1, (PATIENTS, 2)).clip(-4, 4)
        label = (random.random(PATIENTS) < 1 / (1 + np.exp(-features @ [1.0, -1.0]))).astype(float)
        made.append(
            Cohort(
                site=site,
                schema=SCHEMA,
                features=features.astype(np.float32),
                patient=np.arange(PATIENTS, dtype=np.uint64) + 1000 * number,
                label=label,
            )
        )
    return made


def plan_of(
    secagg: str = "masked", *, min_sites: int = 5, privacy: PrivacyTerms | None = None
) -> Plan:
    parameters: dict[str, object] = {"model": MODEL, "l2": 1.0}
    if privacy is not None:
        parameters |= {"steps": 2, "learning_rate": 1.0, "clip": 1.0}
    return Plan(
        study="masked",
        purpose="To see sums and nothing else.",
        analysis="newton" if privacy is None else "gradient",
        parameters=parameters,
        schema_sha256=SCHEMA.sha256,
        sites=SITES,
        privacy=privacy,
        max_rounds=100,
        max_patients_per_site=1000,
        min_sites=min_sites,
        secagg=secagg,
        colluders=1,
        roster="simulation",
        expires="2999-01-01",
    )


def noisy(min_survivors: int = 5) -> PrivacyTerms:
    return PrivacyTerms(
        epsilon=3.0,
        delta=1e-4,
        noise_multiplier=calibrate(3.0, 1e-4, 3),
        releases=3,
        clip=1.0,
        sharing="sum",
        min_survivors=min_survivors,
        colluders=1,
        bound=BOUND,
    )


class Lost:
    """A faults hook that loses messages of one type to the node of one site."""

    def __init__(self, site: str, action: str, *, times: int) -> None:
        self.site, self.action, self.left = site, action, times
        self.grid: InProcessGrid | None = None
        self._names: dict[int, str] = {}

    def __call__(self, message: Message) -> Fault | None:
        node = message.metadata.dst_node_id
        if node not in self._names:  # plans are proposed in the order of the names
            self._names[node] = SITES[len(self._names)]
        here = self._names[node], message.metadata.message_type
        if here != (self.site, self.action) or self.left <= 0:
            return None
        self.left -= 1
        return "drop"


def theta(outcome: Outcome) -> np.ndarray:
    return outcome.result.arrays["theta"]


def test_masks_change_nothing_in_the_result(cohorts: list[Cohort]) -> None:
    masked, plain = federate(plan_of(), cohorts), federate(plan_of("plain"), cohorts)
    assert np.array_equal(theta(masked), theta(plain))  # the same integers, not nearly the same
    assert masked.bytes_up > plain.bytes_up


@pytest.mark.parametrize("action", ["train.report", "query.commit", "query.unmask"])
def test_a_site_that_is_lost_for_one_message_costs_nothing(
    cohorts: list[Cohort], action: str
) -> None:
    faultless = theta(federate(plan_of(), cohorts))
    outcome = federate(plan_of(), cohorts, faults=Lost("c", action, times=1), patience=QUICK)
    assert np.array_equal(theta(outcome), faultless)


@pytest.mark.parametrize("action", ["query.advertise", "query.share", "query.acknowledge"])
def test_a_site_that_is_slow_in_the_set_up_is_asked_again(
    cohorts: list[Cohort], action: str
) -> None:
    faultless = theta(federate(plan_of(), cohorts))
    outcome = federate(plan_of(), cohorts, faults=Lost("b", action, times=1), patience=QUICK)
    assert np.array_equal(theta(outcome), faultless)


def test_a_site_that_is_gone_is_left_out_where_the_plan_allows(cohorts: list[Cohort]) -> None:
    lost = Lost("d", "train.report", times=10**6)
    outcome = federate(plan_of(min_sites=4), cohorts, faults=lost, patience=QUICK)
    assert outcome.dropped == ("d",)
    four = tuple(site for site in SITES if site != "d")
    rest = [cohort for cohort in cohorts if cohort.site != "d"]
    without = federate(dataclasses.replace(plan_of(min_sites=4), sites=four), rest)
    # Another number of sites is another grid: equal to its resolution, not to the bit.
    assert np.allclose(theta(outcome), theta(without), atol=1e-9)


@pytest.mark.parametrize("secagg", ["masked", "plain"])
def test_a_site_that_was_away_for_a_round_comes_back(cohorts: list[Cohort], secagg: str) -> None:
    # In plain a silent site is asked again within the round: it is away for both times.
    away = Lost("d", "train.report", times=1 if secagg == "masked" else 2)
    outcome = federate(plan_of(secagg, min_sites=4), cohorts, faults=away, patience=QUICK)
    assert outcome.dropped == ("d",)
    everybody = federate(plan_of(secagg, min_sites=4), cohorts)
    # Newton mends what the first step missed.
    assert np.allclose(theta(outcome), theta(everybody), atol=1e-6)


def test_a_site_that_missed_the_set_up_is_named_and_is_in_the_next_sum(
    cohorts: list[Cohort],
) -> None:
    late = Lost("b", "query.advertise", times=2)
    outcome = federate(plan_of(min_sites=4), cohorts, faults=late, patience=QUICK)
    assert outcome.dropped == ("b",)
    everybody = federate(plan_of(min_sites=4), cohorts)
    assert np.allclose(theta(outcome), theta(everybody), atol=1e-6)


def test_fewer_sites_than_the_noise_needs_open_nothing(cohorts: list[Cohort]) -> None:
    lost = Lost("d", "train.report", times=10**6)
    with pytest.raises(ProtocolError) as refused:
        federate(plan_of(privacy=noisy()), cohorts, faults=lost, patience=QUICK)
    assert refused.value.code == "too_few_survivors"
    assert "d" in str(refused.value)


def test_a_second_attempt_hands_the_same_vector_over_and_pays_once(
    cohorts: list[Cohort], monkeypatch: pytest.MonkeyPatch
) -> None:
    paid: list[Charge] = []
    handed: list[bytes] = []
    pay, hand = MemoryLedger.charge, SiteSession.report

    def charge(self: MemoryLedger, entry: Charge) -> str:
        paid.append(entry)
        return pay(self, entry)

    def report(self: SiteSession, vector: np.ndarray) -> tuple[bytes, bytes]:
        if self.position == 1:
            handed.append(vector.tobytes())
        return hand(self, vector)

    monkeypatch.setattr(MemoryLedger, "charge", charge)
    monkeypatch.setattr(SiteSession, "report", report)
    lost = Lost("e", "train.report", times=1)
    federate(plan_of(privacy=noisy()), cohorts, faults=lost, patience=QUICK)
    assert len(paid) == 3 * len(SITES)  # three sums, five sites, however often they were asked
    assert len(handed) == 4  # the first sum was tried twice
    assert handed[0] == handed[1]


def test_a_member_that_lies_about_a_share_is_named_and_the_sum_comes_out(
    cohorts: list[Cohort], monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = federate(plan_of(), cohorts)
    sign = Unmask.signed

    def lie(self: Unmask, *keys: object) -> Unmask:
        if self.sender == 2:
            wrong = tuple(
                ShareOf(owner=s.owner, survived=s.survived, value=bytes(33)) for s in self.shares
            )
            self = dataclasses.replace(self, shares=wrong)
        return sign(self, *keys)  # type: ignore[arg-type]

    monkeypatch.setattr(Unmask, "signed", lie)
    outcome = federate(plan_of(), cohorts)
    assert np.array_equal(theta(outcome), theta(honest))
    assert outcome.liars == ("b",)


def captured(monkeypatch: pytest.MonkeyPatch, run: Callable[[], object]) -> bytes:
    """Return every byte that reached the coordinator during a run."""
    seen: list[bytes] = []
    deliver = flower_compat.over_the_wire

    def tap(message: Message) -> Message:
        arrived = deliver(message)
        if message.metadata.reply_to_message_id and not message.has_error():
            for records in message.content.array_records.values():
                seen.extend(array.data for array in records.values())
            for config in message.content.config_records.values():
                for value in config.values():
                    parts = value if isinstance(value, list) else [value]
                    seen.extend(p if isinstance(p, bytes) else str(p).encode() for p in parts)
        return arrived

    monkeypatch.setattr(local_grid, "over_the_wire", tap)
    run()
    return b"\x00".join(seen)


def test_no_byte_that_the_coordinator_gets_tells_a_sites_numbers(
    cohorts: list[Cohort], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every vector a site prepares, word by word, and its count, in all that the coordinator got.

    An 8-byte word of a prepared vector is found by chance with probability below 1e-12 in the
    hundred kilobytes of a run. The positive control is the same run in plain.
    """
    words: set[bytes] = set()
    prepare = Node.report

    def spy(self: Node, *asked: object) -> object:
        answer = prepare(self, *asked)  # type: ignore[arg-type]
        for study in self._studies.values():
            if study._prepared is not None:
                vector = study._prepared[1].vector
                words.update(
                    int(word).to_bytes(8, "little", signed=True) for word in vector if word
                )
        return answer

    monkeypatch.setattr(Node, "report", spy)
    in_plain = captured(monkeypatch, lambda: federate(plan_of("plain"), cohorts))
    assert all(word in in_plain for word in words)
    words.clear()
    masked = captured(monkeypatch, lambda: federate(plan_of(), cohorts))
    assert words
    assert not any(word in masked for word in words)
    assert str(PATIENTS).encode() not in masked
    # Eight bytes are not there by chance; the four of a float32 may be, so they are not sought.
    for kind in ("<i8", "<f8", ">i8", ">f8"):
        assert np.array([PATIENTS], dtype=kind).tobytes() not in masked


def test_two_sites_cannot_be_masked_from_each_other(cohorts: list[Cohort]) -> None:
    with pytest.raises(ProtocolError) as refused:
        dataclasses.replace(plan_of("plain", min_sites=2), sites=("a", "b"), secagg="masked")
    assert refused.value.code == "too_few_sites"


def test_a_site_without_a_session_refuses_a_plan_that_masks(
    cohorts: list[Cohort], monkeypatch: pytest.MonkeyPatch
) -> None:
    ceremony = federate_module.ceremony

    def one_without(plan: Plan) -> object:
        masking, sessions = ceremony(plan)
        return masking, {name: s for name, s in sessions.items() if name != "a"}

    monkeypatch.setattr(federate_module, "ceremony", one_without)
    with pytest.raises(Exception, match="no_session"):
        federate(plan_of(), cohorts, patience=QUICK)


def test_an_honest_study_of_nine_sums_fits_the_days_number_of_messages(
    cohorts: list[Cohort],
) -> None:
    """`docs/reference/policy.md` states these numbers, and `limits` is sized by them."""
    terms = dataclasses.replace(noisy(), releases=9, noise_multiplier=calibrate(3.0, 1e-4, 9))
    plan = plan_of(privacy=terms)
    plan = dataclasses.replace(plan, parameters={**plan.parameters, "steps": 8})
    asked: dict[int, Counter[str]] = {}

    def count(message: Message) -> None:
        found = asked.setdefault(message.metadata.dst_node_id, Counter())
        found[message.metadata.message_type] += 1

    federate(plan, cohorts, faults=count)
    phases = {"query.advertise": 1, "query.share": 1, "query.acknowledge": 1}
    phases |= {"query.commit": 9, "query.unmask": 9}
    wanted = Counter({"query.propose": 1, "train.report": 9, "query.close": 1} | phases)
    assert list(asked.values()) == [wanted] * 5
    requests = wanted["query.propose"] + wanted["train.report"]
    assert sum(phases.values()) <= TIMES["phase"] * requests
