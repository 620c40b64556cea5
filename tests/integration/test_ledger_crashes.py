"""A site's process that dies, anywhere: what it answered is in its ledger, and nothing hides.

Real processes and real files. One is killed (SIGKILL) at every call that writes, syncs, renames
or removes a file, be it ours or SQLite's; what it left is opened by another. Two race for the
last of a budget. What a loss of power would do is read off the order of writes and syncs, as
the system's cache outlives a process.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedcohort.privacy.budget import Budget
from fedcohort.privacy.errors import FedCohortError, PolicyError
from fedcohort.privacy.ledger.chain import Chain, Head
from fedcohort.privacy.ledger.charges import Charge, Opening, Reservation, Unmasking
from fedcohort.privacy.ledger.store import SqliteLedger, read_entries
from fedcohort.privacy.ledger.witness import read_head
from fedcohort.privacy.mechanism import Mechanism

# Counts the calls that change a file, notes what they touch, and dies before the n-th.
SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static long last = 0, seen = 0;
static char notes[1 << 20];
static size_t used = 0;

void shim_until(long n) { last = n; seen = 0; used = 0; notes[0] = 0; }
long shim_seen(void) { return seen; }
const char *shim_notes(void) { return notes; }

static void point(const char *what, int fd, const char *path) {
    char link[64], name[PATH_MAX] = "";
    if (!last) return;
    if (path) {
        strncpy(name, path, sizeof name - 1);
    } else {
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        ssize_t length = readlink(link, name, sizeof name - 1);
        if (length > 0) name[length] = 0;
        if (name[0] != '/') return; /* a pipe, a socket */
    }
    used += snprintf(notes + used, sizeof notes - used, "%s\t%s\n", what, name);
    if (++seen == last) { kill(getpid(), SIGKILL); for (;;) pause(); }
}

#define REAL(type, name) static type real; if (!real) real = (type)dlsym(RTLD_NEXT, #name)
typedef ssize_t (*write_t)(int, const void *, size_t);
typedef ssize_t (*pwrite_t)(int, const void *, size_t, off64_t);
typedef int (*fd_t)(int);
typedef int (*cut_t)(int, off64_t);
typedef int (*path_t)(const char *);
typedef int (*paths_t)(const char *, const char *);

ssize_t write(int fd, const void *data, size_t n) {
    REAL(write_t, write); point("write", fd, 0); return real(fd, data, n); }
ssize_t pwrite64(int fd, const void *data, size_t n, off64_t at) {
    REAL(pwrite_t, pwrite64); point("write", fd, 0); return real(fd, data, n, at); }
ssize_t pwrite(int fd, const void *data, size_t n, off_t at) {
    REAL(pwrite_t, pwrite64); point("write", fd, 0); return real(fd, data, n, at); }
int ftruncate64(int fd, off64_t n) {
    REAL(cut_t, ftruncate64); point("write", fd, 0); return real(fd, n); }
int ftruncate(int fd, off_t n) {
    REAL(cut_t, ftruncate64); point("write", fd, 0); return real(fd, n); }
int fsync(int fd) { REAL(fd_t, fsync); point("sync", fd, 0); return real(fd); }
int fdatasync(int fd) { REAL(fd_t, fdatasync); point("sync", fd, 0); return real(fd); }
int unlink(const char *path) {
    REAL(path_t, unlink); point("remove", 0, path); return real(path); }
int rename(const char *from, const char *to) {
    REAL(paths_t, rename); point("remove", 0, from); point("name", 0, to);
    return real(from, to); }
"""

