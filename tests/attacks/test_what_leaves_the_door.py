"""What a hospital's process lets out: encoded sums that are paid for, and codes.

Three adversaries. A careless author of `fl_client` makes bytes beside the door: the source is
read. A coordinator keeps every byte it is sent, and provokes errors: the wire is searched. A
coordinator asks for what the plan does not price, twice, or of a hospital that is empty or
over-full: the door and the node answer.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.serde import message_to_proto, recorddict_to_proto

import fedcohort
from fedcohort.experiments.simulation.local_grid import InProcessGrid
from fedcohort.fl_client.app import client_app
from fedcohort.fl_client.door import (
    NoDisclosureRules,
    Prepared,
    Release,
    SiteTerms,
    prepare,
    release,
)
from fedcohort.fl_client.gate import PlanGate
from fedcohort.fl_client.node import Node
from fedcohort.fl_server.coordinator import run_plan
from fedcohort.fl_server.rounds import Patience, propose
from fedcohort.privacy.budget import Budget
from fedcohort.privacy.errors import (
    BudgetExceededError,
    ConfigError,
    DataError,
    FedCohortError,
    PolicyError,
    ProtocolError,
)
from fedcohort.privacy.ledger.book import MemoryLedger
from fedcohort.privacy.ledger.charges import Charge, Opening, Reservation, Unmasking
from fedcohort.privacy.mechanism import Mechanism
from fedcohort.study.analysis import Contribution, State, Vector
from fedcohort.study.cohort import Cohort, Schema, Task
from fedcohort.study.plan import Plan, PrivacyTerms, analysis_of, reservation_of
from fedcohort.study.rounds import RoundTerms, terms_for

CLIENT = Path(fedcohort.__file__).parent / "fl_client"
COUNT = 173  # patients at the watched site: recognisable on the wire
WHISPER = "patient 4711, HIV positive"  # what an error's text might hold
LOGISTIC = {"name": "logistic", "features": 2, "bound": 3.0}
HAZARD = {"name": "hazard", "features": 2, "bound": 3.0, "horizon_days": 365.0, "intervals": 4}
MAX_PATIENTS = 400
# So much that no noise looks like a number that is searched for; inside local steps it would
# push the weights off their grid, which is fine enough to hide any number without it.
NOISE, LOCAL_NOISE = 1e6, 5.0


# ---- the source


def makes_outgoing_numbers(tree: ast.Module) -> list[str]:
    """Names of what a module calls that makes encoded or noisy vectors."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            if name == "encode" and not node.args:
                continue  # text to bytes: an encoding takes the sum as its argument
            if name in {"encode", "encode_noisy", "discrete_gaussian", "share_sigma", "Release"}:
                found.append(name)
    return found


def put_on_the_wire(tree: ast.Module) -> set[str]:
    """Every value that a module puts into a Flower record, as source text."""
    found = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            continue
        if node.func.id in {"Array", "MetricRecord", "Error"}:
            found |= {ast.unparse(argument) for argument in node.args}
            found |= {ast.unparse(keyword.value) for keyword in node.keywords}
        if node.func.id == "ConfigRecord":
            for argument in node.args:
                values = argument.values if isinstance(argument, ast.Dict) else [argument]
                found |= {ast.unparse(value) for value in values}
    return found


def put_into_records(tree: ast.Module) -> set[str]:
    """Every value that is set by key, `record[key] = value`."""
    sets = (node for node in ast.walk(tree) if isinstance(node, ast.Assign))
    return {
        ast.unparse(node.value)
        for node in sets
        if any(isinstance(target, ast.Subscript) for target in node.targets)
    }


def said_no_with(tree: ast.Module) -> set[str]:
    """Every code that a module refuses with, as source text."""
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    return {ast.unparse(call.args[0]) for call in calls if ast.unparse(call.func) == "refusal"}


ALLOWED_ON_THE_WIRE = {
    "release.vector",
    "release.report",  # a signed digest of the masked vector
    "said",  # a message of secure aggregation, made by the site's session
    "exit_code",  # which kind of error the code is
    "sha256",  # of the plan, which the coordinator sent
    "site",  # the name that the coordinator enrolled it under
    "told.roster",  # the hash of a roster that every member has
    "told.plan",  # where a plan stands: one of the ten words of `Approvals`
    "self.teller.policy()",  # the hash of the policy in force
    "policy",  # the same
    "code.ljust(48)[:48]",
}


def sources() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(CLIENT.glob("**/*.py")):
        yield path.name, ast.parse(path.read_text(encoding="utf-8"))


def test_only_the_door_makes_outgoing_numbers() -> None:
    makers = {name for name, tree in sources() if makes_outgoing_numbers(tree)}
    assert makers == {"door.py"}


