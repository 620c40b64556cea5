"""`fedcohort site doctor`: every precondition of a node, each with its remedy.

It reads, and asks the coordinator's `/health`; it changes nothing and sends nothing of the data.
"""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cryptography import x509
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from ..privacy.errors import FedCohortError
from ..privacy.ledger.store import SqliteLedger
from ..privacy.secagg.identity import load_identity
from ..privacy.secagg.suite import INTL
from ..study.bundle import bundle_sha256
from ._reach import Reached, reach
from .governance.audit_log import AuditLog
from .governance.opt_out import OptOut
from .governance.policy import Policy
from .governance.signatures import check_signed, pinned_approvers
from .site import pinned_roster
from .site_data import SiteData
from .site_folder import SiteFolder

__all__ = ["FLOWER_SWITCHES", "Check", "doctor"]

FLOWER_SWITCHES: Mapping[str, str] = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
}
_CLOCK_S = 120  # seconds by which two clocks may differ
_SOON = dt.timedelta(days=30)  # before a certificate's end
_ROOM = 2 * 2**30  # 2 GiB
_TIMEOUT_S = 10.0
_PACKAGE = "fedcohort"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One precondition.

    Attributes:
        name: What was looked at.
        outcome: `skip` where it could not be judged, or another failure stands before it.
        detail: What was found; never a patient's value.
        remedy: What to do; empty where it passes.
    """

    name: str
    outcome: Literal["pass", "fail", "skip"]
    detail: str = ""
    remedy: str = ""


class _Doctor:
    """What the checks share: read once, so that one failure is told once."""

    def __init__(
        self, folder: SiteFolder, environment: Mapping[str, str], timeout_s: float
    ) -> None:
        self.folder = folder
        self.environment = environment
        self.timeout_s = timeout_s
        self.policy: Policy | None = None
        self.reached: Reached | None = None


def doctor(
    folder: Path,
    *,
    environment: Mapping[str, str] | None = None,
    constraints: Path | None = None,
    now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    timeout_s: float = _TIMEOUT_S,
) -> list[Check]:
    """Look at everything that a node needs; no failure stops the checks after it.

    Args:
        folder: The site's.
        environment: Variables that the node will start with; default: this process'.
        constraints: The release's `constraints.txt`, to hold versions against exactly; None:
            against the ranges of the installed package.
        now: The site's clock.
        timeout_s: How long the coordinator may take.
    """
    variables = os.environ if environment is None else environment
    state = _Doctor(SiteFolder(folder), variables, timeout_s)
    return [_versions(constraints), *_own(state), *_trust(state, now), *_state(state, now)]


def _own(state: _Doctor) -> Iterator[Check]:
    wrong = [
        name for name, value in FLOWER_SWITCHES.items() if state.environment.get(name) != value
    ]
    yield _judged(
        "flower switches",
        not wrong,
        f"not set: {', '.join(wrong)}" if wrong else "telemetry, update check and installs are off",
        " ".join(f"export {name}={FLOWER_SWITCHES[name]};" for name in wrong),
    )
    yield _tried("crypto suite", _known_answers, "Reinstall the pinned `cryptography`.")
    yield _modes(state.folder)
    yield _tried("identity key", lambda: _identity(state.folder), "")

    def read() -> str:
        state.policy = Policy.read(state.folder.policy)
        return f"sha256 {state.policy.sha256}"

    yield _tried("policy", read, "")
    yield _with_policy(state, "policy signatures", _signed)
    yield _with_policy(state, "release", _release)


def _trust(state: _Doctor, now: Callable[[], dt.datetime]) -> Iterator[Check]:
    yield _with_policy(state, "pinned CA", _pinned)
    yield _with_policy(
        state, "roster", lambda folder, policy: _roster(folder, policy, now().date())
    )
    yield _certificate(state.folder.ca, now())
    if state.policy is None or not state.folder.ca.is_file():
        missing = "no policy or no CA certificate yet"
        yield Check(name="coordinator", outcome="skip", detail=missing)
        yield Check(name="clock", outcome="skip", detail="the coordinator was not asked")
        return
    address = state.policy.coordinator
    reached = reach(address, state.folder.ca, timeout_s=state.timeout_s)
    yield _judged(
        "coordinator",
        not reached.trouble,
        reached.trouble or f"{address} answers over TLS",
        f"Open outbound HTTPS to {address}; behind a proxy set HTTPS_PROXY.",
    )
    if reached.date is None:
        yield Check(name="clock", outcome="skip", detail="the coordinator told no time")
        return
    apart = abs((now() - reached.date).total_seconds())
    detail = f"{apart:.0f} s from the coordinator's"
    yield _judged("clock", apart <= _CLOCK_S, detail, "Start time synchronisation (NTP).")


def _state(state: _Doctor, now: Callable[[], dt.datetime]) -> Iterator[Check]:
    free = shutil.disk_usage(state.folder.root).free if state.folder.root.is_dir() else 0
    yield _judged("disk", free >= _ROOM, f"{free / 2**30:.1f} GiB free", "Make 2 GiB of room.")
    yield _with_policy(state, "ledger", _ledger)
    yield _tried("audit log", lambda: str(AuditLog(state.folder.audit).verify()), "")
    yield _with_policy(state, "opt-out list", _opt_out)
    yield _with_policy(state, "data", lambda folder, policy: _data(folder, policy, now().date()))


def _versions(constraints: Path | None) -> Check:
    pins = _pins(constraints) if constraints is not None else {}
    wrong = []
    for line in importlib.metadata.requires(_PACKAGE) or []:
        needed = Requirement(line)
        if needed.marker is not None and not needed.marker.evaluate({"extra": ""}):
            continue
        wanted = pins.get(canonicalize_name(needed.name), needed.specifier)
        try:
            found = importlib.metadata.version(needed.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{needed.name} is missing")
            continue
        if not wanted.contains(found, prereleases=True):
            wrong.append(f"{needed.name} {found} is not {wanted}")
    remedy = "pip install -c constraints.txt fedcohort"
    held = "the release's pins" if pins else "the release's ranges"
    return _judged("versions", not wrong, "; ".join(wrong) or f"within {held}", remedy)


def _pins(constraints: Path) -> dict[str, SpecifierSet]:
    lines = constraints.read_text(encoding="utf-8").splitlines()
    found = (line.partition("==") for line in lines if "==" in line and not line.startswith("#"))
    return {canonicalize_name(name): SpecifierSet(f"=={pin.strip()}") for name, _, pin in found}


def _identity(folder: SiteFolder) -> str:
    return f"public key {load_identity(folder.identity).public_key().public_bytes_raw().hex()}"


def _known_answers() -> str:
    # SHA-256 of FIPS 180-4; Ed25519 of RFC 8032, 7.1, test 1.
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    public = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    signed = (
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
        "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
    )
    good = INTL.hash(b"abc").hex() == expected
    good = good and INTL.verifies(bytes.fromhex(public), bytes.fromhex(signed), b"")
    good = good and not INTL.verifies(bytes.fromhex(public), bytes.fromhex(signed), b"x")
    sealed = INTL.seal(bytes(32), b"", data=b"")
    if not good or sealed.hex() != "530f8afbc74536b9a963b4f1c4cb738b":  # GCM spec, test case 13
        raise OSError("a known answer differs")
    return "SHA-256, Ed25519 and AES-256-GCM give their published answers"


def _modes(folder: SiteFolder) -> Check:
    wrong = []
    exists = folder.root.is_dir()
    for path in sorted([folder.root, *folder.root.rglob("*")] if exists else []):
        inner = path.relative_to(folder.root).parts
        if inner[:1] == ("data",) and len(inner) > 1:
            continue  # may be a read-only mount
        if not path.is_symlink() and stat.S_IMODE(path.stat().st_mode) & 0o077:
            wrong.append("/".join(inner) or ".")
    remedy = f"chmod -R go= {folder.root}"
    detail = f"others may use: {', '.join(wrong[:5])}" if wrong else "nobody else may read or write"
    return _judged("modes", exists and not wrong, detail if exists else "no folder", remedy)


def _signed(folder: SiteFolder, policy: Policy) -> str:
    owner, officer = check_signed(policy, folder.signatures, pinned_approvers(folder.approvers))
    return f"signed by {owner.name} and {officer.name}"


def _pinned(folder: SiteFolder, policy: Policy) -> str:
    policy.check_ca(folder.ca.read_bytes())
    return "ca.crt is the one that the policy pins"


def _release(folder: SiteFolder, policy: Policy) -> str:
    policy.check_bundle(bundle_sha256())
    return "the policy allows the bundle of the installed release"


def _roster(folder: SiteFolder, policy: Policy, today: dt.date) -> str:
    roster = pinned_roster(folder, policy.site, load_identity(folder.identity), today)
    if roster is None:
        raise OSError("none is pinned: no sum can be masked")
    return f"version {roster.version} of {len(roster.members)} members, until {roster.valid_to}"


def _certificate(path: Path, now: dt.datetime) -> Check:
    remedy = "Ask the coordinator for its current CA certificate, then pin and sign it."
    try:
        ends = x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc
        starts = x509.load_pem_x509_certificate(path.read_bytes()).not_valid_before_utc
    except (OSError, ValueError):
        detail = "ca.crt is missing or no certificate"
        return Check(name="CA dates", outcome="fail", detail=detail, remedy=remedy)
    good = starts <= now < ends - _SOON
    return _judged("CA dates", good, f"until {ends.date().isoformat()}", remedy)


def _ledger(folder: SiteFolder, policy: Policy) -> str:
    held = SqliteLedger(folder.ledger(policy), kind="site")
    try:
        policy.check_ledger(held.book.opening)
        return f"head {held.head}"
    finally:
        held.dispose()


def _opt_out(folder: SiteFolder, policy: Policy) -> str:
    OptOut(folder.opt_out(policy)).tokens()
    return "readable" if policy.dataset.opt_out_file else "the policy names none"


def _data(folder: SiteFolder, policy: Policy, today: dt.date) -> str:
    site = SiteData.read(folder.root, policy.site)
    site.check_opt_out(policy.dataset.opt_out_file)
    allowed = policy.allowed_columns
    cohort, warnings = site.check(allowed)
    unlisted = sorted(set(site.columns) - set(allowed))
    if today > policy.dataset.expires:
        raise OSError("the permission for the dataset has ended (dataset.expires)")
    if unlisted:
        raise OSError(f"dataset.columns does not allow: {', '.join(unlisted)}")
    OptOut(folder.opt_out(policy)).left(cohort)
    notes = f"; warnings: {', '.join(sorted({one.code for one in warnings}))}" if warnings else ""
    return (
        f"the cohort loads, schema {cohort.schema.sha256[:16]}, data {site.fingerprint[:16]}{notes}"
    )


def _with_policy(state: _Doctor, name: str, look: Callable[[SiteFolder, Policy], str]) -> Check:
    policy = state.policy
    if policy is None:
        return Check(name=name, outcome="skip", detail="there is no policy that can be read")
    return _tried(name, lambda: look(state.folder, policy), "")


def _tried(name: str, look: Callable[[], str | None], remedy: str) -> Check:
    try:
        return Check(name=name, outcome="pass", detail=look() or "")
    except FedCohortError as error:
        hint = error.hint or remedy
        return Check(name=name, outcome="fail", detail=f"{error} ({error.code})", remedy=hint)
    except OSError as error:
        detail = str(error) if error.errno is None else (error.strerror or "cannot be read")
        return Check(name=name, outcome="fail", detail=detail, remedy=remedy or "See the detail.")


def _judged(name: str, good: bool, detail: str, remedy: str) -> Check:
    if good:
        return Check(name=name, outcome="pass", detail=detail)
    return Check(name=name, outcome="fail", detail=detail, remedy=remedy)
