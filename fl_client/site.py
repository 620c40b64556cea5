"""A real site, put together from its folder: policy, people, records, ledger, keys and roster.

Nothing runs without a policy in force, the coordinator's pinned certificate and a ledger that was
opened for this hospital.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ..hosting import read_private, replace_file
from ..privacy.errors import PolicyError, ProtocolError
from ..privacy.ledger.store import SqliteLedger
from ..privacy.secagg.identity import load_identity
from ..privacy.secagg.roster import Roster
from ..privacy.secagg.roster_file import signed_roster_from_json, signed_roster_to_json
from ..privacy.secagg.site import SiteSession
from ..privacy.secagg.store import FileRoundStore
from ..study.cohort import Cohort
from ..study.plan import Plan
from ..study.submission import verify_submission
from .app import Hello
from .bundle import check_bundle
from .door import SiteTerms
from .governance.policy import Policy
from .governance.site_rules import site_rules
from .node import Node
from .round_memory import FileRoundMemory
from .site_data import SiteData
from .site_folder import SiteFolder
from .site_gate import SiteGate

__all__ = ["Site", "cohort_of", "open_site", "pin_roster", "pinned_roster"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A site that is ready to work.

    Attributes:
        name: The hospital's name in plans.
        gate: What decides.
        node: Answers plans and rounds.
        ledger: Who pays.
        roster: Tells the hash of the roster pinned now, hex, as plans name it; `none` before the
            first.
        coordinator: The coordinator's Ed25519 public key.
    """

    name: str
    gate: SiteGate
    node: Node
    ledger: SqliteLedger
    roster: Callable[[], str]
    coordinator: bytes

    def hello(self, plan_sha256: str) -> Hello:
        """Return what the node says of itself: its roster, and where a plan stands here.

        Raises:
            PolicyError: `policy_requests`: there were too many greetings today.
        """
        return Hello(roster=self.roster(), plan=self.gate.greeted(plan_sha256))

    def admit(self, bundle: bytes, settings: Mapping[str, object]) -> None:
        """Refuse a task whose code or run this hospital does not know.

        Args:
            bundle: The app bundle as it came.
            settings: The run's: which plan, and the coordinator's signature.

        Raises:
            PolicyError: `policy_unsigned` and its like, `bundle_...` or `run_unsigned`.
        """
        try:
            found = check_bundle(bundle, self.gate.policy().bundle_hashes)
            plan, signature = (str(settings.get(key, "")) for key in ("plan-sha256", "submission"))
            if not verify_submission(self.coordinator, signature, found, plan):
                raise PolicyError(
                    "run_unsigned",
                    "the run is not signed by the coordinator that this site joined",
                    hint="Runs start by `fedcohort coordinator submit`, and by nothing else.",
                )
        except PolicyError as error:
            self.gate.refused_code(bundle, error.code)
            raise
        self.node.serve_only(plan)

    def close(self) -> None:
        """Write down that the node stops, and let go of the ledger."""
        self.gate.stopped()
        self.ledger.dispose()


def open_site(
    folder: SiteFolder, *, now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC)
) -> Site:
    """Put a site together: everything is opened and checked once, before the first message.

    Args:
        folder: The site's.
        now: The site's clock.

    Raises:
        ConfigError: `ledger_missing`.
        PolicyError: The policy is not in force; or a key, a file's mode, the CA certificate or
            the ledger is not what it must be.
        ProtocolError: `r_3_*` or `r_4_dates`: the pinned roster does not hold for this site.
    """
    identity = load_identity(folder.identity)
    submitter = read_private(folder.coordinator).decode("ascii", "replace").strip()
    # A book that is asked for before there is a policy that names its ledger is never needed.
    gate = SiteGate(folder, lambda: ledger, submitter=submitter, now=now)
    policy = gate.policy()
    policy.check_ca(read_private(folder.ca))
    ledger = SqliteLedger(folder.ledger(policy), kind="site")
    policy.check_ledger(ledger.book.opening)

    def pinned() -> Roster | None:
        return pinned_roster(folder, policy.site, identity, now().date())

    pinned()  # a roster that does not hold is told at the start
    gate.started()

    def terms(plan: Plan) -> SiteTerms:
        session, roster = None, pinned()  # as it is now: rosters change
        if roster is not None and plan.secagg == "masked":
            session = SiteSession(
                roster=roster,
                name=policy.site,
                identity=identity,
                store=FileRoundStore(folder.rounds),
            )
        return SiteTerms(
            ledger=ledger,
            disclosure=site_rules(gate.policy(), plan),
            session=session,
            roster=_name(roster),
        )

    node = Node(
        site=policy.site,
        cohort=lambda plan: cohort_of(gate.policy(), gate.data_of(plan), plan),
        terms=terms,
        gate=gate,
        memory=lambda plan: FileRoundMemory(folder.round(plan.sha256)),
        today=lambda: now().date(),
    )
    return Site(
        name=policy.site,
        gate=gate,
        node=node,
        ledger=ledger,
        coordinator=bytes.fromhex(submitter),
        roster=lambda: _name(pinned()),
    )


def pin_roster(folder: SiteFolder, site: str, text: str, *, today: dt.date) -> Roster:
    """Accept a signed roster in the place of the one held now: rules R-1 to R-4.

    Args:
        folder: The site's.
        site: Its name in plans.
        text: The signed roster.
        today: By the site's clock.

    Raises:
        ProtocolError: `roster_unreadable`, or a broken rule by its code; nothing changed.
    """
    signed = signed_roster_from_json(text)
    identity = load_identity(folder.identity)
    held = None
    if folder.roster.exists():
        held = signed_roster_from_json(read_private(folder.roster).decode()).roster
        if held == signed.roster:
            return held
    signed.check(
        name=site, identity=identity.public_key().public_bytes_raw(), today=today, pinned=held
    )
    replace_file(folder.roster, signed_roster_to_json(signed).encode())
    return signed.roster


def cohort_of(policy: Policy, data: SiteData, plan: Plan) -> Cohort:
    """Read a plan's cohort, with the columns that the policy allows; opt-outs are still in it.

    With noise no answer may depend on what the records are, so nothing of them is refused; people
    looked at them before they approved (`check_extract`).

    Raises:
        PolicyError: As `SiteData.cohort`.
        DataError: As `SiteData.cohort`; without noise as `SiteData.check`.
    """
    read = data.check if plan.privacy is None else data.cohort
    return read(policy.allowed_columns, holdout=plan.holdout)[0]


def pinned_roster(
    folder: SiteFolder, site: str, identity: Ed25519PrivateKey, today: dt.date
) -> Roster | None:
    """Return the roster that this site pinned, None before the first.

    Raises:
        ProtocolError: `r_3_own_key` or `r_4_dates`: it does not hold for this site now.
    """
    if not folder.roster.exists():
        return None
    # Its signatures were checked when it was pinned; that it is ours and of today, each time.
    roster = signed_roster_from_json(read_private(folder.roster).decode()).roster
    if roster.public(roster.position(site)) != identity.public_key().public_bytes_raw():
        raise ProtocolError("r_3_own_key", "the roster names another key for this site")
    if not roster.valid_from <= today.isoformat() <= roster.valid_to:
        raise ProtocolError("r_4_dates", "the roster is not valid today")
    return roster


def _name(roster: Roster | None) -> str:
    return "none" if roster is None else roster.sha256.hex()