def test_the_app_puts_nothing_on_the_wire_but_releases_and_codes() -> None:
    app = dict(sources())["app.py"]
    assert put_on_the_wire(app) | put_into_records(app) == ALLOWED_ON_THE_WIRE
    assert ast.unparse(app).count("refusal(error.code, error.exit_code)") == 1
    assert said_no_with(app) == {"error.code", "'site_error'", "DATA_REFUSED"}
    assert said_no_with(dict(sources())["worker.py"]) == {"refused.code", "'site_error'"}
    for name, tree in sources():
        if name != "app.py":
            assert put_on_the_wire(tree) == set(), f"{name} makes Flower records"


def test_a_careless_author_is_noticed() -> None:  # the positive control
    source = (CLIENT / "app.py").read_text(encoding="utf-8")
    careless = source.replace('"code": code.ljust(48)[:48]', '"code": code, "text": str(error)')
    assert careless != source
    assert put_on_the_wire(ast.parse(careless)) != ALLOWED_ON_THE_WIRE
    careless = source.replace("Array(release.vector)", "Array(contribution.total)")
    assert put_on_the_wire(ast.parse(careless)) != ALLOWED_ON_THE_WIRE
    assert makes_outgoing_numbers(ast.parse("vector = terms.encoding.encode(total)"))


# ---- what passes the wire


def schema_for(task: Task) -> Schema:
    return Schema(
        name="drawn",
        task=task,
        features=("x0", "x1"),
        bound=3.0,
        outcome="y",
        codebook_sha256="0" * 64,
        horizon_days=365.0 if task == "survival" else None,
    )


def cohort_of(site: str, patients: int, task: Task = "risk", *, rows_each: int = 1) -> Cohort:
    draw, rows = np.random.default_rng(len(site) + patients), patients * rows_each
    risk = task == "risk"
    return Cohort(
        site=site,
        schema=schema_for(task),
        features=np.clip(draw.normal(size=(rows, 2)), -3, 3).astype(np.float32),
        patient=(np.arange(rows) % max(patients, 1)).astype(np.uint64),
        label=(draw.random(rows) < 0.4).astype(np.float64) if risk else None,
        time=None if risk else draw.exponential(200.0, rows),
        event=None if risk else draw.random(rows) < 0.6,
        groups={"sex": draw.choice(["f", "m"], rows)},
    )


def private_terms(
    *,
    releases: int = 4,
    clip: float = 1.0,
    sharing: Literal["sum", "each", "local"] = "sum",
    noise_multiplier: float | None = None,
) -> PrivacyTerms:
    return PrivacyTerms(
        epsilon=3.0,
        delta=1e-5,
        noise_multiplier=noise_multiplier or (LOCAL_NOISE if sharing == "local" else NOISE),
        releases=releases,
        clip=clip,
        sharing=sharing,
        min_survivors=2,
        colluders=1 if sharing == "sum" else 0,
        bound="rdp",
    )


def plan_of(
    analysis: str = "gradient",
    parameters: dict[str, Any] | None = None,
    *,
    privacy: PrivacyTerms | None,
    task: Task = "risk",
) -> Plan:
    clip = None if privacy is None else 1.0
    return Plan(
        study="attacked",
        purpose="See what leaves.",
        analysis=analysis,
        parameters=parameters or {"model": LOGISTIC, "steps": 3, "clip": clip},
        schema_sha256=schema_for(task).sha256,
        sites=("a", "b"),
        privacy=privacy,
        max_rounds=50,
        max_patients_per_site=MAX_PATIENTS,
        min_sites=2,
        secagg="plain",
        colluders=1,
        roster="simulation",
        expires="9999-12-31",
    )


def ledger_of(epsilon: float = 3.0) -> MemoryLedger:
    budget = Budget(epsilon=epsilon, delta=1e-5)
    return MemoryLedger(
        Opening(hospital="a", population="all", kind="simulation", budget=budget, unnoised=True)
    )


def paid_by(ledger: MemoryLedger) -> list[Charge]:
    return [charge for account in ledger.book.accounts.values() for charge in account.charges]


def node_for(
    plan: Plan, cohort: Cohort | FedCohortError | Exception, *, ledger: Any = None
) -> Node:
    """A node that holds a cohort, or whose table cannot be read."""

    def build(asked: Plan) -> Cohort:
        if isinstance(cohort, Exception):
            raise cohort
        return cohort

    paid = ledger_of() if ledger is None else ledger
    return Node(
        site=cohort.site if isinstance(cohort, Cohort) else "a",
        cohort=build,
        terms=lambda asked: SiteTerms(ledger=paid, disclosure=NoDisclosureRules()),
        gate=PlanGate(lambda asked: True),
    )


