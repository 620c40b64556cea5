"""A coordinator, and hospitals whose files were put back from a backup: no sum is opened twice.

Four hospitals, threshold three. A backup is made when all have reported and none has unmasked.
Whoever opens the sum over all four, and again over three from what was put back, has the
fourth one's own vector: the fourth need not be restored. So a site's ledger says which sums it
helped to open, and it is asked before a kept vector is handed over again.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fedcohort.experiments.simulation.federate import ceremony
from fedcohort.fl_client.door import NoDisclosureRules, SiteTerms
from fedcohort.fl_client.gate import PlanGate
from fedcohort.fl_client.node import Node, SecAggRequest
from fedcohort.fl_client.round_memory import FileRoundMemory
from fedcohort.privacy.accounting import calibrate
from fedcohort.privacy.budget import Budget
from fedcohort.privacy.errors import FedCohortError
from fedcohort.privacy.ledger.book import Book
from fedcohort.privacy.ledger.charges import Ledger, Opening, Unmasking
from fedcohort.privacy.ledger.store import SqliteLedger, read_entries
from fedcohort.privacy.secagg.coordinator import CoordinatorSession
from fedcohort.privacy.secagg.site import SiteSession
from fedcohort.study.analysis import State
from fedcohort.study.cohort import Cohort, Schema
from fedcohort.study.plan import Plan, PrivacyTerms, analysis_of
from fedcohort.study.rounds import expected_round, terms_for

SITES = ("a", "b", "c", "d")
EVERYBODY = (1, 2, 3, 4)
SCHEMA = Schema(
    name="restored", task="risk", features=("x",), bound=3.0, outcome="o", codebook_sha256="0" * 64
)
ROUNDS = 3
NOISE = PrivacyTerms(
    epsilon=1.0,
    delta=1e-5,
    noise_multiplier=calibrate(1.0, 1e-5, ROUNDS),
    releases=ROUNDS,
    clip=1.0,
    sharing="sum",
    min_survivors=3,
    colluders=1,
    bound="rdp",
)


def plan_of(*, noisy: bool) -> Plan:
    parameters: dict[str, Any] = {
        "model": {"name": "logistic", "features": 1, "bound": 3.0},
        "steps": ROUNDS - 1,
    }
    return Plan(
        study="restored",
        purpose="To be put back.",
        analysis="gradient",
        parameters=parameters | ({"clip": 1.0} if noisy else {}),
        schema_sha256=SCHEMA.sha256,
        sites=SITES,
        privacy=NOISE if noisy else None,
        max_rounds=ROUNDS,
        max_patients_per_site=1000,
        min_sites=3,
        secagg="masked",
        colluders=1,
        roster="simulation",
        expires="2999-01-01",
    )


def cohort_of(place: int) -> Cohort:
    draw = np.random.default_rng(place)
    patients = 30 + place
    return Cohort(
        site=SITES[place - 1],
        schema=SCHEMA,
        features=draw.normal(size=(patients, 1)).clip(-3, 3).astype(np.float32),
        patient=np.arange(patients, dtype=np.uint64) + 100 * place,
        label=(draw.random(patients) < 0.5).astype(np.float64),
    )


class Federation:
    """Four hospitals with files on disk, and a coordinator that asks as it likes."""

    def __init__(self, folder: Path, *, noisy: bool = False) -> None:
        self.folder = folder
        self.plan = plan_of(noisy=noisy)
        self.analysis = analysis_of(self.plan)
        self.masking, self._members = ceremony(self.plan)
        for site in SITES:
            (folder / site).mkdir(parents=True)
            opening = Opening(
                hospital=site,
                population="p",
                kind="site",
                budget=Budget(epsilon=1.0, delta=1e-5) if noisy else None,
                unnoised=not noisy,
            )
            SqliteLedger.create(folder / site / "ledger", opening).dispose()
        self.nodes = {place: self.life(place) for place in EVERYBODY}

    def life(self, place: int) -> Node:
        """A hospital's process as it starts: it knows its files, its key, and nothing else."""
        site = SITES[place - 1]
        ledger: Ledger = SqliteLedger(self.folder / site / "ledger", kind="site")
        known = self._members[site]
        session = SiteSession(
            roster=known._roster, name=site, identity=known._identity, store=known._store
        )
        terms = SiteTerms(ledger=ledger, disclosure=NoDisclosureRules(), session=session)
        node = Node(
            site=site,
            cohort=lambda plan: cohort_of(place),
            terms=lambda plan: terms,
            gate=PlanGate(lambda plan: True),
            memory=lambda plan: FileRoundMemory(self.round_file(place)),
        )
        node.propose(self.plan.to_json())
        return node

    def restart(self) -> None:
        self.nodes = {place: self.life(place) for place in EVERYBODY}

    def round_file(self, place: int) -> Path:
        return self.folder / SITES[place - 1] / "plan.round"

    def back_up(self) -> None:
        for place in EVERYBODY:
            shutil.copy2(self.round_file(place), self.round_file(place).with_suffix(".backup"))

    def put_back(self, places: Iterable[int]) -> None:
        for place in places:
            shutil.copy2(self.round_file(place).with_suffix(".backup"), self.round_file(place))

    def state(self, number: int) -> State:
        initial = self.analysis.initial()
        arrays = dict(initial.arrays) | ({"count": np.full(1, 100.0)} if number else {})
        return State(round=number, arrays=arrays)

    def ask(self, phase: str, *data: bytes, epoch: bytes = b"", rounds: int = 0) -> SecAggRequest:
        return SecAggRequest(
            phase=phase, plan_sha256=self.plan.sha256, epoch=epoch, rounds=rounds, data=data
        )

    def report(self, number: int, people: tuple[int, ...], attempt: int) -> list[bytes]:
        """Set up an epoch and collect everybody's masked vector; return the reports."""
        session = CoordinatorSession(
            roster=self.masking.roster, identity=self.masking.identity, rounds=2
        )
        start = self.ask("advertise", epoch=session.epoch, rounds=2)
        everyone = session.advertises({p: n.secagg(start) for p, n in self.nodes.items()})
        share = self.ask("share", *everyone)
        boxes = session.deliveries({p: n.secagg(share) for p, n in self.nodes.items()})
        session.acknowledged(
            {p: n.secagg(self.ask("acknowledge", boxes[p])) for p, n in self.nodes.items()}
        )
        state = self.state(number)
        self.terms = terms_for(self.plan, self.analysis, state, "ab" * 16)
        asked = session.plan_round(
            expected_round(self.plan, self.terms),
            training_round=bytes.fromhex(self.terms.sha256),
            attempt=attempt,
            participants=people,
        )
        for place in people:
            answer = self.nodes[place].report(self.terms.to_json(), dict(state.arrays), asked)
            session.add_report(place, answer.report, answer.vector.tobytes())
        self.session = session
        return session.survivors()

    def commit(self, reports: list[bytes], people: tuple[int, ...]) -> SecAggRequest:
        """Collect signatures; return the request to unmask."""
        signed = {p: self.nodes[p].secagg(self.ask("commit", *reports)) for p in people}
        return self.ask("unmask", *self.session.commits(signed))

    def opened(
        self,
        number: int,
        people: tuple[int, ...] = EVERYBODY,
        attempt: int = 0,
        before: Callable[[], None] = lambda: None,
    ) -> NDArray[np.int64]:
        """Open a round's sum over these hospitals."""
        unmask = self.commit(self.report(number, people, attempt), people)
        before()
        return self.open({p: self.nodes[p].secagg(unmask) for p in people})

    def open(self, shares: dict[int, bytes]) -> NDArray[np.int64]:
        return self.session.open_sum(shares).total.astype(np.int64)

    def entries(self, place: int) -> list[tuple[str, Any]]:
        found = read_entries(self.folder / SITES[place - 1] / "ledger")
        return [(entry.kind, entry.body.get("round")) for entry in found]

    def spent(self) -> list[float]:
        paths = [self.folder / site / "ledger" for site in SITES]
        return [SqliteLedger(path, kind="site").book.spent for path in paths]