# One process that has imported everything; each life is a fork of it. It says as JSON lines how
# many steps of the story each life was told are done (counted in shared memory: no call).
LIVES = r"""
import ctypes, json, mmap, os, pathlib, resource, signal, sys

from sqlalchemy.engine.default import DefaultDialect

from fedcohort.privacy.budget import Budget
from fedcohort.privacy.errors import PolicyError
from fedcohort.privacy.ledger.charges import Charge, Opening, Reservation, Unmasking
from fedcohort.privacy.ledger.store import SqliteLedger
from fedcohort.privacy.mechanism import Mechanism

MODE, ROOT = sys.argv[1], pathlib.Path(sys.argv[2])
OPENING = Opening(hospital="h", population="p", kind="site", unnoised=False,
                  budget=Budget(epsilon=3.0, delta=1e-5))
NOISE = Mechanism(noise_multiplier=20.0)

def asked(name, releases=4):
    return Reservation(plan_sha256=name * 64, study="s", purpose="p", analysis="a", rounds=4,
                       releases=releases, mechanism=NOISE, clip=1.0, sharing="sum",
                       min_survivors=3, colluders=1)

def charge(name, number):
    return Charge(plan_sha256=name * 64, round=number, releases=1, mechanism=NOISE)

def refused(ask):
    try:
        ask()
    except PolicyError as error:
        assert error.code == "reservation_exceeded", error.code
    else:
        raise AssertionError("not refused")

def live(folder, done):
    path = folder / "h.ledger"
    ledger = SqliteLedger.create(path, OPENING); done[0] += 1
    ledger.reserve(asked("a")); done[0] += 1
    ledger.charge(charge("a", 0)); done[0] += 1
    refused(lambda: ledger.charge(charge("a", 9))); done[0] += 1
    ledger.charge(charge("a", 1)); done[0] += 1
    ledger.unmask(Unmasking(plan_sha256="a" * 64, round=1)); done[0] += 1
    ledger.close("a" * 64); done[0] += 1
    SqliteLedger(path, kind="site").reserve(asked("b")); done[0] += 1

class Calls:
    # The same from inside Python: dies before the n-th call of what writes.
    def __init__(self, last):
        self.last, self.seen = last, 0
    def at(self, owner, name):
        real = getattr(owner, name)
        def call(*args, **named):
            self.seen += 1
            if self.seen == self.last:
                os.kill(os.getpid(), signal.SIGKILL)
            answer = real(*args, **named)
            self.seen += 1
            if self.seen == self.last:
                os.kill(os.getpid(), signal.SIGKILL)
            return answer
        setattr(owner, name, call)

def kill_at(number):
    if MODE == "system":
        ctypes.CDLL(None).shim_until(ctypes.c_long(number))
        return
    calls = Calls(number)
    for owner, name in ((os, "fsync"), (os, "open"), (pathlib.Path, "replace"),
                        (DefaultDialect, "do_execute"), (DefaultDialect, "do_commit")):
        calls.at(owner, name)

if MODE in ("python", "system"):
    for number in range(1, 5000):
        folder = ROOT / str(number)
        folder.mkdir()
        done = mmap.mmap(-1, 1)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                kill_at(number)
                live(folder, done)
                status = 0
            finally:
                os._exit(status)
        _, status = os.waitpid(child, 0)
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        if not killed and status != 0:
            sys.exit(f"the life that was to end at {number} failed")
        print(json.dumps([number, done[0], killed]), flush=True)
        if not killed:
            break
elif MODE == "notes":
    shim = ctypes.CDLL(None)
    shim.shim_notes.restype = ctypes.c_char_p
    ledger = SqliteLedger.create(ROOT / "h.ledger", OPENING)
    ledger.reserve(asked("a"))
    told = []
    for number in range(2):
        shim.shim_until(ctypes.c_long(-1))
        ledger.charge(charge("a", number))
        notes = shim.shim_notes().decode()
        shim.shim_until(ctypes.c_long(0))
        told.append([line.split("\t") for line in notes.splitlines()])
    print(json.dumps(told))
elif MODE == "full":
    path = ROOT / "h.ledger"
    ledger = SqliteLedger.create(path, OPENING)
    ledger.reserve(asked("a"))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    codes, number = [], 0
    for bytes_more in (-10**9, -1, 0, 100, 600, 5000):
        limit = max(0, path.stat().st_size + bytes_more)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        try:
            ledger.charge(charge("a", number))
            codes.append("paid")
            number += 1
        except PolicyError as error:
            codes.append(error.code)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    ledger.charge(charge("a", 3))
    print(json.dumps([codes, number]))
"""