class Tap(InProcessGrid):
    """A grid whose operator keeps every reply: the honest-but-curious coordinator."""

    def __init__(self, app: ClientApp) -> None:
        super().__init__(app, ["a", "b"])
        self.replies: list[Message] = []

    def _keep(self, reply: Message, looks: int) -> None:
        self.replies.append(reply)
        super()._keep(reply, looks)


def wire_bytes(message: Message) -> bytes:
    """The reply as it passes: Flower's protobuf."""
    return bytes(message_to_proto(message).SerializeToString())


def content_size(message: Message) -> int:
    """Bytes of the content; Flower's own envelope holds random ids of varying length."""
    return len(recorddict_to_proto(message.content).SerializeToString())


def leaks(message: Message) -> list[str]:
    """What a reply gives away that it must not."""
    data, found = wire_bytes(message), []
    # Long enough never to turn up by chance in ids, hashes and noise.
    for text in (WHISPER, "patient 4711", "HIV positive", "Error(", "Traceback"):
        if text.encode() in data:
            found.append(f"text {text!r}")
    for kind in "qdQ":
        for order in "<>":
            if struct.pack(f"{order}{kind}", COUNT) in data:
                found.append(f"the count as {order}{kind}")
    for marker in (b"'<f8'", b"'<f4'", b"'>f8'", b"float64"):  # as numpy writes them
        if marker in data:
            found.append(f"an array of {marker!r}")
    for record in message.content.array_records.values():
        found += [
            f"an array of {array.dtype}" for array in record.values() if array.dtype != "int64"
        ]
    for config in message.content.config_records.values():
        for value in config.values():
            if re.search(rf"(?<![0-9a-f]){COUNT}(?![0-9a-f])", str(value)):
                found.append("the count in words")
    if message.content.metric_records:
        found.append("metrics")
    return found


def tap_on(nodes: dict[str, Node]) -> Tap:
    return Tap(client_app(lambda context: nodes[str(context.node_config["site"])]))


def run_and_tap(plan: Plan, nodes: dict[str, Node]) -> list[Message]:
    """Run a plan to its end, or to its refusal, and return every reply that passed."""
    grid = tap_on(nodes)
    with contextlib.suppress(FedCohortError):
        run_plan(plan, grid, grid.nodes)
    assert grid.replies
    return grid.replies


GRAM = {"noise_scale": 30.0}  # in units of the clip norm: it only places a floor
ANALYSES: list[tuple[str, dict[str, Any], Task, Literal["sum", "each", "local"]]] = [
    ("gradient", {"model": LOGISTIC, "steps": 3, "clip": 1.0}, "risk", "sum"),
    ("gradient", {"model": LOGISTIC, "steps": 3, "clip": 1.0}, "risk", "each"),
    ("gradient", {"model": HAZARD, "steps": 3, "clip": 1.0}, "survival", "sum"),
    ("whitened", {"model": LOGISTIC, "steps": 3, "clip": 1.0, **GRAM}, "risk", "sum"),
    ("newton_gram", {"model": HAZARD, "steps": 3, "clip": 1.0, **GRAM}, "survival", "sum"),
    ("counts", {"rows": "sex", "row_values": ["f", "m"], "private": True}, "risk", "sum"),
    ("kaplan_meier", {"horizon_days": 365.0, "intervals": 6, "private": True}, "survival", "sum"),
    (
        "averaging",
        {
            "model": LOGISTIC,
            "rounds": 1,
            "local_steps": 3,
            "clip": 1.0,
            "noise_multiplier": LOCAL_NOISE,
            "max_patients": MAX_PATIENTS,
        },
        "risk",
        "local",
    ),
]
IDS = [f"{name} {sharing}" for name, _, _, sharing in ANALYSES]


@pytest.mark.parametrize(("analysis", "parameters", "task", "sharing"), ANALYSES, ids=IDS)
def test_a_whole_private_run_sends_integers_and_no_count(
    analysis: str,
    parameters: dict[str, Any],
    task: Task,
    sharing: Literal["sum", "each", "local"],
) -> None:
    plan = plan_of(analysis, parameters, privacy=private_terms(sharing=sharing), task=task)
    cohorts = [cohort_of("a", COUNT, task), cohort_of("b", 20, task)]
    replies = run_and_tap(plan, {cohort.site: node_for(plan, cohort) for cohort in cohorts})
    assert any("vector" in reply.content.array_records for reply in replies)
    for reply in replies:
        assert leaks(reply) == []
        assert set(reply.content) <= {"answer", "vector"}


def test_a_whole_run_without_noise_sends_integers_and_no_count() -> None:
    parameters = {"model": LOGISTIC, "l2": 1.0}
    plan = plan_of("newton", parameters, privacy=None)
    cohorts = [cohort_of("a", COUNT), cohort_of("b", 20)]
    replies = run_and_tap(plan, {cohort.site: node_for(plan, cohort) for cohort in cohorts})
    assert len(replies) > 6
    assert [leaks(reply) for reply in replies] == [[]] * len(replies)


