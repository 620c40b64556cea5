"""A federation in one process, for tests: sites, a coordinator, and ways to lose people.

Loaded by path (tests/ has no packages): the `federation` fixture of this folder's conftest.py,
and the modules of tests/properties and tests/attacks that need it, each hand it on.
"""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import sys
import tempfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

import fedcohort
from fedcohort.privacy.secagg.coordinator import CoordinatorSession, OpenedSum
from fedcohort.privacy.secagg.masking import Words, pair_seed, self_seed, to_signed
from fedcohort.privacy.secagg.messages import Commit, RoundPlan, decode
from fedcohort.privacy.secagg.roster import Member, Roster
from fedcohort.privacy.secagg.site import ExpectedRound, SiteSession
from fedcohort.privacy.secagg.store import MemoryRoundStore, RoundStore

Vector = NDArray[np.int64]

# Not the site-packages' or another checkout's: the package that lies around these tests.
_ROOT = Path(__file__).resolve().parents[4]
assert Path(fedcohort.__file__).resolve().parent == _ROOT


class Stream:
    """Reproducible bytes: SHA-256 of a name and a counter. For tests only."""

    def __init__(self, name: str) -> None:
        self._name = name.encode()
        self._count = itertools.count()

    def __call__(self, size: int) -> bytes:
        blocks = (
            hashlib.sha256(self._name + number.to_bytes(8, "big")).digest()
            for number in itertools.islice(self._count, -(-size // 32))
        )
        return b"".join(blocks)[:size]


def identity(name: str) -> Ed25519PrivateKey:
    """The same key for the same name."""
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"id " + name.encode()).digest())