OPENING = Opening(
    hospital="h",
    population="p",
    kind="site",
    budget=Budget(epsilon=3.0, delta=1e-5),
    unnoised=False,
)
NOISE = Mechanism(noise_multiplier=20.0)
# What the file says after each step of the story.
STORY = [
    ("open", ""),
    ("reserve", "a"),
    ("charge", "a0"),
    ("refuse", "a9"),
    ("charge", "a1"),
    ("unmask", "a1"),
    ("close", "a"),
    ("reserve", "b"),
]


def asked(name: str, releases: int = 4) -> Reservation:
    return Reservation(
        plan_sha256=name * 64,
        study="s",
        purpose="p",
        analysis="a",
        rounds=4,
        releases=releases,
        mechanism=NOISE,
        clip=1.0,
        sharing="sum",
        min_survivors=3,
        colluders=1,
    )


def charge(name: str, number: int) -> Charge:
    return Charge(plan_sha256=name * 64, round=number, releases=1, mechanism=NOISE)


@pytest.fixture
def quick() -> Iterator[Path]:
    """A folder in memory where there is one: what a killed process leaves is the same there."""
    memory = Path("/dev/shm")  # noqa: S108
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that stands before libc's calls."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler: the calls of SQLite itself cannot be stopped")
    folder = tmp_path_factory.mktemp("shim")
    (folder / "shim.c").write_text(SHIM, encoding="ascii")
    library = folder / "shim.so"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(folder / "shim.c"), "-ldl"],
        check=True,
    )
    return library