def code_of(act: Callable[[], object]) -> str:
    with pytest.raises(FedCohortError) as refused:
        act()
    return refused.value.code


@pytest.mark.parametrize("noisy", [False, True])
def test_a_vector_that_was_put_back_is_in_no_second_sum(tmp_path: Path, *, noisy: bool) -> None:
    federation = Federation(tmp_path / "f", noisy=noisy)
    federation.opened(0, before=federation.back_up)
    spent = federation.spent()
    for restored in ((1,), (1, 2), (1, 2, 3), EVERYBODY):
        federation.put_back(restored)
        federation.restart()
        for attempt, people in enumerate(((1, 2, 3), EVERYBODY), start=1):
            code = code_of(lambda p=people, a=attempt: federation.opened(0, p, a))  # type: ignore[misc]
            assert code == "sum_spent"
    assert federation.spent() == spent


def test_where_the_ledger_forgets_a_hospital_that_was_not_restored_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The positive control: the difference of the two sums is the fourth hospital's own count."""
    monkeypatch.setattr(Book, "check_unspent", lambda self, unmasking: None)
    federation = Federation(tmp_path / "f")
    everybody = federation.opened(0, before=federation.back_up)
    federation.put_back((1, 2, 3))
    federation.restart()
    rest = federation.opened(0, (1, 2, 3), 1)
    stolen = federation.terms.encoding.decode(everybody - rest)
    assert np.allclose(stolen, cohort_of(4).patients, atol=1e-6)