def public(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


def a_roster(sites: int, colluders: int = 1, **changes: Any) -> Roster:
    """A roster of `sites` members, site-01 and so on."""
    names = [f"site-{number:02d}" for number in range(1, sites + 1)]
    roster = Roster(
        federation="test",
        version=1,
        suite=1,
        members=tuple(Member(name=name, public=public(identity(name))) for name in names),
        coordinator=public(identity("coordinator")),
        colluders=colluders,
        valid_from="2026-01-01",
        valid_to="2027-01-01",
    )
    return replace(roster, **changes)


def name_of_sum(label: object) -> bytes:
    """32 bytes naming one wanted sum."""
    return hashlib.sha256(str(label).encode()).digest()


@dataclass
class Federation:
    """Sites, their coordinator, and what the coordinator has seen.

    Attributes:
        sites: By their place in the roster.
        masked: What each site sent in the last round: (report, masked vector).
        seen: Every byte string that the coordinator received.
    """

    roster: Roster
    sites: dict[int, SiteSession]
    coordinator: CoordinatorSession
    shares: dict[int, bytes] = field(default_factory=dict)
    deliveries: dict[int, bytes] = field(default_factory=dict)
    advertises: list[bytes] = field(default_factory=list)
    masked: dict[int, tuple[bytes, bytes]] = field(default_factory=dict)
    plan: bytes = b""
    seen: list[bytes] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        sites: int,
        *,
        rounds: int = 2,
        colluders: int = 1,
        kinds: Mapping[int, type[SiteSession]] | type[SiteSession] = SiteSession,
        store: Callable[[int], RoundStore] = lambda _: MemoryRoundStore(),
        seed: str | None = None,
    ) -> Federation:
        """Make one.

        Args:
            sites: How many.
            rounds: R.
            colluders: The roster's c.
            kinds: A class for all sites, or for some places.
            store: A round store for a place.
            seed: Names reproducible entropy; the operating system's if None.
        """
        roster = a_roster(sites, colluders)
        people = {}
        for place, member in enumerate(roster.members, start=1):
            kind = kinds if isinstance(kinds, type) else kinds.get(place, SiteSession)
            entropy = {} if seed is None else {"entropy": Stream(f"{seed} {member.name}")}
            people[place] = kind(
                roster=roster,
                name=member.name,
                identity=identity(member.name),
                store=store(place),
                **entropy,
            )
        entropy = {} if seed is None else {"entropy": Stream(f"{seed} coordinator")}
        coordinator = CoordinatorSession(
            roster=roster, identity=identity("coordinator"), rounds=rounds, **entropy
        )
        return cls(roster=roster, sites=people, coordinator=coordinator)

    # ---- set-up ------------------------------------------------------------------------

    def set_up(
        self,
        *,
        never: Collection[int] = (),
        lost_before_share: Collection[int] = (),
        lost_before_acknowledge: Collection[int] = (),
    ) -> tuple[int, ...]:
        """Run E0 to E2; return who takes part."""
        there = [place for place in self.sites if place not in never]
        advertised = {
            place: self.sites[place].advertise(self.coordinator.epoch, self.coordinator.rounds)
            for place in there
        }
        self.advertises = self.coordinator.advertises(advertised)
        there = [place for place in there if place not in lost_before_share]
        self.shares = {place: self.sites[place].share(self.advertises) for place in there}
        self.deliveries = self.coordinator.deliveries(self.shares)
        there = [place for place in there if place not in lost_before_acknowledge]
        said = {place: self.sites[place].acknowledge(self.deliveries[place]) for place in there}
        self.seen += [*advertised.values(), *self.shares.values(), *said.values()]
        return self.coordinator.acknowledged(said)

    # ---- rounds ------------------------------------------------------------------------

    def expected(self, size: int, **changes: Any) -> ExpectedRound:
        """What the approved plan implies for a vector of `size`; m = 3, c = the roster's."""
        plain: dict[str, Any] = {
            "min_survivors": 3,
            "colluders": self.roster.colluders,
            "word_bits": 64,
            "size": size,
            "limit": 2**40,
            "terms": bytes(32),
            "training_round": b"",  # any: what a name protects is the attacks' business
        }
        return ExpectedRound(**(plain | changes))

    def report(
        self,
        vectors: Mapping[int, Vector],
        *,
        label: object = 0,
        attempt: int = 0,
        participants: tuple[int, ...] | None = None,
        there: Collection[int] | None = None,
        **changes: Any,
    ) -> dict[int, tuple[bytes, bytes]]:
        """R0 and R1 for the sites in `vectors`, or for those of them that are there."""
        expected = self.expected(next(iter(vectors.values())).size, **changes)
        self.plan = self.coordinator.plan_round(
            expected,
            training_round=name_of_sum(label),
            attempt=attempt,
            participants=participants,
        )
        self.masked = {}
        for place in sorted(vectors if there is None else there):
            self.sites[place].open_round(self.plan, expected)
            self.masked[place] = self.sites[place].report(vectors[place])
            self.seen += self.masked[place]
        return self.masked

    def round(
        self,
        vectors: Mapping[int, Vector],
        *,
        lost_before_report: Collection[int] = (),
        lost_before_commit: Collection[int] = (),
        lost_before_unmask: Collection[int] = (),
        **options: Any,
    ) -> OpenedSum:
        """Run one attempt at a sum, losing people on the way."""
        asked = options.get("participants") or self.coordinator.participants
        there = [place for place in asked if place not in lost_before_report]
        self.report(vectors, there=there, **options)
        for place, (report, vector) in self.masked.items():
            self.coordinator.add_report(place, report, vector)
        survivors = self.coordinator.survivors()
        there = [place for place in there if place not in lost_before_commit]
        commits = {place: self.sites[place].commit(survivors) for place in there}
        agreed = self.coordinator.commits(commits)
        there = [place for place in there if place not in lost_before_unmask]
        answers = {place: self.sites[place].unmask(agreed) for place in there}
        self.seen += [*commits.values(), *answers.values()]
        return self.coordinator.open_sum(answers)

    # ---- what an adversary does --------------------------------------------------------

    def decoded_plan(self) -> RoundPlan:
        return decode(RoundPlan, self.plan, self.roster.primitives)

    def signed_plan(self, **changes: Any) -> bytes:
        """The last plan with other fields, signed by the coordinator."""
        suite = self.roster.primitives
        plan = replace(self.decoded_plan(), **changes)
        return plan.signed(suite, identity("coordinator")).to_bytes(suite)

    def commit_of(self, place: int, plan: bytes, survivors: bytes) -> bytes:
        """What a colluder at this place signs for the coordinator."""
        suite = self.roster.primitives
        message = Commit(sender=place, plan=plan, survivors=survivors)
        return message.signed(suite, identity(self.roster.members[place - 1].name)).to_bytes(suite)

    def unmasked(
        self,
        place: int,
        masked: bytes,
        plan: RoundPlan,
        *,
        own: bytes | None,
        pairs: Mapping[int, bytes],
    ) -> Vector:
        """Take off one site's vector its own mask and those it shares with known mask keys.

        Args:
            place: Whose vector it is.
            masked: Its little-endian words.
            plan: The plan it was masked under.
            own: Its self mask, if known.
            pairs: By place: the *other* site's mask key; or the site's own under its place,
                which opens every pair.
        """
        suite, coordinator = self.roster.primitives, self.coordinator
        digest = plan.sha256(suite)
        total: Words = np.frombuffer(masked, dtype=f"<u{plan.word_bits // 8}").copy()
        if own is not None:
            suite.add_stream(total, self_seed(suite, own, digest), -1)
        for other in plan.participants:
            if other == place or (other not in pairs and place not in pairs):
                continue
            known, against = (place, other) if place in pairs else (other, place)
            seed = pair_seed(
                suite,
                pairs[known],
                coordinator._advertised[against].masks[plan.key],
                mine=place,
                other=other,
                plan=digest,
            )
            suite.add_stream(total, seed, -1 if place < other else 1)
        return to_signed(total).astype(np.int64)


_numbers = itertools.count()


def weakened(module: str, *removals: tuple[str, str]) -> ModuleType:
    """Import a copy of one of the protocol's modules with pieces of its source replaced.

    A known-bad variant for positive controls. Each piece must stand in the source exactly once,
    so that a control cannot quietly become the real thing.

    Args:
        module: Such as "site".
        removals: (text, replacement) pairs.
    """
    package = "fedcohort.privacy.secagg"
    source = Path(fedcohort.__file__).parent / f"privacy/secagg/{module}.py"
    text = source.read_text()
    for old, new in removals:
        assert text.count(old) == 1, f"{module}.py holds {old!r} {text.count(old)} times"
        text = text.replace(old, new)
    name = f"{package}._weak_{module}_{next(_numbers)}"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weak.py"
        path.write_text(text)
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        loaded = importlib.util.module_from_spec(spec)
        sys.modules[name] = loaded
        spec.loader.exec_module(loaded)
    return loaded
