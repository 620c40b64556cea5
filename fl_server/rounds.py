"""One sum: ask, collect, ask the silent again, add, decode. Here in plain; masked in `masked.py`.

A site that was asked twice answers with the same bytes, so asking again costs no budget.
A sum is opened only with at least the plan's number of sites, never with less noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from flwr.serverapp import Grid
from numpy.typing import NDArray

from ..privacy.errors import ProtocolError
from ..privacy.secagg.plain import UnsafePlaintextSum
from ..study.analysis import State, Total
from ..study.plan import Plan
from ..study.rounds import RoundTerms
from .sites import Patience, Sites

__all__ = ["Patience", "SummedRound", "collect_sum", "propose", "round_content"]


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


def propose(grid: Grid, nodes: Mapping[str, int], plan: Plan, patience: Patience) -> None:
    """Hand the plan to every site; all of them must accept it.

    Raises:
        PolicyError: A site refused; its code is ours.
        ProtocolError: `site_silent`: a site did not answer; `site_error`: it failed.
    """
    Sites(grid=grid, nodes=nodes, plan=plan, patience=patience).propose(nodes)


def collect_sum(sites: Sites, terms: RoundTerms, state: State) -> SummedRound:
    """Run one round.

    Raises:
        PolicyError: A site refused.
        ProtocolError: `too_few_sites`: fewer than the plan's minimum answered in time;
            `site_error`: a site failed.
    """
    content = round_content(terms, state)
    vectors: dict[str, NDArray[np.int64]] = {}
    waiting = tuple(sites.nodes)
    fewest = sites.plan.fewest_sites
    for attempt in range(sites.patience.attempts):
        if attempt and len(vectors) < fewest:
            sites.back()
        answers = sites.ask_again_if_forgotten(
            waiting, "train.report", content, group=str(terms.round)
        )
        for site, reply in answers.replies.items():
            vectors[site] = _vector(reply, terms.size)
        waiting = answers.silent
        if not waiting:
            break
    if len(vectors) < fewest:
        raise ProtocolError(
            "too_few_sites",
            f"{len(vectors)} sites answered round {terms.round}, the plan needs {fewest}; "
            f"silent: {', '.join(sorted(waiting))}",
            hint="Wait for the silent sites, or plan with fewer; nothing of this round was opened.",
        )
    summing = tuple(sorted(vectors))
    summed = UnsafePlaintextSum(terms.size).add([vectors[site] for site in summing])
    return SummedRound(
        total=Total(vector=terms.encoding.decode(summed), sites=summing),
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