FAILURES: list[Exception] = [
    DataError("codebook_range", f"a value is out of range: {WHISPER}", hint=WHISPER),
    DataError("x", WHISPER * 50),
    PolicyError("plan_not_approved", "no"),
    ConfigError("a" * 200, WHISPER),
    BudgetExceededError("budget_exceeded", f"{COUNT} patients"),
    ProtocolError("terms_mismatch", ""),
    ValueError(f"could not convert string to float: {WHISPER!r}"),
    KeyError(WHISPER),
    ZeroDivisionError(COUNT),
    MemoryError(),
    RecursionError(WHISPER),
    UnicodeDecodeError("utf-8", WHISPER.encode(), 0, 1, WHISPER),
]


@pytest.mark.parametrize("failure", FAILURES, ids=lambda error: type(error).__name__)
def test_an_error_leaves_as_a_code_and_nothing_else(failure: Exception) -> None:
    plan = plan_of(privacy=private_terms())
    nodes = {"a": node_for(plan, failure), "b": node_for(plan, cohort_of("b", 20))}
    replies = run_and_tap(plan, nodes)
    refused = [reply for reply in replies if "refused" in reply.content]
    assert len(refused) == 1
    assert leaks(refused[0]) == []
    assert set(refused[0].content) == {"refused"}
    expected = getattr(failure, "code", "site_error")[:48]
    if isinstance(failure, DataError):  # which rule of the records it was stays at the site
        expected = "data_refused"
    assert str(refused[0].content.config_records["refused"]["code"]).strip() == expected


def test_every_error_has_the_same_size() -> None:
    plan = plan_of(privacy=private_terms())
    sizes = set()
    for failure in FAILURES:
        nodes = {"a": node_for(plan, failure), "b": node_for(plan, cohort_of("b", 20))}
        replies = run_and_tap(plan, nodes)
        sizes |= {content_size(reply) for reply in replies if "refused" in reply.content}
    assert len(sizes) == 1


def leaky_app(answer: Callable[[], RecordDict]) -> ClientApp:
    """An app that tells why it failed, as a first draft would."""
    app = ClientApp()

    @app.query("propose")
    def propose(message: Message, context: Context) -> Message:
        try:
            content = answer()
        except Exception as error:
            content = RecordDict({"refused": ConfigRecord({"code": repr(error)})})
        return Message(content, reply_to=message)

    return app


def raises_the_secret() -> RecordDict:
    raise ValueError(WHISPER)


@pytest.mark.parametrize(
    ("answer", "seen"),
    [
        (raises_the_secret, "text 'patient 4711"),
        (
            lambda: RecordDict({"vector": ArrayRecord({"sum": Array(np.array([1.5, 2.5]))})}),
            "an array of float64",
        ),
        (
            lambda: RecordDict({"vector": ArrayRecord({"sum": Array(np.array([7, COUNT]))})}),
            "the count as <q",
        ),
        (lambda: RecordDict({"answer": ConfigRecord({"patients": COUNT})}), "the count in words"),
        (
            lambda: RecordDict({"answer": ConfigRecord({"note": f"sim-{COUNT}"})}),
            "the count in words",
        ),
        (lambda: RecordDict({"answer": ConfigRecord({"n": float(COUNT)})}), "the count as <d"),
    ],
    ids=["text", "floats", "count in the vector", "count", "count in a name", "float count"],
)
def test_an_app_that_leaks_is_caught_by_the_same_search(  # the positive control
    answer: Callable[[], RecordDict], seen: str
) -> None:
    grid = Tap(leaky_app(answer))
    with contextlib.suppress(FedCohortError):
        propose(grid, grid.nodes, plan_of(privacy=private_terms()), Patience())
    found = [leak for reply in grid.replies for leak in leaks(reply)]
    assert any(leak.startswith(seen) for leak in found), found


# ---- the door


def first_terms(plan: Plan, attempt: str = "00" * 16) -> RoundTerms:
    analysis = analysis_of(plan)
    return terms_for(plan, analysis, analysis.initial(), attempt)


def contribution_of(total: Vector | None = None, sensitivity: float | None = 1.0) -> Contribution:
    total = np.array([12.0]) if total is None else total
    return Contribution(total=total, patients=12, sensitivity=sensitivity)


def site_with(ledger: Any) -> SiteTerms:
    return SiteTerms(ledger=ledger, disclosure=NoDisclosureRules())


def ready(plan: Plan) -> MemoryLedger:
    """A ledger in which the plan was reserved, as a node does before it looks at a record."""
    ledger = ledger_of()
    ledger.reserve(reservation_of(plan))
    return ledger


