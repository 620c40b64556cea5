"""The ledger on disk: what it returned from is in the file, and nothing else is."""

from __future__ import annotations

import datetime as dt
import os
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from fedcohort.privacy.errors import BudgetExceededError, ConfigError, FedCohortError, PolicyError
from fedcohort.privacy.ledger import store, witness
from fedcohort.privacy.ledger.chain import Chain, Head
from fedcohort.privacy.ledger.charges import Charge, Opening, Reservation, Unmasking
from fedcohort.privacy.ledger.export import export, read_export, read_ledger
from fedcohort.privacy.ledger.store import SqliteLedger, read_entries
from fedcohort.privacy.mechanism import Mechanism

Openings = Callable[..., Opening]
Requests = Callable[..., Reservation]
Charges = Callable[..., Charge]
Written = Callable[[Path], list[dict[str, Any]]]


def code_of(ask: Callable[..., object], *request: Any) -> str:
    with pytest.raises(FedCohortError) as refused:
        ask(*request)
    return refused.value.code


def opened(path: Path, kind: str = "site", **more: Any) -> SqliteLedger:
    return SqliteLedger(path, kind=kind, **more)


@pytest.fixture
def path(tmp_path: Path, opening_of: Openings) -> Path:
    """A site's ledger, just opened."""
    made = tmp_path / "h.ledger"
    SqliteLedger.create(made, opening_of()).dispose()
    return made


# ---- durable


def test_what_was_answered_is_in_the_file_and_any_process_reads_it(
    path: Path, asked_of: Requests, charge_of: Charges, written_in: Written
) -> None:
    asked, ledger = asked_of(), opened(path)
    assert ledger.reserve(asked) == "2"
    assert [entry["kind"] for entry in written_in(path)] == ["open", "reserve"]
    for number in (0, 2):
        charge = charge_of(asked, number)
        before = len(written_in(path))
        assert ledger.charge(charge) == str(before + 1)
        assert written_in(path)[-1]["body"] == charge.to_json()
        assert opened(path).book.spent == ledger.book.spent  # another one, which has just begun
    ledger.close(asked.plan_sha256)
    ledger.close(asked.plan_sha256)
    kinds = [entry["kind"] for entry in written_in(path)]
    assert kinds == ["open", "reserve", "charge", "charge", "close"]
    again = opened(path)
    assert again.head == ledger.head == Chain.of(read_entries(path)).head
    assert again.book.reserved == 0.0
    assert again.book.spent == pytest.approx(2 * again.book.cost(asked.mechanism, 1))


def test_sqlite_syncs_everything_before_it_says_that_it_is_written(path: Path) -> None:
    with opened(path)._engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 3  # EXTRA
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "delete"


def test_the_entry_is_committed_before_the_head_and_the_head_before_the_answer(
    path: Path, asked_of: Requests, monkeypatch: pytest.MonkeyPatch, written_in: Written
) -> None:
    ledger, order = opened(path), []
    write = witness.write_head

    def watched(beside: Path, head: Head) -> None:
        assert len(written_in(path)) == head.number  # a second connection sees it: committed
        write(beside, head)
        order.append(head)

    monkeypatch.setattr(store, "write_head", watched)
    ledger.reserve(asked_of())
    assert order == [ledger.head]


def test_a_refusal_is_written_down_once_and_costs_nothing(
    path: Path, asked_of: Requests, charge_of: Charges, written_in: Written
) -> None:
    ledger, asked = opened(path), asked_of()
    greedy = asked_of(1, mechanism=Mechanism(noise_multiplier=1.0))
    ledger.reserve(asked)
    before = ledger.book.left, ledger.book.spent, ledger.book.reserved
    for _ in range(3):
        with pytest.raises(BudgetExceededError):
            ledger.reserve(greedy)
        assert code_of(lambda: ledger.charge(charge_of(greedy))) == "not_reserved"
        assert code_of(lambda: ledger.charge(charge_of(asked, 9))) == "reservation_exceeded"
    assert (ledger.book.left, ledger.book.spent, ledger.book.reserved) == before
    told = written_in(path)[2:]
    assert [(entry["kind"], entry["body"]["code"]) for entry in told] == [
        ("refuse", "budget_exceeded"),
        ("refuse", "not_reserved"),
        ("refuse", "reservation_exceeded"),
    ]
    assert [entry["body"]["request"] for entry in told] == [
        greedy.to_json(),
        charge_of(greedy).to_json(),
        charge_of(asked, 9).to_json(),
    ]


