"""What people looked at before they approved: the extract's records, held against every rule.

With noise a node answers alike whatever the records are, so it cannot say that an extract is
unusable. `fedcohort site check` says so, to the people who can mend it. Its yes is kept with the
extract's fingerprint, the policy's hash and the release: another of them wants another look.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from collections.abc import Callable
from dataclasses import dataclass

from ..datasets.extract import DataWarning
from ..hosting import read_private, replace_file
from ..privacy.errors import DataError
from ..study.bundle import bundle_sha256
from .governance.audit_log import AuditLog
from .governance.opt_out import OptOut
from .governance.policy import Policy
from .site_data import SiteData
from .site_folder import SiteFolder

__all__ = ["ExtractCheck", "check_extract", "extract_check"]

_FORMAT = "fedcohort.extract_check/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractCheck:
    """An extract that broke no rule.

    Attributes:
        fingerprint: Of the extract.
        policy_sha256: Of the policy that it was read under.
        checked: When, UTC, ISO 8601.
        release: Hash of the release's bundle: another release may have other rules.
        schema_sha256: Of its cohort.
        patients: Its patients, opt-outs included; for the hospital's own people.
        warnings: What was noticed, for the hospital's own people; not for sending.
    """

    fingerprint: str
    policy_sha256: str
    checked: str
    release: str
    schema_sha256: str
    patients: int
    warnings: tuple[DataWarning, ...]


def check_extract(
    folder: SiteFolder,
    policy: Policy,
    *,
    now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
) -> ExtractCheck:
    """Hold an extract's records against every rule, and keep the yes.

    Raises:
        DataError: The first rule that is broken; `SiteData.faults` tells all of them.
        PolicyError: `opt_out_...`, or the mapping cannot be read. No yes is kept.
    """
    data = SiteData.read(folder.root, policy.site)
    data.check_opt_out(policy.dataset.opt_out_file)
    cohort, warnings = data.check(policy.allowed_columns)
    OptOut(folder.opt_out(policy)).left(cohort)
    found = ExtractCheck(
        fingerprint=data.fingerprint,
        policy_sha256=policy.sha256,
        checked=now().isoformat(timespec="seconds"),
        release=bundle_sha256(),
        schema_sha256=cohort.schema.sha256,
        patients=cohort.patients,
        warnings=warnings,
    )
    document = {"format": _FORMAT, **dataclasses.asdict(found)}
    replace_file(folder.extract_check, json.dumps(document, ensure_ascii=False).encode())
    AuditLog(folder.audit, clock=now).append(
        "extract_checked", policy.sha256, fingerprint=found.fingerprint
    )
    return found


def extract_check(folder: SiteFolder, policy: Policy, fingerprint: str) -> ExtractCheck | None:
    """Return the yes that was kept for this extract and policy; None where there is none.

    A file that cannot be read is none: the check is then made again.
    """
    if not folder.extract_check.exists():
        return None
    try:
        document = json.loads(read_private(folder.extract_check))
        if document.pop("format") != _FORMAT:
            return None
        warnings = tuple(DataWarning(**one) for one in document.pop("warnings"))
        found = ExtractCheck(**document, warnings=warnings)
    except (KeyError, TypeError, ValueError, AttributeError, DataError):
        return None
    asked = fingerprint, policy.sha256, bundle_sha256()
    same = (found.fingerprint, found.policy_sha256, found.release) == asked
    return found if same else None