def refused(contribution: Contribution, plan: Plan) -> tuple[FedCohortError, MemoryLedger]:
    """Hand something to the door that it must refuse."""
    ledger = ready(plan)
    with pytest.raises(FedCohortError) as error:
        release(contribution, first_terms(plan), plan, site_with(ledger))
    return error.value, ledger


def test_a_sum_without_a_sensitivity_is_refused_under_differential_privacy() -> None:
    for sharing in ("sum", "each"):
        plan = plan_of(privacy=private_terms(sharing=sharing))
        error, ledger = refused(contribution_of(sensitivity=None), plan)
        assert error.code == "no_sensitivity"
        assert paid_by(ledger) == []


def test_a_sensitivity_above_the_plans_is_refused() -> None:
    error, ledger = refused(contribution_of(sensitivity=1.0001), plan_of(privacy=private_terms()))
    assert error.code == "sensitivity_exceeds_plan"
    assert paid_by(ledger) == []


def test_weights_without_noise_of_their_own_are_refused_where_the_plan_promises_it() -> None:
    plan = plan_of(privacy=private_terms(sharing="local"))
    error, ledger = refused(contribution_of(sensitivity=None), plan)
    assert error.code == "no_local_noise"
    assert paid_by(ledger) == []


def test_what_is_refused_anyway_is_refused_alike_whatever_the_data() -> None:
    # A plan of a tiny clip around an analysis without one: which of two codes comes back would
    # tell, unpaid, whether the sum exceeds a number of the plan author's choice.
    plan = plan_of(privacy=private_terms(clip=1e-3))
    small = refused(contribution_of(np.array([0.1]), None), plan)[0]
    large = refused(contribution_of(np.array([12.0]), None), plan)[0]
    assert small.code == large.code == "no_sensitivity"


def test_an_exhausted_ledger_releases_nothing() -> None:
    plan = plan_of(privacy=private_terms(releases=1, noise_multiplier=4.0))
    ledger, terms = ready(plan), first_terms(plan)
    release(contribution_of(), terms, plan, site_with(ledger))
    spent = ledger.book.spent
    second = dataclasses.replace(terms, round=1)
    for asked_again, code in ((terms, "round_already_paid"), (second, "reservation_exceeded")):
        with pytest.raises(PolicyError) as error:
            release(contribution_of(), asked_again, plan, site_with(ledger))
        assert error.value.code == code
    assert isinstance(error.value, BudgetExceededError)
    assert len(paid_by(ledger)) == 1
    assert ledger.book.spent == spent > 0


def test_a_release_of_a_plan_that_nobody_reserved_or_that_has_ended_does_not_leave() -> None:
    for privacy in (None, private_terms()):
        plan = plan_of(privacy=privacy)
        ledger = ledger_of()
        with pytest.raises(PolicyError) as error:
            release(contribution_of(), first_terms(plan), plan, site_with(ledger))
        assert error.value.code == "not_reserved"
        ledger.reserve(reservation_of(plan))
        ledger.close(plan.sha256)
        with pytest.raises(PolicyError) as error:
            release(contribution_of(), first_terms(plan), plan, site_with(ledger))
        assert error.value.code == "plan_closed"
        assert paid_by(ledger) == []


@dataclass
class Broken:
    """A ledger whose disk is full."""

    asked: int = 0

    def reserve(self, reservation: Reservation) -> str:
        return "1"

    def charge(self, charge: Charge) -> str:
        self.asked += 1
        raise OSError("no space left on device")

    def unmask(self, unmasking: Unmasking) -> str:
        raise OSError("no space left on device")

    def check_unspent(self, unmasking: Unmasking) -> None:
        pass

    def close(self, plan_sha256: str) -> None:
        pass


def test_what_cannot_be_booked_does_not_leave() -> None:
    plan, ledger = plan_of(privacy=private_terms()), Broken()
    with pytest.raises(OSError, match="no space"):
        release(contribution_of(), first_terms(plan), plan, site_with(ledger))
    assert ledger.asked == 1
    nodes = {
        "a": node_for(plan, cohort_of("a", COUNT), ledger=ledger),
        "b": node_for(plan, cohort_of("b", 20)),
    }
    replies = run_and_tap(plan, nodes)
    mine = [reply for reply in replies if "refused" in reply.content]
    assert len(mine) == 1
    assert leaks(mine[0]) == []
    vectors = [reply for reply in replies if "vector" in reply.content]
    assert len(vectors) == 1  # the other site's


