"""What a network and a hospital do on a bad day; the answer is the same, or there is none."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from fedcohort.experiments.simulation import federate as federate_module
from fedcohort.experiments.simulation import local_grid
from fedcohort.experiments.simulation.federate import federate
from fedcohort.experiments.simulation.flower_compat import over_the_wire, stamped
from fedcohort.experiments.simulation.local_grid import Fault, InProcessGrid
from fedcohort.fl_server.rounds import Patience
from fedcohort.privacy.accounting import BOUND, calibrate
from fedcohort.privacy.errors import PolicyError, ProtocolError
from fedcohort.study.analyses.newton import Newton
from fedcohort.study.analysis import Contribution, State, solve
from fedcohort.study.cohort import Cohort, Schema
from fedcohort.study.plan import Plan, PrivacyTerms, analysis_of

SITES = ("east", "north", "south", "west")
SCHEMA = Schema(
    name="faults",
    task="risk",
    features=("a", "b"),
    bound=4.0,
    outcome="y",
    codebook_sha256="0" * 64,
)
QUICK = Patience(timeout_s=0.3, attempts=2)
RECORD = "4711 Miller, HIV positive"
MODEL = {"name": "logistic", "features": 2, "bound": 4.0}
REPORT, PROPOSE = "train.report", "query.propose"


@pytest.fixture(scope="module")
def cohorts() -> list[Cohort]:
    """Four hospitals of 40 patients with two features."""
    random = np.random.default_rng(11)
    made = []
    for number, site in enumerate(SITES):
        features = random.normal(0, 1, (40, 2)).clip(-4, 4)
        label = (random.random(40) < 1 / (1 + np.exp(-features @ [1.0, -0.5]))).astype(float)
        made.append(
            Cohort(
                site=site,
                schema=SCHEMA,
                features=features.astype(np.float32),
                patient=np.arange(40, dtype=np.uint64) + 1000 * number,
                label=label,
            )
        )
    return made


def plan_of(*, min_sites: int = 4, privacy: PrivacyTerms | None = None) -> Plan:
    """Newton without noise, or gradient descent with it, over the four sites."""
    gradient = {"steps": 3, "learning_rate": 1.0, "l2": 1.0, "clip": 1.0}
    newton = {"l2": 1.0}
    return Plan(
        study="faults",
        purpose="To see what a bad day does.",
        analysis="newton" if privacy is None else "gradient",
        parameters={"model": MODEL, **(newton if privacy is None else gradient)},
        schema_sha256=SCHEMA.sha256,
        sites=SITES,
        privacy=privacy,
        max_rounds=100,
        max_patients_per_site=1000,
        min_sites=min_sites,
        secagg="plain",
        colluders=1,
        roster="simulation",
        expires="2999-01-01",
    )


def noisy(min_survivors: int) -> PrivacyTerms:
    return PrivacyTerms(
        epsilon=3.0,
        delta=1e-4,
        noise_multiplier=calibrate(3.0, 1e-4, 4),
        releases=4,
        clip=1.0,
        sharing="sum",
        min_survivors=min_survivors,
        colluders=1,
        bound=BOUND,
    )


class BadDay:
    """A faults hook: `fault` befalls messages of one action to one site.

    The coordinator proposes to the sites in the order of their names, which tells the hook
    who is behind a node id.
    """

    def __init__(
        self, fault: Fault, *, site: str, action: str = REPORT, skip: int = 0, times: int = 1
    ) -> None:
        self.fault, self.site, self.action = fault, site, action
        self.skip, self.left = skip, times
        self.seen: list[str] = []
        self._names: dict[int, str] = {}

    def __call__(self, message: Message) -> Fault | None:
        node = message.metadata.dst_node_id
        if node not in self._names:
            self._names[node] = SITES[len(self._names)]
        if (self._names[node], message.metadata.message_type) != (self.site, self.action):
            return None
        self.skip -= 1
        if self.skip >= 0 or self.left <= 0:
            return None
        self.left -= 1
        self.seen.append(message.metadata.message_id)
        return self.fault


FOR_EVER = 10**9


@pytest.fixture(scope="module")
def faultless(cohorts: list[Cohort]) -> np.ndarray:
    return federate(plan_of(), cohorts).result.arrays["theta"]


@pytest.mark.parametrize("action", [PROPOSE, REPORT])
@pytest.mark.parametrize("fault", ["drop", "delay", "duplicate", "late", "error"])
def test_one_fault_changes_nothing(
    cohorts: list[Cohort], faultless: np.ndarray, fault: Fault, action: str
) -> None:
    skip = 1 if action == REPORT else 0  # in the second round
    day = BadDay(fault, site="north", action=action, skip=skip)
    outcome = federate(plan_of(), cohorts, faults=day, patience=QUICK)
    assert len(day.seen) == 1
    np.testing.assert_array_equal(outcome.result.arrays["theta"], faultless)
    assert outcome.dropped == ()


@pytest.mark.parametrize("fault", ["late", "duplicate", "drop"])
def test_asking_again_costs_no_budget(cohorts: list[Cohort], fault: Fault) -> None:
    """The ledger holds the plan's price and not a round more: a second charge would be refused."""
    day = BadDay(fault, site="south", times=1)
    outcome = federate(plan_of(privacy=noisy(4)), cohorts, faults=day, patience=QUICK)
    assert (outcome.rounds, outcome.dropped) == (4, ())


