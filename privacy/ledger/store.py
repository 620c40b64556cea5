"""The ledger on disk: one SQLite file a hospital and population, appended to and never changed.

An entry is committed and synced before its release leaves the process: a crash can waste
budget, it cannot hide a release. Beside the file stands `<file>.head`, the newest entry's number
and hash, written after each entry; a ledger that is older than its head was put back from a
backup and is refused. Who puts both back is found only by a head that was written down
elsewhere: a process that is still running has one, and every budget report prints it.

Processes take turns by a lock on the folder, held from reading to the written head.
"""

from __future__ import annotations

import datetime as dt
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.exc import DatabaseError, OperationalError, SQLAlchemyError

from ..errors import ConfigError, PolicyError
from .book import Book
from .chain import Chain, Entry, Head, broken
from .charges import Charge, Opening, Reservation, Unmasking
from .witness import check_head, locked, read_head, rolled_back, write_head

__all__ = ["SqliteLedger", "read_entries"]

_TABLES = sa.MetaData()
_ENTRIES = sa.Table(
    "entries",
    _TABLES,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("entry", sa.Text, nullable=False),
    sa.Column("sha256", sa.Text, nullable=False, unique=True),
)
# A slip of the hand is stopped here; a deliberate edit is found by the chain.
_GUARDS = tuple(
    f"CREATE TRIGGER entries_{name} BEFORE {when} "
    "BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END"
    for name, when in (
        ("never_change", "UPDATE ON entries"),
        ("never_go", "DELETE ON entries"),
        # INSERT OR REPLACE deletes without asking the one above.
        (
            "only_follow",
            "INSERT ON entries WHEN EXISTS (SELECT 1 FROM entries WHERE sha256 = NEW.sha256) "
            "OR NEW.number <> (SELECT coalesce(max(number), 0) + 1 FROM entries)",
        ),
    )
)
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW


class SqliteLedger:
    """See the module's docstring, and `Ledger` for what it answers.

    Args:
        path: An existing ledger.
        kind: What it must be: a site takes no simulation's ledger, nor the other way round.
        clock: What time an entry is said to be written at.

    Raises:
        ConfigError: `ledger_missing`.
        PolicyError: `ledger_broken`, `ledger_rolled_back`, `ledger_kind` or
            `ledger_unavailable`.
    """

    def __init__(
        self,
        path: Path,
        *,
        kind: str,
        clock: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:
        with _told_as_refusal():
            path = path.resolve()  # whatever name it is opened by: one lock, one head
            if not path.is_file():
                raise _missing(path)
        self._path = path
        self._kind = kind
        self._clock = clock
        self._durable = kind == "site"
        self._chain = Chain()
        self._known = self._chain.head  # the newest seen on disk; no refusal makes it forgotten
        self._thread = threading.Lock()
        self._engine = _engine(path, durable=self._durable)
        try:
            with self._turn():
                pass
        except BaseException:
            self._engine.dispose()
            raise

    @classmethod
    def create(cls, path: Path, opening: Opening) -> SqliteLedger:
        """Open a ledger with its budget, once and for all.

        Raises:
            ConfigError: `ledger_exists`: budgets are set once; there is no renewal.
            PolicyError: `ledger_unavailable`.
        """
        chain = Chain()
        entry = chain.add("open", opening.to_json(), _time(dt.datetime.now(dt.UTC)))
        if entry is None:
            raise ValueError("an opening is always an entry")
        with _told_as_refusal():
            path = path.parent.resolve() / path.name
            with locked(path.parent, wanted=True):
                _claim(path)
                if opening.kind == "site":
                    write_head(path, chain.head)
                engine = _engine(path, durable=opening.kind == "site")
                try:
                    with engine.begin() as connection:
                        _TABLES.create_all(connection)
                        for guard in _GUARDS:
                            connection.exec_driver_sql(guard)
                        _append(connection, entry)
                finally:
                    engine.dispose()
        return cls(path, kind=opening.kind)

    def dispose(self) -> None:
        """Let go of the file."""
        self._engine.dispose()

    @property
    def book(self) -> Book:
        """The state on disk now."""
        with self._turn():
            return self._chain.book

    @property
    def head(self) -> Head:
        """The newest entry on disk now."""
        with self._turn():
            return self._chain.head

    def reserve(self, reservation: Reservation) -> str:
        """See `Ledger.reserve`; a refusal is written down and costs nothing."""
        return self._decide("reserve", reservation.to_json())

    def charge(self, charge: Charge) -> str:
        """See `Ledger.charge`; a refusal is written down and costs nothing."""
        return self._decide("charge", charge.to_json())

    def unmask(self, unmasking: Unmasking) -> str:
        """See `Ledger.unmask`; a refusal is written down and costs nothing."""
        return self._decide("unmask", unmasking.to_json())

    def check_unspent(self, unmasking: Unmasking) -> None:
        """See `Ledger.check_unspent`."""
        self.book.check_unspent(unmasking)

    def close(self, plan_sha256: str) -> None:
        """See `Ledger.close`."""
        with self._turn() as add:
            add("close", {"plan_sha256": plan_sha256})

    def _decide(self, kind: str, body: Mapping[str, Any]) -> str:
        refusal: PolicyError | None = None
        with self._turn() as add:
            try:
                add(kind, body)
            except PolicyError as error:
                refusal = error
                add("refuse", {"asked": kind, "code": error.code, "request": body})
            number = self._chain.head.number
        if refusal is not None:
            raise refusal
        return str(number)

    @contextmanager
    def _turn(self) -> Iterator[Callable[[str, Mapping[str, Any]], None]]:
        """Alone with the file, up to date with it: hand out what adds an entry, then commit."""
        alone = locked(self._path.parent, wanted=self._durable)
        with self._thread, _told_as_refusal(), alone:
            try:
                with self._engine.begin() as connection:
                    self._catch_up(connection)
                    before = self._chain.head

                    def add(kind: str, body: Mapping[str, Any]) -> None:
                        entry = self._chain.add(kind, body, _time(self._clock()))
                        if entry is not None:
                            _append(connection, entry)

                    yield add
                self._known = self._chain.head
                if self._durable and self._chain.head != before:
                    write_head(self._path, self._chain.head)
            except BaseException:
                self._chain = Chain()  # what is on disk counts, not what was meant: read anew
                raise

    def _catch_up(self, connection: sa.Connection) -> None:
        """Read what others wrote; nothing goes on where the file is another or an older one."""
        for entry in _entries(connection, after=self._chain.head.number):
            self._chain.take(entry)
        found, newest = self._chain.book.opening.kind, self._chain.head
        if found != self._kind:
            raise PolicyError(
                "ledger_kind",
                f"this is a ledger of kind {found}, one of kind {self._kind} is needed",
                hint="A simulation's ledger is thrown away with its run; a site keeps its own.",
            )
        sha256_of = partial(_sha256_of, connection)
        if self._known.number and sha256_of(self._known.number) != self._known.sha256:
            raise rolled_back("this process has read a newer one")
        if self._durable:
            check_head(self._path, newest, sha256_of)
        self._known = newest


def read_entries(path: Path) -> list[Entry]:
    """Return a ledger's entries without touching the file; `Chain.of` believes or refuses them.

    Raises:
        ConfigError: `ledger_missing`.
        PolicyError: `ledger_broken`, `ledger_unavailable`, or `ledger_rolled_back` where a head
            beside the file names an entry that is not in it.
    """
    entries = _untouched(path)
    Chain.of(entries)  # a broken chain is called so, whatever its head says
    head = read_head(path)
    if head is not None and (
        head.number > len(entries) or entries[head.number - 1].sha256 != head.sha256
    ):
        raise rolled_back("the file is older than the head beside it")
    return entries


def _untouched(path: Path) -> list[Entry]:
    if not path.is_file():
        raise _missing(path)
    journal = path.with_name(f"{path.name}-journal")
    try:
        return _read(path, "ro")
    except PolicyError:
        if not journal.is_file():
            raise
    # A process died while it wrote: what its journal takes back, it takes back of a copy.
    with _told_as_refusal(), tempfile.TemporaryDirectory() as folder:
        for file in (path, journal):
            shutil.copyfile(file, Path(folder) / file.name)
        return _read(Path(folder) / path.name, "rw")


def _read(path: Path, mode: str) -> list[Entry]:
    engine = sa.create_engine(_url(path, mode))
    try:
        with _told_as_refusal(), engine.connect() as connection:
            return list(_entries(connection, after=0))
    finally:
        engine.dispose()


def _engine(path: Path, *, durable: bool) -> sa.Engine:
    engine = sa.create_engine(
        _url(path, "rw"), poolclass=sa.StaticPool, connect_args={"check_same_thread": False}
    )

    @sa.event.listens_for(engine, "connect")
    def _settings(connection: Any, record: Any) -> None:
        connection.isolation_level = None  # transactions are ours, below
        connection.execute("PRAGMA journal_mode=" + ("DELETE" if durable else "MEMORY"))
        connection.execute("PRAGMA synchronous=" + ("EXTRA" if durable else "OFF"))
        connection.execute("PRAGMA busy_timeout=10000")

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")  # nobody reads what we are about to change

    return engine


def _url(path: Path, mode: str) -> sa.URL:
    """Return where the file is; SQLite never makes it."""
    file = f"file:{quote(str(path.absolute()))}"
    return sa.URL.create("sqlite", database=file, query={"mode": mode, "uri": "true"})


def _claim(path: Path) -> None:
    """Make the file of a new ledger; refuse where one is, or was."""
    head = read_head(path)
    if head is not None and head.number > 1:
        raise _exists(path)
    try:
        os.close(os.open(path, _NEW, 0o600))
    except FileExistsError:
        # What a crash leaves before the first entry holds nothing.
        if path.is_symlink() or not path.is_file() or not _holds_nothing(path):
            raise _exists(path) from None


def _holds_nothing(path: Path) -> bool:
    engine = sa.create_engine(_url(path, "rw"))
    try:
        with engine.connect() as connection:
            return connection.exec_driver_sql("SELECT 1 FROM sqlite_master").first() is None
    except DatabaseError:
        return False
    finally:
        engine.dispose()


def _append(connection: sa.Connection, entry: Entry) -> None:
    row = {"number": entry.number, "entry": entry.text, "sha256": entry.sha256}
    connection.execute(_ENTRIES.insert(), row)


def _entries(connection: sa.Connection, *, after: int) -> Iterator[Entry]:
    rows = connection.execute(
        sa.select(_ENTRIES.c.number, _ENTRIES.c.entry, _ENTRIES.c.sha256)
        .where(_ENTRIES.c.number > after)
        .order_by(_ENTRIES.c.number)
    )
    for number, text, sha256 in rows:
        entry = Entry.from_text(text)
        if (entry.number, entry.sha256) != (number, sha256):
            raise broken(f"entry {entry.number} is not what its hash was made of")
        yield entry


@contextmanager
def _told_as_refusal() -> Iterator[None]:
    """A disk that is full, a file that is locked or none of ours: refused, never passed over."""
    try:
        yield
    except DatabaseError as error:
        torn = not isinstance(error, OperationalError)
        if torn or "malformed" in str(error) or "no such table" in str(error):
            raise broken("it is no ledger, or its file is damaged") from error
        raise _unavailable() from error
    except (OSError, SQLAlchemyError) as error:
        raise _unavailable() from error


def _unavailable() -> PolicyError:
    return PolicyError(
        "ledger_unavailable",
        "the ledger cannot be read or written now",
        hint="Nothing was released. Look at the disk, the file's mode and who else holds it.",
    )


def _missing(path: Path) -> ConfigError:
    return ConfigError(
        "ledger_missing",
        f"there is no ledger at {path}",
        hint="Open one with `fedcohort ledger create`, once for a population.",
    )


def _exists(path: Path) -> ConfigError:
    return ConfigError(
        "ledger_exists",
        f"{path} exists or has existed, and a budget is set once",
        hint="This release renews no budget; another population has its own file.",
    )


def _sha256_of(connection: sa.Connection, number: int) -> str | None:
    found = connection.scalar(sa.select(_ENTRIES.c.sha256).where(_ENTRIES.c.number == number))
    return None if found is None else str(found)


def _time(now: dt.datetime) -> str:
    return now.astimezone(dt.UTC).isoformat(timespec="milliseconds")