def test_the_price_is_the_plans_and_every_release_is_on_the_books() -> None:
    plan = plan_of(privacy=private_terms(noise_multiplier=4.0))
    ledger = ready(plan)
    answer = release(contribution_of(), first_terms(plan), plan, site_with(ledger))
    (entry,) = paid_by(ledger)
    assert entry == Charge(
        plan_sha256=plan.sha256,
        round=0,
        mechanism=Mechanism(noise_multiplier=4.0),
        releases=1,
    )
    assert answer.charge_id
    assert ledger.book.spent == ledger.book.opening.budget.order / 32  # type: ignore[union-attr]
    plain = plan_of(privacy=None)
    ledger.reserve(reservation_of(plain))
    release(contribution_of(), first_terms(plain), plain, site_with(ledger))
    assert paid_by(ledger)[1] == Charge(
        plan_sha256=plain.sha256, round=0, mechanism=None, releases=0
    )
    assert ledger.book.unnoised == 1


def test_a_smaller_sensitivity_gets_the_plans_noise_all_the_same() -> None:
    """Noise that followed the data would speak of it. At 1.3 times the scale this fails."""
    import scipy.stats

    sigma = 3.0
    plan = plan_of(
        "counts",
        {"rows": "sex", "row_values": [str(number) for number in range(19_999)], "private": True},
        privacy=private_terms(releases=1, noise_multiplier=sigma),
    )
    terms = first_terms(plan)
    part = contribution_of(np.zeros(terms.size), sensitivity=1e-3)
    vector = release(part, terms, plan, site_with(ready(plan))).vector
    assert plan.privacy is not None
    noise = plan.privacy.noise()
    assert noise is not None
    share = noise.share_sigma(terms.encoding.sensitivity_units(1.0, terms.size, MAX_PATIENTS))
    assert share > sigma * terms.encoding.scale  # rounding is paid for, too
    assert scipy.stats.kstest(vector, "norm", args=(0, share)).pvalue > 1e-20
    assert scipy.stats.kstest(vector, "norm", args=(0, 1.3 * share)).pvalue < 1e-20
    assert scipy.stats.kstest(vector, "norm", args=(0, share / 1.3)).pvalue < 1e-20


class NoneMayLeave:
    """The strictest rules of a site."""

    counts_classes = False

    def check(self, contribution: Contribution) -> None:
        raise PolicyError("too_few_patients", "the site's rules")


def test_the_sites_rules_hold_without_noise_and_are_silent_with_it() -> None:
    # With noise a refusal that looks at the data would speak of it.
    for privacy in (None, private_terms()):
        plan = plan_of(privacy=privacy)
        site = SiteTerms(ledger=ready(plan), disclosure=NoneMayLeave())
        if privacy is None:
            with pytest.raises(PolicyError) as error:
                release(contribution_of(), first_terms(plan), plan, site)
            assert error.value.code == "too_few_patients"
        else:
            assert release(contribution_of(), first_terms(plan), plan, site).vector.shape == (1,)


def test_a_vector_of_another_length_does_not_pass() -> None:
    error, ledger = refused(contribution_of(np.zeros(2)), plan_of(privacy=private_terms()))
    assert error.code == "vector_shape"
    assert paid_by(ledger) == []


# ---- the node


def asked(node: Node, plan: Plan, terms: RoundTerms, arrays: dict[str, Vector]) -> Release:
    node.propose(plan.to_json())
    return node.report(terms.to_json(), arrays)


def code_of(node: Node, plan: Plan, terms: RoundTerms, arrays: dict[str, Vector]) -> str:
    with pytest.raises(FedCohortError) as error:
        asked(node, plan, terms, arrays)
    return error.value.code


@dataclass
class Watched:
    """One node in its first round, and its ledger."""

    plan: Plan
    ledger: MemoryLedger
    node: Node
    arrays: dict[str, Vector]
    terms: RoundTerms


@pytest.fixture
def watched() -> Watched:
    plan = plan_of(privacy=private_terms())
    ledger = ledger_of()
    return Watched(
        plan=plan,
        ledger=ledger,
        node=node_for(plan, cohort_of("a", COUNT), ledger=ledger),
        arrays=dict(analysis_of(plan).initial().arrays),
        terms=first_terms(plan),
    )


def test_the_same_question_gets_the_same_bytes_and_costs_once(watched: Watched) -> None:
    # Fresh noise for every repetition would average away.
    first = asked(watched.node, watched.plan, watched.terms, watched.arrays)
    for _ in range(20):
        again = asked(watched.node, watched.plan, watched.terms, watched.arrays)
        assert again.vector.tobytes() == first.vector.tobytes()
        assert again.charge_id == first.charge_id
    assert [charge.round for charge in paid_by(watched.ledger)] == [0]


