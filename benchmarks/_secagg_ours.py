"""Our side of `secagg.py`: a federation of real site sessions and its coordinator, in process.

Every phase is one of the public calls of `fedcohort.privacy.secagg`, timed by this process' CPU
clock. Every site is real, every report is made, and every opened sum is compared with the
exact one: what is timed is what works.
"""

from __future__ import annotations

import copy
import os
import statistics
import time
import tracemalloc
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from fedcohort.privacy.secagg.coordinator import CoordinatorSession
from fedcohort.privacy.secagg.encoding import SHORT_WORD_FROM, Encoding
from fedcohort.privacy.secagg.masking import words_of_nothing
from fedcohort.privacy.secagg.roster import Member, Roster
from fedcohort.privacy.secagg.site import ExpectedRound, SiteSession
from fedcohort.privacy.secagg.store import MemoryRoundStore
from fedcohort.privacy.secagg.suite import BLOCK_BYTES, INTL

__all__ = [
    "OPENING",
    "Federation",
    "encoding_for",
    "keystream_seconds",
    "mask_seconds",
    "word_bits",
]

Vector = NDArray[np.float64]

OPENING = (
    "coordinator: check the commits",
    "coordinator: check the answers",
    "coordinator: unmask",
)
_ENCODED_AT_ONCE = 16384  # coordinates: the encoder's temporaries stay in the L2 cache


class Clock:
    """CPU seconds by phase; a phase that several sites go through has one figure a site."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = defaultdict(list)

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Time what is inside."""
        started = time.process_time()
        yield
        self.seconds[phase].append(time.process_time() - started)

    def medians(self) -> dict[str, float]:
        """Return the median of each phase."""
        return {phase: statistics.median(times) for phase, times in self.seconds.items()}


def word_bits(size: int) -> int:
    """Return the word of a vector's length."""
    return 64 if size <= SHORT_WORD_FROM else 32


def encoding_for(size: int, sites: int) -> Encoding:
    """Return the finest grid on which the sum of vectors within [-1, 1] fits the word."""
    return Encoding.for_sum(site_bound=1.0, sites=sites, word_bits=word_bits(size))


class Federation:
    """`sites` members after set-up (E0 to E2), with keys for so many rounds.

    Args:
        sites: n.
        rounds: R.
    """

    def __init__(self, sites: int, rounds: int) -> None:
        self.sites, self.rounds = sites, rounds
        self.clock = Clock()
        names = [f"site{number:04d}" for number in range(1, sites + 1)]
        keys = {name: Ed25519PrivateKey.generate() for name in names}
        coordinator = Ed25519PrivateKey.generate()
        roster = Roster(
            federation="benchmark",
            version=1,
            suite=INTL.number,
            members=tuple(
                Member(name=name, public=key.public_key().public_bytes_raw())
                for name, key in keys.items()
            ),
            coordinator=coordinator.public_key().public_bytes_raw(),
            colluders=1,
            valid_from="2026-01-01",
            valid_to="2100-01-01",
        )
        self.members = [
            SiteSession(roster=roster, name=name, identity=key, store=MemoryRoundStore())
            for name, key in keys.items()
        ]
        self.coordinator = CoordinatorSession(roster=roster, identity=coordinator, rounds=rounds)
        self.set_up_bytes = self._set_up()

    def _set_up(self) -> int:
        """Go through E0 to E2; return what a site sent."""
        clock, first = self.clock, {}
        for site in self.members:
            with clock("E0 advertise"):
                first[site.position] = site.advertise(self.coordinator.epoch, self.rounds)
        with clock("coordinator: E0"):
            advertises = self.coordinator.advertises(first)
        second = {}
        for site in self.members:
            with clock("E1 verify, share"):
                second[site.position] = site.share(advertises)
        with clock("coordinator: E1"):
            deliveries = self.coordinator.deliveries(second)
        third = {}
        for site in self.members:
            with clock("E2 open, acknowledge"):
                third[site.position] = site.acknowledge(deliveries[site.position])
        with clock("coordinator: E2"):
            self.coordinator.acknowledged(third)
        return sum(max(map(len, sent.values())) for sent in (first, second, third))

    def round(self, values: Vector, *, lost: int, repeats: int = 1) -> Round:
        """Do one round in which the last `lost` sites never report."""
        return Round(self, values, lost=lost, repeats=repeats)


