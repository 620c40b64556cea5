"""Somebody wants more out of a hospital's patients than its ledger allows.

An administrator who may write every file: edits rows, computes hashes anew, puts a backup
back, deletes, moves and renames. A study that comes again under another name, a coordinator that
asks again after a restart. And a hospital whose refusal could speak of a patient. What cannot
be found by the files alone is found by a head that was written down, and is named here.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message

from fedcohort.experiments.simulation.local_grid import Fault, InProcessGrid
from fedcohort.fl_client import site_study as study_module
from fedcohort.fl_client.app import client_app
from fedcohort.fl_client.door import NoDisclosureRules, SiteTerms, hand_over
from fedcohort.fl_client.gate import PlanGate
from fedcohort.fl_client.node import Node
from fedcohort.fl_server.coordinator import run_plan
from fedcohort.fl_server.rounds import Patience
from fedcohort.privacy.accounting import BOUND, calibrate
from fedcohort.privacy.budget import Budget
from fedcohort.privacy.errors import DataError, FedCohortError, PolicyError
from fedcohort.privacy.ledger import store
from fedcohort.privacy.ledger.chain import Chain, Entry, Head
from fedcohort.privacy.ledger.charges import Charge, Opening, Reservation, Unmasking
from fedcohort.privacy.ledger.store import SqliteLedger, read_entries
from fedcohort.privacy.mechanism import Mechanism
from fedcohort.study.cohort import Cohort, Schema
from fedcohort.study.plan import Plan, PrivacyTerms, analysis_of, reservation_of
from fedcohort.study.rounds import RoundTerms, terms_for

BUDGET = Budget(epsilon=3.0, delta=1e-5)
OPENING = Opening(hospital="a", population="all", kind="site", budget=BUDGET, unnoised=False)


def half(number: int, **changes: Any) -> Reservation:
    """A plan that costs half of the budget, in five rounds."""
    facts: dict[str, Any] = {
        "plan_sha256": f"{number:064x}",
        "study": "s",
        "purpose": "p",
        "analysis": "gradient",
        "rounds": 5,
        "releases": 5,
        "mechanism": Mechanism(noise_multiplier=calibrate(3.0, 1e-5, 10)),
        "clip": 1.0,
        "sharing": "sum",
        "min_survivors": 3,
        "colluders": 1,
    }
    return Reservation(**{**facts, **changes})


def charge(asked: Reservation, number: int) -> Charge:
    return Charge(
        plan_sha256=asked.plan_sha256, round=number, releases=1, mechanism=asked.mechanism
    )


def code_of(ask: Callable[..., object], *request: object) -> str:
    with pytest.raises(FedCohortError) as refused:
        ask(*request)
    return refused.value.code


def opened(path: Path) -> SqliteLedger:
    return SqliteLedger(path, kind="site")


def beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.head")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A site's ledger with its whole budget used up: two plans, ten rounds; thirteen entries."""
    folder = tmp_path / "site"
    folder.mkdir()
    ledger = SqliteLedger.create(folder / "a.ledger", OPENING)
    for number in (1, 2):
        asked = half(number)
        ledger.reserve(asked)
        for round_ in range(5):
            ledger.charge(charge(asked, round_))
    ledger.dispose()
    return folder / "a.ledger"


def has_no_room(path: Path) -> bool:
    """Whether a third plan is refused because of what was spent."""
    return code_of(opened(path).reserve, half(3)) == "budget_exceeded"


def test_an_untouched_ledger_has_no_room(path: Path) -> None:  # what every attack is against
    assert has_no_room(path)
    assert opened(path).book.spent == pytest.approx(BUDGET.limit)


# ---- an administrator edits


Row = tuple[int, str, str]


def rewrite(path: Path, bend: Callable[[list[Row]], list[Row]]) -> None:
    """Change rows by hand: the triggers are dropped and put back."""
    with sqlite3.connect(path) as hand:
        kept = hand.execute("SELECT name, sql FROM sqlite_master WHERE type='trigger'").fetchall()
        for name, _ in kept:
            hand.execute(f"DROP TRIGGER {name}")
        rows = hand.execute("SELECT number, entry, sha256 FROM entries ORDER BY number").fetchall()
        hand.execute("DELETE FROM entries")
        hand.executemany("INSERT INTO entries VALUES (?, ?, ?)", bend(rows))
        for _, sql in kept:
            hand.execute(sql)
    hand.close()


