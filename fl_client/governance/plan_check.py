"""A plan against the policy: the stricter of the two holds, so a looser plan is refused.

Nothing is quietly tightened: the hospital answers the plan that was approved or none. Every
rule has its own code, which is all that leaves; the text and the remedy are for the site. No
rule here looks at a record.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable, Mapping

from ...privacy.accounting import epsilon_of_event
from ...privacy.errors import PolicyError
from ...privacy.ledger.book import Account
from ...study.plan import Plan
from ...study.registry import names
from ._policy_parts import HOURS
from .plain_text import check_id, check_label, check_text
from .policy import Policy

__all__ = [
    "MAX_PLAN_BYTES",
    "check_hours",
    "check_plan",
    "check_texts",
    "read_plan",
    "study_epsilon",
]

MAX_PLAN_BYTES = 256 * 2**10
_LARGEST = 10**6  # a whole number among an analysis' parameters: none of ours comes near
_DEEPEST = 6
_SLACK = 1 + 1e-9  # the last digits of a float that was computed twice


def read_plan(text: str) -> Plan:
    """Read a plan as it came in, small and shallow enough to be looked at.

    Raises:
        PolicyError: `plan_too_large`, or as `Plan.from_json`.
    """
    if len(text) > MAX_PLAN_BYTES or len(bytes(text, "utf-8", "replace")) > MAX_PLAN_BYTES:
        raise PolicyError(
            "plan_too_large",
            f"the plan is larger than {MAX_PLAN_BYTES} bytes",
            hint="Ask for a plan made by this release; a person reads what is approved.",
        )
    return Plan.from_json(text)


def check_plan(
    policy: Policy,
    plan: Plan,
    *,
    today: dt.date,
    columns: Iterable[str],
    accounts: Mapping[str, Account] | None = None,
    declared: str | None = None,
    release: bool = True,
) -> None:
    """Refuse a plan that is looser than the policy in anything.

    Args:
        policy: The site's, in force.
        plan: As it came in.
        today: By the site's clock.
        columns: Of the table, all that the plan's cohort is made of (`SiteData.columns`).
        accounts: The ledger's (`Book.accounts`): other plans of the same study count
            towards `privacy.epsilon_per_study`. None: there is no ledger yet.
        declared: The country that the coordinator declares now, where it does.
        release: False for a dry run, which releases nothing.

    Raises:
        PolicyError: A code of `docs/reference/policy.md`, the first that applies.
    """
    check_texts(plan)
    _check_scope(policy, plan, today)
    _check_border(policy, plan, declared)
    _check_columns(policy, plan, columns)
    _check_federation(policy, plan)
    _check_privacy(policy, plan, accounts or {})
    if release and policy.mode != "enforce":
        raise PolicyError(
            "policy_dry_run",
            "the policy's mode is dry_run: everything is checked, nothing leaves",
            hint="Set mode: enforce and have the policy signed, when you are ready.",
        )


def check_hours(policy: Policy, *, now: dt.datetime) -> None:
    """Refuse a proposal or a round outside the hours.

    Args:
        policy: The site's, in force.
        now: By the site's clock, in its own time zone.

    Raises:
        PolicyError: `policy_hours`.
    """
    limits = policy.limits
    found = HOURS.fullmatch(limits.hours)
    if found is None:
        return
    opens, closes = (dt.time(int(found[i]), int(found[i + 1])) for i in (1, 3))
    time = now.time()
    inside = opens <= time < closes if opens <= closes else time >= opens or time < closes
    if not inside:
        raise PolicyError(
            "policy_hours",
            f"the site answers at {limits.hours} only",
            hint="Run the study then, or ask for other hours.",
        )


def study_epsilon(plan: Plan, accounts: Mapping[str, Account], delta: float) -> float:
    """Return the epsilon of a plan and of all plans of its study that the ledger holds.

    Args:
        plan: With noise; the plan itself may be in the ledger already.
        accounts: The ledger's.
        delta: At which the sum is stated.

    Returns:
        The plan's own epsilon where it is alone, else the Renyi DP of all at its best order.
    """
    if plan.privacy is None:
        return 0.0
    others = [
        account.reservation.mechanism.event(account.held)
        for sha256, account in accounts.items()
        if account.reservation.study == plan.study
        and sha256 != plan.sha256
        and account.reservation.mechanism is not None
        and account.held > 0
    ]
    if not others:
        return plan.privacy.epsilon
    from dp_accounting import ComposedDpEvent  # here: it takes most of a second

    own = plan.privacy.mechanism.event(plan.privacy.releases)
    return epsilon_of_event(ComposedDpEvent([own, *others]), delta)


def check_texts(plan: Plan) -> None:
    """Refuse a plan whose texts or parameters nobody could look at, whatever the policy says.

    Raises:
        PolicyError: `text_not_plain` or `policy_parameter`.
    """
    check_label(plan.study, "plan.study")
    check_text(plan.purpose, "plan.purpose", most=1000)
    check_id(plan.analysis, "plan.analysis")
    for site in plan.sites:
        check_label(site, "plan.sites")
    for name in ("schema_sha256", "roster"):
        check_id(getattr(plan, name), f"plan.{name}")
    _check_values(plan.parameters, "plan.parameters", 0)


def _check_values(value: object, where: str, depth: int) -> None:
    if depth > _DEEPEST:
        raise _parameter(where, "nested too deep")
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if not (key.isascii() and key.isidentifier()) or key.startswith("_"):
                raise _parameter(where, "a key is no plain name")
            _check_values(inner, f"{where}.{key}", depth + 1)
    elif isinstance(value, list):
        for inner in value:
            _check_values(inner, where, depth + 1)
    elif isinstance(value, str):
        check_text(value, where, most=300)
    elif isinstance(value, int) and abs(value) > _LARGEST:
        raise _parameter(where, f"a whole number beyond {_LARGEST}")


def _check_scope(policy: Policy, plan: Plan, today: dt.date) -> None:
    data = policy.dataset
    if policy.site not in plan.sites:
        raise PolicyError("plan_not_for_us", f"the plan does not name the site {policy.site}")
    if plan.analysis not in policy.operations or plan.analysis not in _analyses():
        raise _refusal("policy_operation", "its analysis is not in operations.allow")
    if data.purposes is not None and plan.purpose not in data.purposes:
        raise _refusal("policy_purpose", "its purpose is not one of dataset.purposes")
    if today > data.expires:
        raise PolicyError(
            "policy_expired",
            f"the dataset's permission ended on {data.expires.isoformat()}",
            hint="Renew the permission, then dataset.expires, and have the policy signed.",
        )
    try:
        until = dt.date.fromisoformat(plan.expires)
    except ValueError:
        until = dt.date.max
    if until > data.expires:
        raise _refusal("policy_plan_expiry", "it would run beyond dataset.expires")
    if plan.max_rounds > policy.limits.max_rounds:
        raise _refusal("policy_rounds", "it asks for more rounds than limits.max_rounds")


def _analyses() -> tuple[str, ...]:
    from ...study import analyses

    return names(analyses)


def _check_border(policy: Policy, plan: Plan, declared: str | None) -> None:
    pinned = policy.coordinator_jurisdiction
    if declared is not None and declared != pinned:
        raise _refusal(
            "policy_jurisdiction", "its coordinator declares another country than the policy names"
        )
    if pinned != policy.jurisdiction and plan.study not in policy.cross_border:
        raise _refusal("policy_jurisdiction", "its coordinator is in another country than the site")


def _check_columns(policy: Policy, plan: Plan, columns: Iterable[str]) -> None:
    allowed = policy.dataset.columns
    for column in columns:
        if column not in allowed:
            raise _refusal("policy_column", "it uses a column that dataset.columns does not list")
        if allowed[column] > policy.dataset.level:
            raise _refusal(
                "policy_column_level", "it uses a column above the level of dataset.level"
            )


def _check_federation(policy: Policy, plan: Plan) -> None:
    if plan.fewest_sites < policy.min_sites:
        raise _refusal("policy_min_sites", "its sums may hold fewer sites than min_sites")
    if plan.secagg != "masked" and policy.secagg == "required":
        raise _refusal("policy_secagg", "it sums in plain, and federation.secagg is required")
    stands = [plan.colluders] if plan.secagg == "masked" else []
    if plan.privacy is not None and plan.privacy.sharing == "sum":
        stands.append(plan.privacy.colluders)
    if any(colluders < policy.colluders for colluders in stands):
        raise _refusal("policy_colluders", "it stands fewer colluding sites than the policy wants")


def _check_privacy(policy: Policy, plan: Plan, accounts: Mapping[str, Account]) -> None:
    if plan.privacy is None:
        if plan.analysis not in policy.unnoised:
            raise _refusal("policy_unnoised", "it adds no noise, and operations.unnoised lacks it")
        return
    if plan.privacy.delta > policy.delta_max * _SLACK:
        raise _refusal("policy_delta", "its delta is larger than privacy.delta_max")
    most = policy.epsilon_per_study * _SLACK
    if plan.privacy.epsilon > most or study_epsilon(plan, accounts, policy.delta_max) > most:
        raise _refusal(
            "policy_epsilon", "with all plans of its study it costs more than epsilon_per_study"
        )


def _refusal(code: str, why: str) -> PolicyError:
    return PolicyError(
        code,
        f"the plan is looser than this site's policy: {why}",
        hint="Ask for a plan within the policy; only two signatures change the policy.",
    )


def _parameter(where: str, why: str) -> PolicyError:
    return PolicyError(
        "policy_parameter",
        f"{json.dumps(where)[:100]}: {why}",
        hint="Ask for a plan made by this release.",
    )