def test_a_round_is_unmasked_once_in_the_ledger_and_the_next_one_goes_on(tmp_path: Path) -> None:
    federation = Federation(tmp_path / "f", noisy=True)
    for number in range(ROUNDS):
        unmask = federation.commit(federation.report(number, EVERYBODY, 0), EVERYBODY)
        shares = {p: federation.nodes[p].secagg(unmask) for p in EVERYBODY}
        again = {p: federation.nodes[p].secagg(unmask) for p in EVERYBODY}  # delivered twice
        assert again == shares
        assert federation.open(shares).size > 0
    told = [(kind, number) for number in range(ROUNDS) for kind in ("charge", "unmask")]
    assert federation.entries(1) == [("open", None), ("reserve", None), *told]


def on_disk(folder: Path, vector: NDArray[np.int64]) -> bool:
    raw = vector.astype("<i8").tobytes()
    return any(raw in file.read_bytes() for file in folder.rglob("*") if file.is_file())


def test_when_the_shares_leave_the_vector_is_gone_from_disk_and_the_ledger_says_so(
    tmp_path: Path, disk: Callable[..., Any]
) -> None:
    federation = Federation(tmp_path / "f", noisy=True)
    watched = disk(federation.folder, trusts=("ledger",))
    reports = federation.report(1, EVERYBODY, 0)
    kept = {p: FileRoundMemory(federation.round_file(p)).recall() for p in EVERYBODY}
    unmask = federation.commit(reports, EVERYBODY)
    for place, known in kept.items():
        assert known is not None
        assert known.vector is not None
        site = SITES[place - 1]
        assert on_disk(federation.folder / site, known.vector)
        assert on_disk(watched.cut(tmp_path / f"{site}-before") / site, known.vector)
        assert federation.nodes[place].secagg(unmask)  # what it returns is what leaves
        assert not on_disk(federation.folder / site, known.vector)
        assert federation.entries(place)[-1] == ("unmask", 1)
        for after in watched.cuts(tmp_path / f"{site}-after"):
            assert not on_disk(after / site, known.vector)


