"""The sites of one run: how they are asked, and what a no, a silence or a restart means.

A node that restarted says `plan_unknown`: it is handed the plan again and asked again. One that
died between paying for a round and preparing it says `round_already_paid`: it is out of that
round, as if silent. Every other refusal ends the run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from flwr.serverapp import Grid

from ..privacy.errors import PolicyError, ProtocolError
from ..study.analysis import Result
from ..study.plan import Plan
from .exchange import Answers, Refusal, exchange

__all__ = ["AWAITS_PEOPLE", "InterruptedRunError", "Patience", "Sites", "raise_refusal"]

AWAITS_PEOPLE = frozenset({"plan_not_approved", "one_person"})
_FORGOT = "plan_unknown"
_OUT_OF_THE_ROUND = "round_already_paid"
_END_TIMEOUT_S = 5.0
_log = logging.getLogger(__name__)


class InterruptedRunError(Exception):
    """The run cannot go on from here; the plan has not ended, and no site is told that it has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long the coordinator waits; it changes speed, never the guarantee.

    Attributes:
        timeout_s: Deadline of one attempt.
        attempts: How often silent sites are asked in all.
    """

    timeout_s: float = 60.0
    attempts: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Sites:
    """See the module's docstring.

    Attributes:
        grid: Flower's Grid.
        nodes: Flower node id by site.
        plan: The plan they run.
        patience: How long to wait, how often to ask.
        jurisdiction: What the coordinator declares; empty in a simulation.
        back: Called before lost sites are asked again: waits for them to be online, for a while.
    """

    grid: Grid
    nodes: Mapping[str, int]
    plan: Plan
    patience: Patience
    jurisdiction: str = ""
    back: Callable[[], None] = lambda: None

    def ask(
        self,
        names: Iterable[str],
        action: str,
        content: RecordDict | Mapping[str, RecordDict],
        *,
        group: str,
    ) -> Answers:
        """Ask these sites once; who is out of the round counts as silent.

        Returns:
            The answers; `refused` holds `plan_unknown` and nothing else.

        Raises:
            PolicyError: A site refused for another reason; its code is ours.
            ProtocolError: Likewise.
        """
        nodes = {site: self.nodes[site] for site in names}
        timeout_s = self.patience.timeout_s
        found = exchange(self.grid, nodes, action, content, group=group, timeout_s=timeout_s)
        forgot = {s: no for s, no in found.refused.items() if no.code == _FORGOT}
        out = {s for s, no in found.refused.items() if no.code == _OUT_OF_THE_ROUND}
        raise_refusal({s: no for s, no in found.refused.items() if s not in out | set(forgot)})
        return replace(found, refused=forgot, silent=tuple(sorted({*found.silent, *out})))

    def ask_again_if_forgotten(
        self, names: Iterable[str], action: str, content: RecordDict, *, group: str
    ) -> Answers:
        """Ask; hand the plan again to whoever forgot it and ask them once more, then no more."""
        first = self.ask(names, action, content, group=group)
        if not first.refused:
            return first
        held = self.propose_again(first.refused)
        second = self.ask(held, action, content, group=group)
        lost = {*first.silent, *first.refused} - set(second.replies)
        return Answers(replies={**first.replies, **second.replies}, silent=tuple(sorted(lost)))

    def propose(self, names: Iterable[str], *, undecided: set[str] | None = None) -> None:
        """Hand the plan to these sites; the silent ones are asked again.

        Args:
            names: Whom.
            undecided: Where given, sites whose people have not decided yet are added to it; else
                that is a refusal like any other.

        Raises:
            PolicyError: A site refused; its code is ours.
            ProtocolError: `site_silent`: a site did not answer; `site_error`: it failed.
        """
        waiting = list(names)
        for _ in range(self.patience.attempts):
            answers = self._hand_over(waiting)
            refused = dict(answers.refused)
            if undecided is not None:
                undecided |= {s for s, no in refused.items() if no.code in AWAITS_PEOPLE}
                refused = {s: no for s, no in refused.items() if s not in undecided}
            raise_refusal(refused)
            waiting = list(answers.silent)
            if not waiting:
                return
        raise ProtocolError(
            "site_silent",
            f"no answer to the plan from: {', '.join(sorted(waiting))}",
            hint="Check that the sites' nodes are running, or plan without them.",
        )

    def propose_again(self, names: Iterable[str]) -> tuple[str, ...]:
        """Hand the plan to sites that forgot it; return those that hold it again.

        Raises:
            PolicyError: A site refused it this time.
        """
        answers = self._hand_over(names)
        raise_refusal(answers.refused)
        return tuple(sorted(answers.replies))

    def end(self, names: Iterable[str], result: Result | None = None) -> None:
        """Tell sites that the plan has ended, and hand them the model that they helped to make.

        What a site set aside and did not spend is free again. A site that does not hear it keeps
        the price set aside, which hurts nobody but itself.
        """
        content = RecordDict({"plan": ConfigRecord({"sha256": self.plan.sha256})})
        if result is not None:
            content["result"] = ArrayRecord(
                {name: Array(np.asarray(array)) for name, array in result.arrays.items()}
            )
        nodes = {site: self.nodes[site] for site in names}
        wait = min(self.patience.timeout_s, _END_TIMEOUT_S)
        try:
            exchange(self.grid, nodes, "query.close", content, group="plan", timeout_s=wait)
        except Exception as error:  # the run has its result, or its own reason, already
            _log.warning("the end of the plan was not told: %s", type(error).__name__)

    def _hand_over(self, names: Iterable[str]) -> Answers:
        record = ConfigRecord({"json": self.plan.to_json(), "jurisdiction": self.jurisdiction})
        nodes = {site: self.nodes[site] for site in names}
        return exchange(
            self.grid,
            nodes,
            "query.propose",
            RecordDict({"plan": record}),
            group="plan",
            timeout_s=self.patience.timeout_s,
        )


def raise_refusal(refused: Mapping[str, Refusal]) -> None:
    """Raise the first site's refusal, as the kind of error that it is.

    Raises:
        PolicyError: A rule of the site said no.
        ProtocolError: A check of the protocol, or the site's software, failed.
    """
    for site, refusal in sorted(refused.items()):
        if refusal.code == "site_error":  # no rule said no: its software failed
            raise ProtocolError(
                refusal.code,
                f"the analysis failed at the site {site}; its reason stays there",
                hint="Its data team finds the reason in the node's own log (in a simulation: "
                "run again with FEDCOHORT_LOG=WARNING).",
            )
        if refusal.broken:
            raise ProtocolError(
                refusal.code,
                f"the site {site} broke off the round: {refusal.code}",
                hint="Look the code up in docs/reference/errors.md; nothing of the round was "
                "opened.",
            )
        raise PolicyError(
            refusal.code,
            f"the site {site} refused: {refusal.code}",
            hint="Its data team finds the reason in the node's own log.",
        )