def test_a_mistake_of_our_own_callers_leaves_no_entry(path: Path, written_in: Written) -> None:
    ledger = opened(path)
    for wrong in (None, "plan", object()):
        with pytest.raises(AttributeError):
            ledger.reserve(wrong)  # type: ignore[arg-type]
    assert len(written_in(path)) == 1
    assert ledger.book.left == ledger.book.limit


def test_two_at_once_take_turns_and_see_each_other(
    path: Path, asked_of: Requests, charge_of: Charges
) -> None:
    one, other = opened(path), opened(path)
    asked = asked_of(rounds=40, releases=40)
    one.reserve(asked)
    for number in range(40):
        (one, other)[number % 2].charge(charge_of(asked, number))
        again = (other, one)[number % 2]
        assert code_of(again.charge, charge_of(asked, number)) == "round_already_paid"
    assert one.head == other.head
    assert one.book.spent == other.book.spent == pytest.approx(one.book.cost(asked.mechanism, 40))


@pytest.mark.parametrize("kind", ["site", "simulation"])
def test_threads_pay_for_a_round_once(
    tmp_path: Path, opening_of: Openings, asked_of: Requests, charge_of: Charges, kind: str
) -> None:
    asked, path = asked_of(rounds=10, releases=10), tmp_path / "t.ledger"
    shared = SqliteLedger.create(path, opening_of(kind=kind))
    shared.reserve(asked)
    paid: list[int] = []
    unexpected: list[BaseException] = []

    def pay(ledger: SqliteLedger) -> None:
        for number in range(10):
            try:
                ledger.charge(charge_of(asked, number))
            except PolicyError as error:
                if error.code != "round_already_paid":
                    unexpected.append(error)
            except BaseException as error:
                unexpected.append(error)
            else:
                paid.append(number)

    threads = [threading.Thread(target=pay, args=(shared,)) for _ in range(3)]
    threads += [threading.Thread(target=pay, args=(opened(path, kind),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert unexpected == []
    written = Chain.of(read_entries(path)).book.accounts[asked.plan_sha256].charges
    assert sorted(paid) == [charge.round for charge in written]  # in order, and none twice


def test_an_unmasking_is_in_the_file_before_it_is_answered_and_any_process_reads_it(
    path: Path, asked_of: Requests, charge_of: Charges, written_in: Written
) -> None:
    asked, ledger, other = asked_of(), opened(path), opened(path)
    ledger.reserve(asked)
    ledger.charge(charge_of(asked))
    first = Unmasking(plan_sha256=asked.plan_sha256, round=0)
    head = ledger.head
    other.check_unspent(first)
    assert other.head == head  # asking writes nothing
    spent = ledger.book.spent
    assert ledger.unmask(first) == "4"
    assert written_in(path)[-1]["body"] == first.to_json()
    assert ledger.book.spent == spent
    for each in (other, opened(path)):
        assert code_of(each.check_unspent, first) == "sum_spent"
        assert each.head.number == 4
    for each in (ledger, other):
        assert code_of(each.unmask, first) == "sum_spent"
    assert [entry["kind"] for entry in written_in(path)][-2:] == ["unmask", "refuse"]
    ledger.charge(charge_of(asked, 1))
    assert code_of(ledger.unmask, Unmasking(plan_sha256="9" * 64, round=0)) == "not_reserved"
    assert Chain.of(read_entries(path)).book.accounts[asked.plan_sha256].unmasked == [0]


def test_nobody_reads_a_simulations_ledger_that_another_is_about_to_write(
    tmp_path: Path, opening_of: Openings, asked_of: Requests, charge_of: Charges
) -> None:
    """No lock on the folder is held for it: SQLite's own, from before reading, keeps the turns.

    Without it nobody overspends either, for SQLite lets no one write who read before another
    wrote; but the second of two would be told that the disk is at fault, and not that its round
    was paid.
    """
    path, asked = tmp_path / "s.ledger", asked_of()
    SqliteLedger.create(path, opening_of(kind="simulation")).dispose()
    other = opened(path, "simulation")
    with other._engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA busy_timeout=0")
    answers: list[str] = []

    def in_the_middle() -> dt.datetime:  # the clock is read between what is read and written
        answers.append(code_of(lambda: other.book))
        return dt.datetime(2027, 1, 1, tzinfo=dt.UTC)

    ledger = opened(path, "simulation", clock=in_the_middle)
    ledger.reserve(asked)
    ledger.charge(charge_of(asked))
    assert answers == ["ledger_unavailable"] * 2
    assert code_of(other.charge, charge_of(asked)) == "round_already_paid"
    other.charge(charge_of(asked, 1))
    assert ledger.book.accounts[asked.plan_sha256].executed == 2


def test_no_clock_decides_anything(path: Path, asked_of: Requests, charge_of: Charges) -> None:
    now = dt.datetime(2027, 1, 1, tzinfo=dt.UTC)
    asked = asked_of()
    ledger = opened(path, clock=lambda: now)
    ledger.reserve(asked)
    now = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)  # set back by half a century
    ledger.charge(charge_of(asked, 0))
    now = dt.datetime(9000, 1, 1, 3, tzinfo=dt.timezone(dt.timedelta(hours=8)))
    ledger.charge(charge_of(asked, 1))
    times = [entry.time for entry in read_entries(path)[1:]]
    assert times == [
        "2027-01-01T00:00:00.000+00:00",
        "1970-01-01T00:00:00.000+00:00",
        "8999-12-31T19:00:00.000+00:00",
    ]
    again = opened(path)
    assert code_of(lambda: again.charge(charge_of(asked, 1))) == "round_already_paid"
    assert again.book.spent == pytest.approx(again.book.cost(asked.mechanism, 2))


# ---- files


@pytest.mark.parametrize(
    "name",
    [
        "a b.ledger",
        "x?y#z.ledger",
        "100%41.ledger",
        "医院.ledger",
        ":memory:",
        "a;b&mode=ro",
        "..x",
    ],
)
def test_a_ledger_is_where_its_path_says_whatever_its_name(
    tmp_path: Path, opening_of: Openings, asked_of: Requests, name: str
) -> None:
    folder = tmp_path / "f?o#l%20d er"
    folder.mkdir()
    ledger = SqliteLedger.create(folder / name, opening_of())
    ledger.reserve(asked_of())
    assert {file.name for file in folder.iterdir()} == {name, f"{name}.head"}
    assert len(read_entries(folder / name)) == 2


def test_nobody_else_may_read_a_ledger_or_its_head(path: Path) -> None:
    for file in (path, path.with_name("h.ledger.head")):
        assert file.stat().st_mode & 0o077 == 0


def test_reading_leaves_the_file_as_it_is_and_makes_none(
    path: Path, tmp_path: Path, asked_of: Requests
) -> None:
    opened(path).reserve(asked_of())
    before = path.read_bytes(), path.stat().st_mtime_ns, sorted(tmp_path.iterdir())
    assert [entry.kind for entry in read_entries(path)] == ["open", "reserve"]
    assert (path.read_bytes(), path.stat().st_mtime_ns, sorted(tmp_path.iterdir())) == before
    missing = tmp_path / "none.ledger"
    readers: tuple[Callable[[Path], object], ...] = (read_entries, read_ledger, opened)
    for read in readers:
        assert code_of(read, missing) == "ledger_missing"
    assert not missing.exists()


def test_a_file_that_vanishes_while_it_is_opened_is_not_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = tmp_path / "none.ledger"
    monkeypatch.setattr(Path, "is_file", lambda self: True)
    assert code_of(opened, missing) == "ledger_unavailable"
    assert not missing.exists()


def test_an_export_is_the_same_chain(path: Path, tmp_path: Path, asked_of: Requests) -> None:
    opened(path).reserve(asked_of())
    text = export(read_entries(path))
    assert Chain.of(read_export(text)).head == opened(path).head
    handed = tmp_path / "export.json"
    handed.write_text(text, encoding="utf-8")
    assert read_ledger(handed) == read_ledger(path)


def test_a_ledger_is_opened_once(path: Path, tmp_path: Path, opening_of: Openings) -> None:
    before = path.read_bytes()
    for target in (path, Path(os.path.relpath(path))):
        assert code_of(SqliteLedger.create, target, opening_of()) == "ledger_exists"
    assert path.read_bytes() == before
    notes = tmp_path / "notes.txt"
    notes.write_text("not yours")
    assert code_of(lambda: SqliteLedger.create(notes, opening_of())) == "ledger_exists"
    assert notes.read_text() == "not yours"
    folder = tmp_path / "folder"
    folder.mkdir()
    assert code_of(lambda: SqliteLedger.create(folder, opening_of())) == "ledger_exists"
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE patients (id)")
    connection.close()
    kept = other.read_bytes()
    assert code_of(lambda: SqliteLedger.create(other, opening_of())) == "ledger_exists"
    assert other.read_bytes() == kept
    nowhere = tmp_path / "nowhere" / "h.ledger"
    assert code_of(lambda: SqliteLedger.create(nowhere, opening_of())) == "ledger_unavailable"


def test_a_ledger_that_was_deleted_is_not_opened_anew_while_its_head_is_there(
    path: Path, opening_of: Openings, asked_of: Requests
) -> None:
    opened(path).reserve(asked_of())
    path.unlink()
    assert code_of(lambda: SqliteLedger.create(path, opening_of())) == "ledger_exists"
    path.touch()  # truncated
    assert code_of(lambda: SqliteLedger.create(path, opening_of())) == "ledger_exists"
    assert code_of(lambda: opened(path)) == "ledger_broken"


def test_a_simulations_ledger_and_a_sites_are_never_taken_for_each_other(
    path: Path, tmp_path: Path, opening_of: Openings, asked_of: Requests, charge_of: Charges
) -> None:
    thrown_away = tmp_path / "simulated.ledger"
    simulated = SqliteLedger.create(thrown_away, opening_of(kind="simulation"))
    assert code_of(lambda: opened(thrown_away)) == "ledger_kind"
    asked = asked_of()
    simulated.reserve(asked)
    simulated.charge(charge_of(asked))
    assert code_of(lambda: opened(thrown_away)) == "ledger_kind"
    assert code_of(lambda: opened(path, "simulation")) == "ledger_kind"
    assert opened(thrown_away, "simulation").book.spent == simulated.book.spent
    assert not thrown_away.with_name("simulated.ledger.head").exists()


def test_a_dry_look_at_a_ledger_changes_nothing(path: Path, asked_of: Requests) -> None:
    ledger = opened(path)
    ledger.reserve(asked_of())
    files = {file: file.read_bytes() for file in path.parent.iterdir()}
    again = opened(path)
    assert again.head == ledger.head
    assert again.book.left == ledger.book.left
    assert {file: file.read_bytes() for file in path.parent.iterdir()} == files


# ---- append-only


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entries SET entry = entry",
        "UPDATE OR REPLACE entries SET number = number + 10",
        "DELETE FROM entries",
        "DELETE FROM entries WHERE number = 2",
        "INSERT OR REPLACE INTO entries SELECT 1, entry, sha256 FROM entries WHERE number = 2",
        "INSERT OR REPLACE INTO entries SELECT 3, entry, sha256 FROM entries WHERE number = 2",
        "INSERT INTO entries VALUES (9, '', '')",
        "INSERT INTO entries VALUES (0, '', '')",
        "INSERT INTO entries VALUES (-1, '', '')",
    ],
)
def test_a_slip_of_the_hand_is_stopped(
    path: Path, asked_of: Requests, statement: str, written_in: Written
) -> None:
    ledger = opened(path)
    ledger.reserve(asked_of())
    before = written_in(path)
    with sqlite3.connect(path) as hand, pytest.raises(sqlite3.IntegrityError, match="append-only"):
        hand.execute(statement)
    hand.close()
    assert written_in(path) == before
    assert ledger.book.reserved > 0


