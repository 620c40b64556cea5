"""The ledger on disk against a simple account of what must be true, with crashes at any write.

Two processes (two `SqliteLedger`s) ask the same file in turns. Any call that writes may fail, as
on a full disk, or be the process's last. The account here knows three things: what was
answered is in the file; what was not answered is in the file or not, and nothing else is; costs,
by dp-accounting's own Renyi accountant, never add up to more than the budget.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import dp_accounting
import hypothesis.strategies as st
import pytest
from dp_accounting import rdp
from hypothesis import Phase, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy.engine.default import DefaultDialect

from fedcohort.privacy.budget import Budget
from fedcohort.privacy.errors import FedCohortError, PolicyError
from fedcohort.privacy.ledger.chain import Chain
from fedcohort.privacy.ledger.charges import Charge, Opening, Reservation, Unmasking
from fedcohort.privacy.ledger.store import SqliteLedger, read_entries
from fedcohort.privacy.ledger.witness import read_head
from fedcohort.privacy.mechanism import Mechanism

BUDGET = Budget(epsilon=3.0, delta=1e-5)
LIMIT = BUDGET.limit
EIGHTH = Mechanism(noise_multiplier=(BUDGET.order * 8 / (2 * LIMIT)) ** 0.5)
SAMPLED = Mechanism(noise_multiplier=1.5, sampling_probability=0.1)


def plan(name: str, mechanism: Mechanism | None, releases: int, rounds: int) -> Reservation:
    return Reservation(
        plan_sha256=name * 64,
        study=name,
        purpose="p",
        analysis="a",
        rounds=rounds,
        releases=releases,
        mechanism=mechanism,
        clip=None if mechanism is None else 1.0,
        sharing=None if mechanism is None else "sum",
        min_survivors=3,
        colluders=1,
    )


# Eighths of the budget, so that it is used up exactly; one that can never be paid; samples.
PLANS = {
    name: plan(name, mechanism, releases, rounds)
    for name, mechanism, releases, rounds in (
        ("a", EIGHTH, 3, 3),
        ("b", EIGHTH, 4, 2),
        ("c", EIGHTH, 1, 5),
        ("d", EIGHTH, 8, 8),
        ("e", EIGHTH, 9, 9),
        ("f", SAMPLED, 20, 4),
        ("0", None, 0, 3),
    )
}


def price_of(mechanism: Mechanism) -> float:
    event: Any = dp_accounting.GaussianDpEvent(mechanism.noise_multiplier)
    if mechanism.sampling_probability < 1:
        event = dp_accounting.PoissonSampledDpEvent(mechanism.sampling_probability, event)
    accountant = rdp.RdpAccountant([BUDGET.order])
    accountant.compose(event)
    return float(accountant._rdp[0])


PRICES = {mechanism: price_of(mechanism) for mechanism in (EIGHTH, SAMPLED)}

Word = tuple[str, ...]  # what an entry says: its kind, its plan, and what tells it apart


@dataclass
class Account:
    """What must be true, by the entries of a file alone."""

    words: list[Word] = field(default_factory=list)

    def rounds(self, name: str) -> dict[int, int]:
        return {int(w[2]): int(w[3]) for w in self.words if w[0] == "charge" and w[1] == name}

    def reserved(self, name: str) -> bool:
        return ("reserve", name) in self.words

    def unmasked(self, name: str) -> set[int]:
        return {int(w[2]) for w in self.words if w[0] == "unmask" and w[1] == name}

    def closed(self, name: str) -> bool:
        """Whether its last word is an end: without a charge, a plan may begin again."""
        said = [w[0] for w in self.words if w[:2] in (("reserve", name), ("close", name))]
        return said[-1:] == ["close"]

    def cost(self, name: str, releases: int) -> float:
        mechanism = PLANS[name].mechanism
        return 0.0 if mechanism is None else releases * PRICES[mechanism]

    @property
    def spent(self) -> float:
        return sum(self.cost(name, sum(self.rounds(name).values())) for name in PLANS)

    @property
    def held(self) -> float:
        """Spent, and set aside for plans that have not ended."""
        return sum(
            self.cost(
                name,
                sum(self.rounds(name).values()) if self.closed(name) else PLANS[name].releases,
            )
            for name in PLANS
            if self.reserved(name)
        )

    def on_reserve(self, name: str) -> str | None:
        """The code of a refusal; `nothing` where nothing changes; None where it is allowed."""
        asked = PLANS[name]
        if self.reserved(name) and not self.closed(name):
            return "nothing"
        if self.rounds(name):
            return "plan_closed"
        if self.held + self.cost(name, asked.releases) > LIMIT * (1 + 1e-9):
            return "budget_exceeded"
        return None

    def on_charge(self, name: str, number: int, releases: int, *, other: bool) -> str | None:
        asked, rounds = PLANS[name], self.rounds(name)
        if not self.reserved(name):
            return "not_reserved"
        if self.closed(name):
            return "plan_closed"
        if rounds and number <= max(rounds):
            return "round_already_paid"
        if other:
            return "mechanism_differs"
        if number >= asked.rounds or sum(rounds.values()) + releases > asked.releases:
            return "reservation_exceeded"
        return None

    def on_unmask(self, name: str, number: int) -> str | None:
        rounds = self.rounds(name)
        if not self.reserved(name):
            return "not_reserved"
        if self.closed(name):
            return "plan_closed"
        if number not in rounds:
            return "round_not_paid"
        if number != max(rounds) or number in self.unmasked(name):
            return "sum_spent"
        return None


def words_of(path: Path) -> list[Word]:
    """Read a file with none of our code; check its hashes by hand."""
    connection = sqlite3.connect(path)
    try:
        rows = connection.execute("SELECT number, entry, sha256 FROM entries ORDER BY 1").fetchall()
    finally:
        connection.close()
    words: list[Word] = []
    previous = "0" * 64
    for place, (number, text, sha256) in enumerate(rows, start=1):
        entry = json.loads(text)
        assert hashlib.sha256(text.encode()).hexdigest() == sha256
        assert (number, entry["number"], entry["previous"]) == (place, place, previous)
        previous = sha256
        words.append(word_of(entry["kind"], entry["body"]))
    return words


def word_of(kind: str, body: dict[str, Any]) -> Word:
    if kind == "open":
        return (kind,)
    if kind == "refuse":
        return (kind, body["code"], *word_of(body["asked"], body["request"]))
    name = body["plan_sha256"][0]
    if kind == "charge":
        same = body["mechanism"] == PLANS[name].to_json()["mechanism"]
        word = (kind, name, str(body["round"]), str(body["releases"]))
        return word if same else (*word, "other")
    return (kind, name, str(body["round"])) if kind == "unmask" else (kind, name)


class Fails:
    """Lets the n-th call that writes fail, or be the process's last: before it, or after."""

    def __init__(self, at: int, how: str) -> None:
        self.left, self.how = at, how

    def point(self, error: Exception) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt if self.how == "killed" else error

    def around(self, real: Callable[..., Any], error: Exception) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            self.point(error)
            answer = real(*args, **named)
            if real.__name__ != "do_execute":  # an open cursor would outlive its process here
                self.point(error)
            return answer

        return call