class KilledError(BaseException):
    """The process ends here."""


def dies(before: Callable[..., Any] | None = None) -> Callable[..., Any]:
    def call(*asked: Any) -> None:
        if before is not None:
            before(*asked)
        raise KilledError

    return call


# Where hospital a dies while it unmasks, and what its next life says to the same sum.
DEATHS = {
    "before the entry": "",
    "between the entry and the erasure": "sum_spent",
    "between the erasure and the answer": "round_replayed",
}


@pytest.mark.parametrize("where", DEATHS)
def test_a_hospital_that_dies_while_it_unmasks_is_in_one_opened_sum_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    federation = Federation(tmp_path / "f")
    unmask = federation.commit(federation.report(0, EVERYBODY, 0), EVERYBODY)
    with monkeypatch.context() as patch:
        if where == "before the entry":
            patch.setattr(SqliteLedger, "unmask", dies())
        elif where == "between the entry and the erasure":
            patch.setattr(FileRoundMemory, "spend", dies())
        else:
            patch.setattr(FileRoundMemory, "spend", dies(FileRoundMemory.spend))
        with pytest.raises(KilledError):
            federation.nodes[1].secagg(unmask)
    assert code_of(lambda: federation.nodes[1].secagg(unmask)) == "phase_order"  # nor if it lives
    if DEATHS[where]:
        # The others' shares open the sum, with this hospital's vector in it.
        assert federation.open({p: federation.nodes[p].secagg(unmask) for p in (2, 3, 4)}).size
        federation.nodes[1] = federation.life(1)
        assert code_of(lambda: federation.report(0, EVERYBODY, 1)) == DEATHS[where]
    else:
        # Nothing had left anywhere: the same vectors are summed, in this one sum.
        federation.nodes[1] = federation.life(1)
        assert federation.opened(0, EVERYBODY, 1).size
        federation.restart()
        assert code_of(lambda: federation.opened(0, (1, 2, 3), 2)) == "round_replayed"


def test_a_ledger_that_cannot_be_written_lets_no_share_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = Federation(tmp_path / "f")
    unmask = federation.commit(federation.report(0, EVERYBODY, 0), EVERYBODY)

    def full(handle: int) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        assert code_of(lambda: federation.nodes[1].secagg(unmask)) == "ledger_unavailable"
    assert code_of(lambda: federation.nodes[1].secagg(unmask)) == "phase_order"
    federation.nodes[1] = federation.life(1)
    # Its entry was committed and the head was not: it is spent, and nothing was told.
    assert federation.entries(1)[-1] == ("unmask", 0)
    assert code_of(lambda: federation.report(0, EVERYBODY, 1)) == "sum_spent"


def test_a_file_of_an_earlier_round_is_as_spent_where_no_unmasking_was_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ledger of an earlier release notes none; what was paid since says enough."""
    monkeypatch.setattr(SqliteLedger, "unmask", lambda self, unmasking: "")
    federation = Federation(tmp_path / "f", noisy=True)
    federation.opened(0, before=federation.back_up)
    federation.opened(1)
    federation.put_back(EVERYBODY)
    federation.restart()
    assert code_of(lambda: federation.opened(0, (1, 2, 3), 1)) == "sum_spent"


def test_a_process_that_was_copied_unmasks_no_sum_that_the_other_one_did(tmp_path: Path) -> None:
    """Two survivor sets from one process would give both kinds of a hospital's shares away."""
    federation = Federation(tmp_path / "f")
    unmask = federation.commit(federation.report(0, EVERYBODY, 0), EVERYBODY)
    copy = SqliteLedger(tmp_path / "f" / "a" / "ledger", kind="site")
    copy.unmask(Unmasking(plan_sha256=federation.plan.sha256, round=0))
    assert code_of(lambda: federation.nodes[1].secagg(unmask)) == "sum_spent"
