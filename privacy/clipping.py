"""Per-patient clipping: the one place where a patient's influence on a sum is bounded.

The unit is the patient. A patient's rows are summed first and the sum is clipped once, so
that five hundred visits move a result as little as one does. Whatever is not finite is
zeroed before the sum: a NaN or an infinity must not make one patient's presence visible
(facts: Opacus' hooks let a single NaN turn a whole release to NaN).
"""

import numpy as np
from numpy.typing import NDArray

from .errors import ConfigError

__all__ = ["bounded_rows", "check_clip", "clip_factors", "clipped_sum", "sum_by_patient"]

Vector = NDArray[np.float64]
_CLIPS = (1e-3, 1e6)  # beyond, sums overflow at some number of patients, or lose their digits


def check_clip(clip_norm: float) -> None:
    """Refuse a clip norm at which float arithmetic could speak of a patient.

    Raises:
        ConfigError: `clip_range` (NaN included).
    """
    if not _CLIPS[0] <= clip_norm <= _CLIPS[1]:
        raise ConfigError(
            "clip_range",
            f"clip must lie in [{_CLIPS[0]:g}, {_CLIPS[1]:g}], got {clip_norm}",
            hint="Scale the features, or leave privacy.clip out.",
        )


def sum_by_patient(rows: Vector, patient_index: NDArray[np.int64]) -> Vector:
    """Sum the rows of each patient.

    Args:
        rows: float64 [rows, d].
        patient_index: int64 [rows], positions 0..patients-1 of each row's patient.

    Returns:
        float64 [patients, d].
    """
    patients = int(patient_index.max()) + 1 if patient_index.size else 0
    if patients == rows.shape[0] and np.array_equal(patient_index, np.arange(patients)):
        return rows
    sums = np.zeros((patients, rows.shape[1]))
    np.add.at(sums, patient_index, rows)
    return sums


def clip_factors(norms: Vector, clip_norm: float) -> Vector:
    """Return min(1, clip_norm / norm) for each norm; 0 where a norm is not finite.

    Args:
        norms: float64 [patients], L2 norms.
        clip_norm: The bound C, > 0.

    Raises:
        ValueError: clip_norm is not a finite number above 0.
    """
    if not (np.isfinite(clip_norm) and clip_norm > 0):
        raise ValueError(f"clip_norm must be finite and > 0, got {clip_norm}")
    finite = np.isfinite(norms)
    with np.errstate(divide="ignore", invalid="ignore"):
        factors = np.where(norms > clip_norm, clip_norm / norms, 1.0)
    return np.where(finite, factors, 0.0)


def clipped_sum(rows: Vector, patient_index: NDArray[np.int64], clip_norm: float) -> Vector:
    """Sum over patients of each patient's summed rows, clipped to an L2 norm.

    Args:
        rows: float64 [rows, d].
        patient_index: int64 [rows].
        clip_norm: The bound C on one patient's L2 norm, > 0.

    Returns:
        float64 [d].

    Guarantee:
        Adding or removing one patient, with however many rows and whatever values (NaN and
        infinity included), changes the result by at most C in L2, up to float rounding.

    >>> clipped_sum(np.array([[3.0, 4.0], [3.0, 4.0]]), np.array([0, 0]), 1.0)
    array([0.6, 0.8])
    """
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is zeroed below
        per_patient = sum_by_patient(rows, patient_index)
    if per_patient.shape[0] == 0:
        return np.zeros(rows.shape[1])
    safe, norms = _finite(per_patient)
    return np.asarray(clip_factors(norms, clip_norm) @ safe, dtype=np.float64)


def bounded_rows(rows: Vector, clip_norm: float) -> Vector:
    """Shorten each row to an L2 norm; a row that is not finite becomes zero.

    Args:
        rows: float64 [rows, d].
        clip_norm: The bound C on a row's L2 norm, > 0.

    Returns:
        float64 [rows, d].

    >>> bounded_rows(np.array([[3.0, 4.0], [np.nan, 0.0]]), 1.0)
    array([[0.6, 0.8],
           [0. , 0. ]])
    """
    safe, norms = _finite(rows)
    return np.asarray(clip_factors(norms, clip_norm)[:, None] * safe, dtype=np.float64)


def _finite(rows: Vector) -> tuple[Vector, Vector]:
    """Return the rows, zero where they are not finite, and their norms."""
    finite: NDArray[np.bool_] = np.asarray(np.isfinite(rows).all(axis=1))
    safe = np.where(finite[:, None], rows, 0.0)
    # Scaling by the largest entry first keeps a norm of 1e200 from overflowing to infinity.
    largest = np.maximum(np.abs(safe).max(axis=1, initial=0.0), 1.0)
    return safe, np.linalg.norm(safe / largest[:, None], axis=1) * largest
