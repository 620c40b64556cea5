"""One sum: ask, collect, ask the silent again, add, decode. Here in plain; masked in `masked.py`.

A site that was asked twice answers with the same bytes, so asking again costs no budget.
A sum is opened only with at least the plan's number of sites, never with less noise.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from flwr.serverapp import Grid
from numpy.typing import NDArray

from ..privacy.errors import PolicyError, ProtocolError
from ..privacy.secagg.plain import UnsafePlaintextSum
from ..study.analysis import State, Total
from ..study.plan import Plan
from ..study.rounds import RoundTerms
from .exchange import Refusal, exchange

__all__ = [
    "Patience",
    "SummedRound",
    "collect_sum",
    "end",
    "propose",
    "raise_refusal",
    "round_content",
]


_END_TIMEOUT_S = 5.0
_log = logging.getLogger(__name__)


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
class SummedRound:
    """A decoded sum and what it took.

    Attributes:
        total: The sum.
        bytes_up: Bytes of vectors received, for the tables.
        dropped: Sites whose contribution is not in the sum.
        liars: Sites that handed over wrong shares of a mask; masked sums only.
    """

    total: Total
    bytes_up: int
    dropped: tuple[str, ...]
    liars: tuple[str, ...] = ()


def end(grid: Grid, nodes: Mapping[str, int], plan: Plan, patience: Patience) -> None:
    """Tell every site that the plan has ended: what it set aside and did not spend is free again.

    A site that does not hear it keeps the price set aside, which hurts nobody but itself.
    """
    content = RecordDict({"plan": ConfigRecord({"sha256": plan.sha256})})
    wait = min(patience.timeout_s, _END_TIMEOUT_S)
    try:
        exchange(grid, nodes, "query.close", content, group="plan", timeout_s=wait)
    except Exception as error:  # the run has its result, or its own reason, already
        _log.warning("the end of the plan was not told: %s", type(error).__name__)


def propose(grid: Grid, nodes: Mapping[str, int], plan: Plan, patience: Patience) -> None:
    """Hand the plan to every site; all of them must accept it.

    Raises:
        PolicyError: A site refused; its code is ours.
        ProtocolError: `site_silent`: a site did not answer; `site_error`: it failed.
    """
    content = RecordDict({"plan": ConfigRecord({"json": plan.to_json()})})
    waiting = dict(nodes)
    for _ in range(patience.attempts):
        answers = exchange(
            grid, waiting, "query.propose", content, group="plan", timeout_s=patience.timeout_s
        )
        raise_refusal(answers.refused)
        waiting = {site: nodes[site] for site in answers.silent}
        if not waiting:
            return
    raise ProtocolError(
        "site_silent",
        f"no answer to the plan from: {', '.join(sorted(waiting))}",
        hint="Check that the sites' nodes are running, or plan without them.",
    )


def collect_sum(
    grid: Grid,
    nodes: Mapping[str, int],
    plan: Plan,
    terms: RoundTerms,
    state: State,
    patience: Patience,
) -> SummedRound:
    """Run one round.

    Raises:
        PolicyError: A site refused.
        ProtocolError: `too_few_sites`: fewer than the plan's minimum answered in time;
            `site_error`: a site failed.
    """
    content = round_content(terms, state)
    vectors: dict[str, NDArray[np.int64]] = {}
    waiting = dict(nodes)
    for _ in range(patience.attempts):
        answers = exchange(
            grid,
            waiting,
            "train.report",
            content,
            group=str(terms.round),
            timeout_s=patience.timeout_s,
        )
        raise_refusal(answers.refused)
        for site, reply in answers.replies.items():
            vectors[site] = _vector(reply, terms.size)
        waiting = {site: nodes[site] for site in answers.silent}
        if not waiting:
            break
    fewest = plan.fewest_sites
    if len(vectors) < fewest:
        raise ProtocolError(
            "too_few_sites",
            f"{len(vectors)} sites answered round {terms.round}, the plan needs {fewest}; "
            f"silent: {', '.join(sorted(waiting))}",
            hint="Wait for the silent sites, or plan with fewer; nothing of this round was opened.",
        )
    sites = tuple(sorted(vectors))
    summed = UnsafePlaintextSum(terms.size).add([vectors[site] for site in sites])
    return SummedRound(
        total=Total(vector=terms.encoding.decode(summed), sites=sites),
        bytes_up=sum(vector.nbytes for vector in vectors.values()),
        dropped=tuple(sorted(waiting)),
    )


def _vector(reply: RecordDict, size: int) -> NDArray[np.int64]:
    try:
        vector = reply.array_records["vector"]["sum"].numpy()
    except KeyError as error:
        raise ProtocolError("reply_unreadable", "a site's reply carries no vector") from error
    if vector.dtype != np.int64 or vector.shape != (size,):
        raise ProtocolError("vector_shape", f"a site's vector must be int64 [{size}]")
    return vector


def round_content(terms: RoundTerms, state: State, round_plan: bytes = b"") -> RecordDict:
    """Return what asks a site for its vector."""
    return RecordDict(
        {
            "terms": ConfigRecord({"json": terms.to_json(), "round_plan": round_plan}),
            "state": ArrayRecord({name: Array(array) for name, array in state.arrays.items()}),
        }
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
