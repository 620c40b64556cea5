"""What one round binds: the terms a site answers to, by their hash.

The coordinator makes them, a site checks every field against the plan it approved: terms
that ask for less noise, a coarser grid or other sites than the plan are refused.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..privacy.errors import PolicyError, ProtocolError
from ..privacy.noise import MINIMUM_SHARE
from ..privacy.secagg.encoding import SHORT_WORD_FROM, Encoding, float_slack
from ..privacy.secagg.site import ExpectedRound
from .analysis import Analysis, State, Vector
from .plan import Plan

__all__ = ["RoundTerms", "encoding_for", "expected_round", "state_sha256", "terms_for"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundTerms:
    """One secure sum.

    Attributes:
        plan_sha256: The plan it belongs to.
        attempt: Random hex of this run of the plan: no two runs share terms.
        round: 0-based number of the round.
        sites: Sites asked.
        size: d, length of the vector.
        fraction_bits: See `Encoding`.
        limit: See `Encoding`.
        word_bits: See `Encoding`.
        state_sha256: Hash of the state that the sites answer to.
    """

    plan_sha256: str
    attempt: str
    round: int
    sites: tuple[str, ...]
    size: int
    fraction_bits: int
    limit: int
    word_bits: int
    state_sha256: str

    def to_json(self) -> str:
        """Return the canonical JSON."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True, separators=(",", ":"))

    @property
    def sha256(self) -> str:
        """Hash of the canonical JSON."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @property
    def encoding(self) -> Encoding:
        """The grid of this round."""
        return Encoding(
            fraction_bits=self.fraction_bits, limit=self.limit, word_bits=self.word_bits
        )

    @classmethod
    def from_json(cls, text: str) -> RoundTerms:
        """Read terms back.

        Raises:
            ProtocolError: `terms_unreadable`.
        """
        try:
            document = json.loads(text)
            document["sites"] = tuple(document["sites"])
            terms = cls(**document)
            numbers = (terms.round, terms.size, terms.fraction_bits, terms.limit, terms.word_bits)
            texts = (terms.plan_sha256, terms.attempt, terms.state_sha256, *terms.sites)
            right = all(type(number) is int for number in numbers)
            if not right or not all(isinstance(text, str) for text in texts):
                raise TypeError("a field of the wrong type")
            return terms
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ProtocolError("terms_unreadable", "the round's terms cannot be read") from error


def state_sha256(arrays: Mapping[str, Vector]) -> str:
    """Hash a state's arrays: names, shapes and little-endian float64 bytes, by name."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name], dtype="<f8")
        digest.update(f"{name}:{array.shape};".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def encoding_for(plan: Plan, analysis: Analysis, size: int) -> Encoding:
    """Return the grid of a round, from public values only: both sides compute the same one.

    Raises:
        PolicyError: `encoding_overflow` or `noise_share_too_small`; or `too_many_patients`.
    """
    most = plan.max_patients_per_site
    noise = None if plan.privacy is None else plan.privacy.noise()
    word_bits = 32 if size > SHORT_WORD_FROM else 64
    if plan.privacy is None or noise is None:
        if plan.privacy is not None:
            float_slack(most)  # of the sums inside local steps
        bound = analysis.site_bound(most)
        return Encoding.for_sum(site_bound=bound, sites=len(plan.sites), word_bits=word_bits)
    encoding = Encoding.for_noisy_sum(
        clip_norm=plan.privacy.clip,
        max_patients=most,
        sites=len(plan.sites),
        noise_multiplier=noise.noise_multiplier,
        size=size,
        word_bits=word_bits,
    )
    share = noise.share_sigma(encoding.sensitivity_units(plan.privacy.clip, size, most))
    if share < MINIMUM_SHARE:
        raise PolicyError(
            "noise_share_too_small",
            f"a site's share of the noise would be {share:.2g} grid units, below {MINIMUM_SHARE:g}",
            hint="So little noise protects nobody: ask for a smaller epsilon.",
        )
    return encoding


def expected_round(plan: Plan, terms: RoundTerms) -> ExpectedRound:
    """Return what a masked round of these terms must say, for both sides to compare."""
    return ExpectedRound(
        min_survivors=plan.fewest_sites,
        colluders=plan.colluders,
        word_bits=terms.word_bits,
        size=terms.size,
        limit=terms.limit,
        terms=bytes.fromhex(terms.sha256),
        # One sum has one name: under a second one its vector could be opened twice, once
        # without a site, and the difference would be that site's.
        training_round=bytes.fromhex(terms.sha256),
    )


def terms_for(plan: Plan, analysis: Analysis, state: State, attempt: str) -> RoundTerms:
    """Return the terms that a plan implies for a state; the coordinator sends them, sites check.

    Raises:
        PolicyError: As `encoding_for`; or `holdout_rounds`: the plan ends before its histogram,
            which is better known before its first round than after its last.
    """
    histogram = plan.holdout is not None and plan.holdout.histogram
    if histogram and plan.max_rounds < analysis.most_rounds:
        raise PolicyError(
            "holdout_rounds",
            f"max_rounds must be {analysis.most_rounds} or more: the histogram of held-out "
            "patients comes after the last round that training may use",
            hint="Ask for a plan whose max_rounds is the analysis' own most_rounds.",
        )
    size = analysis.size(state)
    encoding = encoding_for(plan, analysis, size)
    return RoundTerms(
        plan_sha256=plan.sha256,
        attempt=attempt,
        round=state.round,
        sites=plan.sites,
        size=size,
        fraction_bits=encoding.fraction_bits,
        limit=encoding.limit,
        word_bits=encoding.word_bits,
        state_sha256=state_sha256(state.arrays),
    )