def sealed(texts: list[str]) -> list[Row]:
    """Number and hash entries anew, each bound to the one before."""
    rows: list[Row] = []
    previous = "0" * 64
    for number, text in enumerate(texts, start=1):
        document = {**json.loads(text), "number": number, "previous": previous}
        text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        previous = hashlib.sha256(text.encode()).hexdigest()
        rows.append((number, text, previous))
    return rows


def cheaper(text: str) -> str:
    """The same with ten times the noise: a hundredth of the cost."""
    document = json.loads(text)
    mechanism = document["body"].get("mechanism")
    if mechanism is not None:
        mechanism["noise_multiplier"] *= 10
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def hashed(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


EDITS: dict[str, Callable[[list[Row]], list[Row]]] = {
    "text alone": lambda rows: [(n, cheaper(text), sha) for n, text, sha in rows],
    "text and its hash": lambda rows: [(n, cheaper(t), hashed(cheaper(t))) for n, t, _ in rows],
    "one charge": lambda rows: [
        (n, cheaper(t), hashed(cheaper(t))) if n == 5 else (n, t, s) for n, t, s in rows
    ],
    "the hash alone": lambda rows: [(n, t, "0" * 64 if n == 9 else s) for n, t, s in rows],
    "a row less": lambda rows: [row for row in rows if row[0] != 5],
    "a row less, renumbered": lambda rows: [
        (place, t, s) for place, (_, t, s) in enumerate([*rows[:4], *rows[5:]], start=1)
    ],
    "two rows swapped": lambda rows: [
        *rows[:3],
        (4, *rows[4][1:]),
        (5, *rows[3][1:]),
        *rows[5:],
    ],
    "a row again": lambda rows: [*rows, (len(rows) + 1, rows[-1][1], "0" * 64)],
    "the first row gone": lambda rows: rows[1:],
    "everything gone": lambda rows: [],
    "other numbers": lambda rows: [(n + (n > 6), t, s) for n, t, s in rows],
    "words": lambda rows: [(n, "refund" if n == 7 else t, s) for n, t, s in rows],
    "a round less, sealed anew": lambda rows: sealed(
        [text for number, text, _ in rows if number != 2]
    ),
    "a refund, sealed anew": lambda rows: sealed(
        [
            *(text for _, text, _ in rows),
            cheaper(rows[-1][1]).replace('"releases":1', '"releases":-5'),
        ]
    ),
    "a second opening, sealed anew": lambda rows: sealed(
        [*(text for _, text, _ in rows), rows[0][1]]
    ),
}


@pytest.mark.parametrize("what", sorted(EDITS))
def test_an_edited_ledger_pays_for_nothing(path: Path, what: str) -> None:
    rewrite(path, EDITS[what])
    assert code_of(opened, path) == "ledger_broken"
    assert code_of(lambda: Chain.of(read_entries(path))) == "ledger_broken"


def test_without_the_chain_an_edit_is_a_new_budget(  # the positive control
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rewrite(path, EDITS["text alone"])

    def believe(self: Chain, entry: Entry) -> None:
        self._decide(entry)
        self.head = Head(entry.number, entry.sha256)

    monkeypatch.setattr(Chain, "take", believe)
    monkeypatch.setattr(store, "check_head", lambda *asked: None)
    monkeypatch.setattr(store, "_sha256_of", lambda connection, number: str(number))
    monkeypatch.setattr(
        store,
        "_entries",
        lambda connection, *, after: [
            Entry.from_text(text)
            for (text,) in connection.exec_driver_sql(
                f"SELECT entry FROM entries WHERE number > {after} ORDER BY number"  # noqa: S608
            )
        ],
    )
    forged = [Entry.from_text(entry.text) for entry in raw_entries(path)]
    assert Chain.of(forged).book.left > BUDGET.limit / 2


def raw_entries(path: Path) -> list[Entry]:
    with sqlite3.connect(path) as hand:
        rows = hand.execute("SELECT entry FROM entries ORDER BY number").fetchall()
    hand.close()
    return [Entry.from_text(text) for (text,) in rows]


def forge(path: Path) -> None:
    rewrite(path, lambda rows: sealed([cheaper(text) for _, text, _ in rows]))


def test_a_past_that_keeps_all_rules_is_found_by_the_head_beside_it(path: Path) -> None:
    forge(path)
    assert code_of(opened, path) == "ledger_rolled_back"
    assert code_of(read_entries, path) == "ledger_rolled_back"
    beside(path).unlink()
    assert Chain.of(read_entries(path)).book.left > BUDGET.limit / 2  # nothing else finds it
    assert code_of(opened, path) == "ledger_rolled_back"  # and a node takes no ledger without one


def test_a_past_that_keeps_all_rules_and_its_head_is_found_by_a_head_written_down(
    path: Path,
) -> None:
    """What the files cannot tell: the budget report's head, or a process that is running, can."""
    running = opened(path)
    reported = Head.parse(str(running.head))
    forge(path)
    beside(path).unlink()
    newest = Chain.of(read_entries(path)).head
    beside(path).write_text(f"{newest}\n")
    assert opened(path).book.left > BUDGET.limit / 2  # said in the threat model
    assert read_entries(path)[reported.number - 1].sha256 != reported.sha256
    assert code_of(running.reserve, half(3)) == "ledger_rolled_back"


# ---- an administrator puts a backup back


@pytest.fixture
def backup(path: Path, tmp_path: Path) -> Path:
    """A copy of the folder from before the budget was used up: one plan, two rounds."""
    folder = tmp_path / "backup"
    folder.mkdir()
    earlier = SqliteLedger.create(folder / "a.ledger", OPENING)
    earlier.dispose()
    for name in ("a.ledger", "a.ledger.head"):
        (folder / name).unlink()
    with sqlite3.connect(path) as source, sqlite3.connect(folder / "a.ledger") as target:
        source.backup(target)
    target.close()
    source.close()
    rewrite(folder / "a.ledger", lambda rows: rows[:4])
    chain = Chain.of(read_entries(folder / "a.ledger"))
    beside(folder / "a.ledger").write_text(f"{chain.head}\n")
    return folder / "a.ledger"


def test_a_backup_by_itself_is_a_ledger_with_room(backup: Path) -> None:  # the positive control
    assert opened(backup).book.left == pytest.approx(BUDGET.limit / 2)


def test_a_ledger_put_back_pays_for_nothing(path: Path, backup: Path) -> None:
    shutil.copy(backup, path)
    assert code_of(opened, path) == "ledger_rolled_back"


def test_a_ledger_put_back_under_a_running_process_pays_for_nothing(
    path: Path, backup: Path
) -> None:
    running = opened(path)
    assert running.book.left == pytest.approx(0.0, abs=1e-8)
    shutil.copy(backup, path)
    shutil.copy(beside(backup), beside(path))
    for _ in range(2):  # it does not forget by refusing; whoever comes new has only the files
        assert code_of(running.reserve, half(3)) == "ledger_rolled_back"


def test_a_ledger_and_its_head_put_back_are_found_by_a_head_written_down(
    path: Path, backup: Path
) -> None:
    reported = opened(path).head
    shutil.copy(backup, path)
    shutil.copy(beside(backup), beside(path))
    assert not any(entry.sha256 == reported.sha256 for entry in read_entries(path))
    assert opened(path).head.number < reported.number  # said in the threat model


def test_a_head_put_back_alone_changes_nothing(path: Path, backup: Path) -> None:
    shutil.copy(beside(backup), beside(path))
    assert has_no_room(path)
    assert Head.parse(beside(path).read_text()) == opened(path).head


@pytest.mark.parametrize("what", ["deleted", "another ledger's", "of nothing", "in words"])
def test_a_ledger_without_its_own_head_pays_for_nothing(path: Path, what: str) -> None:
    if what == "deleted":
        beside(path).unlink()
    elif what == "another ledger's":
        other = path.with_name("b.ledger")
        SqliteLedger.create(other, dataclasses.replace(OPENING, hospital="b")).dispose()
        shutil.copy(beside(other), beside(path))
    else:
        beside(path).write_text("" if what == "of nothing" else "the newest one")
    wanted = "head_unreadable" if what in ("of nothing", "in words") else "ledger_rolled_back"
    assert code_of(opened, path) == wanted


def test_a_ledger_cut_to_its_opening_without_a_head_pays_for_nothing(path: Path) -> None:
    rewrite(path, lambda rows: rows[:1])
    assert code_of(opened, path) == "ledger_rolled_back"
    beside(path).unlink()
    assert code_of(opened, path) == "ledger_rolled_back"


# ---- an administrator moves and deletes


def test_a_deleted_ledger_is_not_opened_anew_where_it_was(path: Path) -> None:
    path.unlink()
    assert code_of(opened, path) == "ledger_missing"
    assert code_of(SqliteLedger.create, path, OPENING) == "ledger_exists"
    path.write_bytes(b"")
    assert code_of(SqliteLedger.create, path, OPENING) == "ledger_exists"


def test_a_deleted_folder_is_no_new_budget(path: Path) -> None:
    running = opened(path)
    shutil.rmtree(path.parent)
    assert code_of(running.reserve, half(3)) == "ledger_unavailable"
    assert code_of(opened, path) == "ledger_missing"
    assert code_of(SqliteLedger.create, path, OPENING) == "ledger_unavailable"


def test_another_working_directory_is_no_new_budget(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(path.parent)
    running = opened(Path("a.ledger"))
    monkeypatch.chdir(tmp_path)
    assert code_of(running.reserve, half(3)) == "budget_exceeded"
    assert code_of(opened, Path("a.ledger")) == "ledger_missing"
    shutil.rmtree(tmp_path / "site")
    assert code_of(running.reserve, half(4)) == "ledger_unavailable"


@pytest.mark.parametrize("moved", ["file", "folder"])
def test_the_budget_goes_along_when_a_hospital_is_renamed(
    path: Path, tmp_path: Path, moved: str
) -> None:
    if moved == "folder":
        new = path.parent.rename(tmp_path / "St. Another") / path.name
    else:
        new = path.with_name("another.ledger")
        path.rename(new)
        assert code_of(opened, new) == "ledger_rolled_back"  # its head was left behind
        beside(path).rename(beside(new))
    assert has_no_room(new)


def test_a_link_is_the_ledger_it_points_to(path: Path, tmp_path: Path) -> None:
    """One lock and one head, whatever name it is opened by."""
    link = tmp_path / "elsewhere.ledger"
    link.symlink_to(path)
    assert has_no_room(link)
    assert not beside(link).exists()
    assert opened(link).head == opened(path).head == Head.parse(beside(path).read_text())
    assert code_of(SqliteLedger.create, link, OPENING) == "ledger_exists"
    dangling = tmp_path / "dangling.ledger"
    dangling.symlink_to(tmp_path / "nowhere.ledger")
    assert code_of(opened, dangling) == "ledger_missing"
    assert code_of(SqliteLedger.create, dangling, OPENING) == "ledger_exists"
    assert not (tmp_path / "nowhere.ledger").exists()


def test_a_folder_reached_by_a_link_has_one_lock_and_one_head(path: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(path.parent)
    assert has_no_room(link / path.name)
    assert opened(link / path.name)._path == opened(path)._path


def test_a_clock_put_back_or_forward_is_no_new_budget(path: Path) -> None:
    now = dt.datetime.now(dt.UTC)
    ledger = SqliteLedger(path, kind="site", clock=lambda: now)
    for year in (1970, 2200):
        now = dt.datetime(year, 1, 1, tzinfo=dt.UTC)
        assert code_of(ledger.reserve, half(year)) == "budget_exceeded"
    assert has_no_room(path)


def test_every_new_process_has_what_the_last_one_left(path: Path) -> None:
    for _ in range(5):
        assert has_no_room(path)
    assert opened(path).head.number == 14  # thirteen entries, and one refusal, once


# ---- a simulation's ledger


def test_a_simulations_ledger_is_given_to_no_site_and_its_entries_to_no_chain(
    path: Path, tmp_path: Path
) -> None:
    thrown_away = tmp_path / "simulated.ledger"
    simulated = SqliteLedger.create(thrown_away, dataclasses.replace(OPENING, kind="simulation"))
    simulated.reserve(half(9))
    simulated.close(half(9).plan_sha256)
    assert code_of(opened, thrown_away) == "ledger_kind"
    beside(thrown_away).write_text(f"{simulated.head}\n")  # with a head of its own, too
    assert code_of(opened, thrown_away) == "ledger_kind"
    assert code_of(lambda: SqliteLedger(path, kind="simulation")) == "ledger_kind"
    site, foreign = read_entries(path), read_entries(thrown_away)
    for merged in ([*site, *foreign], [*site, *foreign[1:]], [foreign[0], *site[1:]]):
        assert code_of(Chain.of, merged) == "ledger_broken"
    # Appended by hand, hashes and all, they are a plan like any other: too expensive.
    rewrite(path, lambda rows: sealed([r[1] for r in rows] + [entry.text for entry in foreign[1:]]))
    assert code_of(lambda: Chain.of(read_entries(path))) == "ledger_broken"
    # And a simulation's file that calls itself a site's is no site's: its head is another.
    rewrite(
        thrown_away,
        lambda rows: sealed([r[1].replace('"simulation"', '"site"') for r in rows]),
    )
    assert code_of(opened, thrown_away) == "ledger_rolled_back"


# ---- a study that wants more


SCHEMA = Schema(
    name="asked", task="risk", features=("x",), bound=2.0, outcome="y", codebook_sha256="0" * 64
)
SITES = ("a", "b", "c")
RELEASES = 4  # three steps, and the count


def plan_of(study: str = "first", *, epsilon: float = 3.0, **changes: Any) -> Plan:
    terms = PrivacyTerms(
        epsilon=epsilon,
        delta=1e-5,
        noise_multiplier=calibrate(epsilon, 1e-5, RELEASES),
        releases=RELEASES,
        clip=1.0,
        sharing="each",
        min_survivors=3,
        colluders=0,
        bound=BOUND,
    )
    facts: dict[str, Any] = {
        "study": study,
        "purpose": "To be paid for.",
        "analysis": "gradient",
        "parameters": {
            "model": {"name": "logistic", "features": 1, "bound": 2.0},
            "steps": RELEASES - 1,
            "learning_rate": 1.0,
            "clip": 1.0,
        },
        "schema_sha256": SCHEMA.sha256,
        "sites": SITES,
        "privacy": terms,
        "max_rounds": RELEASES,
        "max_patients_per_site": 1000,
        "min_sites": 3,
        "secagg": "plain",
        "colluders": 1,
        "roster": "simulation",
        "expires": "2999-01-01",
    }
    return Plan(**{**facts, **changes})


def cohort_of(site: str = "a", patients: int = 40) -> Cohort:
    draw = np.random.default_rng(7)
    return Cohort(
        site=site,
        schema=SCHEMA,
        features=draw.normal(0, 1, (patients, 1)).clip(-2, 2).astype(np.float32),
        patient=np.arange(patients, dtype=np.uint64),
        label=(draw.random(patients) < 0.5).astype(np.float64),
    )


class Spied:
    """A ledger, and a note of when it was asked."""

    def __init__(self, ledger: SqliteLedger, order: list[str]) -> None:
        self._ledger, self._order = ledger, order

    def reserve(self, reservation: Reservation) -> str:
        self._order.append("reserve")
        return self._ledger.reserve(reservation)

    def charge(self, charge: Charge) -> str:
        self._order.append(f"charge {charge.round}")
        return self._ledger.charge(charge)

    def unmask(self, unmasking: Unmasking) -> str:
        self._order.append(f"unmask {unmasking.round}")
        return self._ledger.unmask(unmasking)

    def check_unspent(self, unmasking: Unmasking) -> None:
        self._ledger.check_unspent(unmasking)

    def close(self, plan_sha256: str) -> None:
        self._order.append("close")
        self._ledger.close(plan_sha256)


def node_of(
    path: Path,
    cohort: Cohort | None = None,
    order: list[str] | None = None,
    *,
    fails: Exception | None = None,
    site: str = "a",
) -> Node:
    """A site's process, with its ledger on disk."""
    noted: list[str] = [] if order is None else order
    ledger = Spied(opened(path), noted)

    def build(plan: Plan) -> Cohort:
        noted.append("cohort")
        if fails is not None:
            raise fails
        return cohort or cohort_of(site)

    return Node(
        site=site,
        cohort=build,
        terms=lambda plan: SiteTerms(ledger=ledger, disclosure=NoDisclosureRules()),
        gate=PlanGate(lambda plan: True),
    )


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    """A site's ledger of which nothing is spent."""
    made = tmp_path / "fresh.ledger"
    SqliteLedger.create(made, OPENING).dispose()
    return made


def first_round(plan: Plan) -> tuple[RoundTerms, dict[str, Any]]:
    analysis = analysis_of(plan)
    state = analysis.initial()
    return terms_for(plan, analysis, state, "00" * 16), dict(state.arrays)


def test_a_plan_at_the_budgets_epsilon_fits_and_a_second_one_under_any_name_does_not(
    fresh: Path,
) -> None:
    node = node_of(fresh)
    node.propose(plan_of().to_json())
    assert opened(fresh).book.left == pytest.approx(0.0, abs=1e-8)
    others = [
        plan_of("second"),
        plan_of("first", purpose="Another."),
        plan_of("first", max_rounds=RELEASES + 1),
        plan_of("first", expires="2998-01-01"),
        plan_of("second", epsilon=0.1),
    ]
    for other in others:
        assert code_of(node.propose, other.to_json()) == "budget_exceeded"
        assert code_of(node_of(fresh).propose, other.to_json()) == "budget_exceeded"
    node.propose(plan_of().to_json())  # the same one again is free
    assert len(opened(fresh).book.accounts) == 1


def test_the_price_is_set_aside_before_a_record_is_looked_at(fresh: Path) -> None:
    order: list[str] = []
    node = node_of(fresh, order=order)
    node.propose(plan_of().to_json())
    assert order == ["reserve", "cohort"]
    assert code_of(node.propose, plan_of("second").to_json()) == "budget_exceeded"
    assert order == ["reserve", "cohort", "reserve"]  # nobody's records were looked at


def test_a_refusal_is_the_same_with_a_patient_more(tmp_path: Path) -> None:
    """Codes, words, hints and the ledger's own entries, for neighbouring cohorts."""
    told = []
    for patients in (40, 41):
        path = tmp_path / f"{patients}.ledger"
        SqliteLedger.create(path, OPENING).dispose()
        node = node_of(path, cohort_of(patients=patients))
        plan, said = plan_of(), []
        node.propose(plan.to_json())
        terms, arrays = first_round(plan)
        node.report(terms.to_json(), arrays)
        asked: list[tuple[Callable[..., object], *tuple[Any, ...]]] = [
            (node.propose, plan_of("second").to_json()),
            (node_of(path).propose, plan_of("third", epsilon=2.0).to_json()),
            (node_again(path, plan).report, terms.to_json(), arrays),
        ]
        for ask, *request in asked:
            with pytest.raises(FedCohortError) as refused:
                ask(*request)
            said.append((refused.value.code, str(refused.value), refused.value.hint))
        entries = [(entry.kind, dict(entry.body)) for entry in read_entries(path)]
        told.append((said, entries))
    assert told[0] == told[1]
    assert [code for code, _, _ in told[0][0]] == [
        "budget_exceeded",
        "budget_exceeded",
        "round_already_paid",
    ]


def node_again(path: Path, plan: Plan) -> Node:
    node = node_of(path)
    node.propose(plan.to_json())
    return node


def test_nothing_is_handed_over_that_was_not_paid_for_before(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []

    def watched(*asked: Any) -> Any:
        order.append("hand over")
        charges = [entry for entry in read_entries(fresh) if entry.kind == "charge"]
        assert charges  # on disk, for anybody to read
        return hand_over(*asked)

    monkeypatch.setattr(study_module, "hand_over", watched)
    node, plan = node_of(fresh, order=order), plan_of()
    node.propose(plan.to_json())
    terms, arrays = first_round(plan)
    node.report(terms.to_json(), arrays)
    node.report(terms.to_json(), arrays)  # delivered twice
    assert order == ["reserve", "cohort", "charge 0", "hand over"]
    sync = os.fsync

    def full(handle: int) -> None:
        raise OSError("no space left on device")

    later = terms_at(plan, 1)
    monkeypatch.setattr(os, "fsync", full)
    assert code_of(node.report, later[0].to_json(), later[1]) == "ledger_unavailable"
    assert order[-1] == "charge 1"  # and nothing was handed over
    monkeypatch.setattr(os, "fsync", sync)
    # It was paid and not released: wasted. The next round is answered.
    assert code_of(node.report, later[0].to_json(), later[1]) == "round_replayed"
    third = terms_at(plan, 2)
    node.report(third[0].to_json(), third[1])
    assert order[-2:] == ["charge 2", "hand over"]
    assert opened(fresh).book.accounts[plan.sha256].executed == 3


def terms_at(plan: Plan, number: int) -> tuple[RoundTerms, dict[str, Any]]:
    """A later round, as any coordinator may ask for it."""
    from fedcohort.study.analysis import State

    analysis = analysis_of(plan)
    arrays = {"theta": np.zeros(2), "mean": np.zeros(2), "count": np.full(1, 100.0)}
    state = State(round=number, arrays=arrays)
    return terms_for(plan, analysis, state, "00" * 16), arrays


def test_a_site_that_restarts_in_mid_study_joins_the_next_round_and_answers_no_round_twice(
    fresh: Path,
) -> None:
    plan = plan_of()
    before = node_again(fresh, plan)
    terms, arrays = first_round(plan)
    before.report(terms.to_json(), arrays)
    after = node_again(fresh, plan)  # a new process: it remembers nothing but its ledger
    assert code_of(after.report, terms.to_json(), arrays) == "round_already_paid"
    another_run = dataclasses.replace(terms, attempt="11" * 16)
    assert (
        code_of(node_again(fresh, plan).report, another_run.to_json(), arrays)
        == "round_already_paid"
    )
    later, state = terms_at(plan, 1)
    after.report(later.to_json(), state)
    # The first process still runs somewhere: it gets nothing for the round either.
    assert code_of(before.report, later.to_json(), state) == "round_already_paid"
    assert [paid.round for paid in opened(fresh).book.accounts[plan.sha256].charges] == [0, 1]


def test_a_plan_whose_cohort_cannot_be_built_gives_its_price_back(fresh: Path) -> None:
    plan = plan_of()
    node = node_of(fresh, fails=DataError("codebook_range", "a value is out of range"))
    assert code_of(node.propose, plan.to_json()) == "codebook_range"
    assert opened(fresh).book.left == pytest.approx(0.0, abs=1e-8)
    node.close(plan.sha256)
    book = opened(fresh).book
    assert (book.spent, book.reserved) == (0.0, 0.0)
    assert book.left == BUDGET.limit


# ---- whole runs


class Silent:
    """A hook that loses every answer of one site from one round on."""

    def __init__(self, site: str, from_round: int) -> None:
        self.site, self.from_round = site, from_round
        self.nodes: dict[str, int] = {}

    def __call__(self, message: Message) -> Fault | None:
        if message.metadata.message_type != "train.report":
            return None
        number = json.loads(str(message.content.config_records["terms"]["json"]))["round"]
        here = message.metadata.dst_node_id == self.nodes[self.site]
        return "drop" if here and number >= self.from_round else None


def run_over(paths: dict[str, Path], plan: Plan, faults: Silent | None = None) -> None:
    nodes = {site: node_of(paths[site], site=site) for site in SITES}
    app = client_app(lambda context: nodes[str(context.node_config["site"])])
    grid = InProcessGrid(app, SITES, faults=faults)
    if faults is not None:
        faults.nodes = grid.nodes
    run_plan(plan, grid, grid.nodes, patience=Patience(timeout_s=0.2, attempts=1))


@pytest.fixture
def three(tmp_path: Path) -> dict[str, Path]:
    """A ledger of (3, 1e-5) at each of three sites."""
    paths = {site: tmp_path / f"{site}.ledger" for site in SITES}
    for site, path in paths.items():
        SqliteLedger.create(path, dataclasses.replace(OPENING, hospital=site)).dispose()
    return paths


def test_a_run_pays_for_its_rounds_and_gives_the_rest_back(three: dict[str, Path]) -> None:
    plan = plan_of(max_rounds=RELEASES + 3)
    run_over(three, plan)
    for path in three.values():
        book = opened(path).book
        account = book.accounts[plan.sha256]
        assert account.closed
        assert [paid.round for paid in account.charges] == list(range(RELEASES))
        assert book.spent == pytest.approx(BUDGET.limit)
        assert book.reserved == 0.0
    with pytest.raises(PolicyError) as refused:
        run_over(three, plan)
    assert refused.value.code == "plan_closed"
    with pytest.raises(PolicyError) as refused:
        run_over(three, plan_of("a new name"))
    assert refused.value.code == "budget_exceeded"


def test_a_run_that_breaks_off_has_paid_for_what_it_released_and_for_nothing_else(
    three: dict[str, Path],
) -> None:
    plan = plan_of()
    with pytest.raises(FedCohortError) as broke_off:
        run_over(three, plan, Silent("c", from_round=2))
    assert broke_off.value.code == "too_few_sites"
    each = BUDGET.limit / RELEASES
    for site, path in three.items():
        book = opened(path).book
        rounds = [paid.round for paid in book.accounts[plan.sha256].charges]
        # The round that was never opened left two of the sites all the same.
        assert rounds == ([0, 1] if site == "c" else [0, 1, 2])
        assert book.accounts[plan.sha256].closed
        assert book.spent == pytest.approx(len(rounds) * each)
        assert book.left == pytest.approx(BUDGET.limit - len(rounds) * each)


def test_what_a_site_sets_aside_is_what_the_plan_says(fresh: Path) -> None:
    plan = plan_of()
    node_of(fresh).propose(plan.to_json())
    (account,) = opened(fresh).book.accounts.values()
    assert account.reservation == reservation_of(plan)


# ---- what a bad day must not lock up


def test_an_end_that_could_not_be_written_is_written_when_it_is_asked_for_again(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, node = plan_of(), node_of(fresh)
    node.propose(plan.to_json())

    def full(*asked: object) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(store, "_append", full)
        assert code_of(node.close, plan.sha256) == "ledger_unavailable"
    node.close(plan.sha256)
    assert opened(fresh).book.left == BUDGET.limit


def test_a_price_set_aside_by_a_call_that_failed_is_given_back_at_the_end(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, node = plan_of(), node_of(fresh)

    def full(*asked: object) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(store, "write_head", full)  # after the entry
        assert code_of(node.propose, plan.to_json()) == "ledger_unavailable"
    assert opened(fresh).book.reserved > 0
    node.close(plan.sha256)
    assert opened(fresh).book.left == BUDGET.limit


def test_of_a_site_that_restarted_people_give_back_what_the_plan_did_not_spend(fresh: Path) -> None:
    """A node that restarted knows no plan to end: `fedcohort ledger close` does it."""
    plan = plan_of()
    node_of(fresh).propose(plan.to_json())
    node_of(fresh).close(plan.sha256)
    assert opened(fresh).book.reserved > 0
    opened(fresh).close(plan.sha256)
    assert opened(fresh).book.left == BUDGET.limit


def test_a_plan_that_ended_before_anything_was_paid_may_begin_again(fresh: Path) -> None:
    plan, node = plan_of(), node_of(fresh)
    node.propose(plan.to_json())
    node.close(plan.sha256)
    node.propose(plan.to_json())
    assert opened(fresh).book.reserved > 0


class Deaf(InProcessGrid):
    """A grid whose connection is gone once the plan has ended."""

    def push_messages(self, messages: Any) -> Any:
        kept = list(messages)
        if any(message.metadata.message_type == "query.close" for message in kept):
            raise ConnectionError("the SuperLink is gone")
        return super().push_messages(kept)


def test_a_result_or_a_reason_is_not_lost_because_nobody_can_be_told_of_the_end(
    three: dict[str, Path],
) -> None:
    plan = plan_of()
    nodes = {site: node_of(three[site], site=site) for site in SITES}
    grid = Deaf(client_app(lambda context: nodes[str(context.node_config["site"])]), SITES)
    outcome = run_plan(plan, grid, grid.nodes, patience=Patience(timeout_s=0.2, attempts=1))
    assert outcome.rounds == RELEASES
