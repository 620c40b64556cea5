"""The hospital's own gate: its policy, its people and its log decide about every message.

Policy, signatures, approvals, opt-outs and the extract's fingerprint are looked at anew each time,
so that what changed since counts from the next message on. Proposals and rounds are written into
the audit log before they are answered, releases before they leave; refusals too, up to a number
a day. Messages of each kind are counted (`day_limits.py`) and of the plans that the policy
refuses a few are kept, so that whoever sends nonsense does not fill a disk.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import re
from collections.abc import Callable, Mapping

from ..datasets.extract import ONE_ROW_EACH
from ..datasets.rows import Rows
from ..hosting import private_folder, replace_file, write_new
from ..privacy.errors import FedCohortError, PolicyError, ProtocolError
from ..privacy.ledger.store import SqliteLedger
from ..study.analysis import Vector
from ..study.cohort import Cohort
from ..study.plan import Plan
from .gate import NO_POLICY
from .governance.approvals import Approvals
from .governance.audit_log import AuditLog
from .governance.day_limits import DayLimits
from .governance.exact_cohorts import ExactCohorts
from .governance.exact_records import records_of
from .governance.opt_out import OptOut
from .governance.plan_check import check_hours, check_plan, read_plan
from .governance.policy import Policy
from .governance.signatures import check_signed, pinned_approvers
from .round_memory import FileRoundMemory
from .site_data import SiteData
from .site_folder import SiteFolder

__all__ = ["RESULT_FORMAT", "SiteGate", "in_force"]

RESULT_FORMAT = "fedcohort.site_result/1"
_MOST_REFUSALS = 5_000  # a day that are written down, and as many refused runs
_MOST_STRAY = 100  # kept plans that the policy refused and nobody decided about
_MOST_NUMBERS = 20_000_000  # of a result that is kept: none of our models comes near


def in_force(folder: SiteFolder) -> Policy:
    """Return the policy as it stands now, if two pinned people signed it so.

    Raises:
        PolicyError: `policy_missing`, `policy_unsigned`, `approvers_not_pinned`, or it cannot be
            read.
    """
    policy = Policy.read(folder.policy)
    check_signed(policy, folder.signatures, pinned_approvers(folder.approvers))
    return policy


class SiteGate:
    """See `Gate` and the module's docstring.

    Args:
        folder: The site's.
        ledger: Returns the site's ledger.
        submitter: The coordinator's public key, hex: whoever signs with it asked for the studies.
        now: The site's clock.
    """

    def __init__(
        self,
        folder: SiteFolder,
        ledger: Callable[[], SqliteLedger],
        *,
        submitter: str = "",
        now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:
        self._folder = folder
        self._ledger = ledger
        self._submitter = submitter
        self._now = now
        self.audit = AuditLog(folder.audit, clock=now)
        self._data: dict[str, SiteData] = {}
        self._rows: dict[str, Rows] = {}  # of plans without noise
        self._opt_outs: dict[str, OptOut] = {}
        self._extract_now: tuple[object, SiteData] | None = None
        self._limits = DayLimits(self.audit)
        self._told = ""  # what the log was last told of the policy
        self.known = NO_POLICY  # hash of the policy that decided last

    def policy(self) -> Policy:
        """Return the policy in force, and write down that it is another one than before.

        Raises:
            PolicyError: See `in_force`.
        """
        try:
            policy = in_force(self._folder)
        except PolicyError as error:
            self.known = NO_POLICY
            self._tell(error.code, "policy_refused", code=error.code)
            raise
        self.known = policy.sha256
        self._tell(policy.sha256, "policy_in_force")
        return policy

    def _tell(self, found: str, event: str, **facts: str) -> None:
        if self._told != found:
            self._told = found
            self.audit.append(event, self.known, **facts)

    def data_of(self, plan: Plan) -> SiteData:
        """Return the extract that a plan was admitted to."""
        return self._data[plan.sha256]

    def state_of(self, plan_sha256: str) -> str:
        """Return where a plan stands here, as `Approvals.state`; `unknown` where it never came."""
        try:
            policy = in_force(self._folder)
            plan = self._folder.plan(plan_sha256)
            data = self._extract(policy)
            approvals = Approvals(self._folder.approvals, policy, audit=self.audit)
            return approvals.state(plan, data.fingerprint, self._now().date())
        except FedCohortError:
            return "unknown"

    def greeted(self, plan_sha256: str) -> str:
        """Return where a plan stands, to a coordinator that greets: so many times a day.

        Raises:
            PolicyError: `policy_requests`.
        """
        try:
            policy = in_force(self._folder)
        except PolicyError:
            return "unknown"
        try:
            self._limits.check(policy, "greeting", self._day())
        except PolicyError as error:
            self.refused(plan_sha256, error.code)
            raise
        return self.state_of(plan_sha256)

    def proposed(self, plan_json: str, jurisdiction: str) -> Plan:
        """See `Gate.proposed`."""
        policy = self._counted("plan_proposed")
        plan = read_plan(plan_json)
        approvals = Approvals(self._folder.approvals, policy, audit=self.audit, clock=self._now)
        try:
            data = self._extract(policy)
            data.check_opt_out(policy.dataset.opt_out_file)
            data.check_holdout(plan)
            self._check(policy, plan, data, jurisdiction)
        except FedCohortError:
            if approvals.stray() < _MOST_STRAY:  # people look at what was refused, too
                self._keep(plan, approvals)
            raise
        self._keep(plan, approvals)
        approvals.mark(plan, "checked")
        approvals.approved(plan, data.fingerprint, self._now().date())
        approvals.mark(plan, "running")
        self._data.setdefault(plan.sha256, data)
        return plan

    def asked(self, plan: Plan, round_: int | None, phase: str = "") -> None:
        """See `Gate.asked`."""
        if round_ is None:
            policy = self.policy()
            self._limits.check(policy, "phase", self._day())
            self.audit.append("phase_asked", policy.sha256, plan_sha256=plan.sha256, code=phase)
        else:
            policy = self._counted("round_asked", plan_sha256=plan.sha256, round=round_)
        data = self._extract(policy)
        self._check(policy, plan, data, None)
        approvals = Approvals(self._folder.approvals, policy, audit=self.audit, clock=self._now)
        approvals.approved(plan, data.fingerprint, self._now().date())
        if data.fingerprint != self._data[plan.sha256].fingerprint:
            raise PolicyError(
                "data_changed",
                "the extract was replaced in the middle of the plan",
                hint="The plan ends here; ask for a new one.",
            )

    def present(self, plan: Plan, cohort: Cohort) -> Cohort:
        """See `Gate.present`."""
        policy = in_force(self._folder)
        known = self._opt_outs.get(plan.sha256)
        if known is None:
            path = self._folder.opt_out(policy)
            known = OptOut(path, audit=self.audit, policy_sha256=policy.sha256)
            self._opt_outs[plan.sha256] = known
        return known.left(cohort)

    def exact(self, plan: Plan, cohort: Cohort) -> None:
        """See `Gate.exact`."""
        memory, noted = ExactCohorts(self._folder.exact_cohorts), self._sums_noted()
        self._check_remembered(memory, noted)
        policy, data = self.policy(), self._data[plan.sha256]
        if plan.sha256 not in self._rows:
            self._rows[plan.sha256] = data.cohort(policy.allowed_columns)[1]
        rows = self._rows[plan.sha256]
        each = data.options.patient == ONE_ROW_EACH
        used = records_of(
            rows,
            cohort.patient,
            columns=sorted({*data.columns, *policy.allowed_columns} & set(rows.frame.columns)),
            table=data.table_sha256 if each else "",
            encodings=data.encodings,
        )
        minimum = policy.disclosure.min_cell_count
        sums = memory.add(used, minimum)
        if sums > noted:
            self.audit.append("exact_sum_noted", self.known, plan_sha256=plan.sha256, sums=sums)

    def _sums_noted(self) -> int:
        """Return how many exact sums the audit log says that the memory tells of."""
        told = (e.facts for e in self.audit.entries() if e.event == "exact_sum_noted")
        return max((int(facts["sums"]) for facts in told), default=0)

    def released(self, plan: Plan, round_: int, size: int) -> None:
        """See `Gate.released`."""
        self.audit.append(
            "round_released", self.known, plan_sha256=plan.sha256, round=round_, bytes=size
        )

    def refused(self, plan_sha256: str, code: str) -> None:
        """See `Gate.refused`."""
        known = re.fullmatch(r"[0-9a-f]{64}", plan_sha256) is not None
        named = {"plan_sha256": plan_sha256} if known else {}  # whoever asks chose that text
        if self._limits.is_written("message_refused", self._day(), _MOST_REFUSALS):
            self.audit.append("message_refused", self.known, code=code, **named)

    def closed(self, plan_sha256: str, result: Mapping[str, Vector]) -> None:
        """See `Gate.closed`: the result is kept for `fedcohort site results`.

        An end of what runs here is never one too many; of anything else there may be so many a
        day.
        """
        plan = self._folder.plan(plan_sha256)
        account = self._ledger().book.accounts.get(plan_sha256)
        is_open = account is not None and not account.closed
        if plan_sha256 not in self._data and not is_open:
            self._limits.check(in_force(self._folder), "close", self._day())
        self.audit.append("plan_closed", self.known, plan_sha256=plan_sha256)
        self._data.pop(plan_sha256, None)
        self._rows.pop(plan_sha256, None)
        self._opt_outs.pop(plan_sha256, None)
        FileRoundMemory(self._folder.round(plan_sha256)).clear()
        if account is None:
            return  # it never ran here: nothing ends, and nothing is kept
        if not account.closed:  # it began in another life of this node
            self._ledger().close(plan_sha256)
        Approvals(self._folder.approvals, in_force(self._folder)).mark(plan, "finished")
        if sum(array.size for array in result.values()) > _MOST_NUMBERS:
            raise ProtocolError(
                "result_too_large", f"a result has at most {_MOST_NUMBERS:,} numbers"
            )
        if result:
            document = {
                "format": RESULT_FORMAT,
                "plan_sha256": plan_sha256,
                "ended": self._now().isoformat(timespec="seconds"),
                "arrays": {
                    name: {"shape": list(array.shape), "values": array.ravel().tolist()}
                    for name, array in result.items()
                },
            }
            private_folder(self._folder.results)
            path = self._folder.results / f"{plan_sha256}.json"
            replace_file(path, bytes(json.dumps(document), "ascii"))

    def started(self) -> None:
        """Write down that the node is ready."""
        self.audit.append("node_started", self.known)

    def stopped(self) -> None:
        """Write down that the node stops."""
        self.audit.append("node_stopped", self.known)

    def refused_code(self, bundle: bytes, code: str) -> None:
        """Write down that a run was refused for what it brought; so many times a day."""
        if self._limits.is_written("bundle_refused", self._day(), _MOST_REFUSALS):
            found = hashlib.sha256(bundle).hexdigest()
            self.audit.append("bundle_refused", self.known, code=code, bundle_sha256=found)

    def _counted(self, event: str, **facts: str | int) -> Policy:
        """Hold a request against the day's number, write it down, then look at the hours."""
        policy = self.policy()
        self._limits.check(policy, "request", self._day())
        self.audit.append(event, policy.sha256, **facts)
        check_hours(policy, now=self._now().astimezone())
        return policy

    def _day(self) -> dt.date:
        return self._now().astimezone(dt.UTC).date()

    def _extract(self, policy: Policy) -> SiteData:
        """Return the extract as it lies there now; its table is hashed where a file changed."""
        data = SiteData.read(self._folder.root, policy.site)
        seen = data.stamp
        if self._extract_now is None or self._extract_now[0] != seen:
            self._extract_now = seen, data
        return self._extract_now[1]

    def _check(self, policy: Policy, plan: Plan, data: SiteData, jurisdiction: str | None) -> None:
        check_plan(
            policy,
            plan,
            today=self._now().date(),
            columns=data.columns,
            accounts=self._ledger().book.accounts,
            declared=jurisdiction,
        )

    def _check_remembered(self, memory: ExactCohorts, noted: int) -> None:
        """Refuse where whom exact sums were over is lost: it is kept before they are paid for."""
        path = self._folder.exact_cohorts
        gone = self._ledger().book.unnoised and not path.exists()
        if gone or memory.sums < noted:
            raise PolicyError(
                "exact_cohorts_unreadable",
                f"{path.name} is gone or of an earlier day, and other files tell of exact sums",
                hint="Put the newest file back; without it no sum leaves without noise.",
            )

    def _keep(self, plan: Plan, approvals: Approvals) -> None:
        """Keep what came in, for people to look at."""
        path = private_folder(self._folder.plans) / f"{plan.sha256}.json"
        if not path.exists():
            write_new(path, bytes(plan.to_json(), "utf-8"))
        approvals.submit(plan, self._submitter)