def test_another_attempt_or_round_is_refused_and_costs_nothing(watched: Watched) -> None:
    asked(watched.node, watched.plan, watched.terms, watched.arrays)
    replays = [
        first_terms(watched.plan, attempt="11" * 16),
        dataclasses.replace(watched.terms, attempt=""),
    ]
    analysis = analysis_of(watched.plan)
    later = {"theta": np.zeros(3), "mean": np.zeros(3), "count": np.ones(1)}
    for number, attempt in ((1, "11" * 16), (2, "11" * 16), (-1, "00" * 16)):
        state = State(round=number, arrays=later)
        replays.append(terms_for(watched.plan, analysis, state, attempt))
    for terms in replays:
        arrays = watched.arrays if terms.round == 0 else later
        assert code_of(watched.node, watched.plan, terms, arrays) == "round_replayed"
    assert [charge.round for charge in paid_by(watched.ledger)] == [0]
    # The round that is due is still answered.
    due = terms_for(watched.plan, analysis, State(round=1, arrays=later), "00" * 16)
    asked(watched.node, watched.plan, due, later)
    assert [charge.round for charge in paid_by(watched.ledger)] == [0, 1]
    # And the first is not answered anew afterwards.
    code = code_of(watched.node, watched.plan, watched.terms, watched.arrays)
    assert code == "round_replayed"


def test_a_site_that_was_away_joins_the_round_that_is_due_and_pays_for_it_alone(
    watched: Watched,
) -> None:
    later = {"theta": np.zeros(3), "mean": np.zeros(3), "count": np.ones(1)}
    state = State(round=1, arrays=later)
    terms = terms_for(watched.plan, analysis_of(watched.plan), state, "00" * 16)
    asked(watched.node, watched.plan, terms, later)
    assert [charge.round for charge in paid_by(watched.ledger)] == [1]
    code = code_of(watched.node, watched.plan, watched.terms, watched.arrays)
    assert code == "round_replayed"  # there is no way back


def test_no_round_beyond_those_the_analysis_has_is_answered(watched: Watched) -> None:
    later = {"theta": np.zeros(3), "mean": np.zeros(3), "count": np.ones(1)}
    analysis = analysis_of(watched.plan)
    assert analysis.most_rounds < watched.plan.max_rounds
    state = State(round=analysis.most_rounds, arrays=later)
    terms = terms_for(watched.plan, analysis, state, "00" * 16)
    assert code_of(watched.node, watched.plan, terms, later) == "rounds_exhausted"
    assert paid_by(watched.ledger) == []


@pytest.mark.parametrize(
    ("terms", "parameters"),
    [
        ({"noise_multiplier": 0.2}, {}),  # epsilon 3 stated, 200 sold
        ({}, {"clip": 2.0}),  # a wider clip than the noise is made for
        ({"releases": 2}, {}),  # four sums, two paid
    ],
)
def test_a_plan_that_costs_more_than_it_says_is_refused(
    terms: dict[str, Any], parameters: dict[str, Any]
) -> None:
    wanted = {"model": LOGISTIC, "steps": 3, "clip": 1.0} | parameters
    plan = plan_of(parameters=wanted, privacy=private_terms(**terms))
    with pytest.raises(PolicyError) as error:
        node_for(plan, cohort_of("a", 20)).propose(plan.to_json())
    assert error.value.code == "plan_underpriced"


def test_noise_inside_local_steps_is_priced_by_what_runs() -> None:
    quiet = {
        "model": LOGISTIC, "rounds": 3, "local_steps": 1, "clip": 1.0, "noise_multiplier": 0.2,
    }  # fmt: skip
    plan = plan_of("averaging", quiet, privacy=private_terms(sharing="local"))
    with pytest.raises(PolicyError) as error:
        node_for(plan, cohort_of("a", 20)).propose(plan.to_json())
    assert error.value.code == "plan_underpriced"


@pytest.mark.parametrize(
    "changes",
    [
        {"fraction_bits": 40},
        {"fraction_bits": 0},
        {"limit": 2**62},
        {"limit": 1},
        {"size": 2},
        {"sites": ("a",)},
        {"sites": ("a", "b", "c")},
        {"state_sha256": "0" * 64},
    ],
    ids=lambda changes: " ".join(changes),
)
def test_terms_that_the_plan_does_not_imply_are_refused(
    watched: Watched, changes: dict[str, Any]
) -> None:
    # A finer grid would need more noise in grid units; other sites other shares.
    terms = dataclasses.replace(watched.terms, **changes)
    assert code_of(watched.node, watched.plan, terms, watched.arrays) == "terms_mismatch"
    assert paid_by(watched.ledger) == []


def test_terms_of_another_plan_are_refused(watched: Watched) -> None:
    terms = dataclasses.replace(watched.terms, plan_sha256="0" * 64)
    assert code_of(watched.node, watched.plan, terms, watched.arrays) == "plan_unknown"


def test_a_state_other_than_the_bound_one_is_refused(watched: Watched) -> None:
    arrays = {**watched.arrays, "theta": np.ones(3)}
    assert code_of(watched.node, watched.plan, watched.terms, arrays) == "terms_mismatch"


