"""Before the first round: the plan's sites are there, who they say they are, and agree.

A site's people may take days: the plan is handed over once, so that they find it, and from then
on their node is only asked where it stands. No site is told of an end while it waits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from flwr.app import ConfigRecord, RecordDict
from flwr.serverapp import Grid

from ..privacy.errors import ConfigError, FedCohortError, PolicyError, ProtocolError
from ..study.plan import Plan
from .exchange import exchange
from .run_folder import RunFolder
from .sites import Patience, Sites, raise_refusal

__all__ = ["Pause", "Waiting", "gather_approvals", "greet", "wait_until_online"]

Pause = Callable[[float], None]
_LOOK_S = 0.3
_HELLO_S = 30.0
_ASK_S = (2.0, 120.0)  # between questions whether people have decided: at first, and at most
_TOO_OFTEN = "policy_requests"  # a site that was greeted enough for today; it is asked again later
_NO = {"refused": "plan_refused_here", "revoked": "approval_revoked"}  # final
_READY = frozenset({"approved", "running", "finished"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """How long a run waits; it changes speed, never the guarantee.

    Attributes:
        sites_s: For the plan's sites to come online.
        poll_s: Between looks for answers; each costs the SuperLink about 20 ms.
        patience: Within the plan.
        approval_s: For two people of every site to approve the plan.
        back_s: For lost sites to come back, where too few answered a round.
    """

    sites_s: float = 300.0
    poll_s: float = 0.2
    patience: Patience = Patience(timeout_s=90.0, attempts=2)  # noqa: RUF009  # frozen
    approval_s: float = 7 * 24 * 3600.0
    back_s: float = 150.0  # a SuperNode that was killed is let in again after about 60


def wait_until_online(
    plan: Plan,
    known: Mapping[str, int],
    grid: Grid,
    run: RunFolder,
    *,
    patience_s: float,
    pause: Pause = time.sleep,
) -> dict[str, int]:
    """Wait until the plan's sites are there; which node is which site, enrolment decided.

    Args:
        plan: The plan.
        known: Flower's node number of each enrolled site.
        grid: Flower's Grid.
        run: Where it is told who is missing.
        patience_s: How long.
        pause: Sleeps.

    Raises:
        ConfigError: `site_not_enrolled`.
        ProtocolError: `sites_offline`.
    """
    strangers = [site for site in plan.sites if site not in known]
    if strangers:
        raise ConfigError(
            "site_not_enrolled",
            f"the plan names sites that were never enrolled here: {', '.join(strangers)}",
            hint="fedcohort coordinator enrol REQUEST",
        )
    deadline = time.monotonic() + patience_s
    told: list[str] | None = None
    while True:
        here = set(grid.get_node_ids())
        missing = [site for site in plan.sites if known[site] not in here]
        if not missing:
            return {site: known[site] for site in plan.sites}
        if missing != told:
            run.tell("waiting", missing=missing)
            told = missing
        if time.monotonic() > deadline:
            raise ProtocolError(
                "sites_offline",
                f"not online within {patience_s:.0f} s: {', '.join(missing)}",
                hint="Ask their data teams whether `fedcohort site status` says running.",
            )
        pause(_LOOK_S)


def greet(sites: Sites) -> None:
    """Ask each node who it is; a node that says another site's name is refused.

    Raises:
        ProtocolError: `site_silent` or `site_mismatch`.
        PolicyError: `roster_mismatch`, or a site refused.
    """
    said = _hello(sites, sites.nodes)
    for _ in range(1, sites.patience.attempts):  # a node may still hold a run that just died
        silent = sorted(set(sites.nodes) - set(said))
        if not silent:
            break
        said |= _hello(sites, silent)
    for site in sites.nodes:
        if site not in said:
            raise ProtocolError(
                "site_silent",
                f"{site} is online and does not answer",
                hint="Its worker may be down: `fedcohort site status` there.",
            )
        if said[site].get("site") != site:
            raise ProtocolError("site_mismatch", f"the node of {site} says it is another site")
        plan = sites.plan
        if plan.secagg == "masked" and said[site].get("roster") != plan.roster:
            raise PolicyError(
                "roster_mismatch",
                f"{site} pinned another roster than the plan's",
                hint="Hand it the roster in force, or plan anew.",
            )


def gather_approvals(
    sites: Sites, run: RunFolder, *, patience_s: float, pause: Pause = time.sleep
) -> bool:
    """Hand the plan to every site, and wait for the people of those that have to decide.

    Returns:
        Whether anybody was waited for.

    Raises:
        PolicyError: `plan_refused_here` or `approval_revoked`: a site's people said no; or a
            site refused for another reason.
        ProtocolError: `approval_timeout`: they did not decide in time; the plan may be
            submitted again. `site_silent` or `site_error`.
    """
    people = _People(sites, run, pause)
    try:
        return people.wait(patience_s)
    except FedCohortError as error:
        if error.code != "approval_timeout":  # it is over: whoever holds the plan may let go
            sites.end([site for site in sites.nodes if site not in people.undecided])
        raise


class _People:
    """The sites whose people have not decided yet."""

    def __init__(self, sites: Sites, run: RunFolder, pause: Pause) -> None:
        self._sites = sites
        self._run = run
        self._pause = pause
        self._dumb: set[str] = set()  # say nothing about approvals: a refusal of theirs is one
        self._handed_twice: set[str] = set()
        self.undecided: set[str] = set()

    def wait(self, patience_s: float) -> bool:
        self._sites.propose(self._sites.nodes, undecided=self.undecided)
        if not self.undecided:
            return False
        least_s, most_s = _ASK_S
        deadline, wait_s = time.monotonic() + patience_s, least_s
        told: set[str] = set()
        while self.undecided:
            pending = self._asked() or self._handed_over_again()
            if not pending:
                break
            if pending != told:
                self._run.tell("approval", missing=sorted(pending))
                told = pending
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise ProtocolError(
                    "approval_timeout",
                    f"not approved in time by: {', '.join(sorted(pending))}",
                    hint="Ask their data teams to decide, then submit the plan again.",
                )
            self._pause(min(wait_s, left_s))
            wait_s = min(most_s, 1.5 * wait_s)
        self._run.tell("approved")
        return True

    def _asked(self) -> set[str]:
        """Ask where each stands; return those that still wait."""
        pending = set(self.undecided)
        said = _hello(self._sites, sorted(self.undecided), waits=True)
        for site, answer in sorted(said.items()):
            where = str(answer.get("plan", "approved"))
            if where in _NO:
                raise PolicyError(
                    _NO[where],
                    f"the people of {site} said no to the plan",
                    hint="That is final for this plan: ask them why, and plan anew.",
                )
            if "plan" not in answer:
                self._dumb.add(site)
            if where == "unknown" and site not in self._handed_twice:  # its files were put back
                self._handed_twice.add(site)
                self._sites.propose([site], undecided=set())
            if where in _READY:
                pending.discard(site)
        return pending

    def _handed_over_again(self) -> set[str]:
        """All have decided, they say; return those that would not take it yet all the same."""
        pending: set[str] = set()
        self._sites.propose(sorted(self.undecided & self._dumb))
        try:
            self._sites.propose(sorted(self.undecided - self._dumb), undecided=pending)
        except ProtocolError as error:
            if error.code != "site_silent":
                raise
            return set(self.undecided)
        self.undecided = pending
        return pending


def _hello(sites: Sites, names: Collection[str], *, waits: bool = False) -> dict[str, ConfigRecord]:
    """Return what each of these sites says of itself; the silent ones are left out.

    Who waits for people leaves out those as well that were greeted too often today.
    """
    content = RecordDict({"hello": ConfigRecord({"plan_sha256": sites.plan.sha256})})
    nodes = {site: sites.nodes[site] for site in names}
    wait_s = min(_HELLO_S, sites.patience.timeout_s)
    answers = exchange(sites.grid, nodes, "query.hello", content, group="hello", timeout_s=wait_s)
    refused = answers.refused
    raise_refusal({s: no for s, no in refused.items() if not waits or no.code != _TOO_OFTEN})
    return {
        site: reply.config_records.get("answer", ConfigRecord())
        for site, reply in answers.replies.items()
    }