# ---- the disk


@pytest.mark.parametrize("what", ["notes", "empty", "zeros", "half", "a table of another name"])
def test_a_file_that_is_no_ledger_is_broken_and_stays_as_it_is(
    path: Path, tmp_path: Path, what: str
) -> None:
    file = tmp_path / "other"
    if what == "a table of another name":
        with sqlite3.connect(file) as connection:
            connection.execute("CREATE TABLE patients (id)")
        connection.close()
    else:
        kept = path.read_bytes()
        content = {"notes": b"n" * 5000, "empty": b"", "zeros": bytes(8192), "half": kept[:5000]}
        file.write_bytes(content[what])
    before = file.read_bytes()
    for kind in ("site", "simulation"):
        assert code_of(opened, file, kind) == "ledger_broken"
    assert code_of(lambda: Chain.of(read_entries(file))) == "ledger_broken"
    assert file.read_bytes() == before


def test_a_ledger_that_cannot_be_written_pays_for_nothing(
    path: Path, asked_of: Requests, charge_of: Charges, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As a file without leave to write is; who may do anything (root) is let in by the system.
    asked = asked_of()
    opened(path).reserve(asked)
    where = store._url
    monkeypatch.setattr(store, "_url", lambda path, mode: where(path, "ro"))
    read_only = opened(path)
    assert read_only.book.reserved > 0
    assert code_of(lambda: read_only.charge(charge_of(asked))) == "ledger_unavailable"
    monkeypatch.undo()
    assert opened(path).book.spent == 0.0
    opened(path).charge(charge_of(asked))


def test_a_folder_that_is_gone_pays_for_nothing(
    path: Path, tmp_path: Path, asked_of: Requests, charge_of: Charges
) -> None:
    asked, ledger = asked_of(), opened(path)
    ledger.reserve(asked)
    gone = tmp_path.with_name(f"{tmp_path.name}-gone")
    tmp_path.rename(gone)
    assert code_of(lambda: ledger.charge(charge_of(asked))) == "ledger_unavailable"
    assert code_of(lambda: opened(path)) == "ledger_missing"
    moved = opened(gone / "h.ledger")
    moved.charge(charge_of(asked))
    gone.rename(tmp_path)
    assert code_of(lambda: ledger.charge(charge_of(asked))) == "round_already_paid"


def test_a_ledger_whose_file_was_taken_from_under_it_pays_for_nothing(
    path: Path, tmp_path: Path, asked_of: Requests, charge_of: Charges
) -> None:
    asked, ledger = asked_of(), opened(path)
    ledger.reserve(asked)
    path.rename(tmp_path / "taken")
    with pytest.raises(PolicyError):
        ledger.charge(charge_of(asked))
    assert not path.exists()
    assert Chain.of(read_entries(tmp_path / "taken")).book.spent == 0.0


def test_a_ledger_that_another_program_holds_pays_for_nothing(
    path: Path, asked_of: Requests, charge_of: Charges, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, ledger = asked_of(), opened(path)
    ledger.reserve(asked)
    with ledger._engine.connect() as connection:
        connection.exec_driver_sql("COMMIT")
        connection.exec_driver_sql("PRAGMA busy_timeout=50")
        connection.exec_driver_sql("BEGIN")
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    assert code_of(lambda: ledger.charge(charge_of(asked))) == "ledger_unavailable"
    holder.execute("ROLLBACK")
    holder.close()
    ledger.charge(charge_of(asked))
    assert ledger.book.spent > 0


def test_an_interruption_in_the_middle_leaves_the_ledger_usable(
    path: Path, asked_of: Requests, charge_of: Charges, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, ledger = asked_of(), opened(path)
    ledger.reserve(asked)

    def stopped(connection: sa.Connection, entry: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(store, "_append", stopped)
        with pytest.raises(KeyboardInterrupt):
            ledger.charge(charge_of(asked))
    assert ledger.book.spent == 0.0
    ledger.charge(charge_of(asked))
    assert len(ledger.book.accounts[asked.plan_sha256].charges) == 1


def test_a_reservation_and_a_charge_cost_the_same_however_long_the_ledger_is(
    path: Path, asked_of: Requests, charge_of: Charges, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Work is counted, not time: `make bench-ledger` has the milliseconds."""
    ledger = opened(path)
    one = asked_of(99, rounds=60, releases=60)
    ledger.reserve(one)
    acts: dict[str, Callable[[int], object]] = {
        "reserve": lambda number: ledger.reserve(asked_of(number, releases=1, rounds=1)),
        "charge": lambda number: ledger.charge(charge_of(one, number)),
    }
    syncs: list[int] = []
    statements: list[str] = []
    fsync = os.fsync

    def counted(handle: int) -> None:
        syncs.append(handle)
        fsync(handle)

    def told(*given: Any) -> None:
        statements.append(str(given[2]))

    monkeypatch.setattr(os, "fsync", counted)
    sa.event.listen(sa.Engine, "before_cursor_execute", told)
    work: dict[str, set[tuple[int, int]]] = {name: set() for name in acts}
    try:
        for number in range(60):
            for name, act in acts.items():
                syncs.clear()
                statements.clear()
                act(number)
                work[name].add((len(syncs), len(statements)))
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", told)
    for name, found in work.items():
        assert len(found) == 1, (name, found)  # the first as the sixtieth
        ((synced, asked),) = found
        # The head and its folder, beside what SQLite syncs itself.
        assert 1 <= synced <= 4, (name, synced)
        assert 1 <= asked <= 6, (name, asked)


def test_opening_refuses_what_is_no_opening(tmp_path: Path, opening_of: Openings) -> None:
    with pytest.raises(ValueError, match="names its hospital"):
        SqliteLedger.create(tmp_path / "x", opening_of(hospital=""))
    assert not (tmp_path / "x").exists()
    assert issubclass(ConfigError, FedCohortError)