class Round:
    """One masked round from plan to sum.

    Args:
        federation: Who takes part.
        values: Every site's vector, within [-1, 1].
        lost: Sites that never report.
        repeats: How often the coordinator opens the same sum (its state is put back).

    Attributes:
        clock: CPU seconds by phase.
        up_bytes: Largest number of bytes a site sent beside its vector.
        vector_bytes: Bytes of the masked vector.
        extra_bytes: Peak memory of one client's encoding and report beyond its vector.
        coordinator_seconds: For each opening: (everything, unmasking alone).
    """

    def __init__(self, federation: Federation, values: Vector, *, lost: int, repeats: int) -> None:
        self._federation, self._values = federation, values
        self._encoding = encoding_for(values.size, federation.sites)
        self.clock = Clock()
        self.up_bytes = self.vector_bytes = self.extra_bytes = 0
        self.coordinator_seconds: list[tuple[float, float]] = []
        coordinator = federation.coordinator
        name = os.urandom(32)
        expected = ExpectedRound(
            min_survivors=coordinator.threshold,
            colluders=1,
            word_bits=word_bits(values.size),
            size=values.size,
            limit=self._encoding.limit,
            terms=bytes(32),
            training_round=name,
        )
        plan = coordinator.plan_round(expected, training_round=name, attempt=0)
        for site in federation.members:
            with self.clock("R0 check the plan"):
                site.open_round(plan, expected)
        left = federation.members[: federation.sites - lost]
        sent = self._reports(left)
        self._open(left, sent, repeats)

    def _reports(self, left: Sequence[SiteSession]) -> dict[int, int]:
        """R1: encode, mask, fold; return the bytes that each site sent beside its vector."""
        sent = {}
        for number, site in enumerate(left):
            values = self._values.copy()
            # The first site is measured for memory, which costs time, the others for time.
            if number == 0:
                tracemalloc.start()
            with self.clock("measured for memory" if number == 0 else "R1 encode, report"):
                report, vector = site.report(encode_in_place(self._encoding, values))
            if number == 0:
                self.extra_bytes = tracemalloc.get_traced_memory()[1]
                tracemalloc.stop()
            with self.clock("coordinator: fold one report"):
                self._federation.coordinator.add_report(site.position, report, vector)
            sent[site.position], self.vector_bytes = len(report), len(vector)
        return sent

    def _open(self, left: Sequence[SiteSession], sent: dict[int, int], repeats: int) -> None:
        """R2, R3 and the sum; what the coordinator does is done `repeats` times."""
        before = self._federation.coordinator
        reports = copy.copy(before).survivors()
        commits, answers = {}, {}
        for site in left:
            with self.clock("R2 check, commit"):
                commits[site.position] = site.commit(reports)
        signed = copy.copy(before).commits(commits)
        for site in left:
            with self.clock("R3 check, unmask"):
                answers[site.position] = site.unmask(signed)
        plan, masked = before._open()
        want = self._encoding.encode(self._values) * len(left)
        for _ in range(repeats):
            # One sum is opened once; a benchmark may open a copy of the session again.
            session = copy.copy(before)
            session._sum, session._commits = masked.copy(), {}
            with self.clock(OPENING[0]):
                session.survivors()
                session.commits(commits)
            # `open_sum` is these two steps.
            with self.clock(OPENING[1]):
                checked = session._answers(plan, answers, signed=False)
            with self.clock(OPENING[2]):
                opened = session._unmasked(plan, *session._secrets(plan, checked))
            parts = [self.clock.seconds[phase][-1] for phase in OPENING]
            self.coordinator_seconds.append((sum(parts), parts[-1]))
            if not np.array_equal(opened.total, want):
                raise RuntimeError("the opened sum is not the exact sum")
            del opened, session
        self.up_bytes = max(
            sent[place] + len(commits[place]) + len(answers[place]) for place in sent
        )


def encode_in_place(encoding: Encoding, values: Vector) -> NDArray[np.int64]:
    """Encode a vector block by block into its own memory: eight bytes in, eight out."""
    integers = values.view(np.int64)
    for start in range(0, values.size, _ENCODED_AT_ONCE):
        part = slice(start, start + _ENCODED_AT_ONCE)
        integers[part] = encoding.encode(values[part])
    return integers


def keystream_seconds(total_bytes: int) -> float:
    """Return the CPU seconds in which AES-256-CTR alone writes so many bytes: the limit."""
    stream = Cipher(algorithms.AES(os.urandom(32)), modes.CTR(bytes(16))).encryptor()
    zeros, block = bytes(BLOCK_BYTES), bytearray(BLOCK_BYTES + 15)
    started = time.process_time()
    for _ in range(-(-total_bytes // BLOCK_BYTES)):
        stream.update_into(zeros, block)
    return (
        (time.process_time() - started)
        * total_bytes
        / (-(-total_bytes // BLOCK_BYTES) * BLOCK_BYTES)
    )


def mask_seconds(size: int, streams: int) -> float:
    """Return the CPU seconds in which a client adds so many streams to its words."""
    words = words_of_nothing(size, word_bits(size))
    words[:] = 1
    step = BLOCK_BYTES // words.itemsize
    keys = [(os.urandom(32), 1 if number % 2 else -1) for number in range(streams)]
    started = time.process_time()
    add = INTL.streams(keys, words.dtype)
    for start in range(0, size, step):
        add(words[start : start + step])
    return time.process_time() - started
