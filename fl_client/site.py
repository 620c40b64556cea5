"""A real site, put together from its folder: records, ledger, keys and roster make a `Node`.

`site.json` names them; paths are relative to the folder. What decides (policy, approvals,
disclosure rules) is handed in; without it, only plans whose hash stands in `approved.txt` run, and
no sum leaves without noise but those of analyses that `site.json` names.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ..datasets import LoadOptions, list_catalogue, load_catalogue, load_table
from ..hosting import read_private, replace_file
from ..privacy.errors import ConfigError, DataError, PolicyError, ProtocolError
from ..privacy.ledger.store import SqliteLedger
from ..privacy.secagg.identity import load_identity
from ..privacy.secagg.roster import Roster
from ..privacy.secagg.roster_file import signed_roster_from_json, signed_roster_to_json
from ..privacy.secagg.site import SiteSession
from ..privacy.secagg.store import FileRoundStore
from ..study.analysis import Contribution
from ..study.cohort import Cohort
from ..study.plan import Plan
from .door import Disclosure, NoDisclosureRules, SiteTerms
from .node import Node
from .site_setup import SiteSetup, read_setup

__all__ = ["DenyUnnoised", "Site", "open_site", "pin_roster"]


class DenyUnnoised:
    """The disclosure rule of a site that states none: nothing leaves without noise."""

    def check(self, contribution: Contribution) -> None:
        """Refuse.

        Raises:
            PolicyError: `unnoised_denied`.
        """
        raise PolicyError(
            "unnoised_denied",
            "this site lets nothing leave without noise",
            hint="Ask for a plan with privacy.epsilon, or for a policy that names the analysis.",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A site that is ready to work.

    Attributes:
        setup: What it is made of.
        node: Answers plans and rounds.
        roster: Tells the hash of the roster pinned now, hex, as plans name it; `none` before the
            first.
    """

    setup: SiteSetup
    node: Node
    roster: Callable[[], str]


def open_site(
    folder: Path,
    *,
    approves: Callable[[Plan], bool] | None = None,
    disclosure: Disclosure | None = None,
) -> Site:
    """Put a site together: everything is opened and checked once, before the first message.

    Args:
        folder: The site's folder.
        approves: Whether this site approved a plan; by default, its hash is in `approved.txt`.
        disclosure: The site's rules for what leaves without noise; by default, only
            sums of the analyses that `site.json` names do.

    Raises:
        ConfigError: `site_file` or `ledger_missing`.
        PolicyError: A key, a file's mode or the ledger is not what it must be.
        ProtocolError: `r_3_*` or `r_4_dates`: the pinned roster does not hold for this site.
    """
    setup = read_setup(folder)
    identity = load_identity(setup.identity)
    _pinned(setup, identity)  # a roster that does not hold is told at the start
    ledger = SqliteLedger(setup.ledger, kind="site")

    def terms(plan: Plan) -> SiteTerms:
        session, roster = None, _pinned(setup, identity)  # as it is now: rosters change
        if roster is not None and plan.secagg == "masked":
            session = SiteSession(
                roster=roster,
                name=setup.site,
                identity=identity,
                store=FileRoundStore(setup.rounds),
            )
        named = plan.analysis in setup.unnoised
        rules = disclosure or (NoDisclosureRules() if named else DenyUnnoised())
        return SiteTerms(ledger=ledger, disclosure=rules, session=session, roster=_name(roster))

    node = Node(
        site=setup.site,
        cohort=lambda plan: _cohort(setup),
        terms=terms,
        approves=approves or (lambda plan: _listed(setup.approved, plan.sha256)),
    )
    return Site(setup=setup, node=node, roster=lambda: _name(_pinned(setup, identity)))


def pin_roster(setup: SiteSetup, text: str, *, today: dt.date) -> Roster:
    """Accept a signed roster in the place of the one held now: rules R-1 to R-4.

    Raises:
        ProtocolError: `roster_unreadable`, or a broken rule by its code; nothing changed.
    """
    signed = signed_roster_from_json(text)
    identity = load_identity(setup.identity)
    held = None
    if setup.roster.exists():
        held = signed_roster_from_json(read_private(setup.roster).decode()).roster
        if held == signed.roster:
            return held
    signed.check(
        name=setup.site, identity=identity.public_key().public_bytes_raw(), today=today, pinned=held
    )
    replace_file(setup.roster, signed_roster_to_json(signed).encode())
    return signed.roster


def _pinned(setup: SiteSetup, identity: Ed25519PrivateKey) -> Roster | None:
    if not setup.roster.exists():
        return None
    # Its signatures were checked when it was pinned; that it is ours and of today, each time.
    roster = signed_roster_from_json(read_private(setup.roster).decode()).roster
    if roster.public(roster.position(setup.site)) != identity.public_key().public_bytes_raw():
        raise ProtocolError("r_3_own_key", "the roster names another key for this site")
    today = dt.datetime.now(dt.UTC).date().isoformat()
    if not roster.valid_from <= today <= roster.valid_to:
        raise ProtocolError("r_4_dates", "the roster is not valid today")
    return roster


def _name(roster: Roster | None) -> str:
    return "none" if roster is None else roster.sha256.hex()


def _cohort(setup: SiteSetup) -> Cohort:
    known = {entry.name for entry in list_catalogue()}
    options = _options(setup.options)
    if setup.data in known:
        extract = load_catalogue(setup.data, options)
    else:
        extract = load_table(setup.folder / setup.data, options)
    for cohort in extract.cohorts:
        if cohort.site == setup.site:
            return cohort
    raise DataError(
        "site_not_in_table",
        f"the table holds no rows of {setup.site}",
        hint="Name the hospital as the table's site column does.",
    )


def _listed(path: Path, plan_sha256: str) -> bool:
    if not path.exists():
        return False
    return plan_sha256 in read_private(path).decode("utf-8", "replace").split()


def _options(found: Mapping[str, str | tuple[str, ...]]) -> LoadOptions:
    fields = {field.name for field in dataclasses.fields(LoadOptions)}
    if set(found) - fields:
        raise ConfigError("site_file", "site.json has an unknown option of the table")
    values: dict[str, Any] = dict(found)
    if "codebook" in values:
        values["codebook"] = Path(str(values["codebook"]))
    return LoadOptions(**values)