def lives(mode: str, folder: Path, library: Path | None) -> list[Any]:
    environment = dict(os.environ) | ({} if library is None else {"LD_PRELOAD": str(library)})
    run = subprocess.run(
        [sys.executable, "-c", LIVES, mode, str(folder)],
        capture_output=True,
        text=True,
        env=environment | {"OMP_NUM_THREADS": "1"},
        cwd=folder,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return [json.loads(line) for line in run.stdout.splitlines()]


def told_by(path: Path) -> list[tuple[str, str]]:
    """What a file says, in the words of STORY; read by nothing of ours."""
    connection = sqlite3.connect(path)
    try:
        rows = connection.execute("SELECT entry FROM entries ORDER BY number").fetchall()
    except sqlite3.OperationalError:  # there is no table yet
        return []
    finally:
        connection.close()
    said = []
    for (text,) in rows:
        entry = json.loads(text)
        body = entry["body"].get("request", entry["body"])
        plan = str(body.get("plan_sha256", ""))[:1]
        said.append((entry["kind"], plan + str(body.get("round", ""))))
    return said


def goes_on(path: Path, told: list[tuple[str, str]]) -> SqliteLedger:
    """Open what a dead process left, and live the rest of the story."""
    if not told:
        head = read_head(path)  # written before the first entry
        assert head is None or head.number == 1
        SqliteLedger.create(path, OPENING).dispose()
    else:
        with pytest.raises(FedCohortError) as refused:
            SqliteLedger.create(path, OPENING)
        assert refused.value.code == "ledger_exists"
    ledger = SqliteLedger(path, kind="site")
    for kind, what in STORY[max(1, len(told)) :]:
        if kind == "reserve":
            ledger.reserve(asked(what))
        elif kind == "unmask":
            ledger.unmask(Unmasking(plan_sha256=what[0] * 64, round=int(what[1])))
        elif kind == "close":
            ledger.close(what * 64)
        elif kind == "charge":
            ledger.charge(charge(what[0], int(what[1])))
        else:
            with pytest.raises(PolicyError):
                ledger.charge(charge(what[0], int(what[1])))
    return ledger


def after_every_death(folder: Path, told: list[Any], fewest: int) -> None:
    assert not told[-1][2]  # the last life was lived to its end
    assert told[-1][1] == len(STORY)
    assert len(told) > fewest
    hidden = 0
    for number, done, _ in told:
        path = folder / str(number) / "h.ledger"
        # A copy for our own eyes: looking must not mend what the next process finds.
        looked_at = folder / f"{number}-seen"
        shutil.copytree(folder / str(number), looked_at)
        said = told_by(looked_at / "h.ledger") if path.exists() else []
        assert said in (STORY[:done], STORY[: done + 1]), f"killed at {number}: {done} done"
        hidden += len(said) > done
        if said:  # a reviewer who looks sees the same, and mends nothing
            found = {file.name: file.read_bytes() for file in path.parent.iterdir()}
            assert len(Chain.of(read_entries(path)).book.accounts) == len(
                [kind for kind, _ in said if kind == "reserve"]
            )
            assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == found
        ledger = goes_on(path, said)
        assert told_by(path) == STORY, f"killed at {number}"
        assert ledger.book.spent == pytest.approx(ledger.book.cost(NOISE, 2))
        assert ledger.book.reserved == pytest.approx(ledger.book.cost(NOISE, 4))
        for paid in (0, 1):
            with pytest.raises(PolicyError):
                ledger.charge(charge("a", paid))
        assert read_head(path) == ledger.head
        ledger.dispose()
    assert hidden >= len(STORY)  # each entry was once written and not yet answered


@pytest.mark.slow  # for where there is no C compiler; the next finds all that it finds
def test_a_process_killed_at_any_call_of_ours_leaves_all_that_it_answered(quick: Path) -> None:
    after_every_death(quick, lives("python", quick, None), fewest=60)


def test_a_process_killed_at_any_write_of_sqlites_or_ours_leaves_all_that_it_answered(
    quick: Path, shim: Path
) -> None:
    after_every_death(quick, lives("system", quick, shim), fewest=60)


def test_before_a_charge_is_answered_every_byte_of_it_is_synced(tmp_path: Path, shim: Path) -> None:
    """A power cut may drop what was written and not synced, and names whose folder was not."""
    ledger, head = str(tmp_path / "h.ledger"), str(tmp_path / "h.ledger.head")
    (told,) = lives("notes", tmp_path, shim)
    for events in told:
        events = [(what, name) for what, name in events]
        # Nothing was still in flight when the ledger answered.
        loose: set[str] = set()
        for what, name in events:
            folder = str(Path(name).parent)
            if what == "write":
                loose.add(name)
            elif what == "sync":
                loose.discard(name)
            else:
                loose.add(folder)
                loose.discard(name)
        assert loose == set()

        def at(what: str, name: str, events: list[tuple[str, str]] = events) -> list[int]:
            return [place for place, event in enumerate(events) if event == (what, name)]

        journal = f"{ledger}-journal"
        # The way back is safe before the ledger is touched, and gone only when it is synced.
        assert at("sync", journal)[0] < at("write", ledger)[0]
        assert at("write", ledger)[-1] < at("sync", ledger)[-1] < at("remove", journal)[0]
        # The ledger is committed before its head, and the head whole before it is in place.
        assert at("remove", journal)[0] < at("name", head)[0]
        temporary = str(tmp_path / ".h.ledger.head.tmp")
        assert at("write", temporary)[-1] < at("sync", temporary)[-1] < at("name", head)[0]


def test_on_a_full_disk_nothing_is_paid_and_later_everything_is(tmp_path: Path) -> None:
    ((codes, paid),) = lives("full", tmp_path, None)
    assert set(codes) <= {"ledger_unavailable", "paid", "round_already_paid"}
    assert codes[0] == "ledger_unavailable"
    # Where the head alone did not fit, the entry is there and the answer was no.
    charged = [what for kind, what in told_by(tmp_path / "h.ledger") if kind == "charge"]
    assert len(charged) == len(set(charged)) >= paid + 1
    assert charged[-1] == "a3"
    assert SqliteLedger(tmp_path / "h.ledger", kind="site").book.spent > 0


# ---- races

RACER = r"""
import json, pathlib, sys, time

from fedcohort.privacy.errors import FedCohortError
from fedcohort.privacy.ledger.charges import Charge, Opening, Reservation
from fedcohort.privacy.ledger.store import SqliteLedger

print("ready", flush=True)
for line in sys.stdin:
    path, kind, body, go = json.loads(line)
    path = pathlib.Path(path)
    if kind == "create":
        request, ask = Opening.from_json(body), lambda asked: SqliteLedger.create(path, asked)
    else:
        ledger = SqliteLedger(path, kind="site")
        ask = ledger.reserve if kind == "reserve" else ledger.charge
        request = (Reservation if kind == "reserve" else Charge).from_json(body)
    while time.monotonic() < go:
        pass
    try:
        ask(request)
        print("won", flush=True)
    except FedCohortError as error:
        print(error.code, flush=True)
"""


class Racers:
    """Two processes that ask at the same moment."""

    def __init__(self) -> None:
        self._both = [
            subprocess.Popen(
                [sys.executable, "-c", RACER],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(2)
        ]
        for one in self._both:
            assert one.stdout is not None
            assert one.stdout.readline() == "ready\n"

    def ask(self, path: Path, kind: str, bodies: tuple[Any, ...]) -> list[str]:
        go = time.monotonic() + 0.03
        for one, body in zip(self._both, bodies, strict=True):
            assert one.stdin is not None
            one.stdin.write(json.dumps([str(path), kind, body, go]) + "\n")
            one.stdin.flush()
        return sorted(one.stdout.readline().strip() for one in self._both if one.stdout)

    def end(self) -> None:
        for one in self._both:
            one.kill()
            one.communicate()


@pytest.fixture(scope="module")
def racers() -> Iterator[Racers]:
    both = Racers()
    yield both
    both.end()


def test_two_processes_race_for_the_last_of_a_budget_and_one_wins(
    tmp_path: Path, racers: Racers
) -> None:
    budget = Budget(epsilon=3.0, delta=1e-5)
    fits = int(budget.limit / (budget.order / (2 * 20.0**2)))
    for number in range(25):
        path = tmp_path / f"{number}.ledger"
        ledger = SqliteLedger.create(path, OPENING)
        ledger.reserve(asked("0", releases=fits - 1))  # one noisy sum is left
        both = (asked("a", releases=1).to_json(), asked("b", releases=1).to_json())
        assert racers.ask(path, "reserve", both) == ["budget_exceeded", "won"]
        chain = Chain.of(read_entries(path))
        assert len(chain.book.accounts) == 2
        assert chain.book.reserved <= chain.book.limit * (1 + 1e-9)
        assert read_head(path) == chain.head == ledger.head


def test_two_processes_of_a_site_pay_for_a_round_once(tmp_path: Path, racers: Racers) -> None:
    path = tmp_path / "h.ledger"
    ledger = SqliteLedger.create(path, OPENING)
    plan = Reservation.from_json(asked("a").to_json() | {"rounds": 25, "releases": 25})
    ledger.reserve(plan)
    for number in range(25):
        same = charge("a", number).to_json()
        assert racers.ask(path, "charge", (same, same)) == ["round_already_paid", "won"]
    chain = Chain.of(read_entries(path))
    assert [paid.round for paid in chain.book.accounts["a" * 64].charges] == list(range(25))
    assert ledger.head == chain.head != Head(0, "0" * 64)


def test_two_processes_open_a_ledger_and_one_is_told_that_it_exists(
    tmp_path: Path, racers: Racers
) -> None:
    """The loser's budget is nowhere: neither in the ledger nor in the head beside it."""
    both = tuple(
        dataclasses.replace(OPENING, budget=Budget(epsilon=epsilon, delta=1e-5)).to_json()
        for epsilon in (1.0, 8.0)
    )
    for number in range(40):
        path = tmp_path / f"{number}.ledger"
        assert racers.ask(path, "create", both) == ["ledger_exists", "won"]
        ledger = SqliteLedger(path, kind="site")
        assert ledger.head == read_head(path)
        ledger.dispose()
