"""Repeated, paired splits into training and test patients.

The unit is the patient over all hospitals: someone seen in two of them is wholly training or
wholly test. Patients are drawn within hospital and outcome. The draw depends on the seed, the
repeat, the hospital's name and the order of its rows, and on nothing else: not on the arms,
not on the other hospitals, and not on the keyed ids, which are new in every process. So each
arm sees the same split, and a hospital alone makes the split that the simulation made.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np

from ..study.cohort import Cohort

__all__ = ["split"]


def split(
    cohorts: Sequence[Cohort], *, repeat: int, seed: int, test_fraction: float = 0.3
) -> list[tuple[Cohort, Cohort]]:
    """Cut each cohort into training and test patients.

    Args:
        cohorts: One cohort a hospital.
        repeat: Number of the repetition, >= 0.
        seed: Seed of the experiment, >= 0.
        test_fraction: Share of each stratum's patients to test on, in (0, 1). A stratum of
            one patient goes to training; a larger one leaves at least one there.

    Returns:
        (training, test) for each cohort, in order; rows keep their order.

    Raises:
        ValueError: An argument is out of its range.
    """
    if repeat < 0 or seed < 0:
        raise ValueError(f"repeat and seed must be >= 0, got {repeat} and {seed}")
    if not 0 < test_fraction < 1:
        raise ValueError(f"test_fraction must be in (0, 1), got {test_fraction}")
    tested: set[int] = set()
    for (site, outcome), patients in _strata(cohorts).items():
        chosen = _generator(seed, repeat, site, outcome).permutation(len(patients))
        # Half up, so that a stratum of 5 tests 2; never the whole of it.
        size = min(math.floor(len(patients) * test_fraction + 0.5), len(patients) - 1)
        tested.update(patients[place] for place in chosen[:size])
    return [_cut(cohort, tested) for cohort in cohorts]


def _strata(cohorts: Sequence[Cohort]) -> dict[tuple[str, bool], list[int]]:
    """Group patients by the hospital that saw them first and whether any row has the outcome."""
    first: dict[int, str] = {}  # in order of first appearance
    positive: set[int] = set()
    for cohort in cohorts:
        flags = cohort.outcome_flag.tolist()
        for patient, flag in zip(cohort.patient.tolist(), flags, strict=True):
            first.setdefault(patient, cohort.site)
            if flag:
                positive.add(patient)
    strata: dict[tuple[str, bool], list[int]] = {}
    for patient, site in first.items():
        strata.setdefault((site, patient in positive), []).append(patient)
    return strata


def _generator(seed: int, repeat: int, site: str, outcome: bool) -> np.random.Generator:
    # Not for privacy: whoever holds the seed can repeat the split, as it should be.
    name = int.from_bytes(hashlib.sha256(site.encode()).digest()[:8], "little")
    words = (name & 0xFFFFFFFF, name >> 32, int(outcome))
    return np.random.Generator(
        np.random.PCG64(np.random.SeedSequence([seed, repeat], spawn_key=words))
    )


def _cut(cohort: Cohort, tested: set[int]) -> tuple[Cohort, Cohort]:
    test = np.array([patient in tested for patient in cohort.patient.tolist()], dtype=np.bool_)
    return cohort.take(~test), cohort.take(test)