@contextmanager
def failing(at: int, how: str) -> Iterator[Fails]:
    """Every write of a ledger's turn, as SQLAlchemy and the head's file make it."""
    fails = Fails(at, how)
    full = OSError(errno.ENOSPC, "no space left on device")
    torn = sqlite3.OperationalError("disk I/O error")
    places: list[tuple[Any, str, Exception]] = [
        (os, "fsync", full),
        (os, "open", full),
        (Path, "replace", full),
        (DefaultDialect, "do_execute", torn),
        (DefaultDialect, "do_commit", torn),
    ]
    with ExitStack() as patches:
        for owner, name, error in places:
            around = fails.around(getattr(owner, name), error)
            patches.enter_context(mock.patch.object(owner, name, around))
        yield fails


HOW = ("failed", "killed")
CRASHES = st.none() | st.tuples(st.integers(1, 20), st.sampled_from(HOW))
Crash = tuple[int, str] | None


def code_of(error: BaseException) -> str:
    """A refusal's code; what is left of a process that was killed has none."""
    return error.code if isinstance(error, FedCohortError) else "killed"


def expect(true: bool, error: BaseException) -> None:
    """Pass a wrong refusal on as it is."""
    if not true:
        raise error


class LedgerMachine(RuleBasedStateMachine):
    """See the module's docstring."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self.path = Path(self._folder.name) / "h.ledger"
        self.account = Account()
        self.open: list[SqliteLedger | None] = [None, None]
        self.memory: list[str] = []  # heads that somebody wrote down

    @initialize(crash=CRASHES)
    def opening(self, crash: Crash) -> None:
        opening = Opening(hospital="h", population="p", kind="site", budget=BUDGET, unnoised=True)
        try:
            with self.crashing(crash):
                SqliteLedger.create(self.path, opening).dispose()
        except (FedCohortError, KeyboardInterrupt):
            try:
                SqliteLedger.create(self.path, opening).dispose()
            except FedCohortError as error:
                expect(code_of(error) == "ledger_exists", error)
        self.account.words = [("open",)]

    @contextmanager
    def crashing(self, crash: Crash) -> Iterator[None]:
        if crash is None:
            yield
            return
        with failing(*crash):
            yield

    def ledger(self, which: int) -> SqliteLedger:
        found = self.open[which]
        if found is None:
            found = self.open[which] = SqliteLedger(self.path, kind="site")
        return found

    def ask(
        self,
        which: int,
        act: Callable[[SqliteLedger], object],
        word: Word,
        refusal: str | None,
        crash: Crash,
    ) -> None:
        """Ask for something; compare the answer and what is in the file with the account."""
        before = list(self.account.words)
        ledger = self.ledger(which)
        left = ledger.book.left
        if refusal == "nothing":
            expected = before
        elif refusal is None:
            expected = [*before, word]
        else:
            noted: Word = ("refuse", refusal, *word)
            expected = before if noted in before else [*before, noted]
        try:
            with self.crashing(crash):
                act(ledger)
        except KeyboardInterrupt:
            assert crash is not None
            answered = False
            ledger.dispose()
            self.open[which] = None  # that was its last
        except PolicyError as error:
            answered = code_of(error) == refusal
            failed = crash is not None and code_of(error) == "ledger_unavailable"
            expect(answered or failed, error)
        else:
            assert refusal in (None, "nothing")
            answered = True
        found = words_of(self.path)
        if answered:
            assert found == expected
        else:
            assert found in (before, expected)
        self.account.words = found
        if refusal is not None:
            assert self.ledger(which).book.left == left

    @rule(which=st.integers(0, 1), name=st.sampled_from(sorted(PLANS)), crash=CRASHES)
    def reserve(self, which: int, name: str, crash: Crash) -> None:
        self.ask(
            which,
            lambda ledger: ledger.reserve(PLANS[name]),
            ("reserve", name),
            self.account.on_reserve(name),
            crash,
        )

    @rule(
        which=st.integers(0, 1),
        name=st.sampled_from(sorted(PLANS)),
        ahead=st.sampled_from([1, 1, 1, 2, 0, -1, 9]),
        releases=st.sampled_from([1, 1, 1, 2, 5]),
        other=st.sampled_from([False, False, False, True]),
        crash=CRASHES,
    )
    def charge(
        self, which: int, name: str, ahead: int, releases: int, other: bool, crash: Crash
    ) -> None:
        asked, rounds = PLANS[name], self.account.rounds(name)
        number = max(0, max(rounds, default=-1) + ahead)
        mechanism = asked.mechanism
        if mechanism is None:
            releases = 0
        elif other:
            mechanism = Mechanism(noise_multiplier=mechanism.noise_multiplier / 2)
        bent = other and mechanism is not None
        word: Word = ("charge", name, str(number), str(releases), *(["other"] if bent else []))
        self.ask(
            which,
            lambda ledger: ledger.charge(
                Charge(
                    plan_sha256=asked.plan_sha256,
                    round=number,
                    releases=releases,
                    mechanism=mechanism,
                )
            ),
            word,
            self.account.on_charge(name, number, releases, other=bent),
            crash,
        )

    @rule(
        which=st.integers(0, 1),
        name=st.sampled_from(sorted(PLANS)),
        behind=st.sampled_from([0, 0, 0, 1, 2, -1]),
        crash=CRASHES,
    )
    def unmask(self, which: int, name: str, behind: int, crash: Crash) -> None:
        number = max(0, max(self.account.rounds(name), default=0) - behind)
        asked = Unmasking(plan_sha256=PLANS[name].plan_sha256, round=number)
        refusal = self.account.on_unmask(name, number)
        self.ask(
            which,
            lambda ledger: ledger.unmask(asked),
            ("unmask", name, str(number)),
            refusal,
            crash,
        )
        again = self.account.on_unmask(name, number)  # a crash may have left the entry, or none
        if again is None:
            self.ledger(which).check_unspent(asked)
        else:
            with pytest.raises(PolicyError) as refused:
                self.ledger(which).check_unspent(asked)
            assert refused.value.code == again

    @rule(which=st.integers(0, 1), name=st.sampled_from(sorted(PLANS)), crash=CRASHES)
    def close(self, which: int, name: str, crash: Crash) -> None:
        idle = not self.account.reserved(name) or self.account.closed(name)
        self.ask(
            which,
            lambda ledger: ledger.close(PLANS[name].plan_sha256),
            ("close", name),
            "nothing" if idle else None,
            crash,
        )

    @rule(which=st.integers(0, 1), crash=CRASHES)
    def restart(self, which: int, crash: Crash) -> None:
        found = self.open[which]
        if found is not None:
            found.dispose()
        self.open[which] = None
        try:
            with self.crashing(crash):
                self.open[which] = SqliteLedger(self.path, kind="site")
        except (PolicyError, KeyboardInterrupt) as error:
            expect(crash is not None, error)
            expect(code_of(error) in ("killed", "ledger_unavailable"), error)

    @rule()
    def write_the_head_down(self) -> None:
        self.memory.append(str(self.ledger(0).head))

    @precondition(lambda self: self.memory)
    @rule()
    def compare_with_the_heads_written_down(self) -> None:
        entries = read_entries(self.path)
        known = {f"{entry.number}:{entry.sha256}" for entry in entries}
        assert set(self.memory) <= known

    @invariant()
    def the_budget_holds_and_the_book_says_so(self) -> None:
        account = self.account
        if not account.words:
            return
        assert account.spent <= account.held * (1 + 1e-12)
        assert account.held <= LIMIT * (1 + 1e-9)
        book = Chain.of(read_entries(self.path)).book
        assert book.spent == pytest.approx(account.spent, rel=1e-9, abs=1e-12)
        assert book.spent + book.reserved == pytest.approx(account.held, rel=1e-9, abs=1e-12)
        assert book.left == pytest.approx(max(0.0, LIMIT - account.held), rel=1e-7, abs=1e-8)
        assert book.unnoised == len(account.rounds("0"))

    @invariant()
    def the_head_is_at_most_one_entry_behind(self) -> None:
        if self.account.words:
            head = read_head(self.path)
            assert head is not None
            assert len(self.account.words) - 1 <= head.number <= len(self.account.words)

    def teardown(self) -> None:
        if self.account.words:
            # A new process makes everything good, and both agree.
            last = SqliteLedger(self.path, kind="site")
            assert last.head == read_head(self.path)
            assert last.head.number == len(self.account.words)
            last.dispose()
        for found in self.open:
            if found is not None:
                found.dispose()
        self._folder.cleanup()


# Making a failing walk shorter would take minutes of syncs: it is shown as it is.
SHORT = settings(max_examples=25, stateful_step_count=30, phases=[Phase.generate])


def test_the_ledger_keeps_to_a_simple_account_of_it_whatever_crashes() -> None:
    run_state_machine_as_test(LedgerMachine, settings=SHORT)


@pytest.mark.slow
def test_the_ledger_keeps_to_it_for_longer_and_on_other_walks_each_time() -> None:
    longer = settings(SHORT, max_examples=300, stateful_step_count=60, derandomize=False)
    run_state_machine_as_test(LedgerMachine, settings=longer)


@pytest.mark.parametrize("how", HOW)
def test_every_single_write_of_a_charge_may_fail_alone(tmp_path: Path, how: str) -> None:
    """The machine draws where to crash; here each place has its turn."""
    opening = Opening(hospital="h", population="p", kind="site", budget=BUDGET, unnoised=True)
    asked = plan("a", Mechanism(noise_multiplier=500.0), 200, 200)
    path = tmp_path / "h.ledger"
    ledger = SqliteLedger.create(path, opening)
    ledger.reserve(asked)
    for at in range(1, 200):
        charge = Charge(
            plan_sha256=asked.plan_sha256, round=at, releases=1, mechanism=asked.mechanism
        )
        before = len(words_of(path))
        try:
            with failing(at, how) as fails:
                ledger.charge(charge)
        except (PolicyError, KeyboardInterrupt) as stopped:
            expect(fails.left == 0, stopped)
            expect(code_of(stopped) in ("killed", "ledger_unavailable"), stopped)
            after = len(words_of(path))
            assert after in (before, before + 1)
            assert SqliteLedger(path, kind="site").head == ledger.head
            assert read_head(path) == ledger.head
            if after > before:
                with pytest.raises(PolicyError) as refused:
                    ledger.charge(charge)
                assert refused.value.code == "round_already_paid"
        else:
            if fails.left > 0:  # it was over before
                break
            raise AssertionError(f"a failure at write {at} was passed over")
    assert at > 15