@pytest.mark.parametrize("fault", ["drop", "late", "error"])
def test_a_site_that_stays_silent_ends_the_plan_and_is_named(
    cohorts: list[Cohort], fault: Fault
) -> None:
    rounds: list[int] = []
    day = BadDay(fault, site="south", skip=2, times=FOR_EVER)
    with pytest.raises(ProtocolError, match=r"3 sites .* needs 4; silent: south") as refused:
        federate(plan_of(), cohorts, faults=day, patience=QUICK, on_round=rounds.append)
    assert refused.value.code == "too_few_sites"
    assert refused.value.exit_code == 4
    assert rounds == [1, 2]
    assert len(day.seen) == QUICK.attempts


def test_a_site_that_never_hears_of_the_plan_is_named(cohorts: list[Cohort]) -> None:
    day = BadDay("drop", site="east", action=PROPOSE, times=FOR_EVER)
    with pytest.raises(ProtocolError, match="east") as refused:
        federate(plan_of(), cohorts, faults=day, patience=QUICK)
    assert refused.value.code == "site_silent"


def test_fewer_sites_are_enough_where_the_plan_says_so(cohorts: list[Cohort]) -> None:
    day = BadDay("drop", site="west", times=FOR_EVER)
    plan = plan_of(min_sites=3)
    once = Patience(timeout_s=0.1, attempts=1)
    outcome = federate(plan, cohorts, faults=day, patience=once)
    assert outcome.dropped == ("west",)
    survivors = solve(analysis_of(plan), cohorts[:3]).arrays["theta"]
    np.testing.assert_allclose(outcome.result.arrays["theta"], survivors, atol=1e-8)


def test_noise_for_three_survivors_is_enough_for_three_and_not_for_two(
    cohorts: list[Cohort],
) -> None:
    plan = plan_of(privacy=noisy(3))
    once = Patience(timeout_s=0.1, attempts=1)
    one_gone = BadDay("drop", site="west", times=FOR_EVER)
    assert federate(plan, cohorts, faults=one_gone, patience=once).dropped == ("west",)
    days = (one_gone, BadDay("drop", site="east", times=FOR_EVER))
    both: list[Callable[[Message], Fault | None]] = [*days]

    def two_gone(message: Message) -> Fault | None:
        return next((fault for fault in [day(message) for day in both] if fault), None)

    one_gone.left = FOR_EVER
    one_gone._names.clear()  # the node ids of a new grid
    with pytest.raises(ProtocolError, match="2 sites answered") as refused:
        federate(plan, cohorts, faults=two_gone, patience=once)
    assert refused.value.code == "too_few_sites"


class NoisyGrid(InProcessGrid):
    """A grid that also hands over replies that nobody asked for."""

    strays = 0

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        asked = stamped(Message(RecordDict(), 12345, REPORT))
        refusal = RecordDict({"refused": ConfigRecord({"code": "stray"})})
        wanted = list(super().pull_messages(message_ids))
        NoisyGrid.strays += 1
        # Before and after what was waited for, and what was waited for a second time.
        return [Message(refusal, reply_to=asked), *wanted, *wanted]


