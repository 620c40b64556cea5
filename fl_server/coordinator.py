"""The coordinator's loop: state, sum, step, until the analysis has its result."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from flwr.serverapp import Grid

from ..privacy.errors import ProtocolError
from ..study.analysis import Result
from ..study.plan import Plan, analysis_of
from ..study.rounds import terms_for
from .masked import MaskedSums, Masking
from .rounds import Patience, collect_sum, end, propose

__all__ = ["Outcome", "run_plan"]


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
    patience = patience or Patience()
    try:
        return _run(plan, grid, nodes, masking, patience, on_round or (lambda done: None))
    finally:
        end(grid, nodes, plan, patience)


def _run(
    plan: Plan,
    grid: Grid,
    nodes: Mapping[str, int],
    masking: Masking | None,
    patience: Patience,
    on_round: Callable[[int], None],
) -> Outcome:
    analysis = analysis_of(plan)
    attempt = secrets.token_hex(16)
    started = time.monotonic()
    propose(grid, nodes, plan, patience)
    masked = None
    if plan.secagg == "masked":
        if masking is None:
            raise ProtocolError("no_session", "the plan masks sums and the coordinator cannot")
        masked = MaskedSums(grid, nodes, plan, masking, patience)
    state = analysis.initial()
    bytes_up = 0
    dropped: set[str] = set()
    liars: set[str] = set()
    for done in range(1, plan.max_rounds + 1):
        terms = terms_for(plan, analysis, state, attempt)
        if masked is None:
            summed = collect_sum(grid, nodes, plan, terms, state, patience)
        else:
            summed = masked.collect(terms, state)
        bytes_up += summed.bytes_up
        dropped.update(summed.dropped)
        liars.update(summed.liars)
        after = analysis.step(state, summed.total)
        on_round(done)
        if isinstance(after, Result):
            return Outcome(
                result=after,
                rounds=done,
                bytes_up=bytes_up,
                seconds=time.monotonic() - started,
                dropped=tuple(sorted(dropped)),
                liars=tuple(sorted(liars)),
            )
        state = after
    raise ProtocolError("rounds_exhausted", f"no result within {plan.max_rounds} rounds")
