"""The coordinator's loop: state, sum, step, until the analysis has its result."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from flwr.serverapp import Grid

from ..privacy.errors import ProtocolError
from ..study.analysis import Result, State
from ..study.plan import Plan, analysis_of
from ..study.rounds import terms_for
from .checkpoint import Checkpoint
from .masked import MaskedSums, Masking
from .rounds import collect_sum
from .sites import InterruptedRunError, Patience, Sites

__all__ = ["Journal", "Outcome", "outcome_of", "run_plan", "run_sites"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A result and what it took.

    Attributes:
        result: The analysis' result.
        rounds: Sums opened.
        bytes_up: Bytes of vectors received from all sites over all rounds.
        seconds: Wall-clock seconds.
        dropped: Sites missing in at least one round.
        liars: Sites that handed over wrong shares of a mask.
    """

    result: Result
    rounds: int
    bytes_up: int
    seconds: float
    dropped: tuple[str, ...]
    liars: tuple[str, ...] = ()


class Journal:
    """What is written down on the way; this one writes nothing."""

    def opening(self, rounds: int) -> None:
        """Sites are about to unmask the sum after so many others: it is never asked for again."""

    def opened(self, checkpoint: Checkpoint) -> None:
        """A sum was opened, or the result is there."""


def run_plan(
    plan: Plan,
    grid: Grid,
    nodes: Mapping[str, int],
    *,
    masking: Masking | None = None,
    patience: Patience | None = None,
    on_round: Callable[[int], None] | None = None,
) -> Outcome:
    """Run one plan over its sites.

    Args:
        plan: What every site approved.
        grid: Flower's Grid.
        nodes: Flower node id by site; exactly the plan's sites.
        masking: The coordinator's roster and key, where the plan masks sums.
        patience: How long to wait.
        on_round: Called with the number of rounds done, for progress.

    Raises:
        PolicyError: A site refused.
        ProtocolError: Sites are missing, or the rounds ran out.
    """
    if tuple(sorted(nodes)) != plan.sites:
        raise ProtocolError("roster_mismatch", "the nodes are not the plan's sites")
    sites = Sites(grid=grid, nodes=nodes, plan=plan, patience=patience or Patience())
    return run_sites(sites, masking=masking, on_round=on_round)


def run_sites(
    sites: Sites,
    *,
    masking: Masking | None = None,
    on_round: Callable[[int], None] | None = None,
    proposed: bool = False,
    start: Checkpoint | None = None,
    journal: Journal | None = None,
) -> Outcome:
    """Run a plan from its start, or from where an earlier coordinator stopped.

    Args:
        sites: The plan's sites and how to ask them.
        masking: See `run_plan`, and so is `on_round`.
        on_round: Called with the number of rounds done.
        proposed: Whether every site holds the plan already.
        start: Where it stands.
        journal: Where it is written down how far it came.

    Raises:
        PolicyError: A site refused.
        ProtocolError: Sites are missing, or the rounds ran out.
        InterruptedRunError: It may be taken up again; no site was told that the plan has ended.
    """
    plan = sites.plan
    start = start or Checkpoint(plan_sha256=plan.sha256, attempt=secrets.token_hex(16))
    told = on_round or (lambda done: None)
    try:
        if not proposed:
            sites.propose(sites.nodes)
        done = _run(sites, masking, start, journal or Journal(), told)
    except InterruptedRunError:
        raise
    except BaseException:
        sites.end(sites.nodes)
        raise
    sites.end(sites.nodes, done.result)
    return outcome_of(done)


def outcome_of(done: Checkpoint) -> Outcome:
    """Return what a run that has its result came to."""
    if done.result is None:
        raise ValueError("the run has no result yet")
    return Outcome(
        result=done.result,
        rounds=done.rounds,
        bytes_up=done.bytes_up,
        seconds=done.seconds,
        dropped=done.dropped,
        liars=done.liars,
    )


def _run(
    sites: Sites,
    masking: Masking | None,
    start: Checkpoint,
    journal: Journal,
    on_round: Callable[[int], None],
) -> Checkpoint:
    if start.result is not None:
        return start
    plan, began, done = sites.plan, time.monotonic() - start.seconds, start
    analysis = analysis_of(plan)
    masked = None
    if plan.secagg == "masked":
        if masking is None:
            raise ProtocolError("no_session", "the plan masks sums and the coordinator cannot")
        masked = MaskedSums(
            sites, masking, life=start.life, opening=lambda: journal.opening(done.rounds)
        )
    state = analysis.initial() if start.state is None else start.state
    while done.rounds < plan.max_rounds:
        terms = terms_for(plan, analysis, state, start.attempt)
        if masked is None:
            summed = collect_sum(sites, terms, state)
        else:
            summed = masked.collect(terms, state)
        after = analysis.step(state, summed.total)
        done = replace(
            done,
            state=after if isinstance(after, State) else None,
            result=after if isinstance(after, Result) else None,
            rounds=done.rounds + 1,
            bytes_up=done.bytes_up + summed.bytes_up,
            seconds=time.monotonic() - began,
            dropped=tuple(sorted({*done.dropped, *summed.dropped})),
            liars=tuple(sorted({*done.liars, *summed.liars})),
        )
        journal.opened(done)
        on_round(done.rounds)
        if isinstance(after, Result):
            return done
        state = after
    raise ProtocolError("rounds_exhausted", f"no result within {plan.max_rounds} rounds")