def test_replies_that_answer_no_request_are_ignored(
    cohorts: list[Cohort], faultless: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(federate_module, "InProcessGrid", NoisyGrid)
    outcome = federate(plan_of(), cohorts, patience=QUICK)
    assert NoisyGrid.strays > 3
    np.testing.assert_array_equal(outcome.result.arrays["theta"], faultless)


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Every byte that passes between coordinator and sites, in Flower's protobuf format."""
    from flwr.common.serde import message_to_proto

    passed: list[bytes] = []

    def tapped(message: Message) -> Message:
        passed.append(message_to_proto(message).SerializeToString())
        return over_the_wire(message)

    monkeypatch.setattr(local_grid, "over_the_wire", tapped)
    return passed


HONEST = Newton.contribution


def failing(at: str, error: Exception) -> Callable[[Newton, Cohort, State], Contribution]:
    def contribution(self: Newton, cohort: Cohort, state: State) -> Contribution:
        if cohort.site == at and state.round == 1:
            raise error
        return HONEST(self, cohort, state)

    return contribution


@pytest.mark.parametrize(
    "error", [ValueError(RECORD), KeyError(RECORD), ZeroDivisionError(RECORD), MemoryError(RECORD)]
)
def test_what_fails_at_a_site_leaves_as_a_code_and_never_as_text(
    cohorts: list[Cohort],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    wire: list[bytes],
    error: Exception,
) -> None:
    monkeypatch.setattr(Newton, "contribution", failing("north", error))
    with (
        caplog.at_level(logging.WARNING, logger="fedcohort"),
        pytest.raises(ProtocolError, match="north") as refused,
    ):
        federate(plan_of(), cohorts, patience=QUICK)
    assert refused.value.code == "site_error"
    assert "Miller" not in str(refused.value) + refused.value.hint
    assert b"Miller" not in b"".join(wire)
    assert b"site_error" in b"".join(wire)
    # The hospital's own log says where, and the text only when asked for: someone must mend it.
    assert "test_faults.py" in caplog.text
    assert type(error).__name__ in caplog.text
    assert "Miller" not in caplog.text
    with caplog.at_level(logging.DEBUG, logger="fedcohort"), pytest.raises(ProtocolError):
        federate(plan_of(), cohorts, patience=QUICK)
    assert "Miller" in caplog.text


def test_a_policy_that_says_no_leaves_as_its_code_too(
    cohorts: list[Cohort], monkeypatch: pytest.MonkeyPatch, wire: list[bytes]
) -> None:
    error = PolicyError("too_few_events", RECORD)
    monkeypatch.setattr(Newton, "contribution", failing("west", error))
    with pytest.raises(PolicyError, match="west refused: too_few_events") as refused:
        federate(plan_of(), cohorts, patience=QUICK)
    assert (refused.value.code, refused.value.exit_code) == ("too_few_events", 3)
    assert b"Miller" not in b"".join(wire)


def test_every_refusal_has_the_same_length(
    cohorts: list[Cohort], monkeypatch: pytest.MonkeyPatch, wire: list[bytes]
) -> None:
    lengths = set()
    errors: Sequence[Exception] = (PolicyError("no", "x"), PolicyError("y" * 40, "x"), ValueError())
    for error in errors:
        wire.clear()
        monkeypatch.setattr(Newton, "contribution", failing("north", error))
        with pytest.raises((PolicyError, ProtocolError)):
            federate(plan_of(), cohorts, patience=QUICK)
        lengths |= {len(passed) for passed in wire if b"refused" in passed}
    # Ids and times are numbers of varying length in protobuf: a few bytes at most.
    assert max(lengths) - min(lengths) <= 8


def test_a_site_answers_no_plan_but_the_one_it_approved(cohorts: list[Cohort]) -> None:
    node = federate_module.simulated_node(cohorts[0], plan_of())
    with pytest.raises(PolicyError) as refused:
        node.propose(plan_of(min_sites=3).to_json())
    assert refused.value.code == "plan_not_approved"


def test_a_vector_of_the_wrong_shape_breaks_the_protocol(
    cohorts: list[Cohort], monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(self: Newton, cohort: Cohort, state: State) -> Contribution:
        return Contribution(total=np.zeros(1), patients=1, sensitivity=None)

    monkeypatch.setattr(Newton, "contribution", short)
    with pytest.raises((PolicyError, ProtocolError)) as refused:
        federate(plan_of(), cohorts, patience=QUICK)
    assert refused.value.code == "vector_shape"


def test_a_plan_for_other_sites_never_starts(cohorts: list[Cohort]) -> None:
    heard: list[Any] = []

    def listen(message: Message) -> Fault | None:
        heard.append(message)
        return None

    with pytest.raises(ProtocolError) as refused:
        federate(plan_of(), cohorts[:3], faults=listen, patience=QUICK)
    assert refused.value.code == "roster_mismatch"
    assert heard == []