def test_a_plan_that_was_not_approved_or_expired_or_is_for_others_gets_no_cohort() -> None:
    plan, ledger = plan_of(privacy=private_terms()), ledger_of()

    def never(asked_plan: Plan) -> Cohort:
        raise AssertionError("the cohort was built before the plan was accepted")

    def node(site: str = "a", *, approves: bool = True) -> Node:
        return Node(
            site=site,
            cohort=never,
            terms=lambda asked_plan: site_with(ledger),
            gate=PlanGate(lambda asked_plan: approves),
        )

    old = dataclasses.replace(plan, expires="2000-01-01")
    for refusing, text, code in (
        (node(approves=False), plan.to_json(), "plan_not_approved"),
        (node("z"), plan.to_json(), "plan_not_for_us"),
        (node(), old.to_json(), "plan_expired"),
        (node(), plan.to_json().replace("attacked", "\\ud800"), "plan_unreadable"),
    ):
        with pytest.raises(PolicyError) as error:
            refusing.propose(text)
        assert error.value.code == code
    assert not ledger.book.accounts  # nor was anything set aside for it


def test_noise_needs_scaling_that_did_not_look_at_the_data() -> None:
    cohort = cohort_of("a", 20)
    guessed = dataclasses.replace(cohort.schema, public=False)
    cohort = dataclasses.replace(cohort, schema=guessed)
    for privacy in (None, private_terms()):
        plan = dataclasses.replace(plan_of(privacy=privacy), schema_sha256=guessed.sha256)
        node = node_for(plan, cohort)
        if privacy is None:
            node.propose(plan.to_json())
            continue
        with pytest.raises(PolicyError) as error:
            node.propose(plan.to_json())
        assert error.value.code == "codebook_required"


# ---- no answer depends on who is there


@pytest.mark.parametrize(("analysis", "parameters", "task", "sharing"), ANALYSES, ids=IDS)
def test_an_empty_and_an_over_full_hospital_answer_alike(
    analysis: str,
    parameters: dict[str, Any],
    task: Task,
    sharing: Literal["sum", "each", "local"],
) -> None:
    plan = plan_of(analysis, parameters, privacy=private_terms(sharing=sharing), task=task)
    seen = set()
    for patients, rows_each in ((0, 1), (1, 1), (1, 50), (20, 3), (10 * MAX_PATIENTS, 1)):
        cohorts = [cohort_of("a", patients, task, rows_each=rows_each), cohort_of("b", 20, task)]
        nodes = {cohort.site: node_for(plan, cohort) for cohort in cohorts}
        grid = tap_on(nodes)
        run_plan(plan, grid, grid.nodes)  # to its end: nobody refused
        mine = [r for r in grid.replies if r.metadata.src_node_id == grid.nodes["a"]]
        seen.add(tuple((content_size(reply), tuple(sorted(reply.content))) for reply in mine))
    assert len(seen) == 1


def leave_one_out(plan: Plan, cohort: Cohort, monkeypatch: pytest.MonkeyPatch) -> float:
    """How far one patient moves what a node hands to the door, before any noise."""
    from fedcohort.fl_client import site_study as module

    totals: list[Vector] = []

    def eavesdrop(part: Contribution, *rest: Any, **paid: Any) -> Prepared:
        totals.append(part.total)
        return prepare(part, *rest, **paid)

    monkeypatch.setattr(module, "prepare", eavesdrop)
    state = State(round=1, arrays={"theta": np.zeros(3), "mean": np.zeros(3), "count": np.ones(1)})
    analysis = analysis_of(plan)
    worst = 0.0
    for without in (None, *range(0, cohort.patients, 7)):
        part = cohort if without is None else cohort.take(cohort.patient != np.uint64(without))
        node = node_for(plan, part)
        asked(node, plan, first_terms(plan), dict(analysis.initial().arrays))
        node.report(terms_for(plan, analysis, state, "00" * 16).to_json(), dict(state.arrays))
        worst = max(worst, float(np.linalg.norm(totals[-1] - totals[1])))
    return worst


def opposed(patients: int) -> Cohort:
    """A cohort in which early keys pull one way and late keys the other."""
    cohort = cohort_of("a", patients)
    early = np.arange(patients) < MAX_PATIENTS
    cohort.features[:] = 3.0
    assert cohort.label is not None
    cohort.label[:] = early
    return cohort


def test_one_patient_moves_a_site_by_the_clip_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(privacy=private_terms())
    assert leave_one_out(plan, opposed(MAX_PATIENTS), monkeypatch) <= 1.0 + 1e-6


def test_one_patient_moves_an_over_full_site_by_the_clip_at_most(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Choosing the first N keys is a rule free of the data, and yet not of who is there: where
    # one leaves, another comes in.
    plan = plan_of(privacy=private_terms())
    assert leave_one_out(plan, opposed(MAX_PATIENTS + 1), monkeypatch) <= 1.0 + 1e-6
