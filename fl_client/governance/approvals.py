"""Approvals: what two named people said of a plan, signed, in a file that only grows.

An approval binds the plan's hash, the policy's hash and the dataset's fingerprint, and ends on a
day: a changed plan, policy or extract needs two people again. Approving takes two people of
different roles, neither of whom asked for the study; refusing or revoking takes one, and is final
for that plan. What is signed cannot be added by others; what was said is chained.

    submitted -> checked -> one_approval -> approved -> running -> finished
    and from any of them: refused, revoked; from an approval: expired
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ...privacy.errors import PolicyError
from ...study.plan import Plan
from ._chained import ChainedFile, Line
from .audit_log import AuditLog
from .plain_text import check_id
from .policy import ROLES, Policy
from .signatures import Signature, sign, verifies

__all__ = ["APPROVALS_FORMAT", "Approval", "Approvals", "State"]

APPROVALS_FORMAT = "fedcohort.approvals/1"
# fmt: off
State = Literal[
    "unknown", "submitted", "checked", "one_approval", "approved", "running", "finished",
    "refused", "revoked", "expired",
]
# fmt: on


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """A plan's approval in force.

    Attributes:
        people: The two who signed, by name: data owner, security officer.
        until: Last day on which it holds.
    """

    people: tuple[str, str]
    until: dt.date


class Approvals:
    """One site's approvals, under the policy in force.

    Args:
        path: `approvals.jsonl`; made, with mode 0600, at the first entry.
        policy: In force; only people whom it names are heard.
        audit: Told of every entry. What it tells of a refusal or a revocation is believed even
            where this file has forgotten it.
        clock: What time an entry is said to be written at.
    """

    def __init__(
        self,
        path: Path,
        policy: Policy,
        *,
        audit: AuditLog | None = None,
        clock: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:
        self._file = ChainedFile(path, format=APPROVALS_FORMAT, clock=clock)
        self._policy = policy
        self._audit = audit

    def submit(self, plan: Plan, submitter: str = "") -> None:
        """Write down that a plan came in; again changes nothing.

        Args:
            plan: As it came in.
            submitter: Name or public key (hex) of who asks; empty where it is not known.

        Raises:
            PolicyError: `text_not_plain`.
        """
        if submitter:
            check_id(submitter, "submitter")
        self._note(plan.sha256, "submitted", submitter=submitter)

    def mark(self, plan: Plan, noted: Literal["checked", "running", "finished"]) -> None:
        """Write down what the node did with a plan; again changes nothing."""
        self._note(plan.sha256, noted)

    def stray(self) -> int:
        """Return how many plans came in that the policy refused and nobody has decided about."""
        said: dict[str, set[str]] = {}
        for body in (line.body for line in self._file.lines()):
            said.setdefault(str(body.get("plan_sha256")), set()).add(str(body.get("said")))
        return sum(words == {"submitted"} for words in said.values())

    def approve(
        self,
        plan: Plan,
        fingerprint: str,
        name: str,
        key: Ed25519PrivateKey,
        *,
        today: dt.date,
        requester: str = "",
    ) -> dt.date:
        """Sign a plan in one person's name, for this policy and this extract.

        Args:
            plan: What is approved.
            fingerprint: Of the dataset (`SiteData.fingerprint`).
            name: The approver, as the policy names them.
            key: Their private key.
            today: By the site's clock.
            requester: Who asks (as `submitter`), where `submit` was not told; it is written down.

        Returns:
            The last day on which this person's word holds.

        Raises:
            PolicyError: `text_not_plain`, `signer_unknown`, `signer_key`,
                `approver_is_requester`, `plan_refused_here`, `approval_revoked` or `plan_expired`.
        """
        if requester:
            check_id(requester, "requester")
        until = min(
            today + dt.timedelta(days=self._policy.valid_days),
            self._policy.dataset.expires,
            dt.date.fromisoformat(plan.expires),
        )
        if until < today:
            raise PolicyError(
                "plan_expired",
                "the plan, or the permission for the dataset, has ended",
                hint="Ask for a new plan.",
            )
        terms = {
            "fingerprint": fingerprint,
            "policy_sha256": self._policy.sha256,
            "since": today.isoformat(),
            "until": until.isoformat(),
        }
        self._say("approve", plan.sha256, name, key, terms, requester)
        return until

    def refuse(self, plan_sha256: str, name: str, key: Ed25519PrivateKey) -> None:
        """Refuse a plan; one person is enough, and it is final. It raises as `approve`."""
        self._say("refuse", plan_sha256, name, key, {}, "")

    def revoke(self, plan_sha256: str, name: str, key: Ed25519PrivateKey) -> None:
        """Take an approval back; one person is enough, and it is final. Raises as `approve`."""
        self._say("revoke", plan_sha256, name, key, {}, "")

    def approved(self, plan: Plan, fingerprint: str, today: dt.date) -> Approval:
        """Return the approval under which a plan may run now, or refuse.

        Raises:
            PolicyError: `plan_not_approved`, `one_person`, `plan_refused_here`, `log_...`,
                `approval_revoked`, `approval_other_policy`, `approval_other_data`,
                `approval_expired` or `approver_is_requester`.
        """
        lines = self._of(plan.sha256)
        _check_open(lines)
        if self._audit is not None:
            _check_audit(self._audit, plan.sha256)
        said = [line.body for line in lines if line.body.get("said") == "approve"]
        said = [body for body in said if self._is_ours(body)]
        if not said:
            raise _refusal("plan_not_approved", "nobody approved the plan's hash")
        said = [body for body in said if body["policy_sha256"] == self._policy.sha256]
        if not said:
            raise _refusal("approval_other_policy", "the policy changed since it was approved")
        said = [body for body in said if body["fingerprint"] == fingerprint]
        if not said:
            raise _refusal("approval_other_data", "the extract changed since it was approved")
        said = [body for body in said if self._holds(body, today)]
        if not said:
            raise _refusal("approval_expired", "the approval has ended, or the clock went back")
        latest = {body["role"]: body for body in said}
        if set(latest) != set(ROLES):
            raise _refusal("one_person", "one person approved it; two of different roles must")
        self._check_requester(lines, [body["by"] for body in latest.values()])
        until = min(body["until"] for body in latest.values())
        owner, officer = (latest[role]["by"] for role in ROLES)
        return Approval(people=(owner, officer), until=dt.date.fromisoformat(until))

    def state(self, plan: Plan, fingerprint: str, today: dt.date) -> State:
        """Return where a plan stands, for `site studies`."""
        lines = self._of(plan.sha256)
        try:
            self.approved(plan, fingerprint, today)
        except PolicyError as error:
            found: dict[str, State] = {
                "plan_refused_here": "refused",
                "approval_revoked": "revoked",
                "approval_expired": "expired",
                "one_person": "one_approval",
            }
            if error.code in found:
                return found[error.code]
        else:
            return _furthest(lines, ("finished", "running")) or "approved"
        return _furthest(lines, ("checked", "submitted")) or "unknown"

    def _say(
        self,
        said: str,
        plan_sha256: str,
        name: str,
        key: Ed25519PrivateKey,
        terms: dict[str, str],
        requester: str,
    ) -> None:
        person = self._policy.person(name)
        if person is None:
            raise PolicyError(
                "signer_unknown",
                f"the policy names no approver {name[:64]!r}",
                hint=f"It names: {', '.join(one.name for one in self._policy.approvers)}.",
            )
        body = {"said": said, "plan_sha256": plan_sha256, **terms}
        made = sign("plan", body, person, key)
        entry = {**body, "by": name, "role": made.role, "key": made.key, "sig": made.signature}

        def make(lines: tuple[Line, ...]) -> dict[str, Any]:
            ours = [line for line in lines if line.body["plan_sha256"] == plan_sha256]
            _check_open(ours)
            if said == "approve":
                self._check_requester(ours, [name])
            return entry

        if requester:  # as `submit` does; kept even where this word is refused
            self._note(plan_sha256, "submitted", submitter=requester)
        self._file.append(make)
        if self._audit is not None:
            event = {"approve": "plan_approved", "refuse": "plan_refused"}.get(said, "plan_revoked")
            self._audit.append(event, self._policy.sha256, plan_sha256=plan_sha256, person=name)

    def _note(self, plan_sha256: str, noted: str, **more: str) -> None:
        body = {"said": noted, "plan_sha256": plan_sha256, **more}
        if all(line.body != body for line in self._of(plan_sha256)):
            self._file.append(lambda lines: body)

    def _of(self, plan_sha256: str) -> list[Line]:
        return [line for line in self._file.lines() if line.body.get("plan_sha256") == plan_sha256]

    def _is_ours(self, body: Any) -> bool:
        """Whether an entry is signed by somebody whom the policy names today."""
        person = self._policy.person(str(body.get("by")))
        made = Signature(
            name=str(body.get("by")),
            role=str(body.get("role")),
            key=str(body.get("key")),
            signature=str(body.get("sig")),
        )
        if person is None or (person.role, person.key) != (made.role, made.key):
            return False
        rest = {key: body[key] for key in body if key not in ("by", "role", "key", "sig")}
        return verifies("plan", rest, made)

    def _holds(self, body: Any, today: dt.date) -> bool:
        """Whether a word given under this policy holds today; nobody can give a longer one."""
        since, until = (dt.date.fromisoformat(body[key]) for key in ("since", "until"))
        most = min(since + dt.timedelta(days=self._policy.valid_days), self._policy.dataset.expires)
        return since <= today <= min(until, most)

    def _check_requester(self, lines: Iterable[Line], people: Iterable[str]) -> None:
        asked = {str(line.body.get("submitter", "")).casefold() for line in lines} - {""}
        for name in people:
            person = self._policy.person(name)
            keys = set() if person is None else {person.key}
            if asked & ({name.casefold()} | keys):
                raise _refusal("approver_is_requester", f"{name} asked for this study")


def _check_open(lines: Iterable[Line]) -> None:
    said = {line.body.get("said") for line in lines}
    if "revoke" in said:
        raise _refusal("approval_revoked", "it was revoked here")
    if "refuse" in said:
        raise _refusal("plan_refused_here", "it was refused here")


def _furthest(lines: Iterable[Line], states: tuple[State, ...]) -> State | None:
    noted = {line.body.get("said") for line in lines}
    return next((state for state in states if state in noted), None)


def _check_audit(audit: AuditLog, plan_sha256: str) -> None:
    told = {e.event for e in audit.entries() if e.facts.get("plan_sha256") == plan_sha256}
    if "plan_revoked" in told:
        raise _refusal("approval_revoked", "the audit log tells of a revocation")
    if "plan_refused" in told:
        raise _refusal("plan_refused_here", "the audit log tells of a refusal")


def _refusal(code: str, why: str) -> PolicyError:
    return PolicyError(
        code,
        f"the plan may not run at this site: {why}",
        hint="Two people look at it: `fedcohort site studies`, then `site approve PLAN-HASH`.",
    )
