"""What a summed histogram of held-out scores says of a model: the coordinator's figures.

Everything here is post-processing of one opened sum, so it costs nothing more. Two errors are told
beside each figure and neither is hidden in it:

- *Bins.* Scores within a bin are tied, and stand for the bin's centre. The figure of the exact
  scores lies within `bin_error` of the one without noise, whatever the scores were.
- *Chance.* `standard_error` is that of sampling patients and of the noise together, by the delta
  method: a figure is a smooth function f of the cells n_c, its sampling variance the sum of
  n_c (df/dn_c)^2 and the noise's the sum of s^2 (df/dn_c)^2, s its public standard deviation.

With noise, cells go below zero. They are counted as they are: the noise of a sum of cells has mean
zero, while cells cut off at zero would add some 0.4 s of nobody to every empty one and drag an
AUROC to one half (0.80 reads 0.75 at 600 patients, 20 bins and s = 8). Only the shares of the
calibration table, which are read cell by cell, are cut to [0, 1]. Totals that do not stand clear
of their own noise give no figure at all (`not_estimable`).

Source: DeLong et al. 1988 (the sampling part for AUROC is theirs); Harrell et al. 1996.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...study.analysis import Vector
from ...study.plan import Plan
from .metrics import MINIMUM_PATIENTS, Reason

__all__ = ["CalibrationBin", "Figure", "HistogramFigures", "histogram_figures", "noise_of"]

_CLEAR = 4.0  # standard deviations of the noise that a total must stand above


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One figure of a histogram, or why there is none.

    Attributes:
        value: As the cells say, in [0, 1]; None with a reason.
        standard_error: Of sampling and noise; None without a value.
        bin_error: Bound on what binning changed; None without a value.
        reason: Why there is no value.
    """

    value: float | None = None
    standard_error: float | None = None
    bin_error: float | None = None
    reason: Reason | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationBin:
    """One bin of a risk's calibration.

    Attributes:
        low: Lower edge of the bin.
        high: Upper edge.
        patients: As the cells say; with noise no whole number, perhaps below zero.
        observed: Share with the outcome, cut to [0, 1]; None where nobody stands clear of noise.
    """

    low: float
    high: float
    patients: float
    observed: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HistogramFigures:
    """What a coordinator may say of a model on held-out patients.

    Attributes:
        patients: Held-out patients, as the cells say.
        events: Of them with the outcome, or with the event within the horizon.
        noise: Standard deviation of the noise in one cell, in patients; 0 without.
        discrimination: AUROC for a risk; C-index for survival, of times rounded up to the
            ends of the public intervals.
        brier: For a risk, at the bins' centres; None for survival.
        calibration: For a risk; empty for survival.
    """

    patients: float
    events: float
    noise: float
    discrimination: Figure
    brier: Figure | None = None
    calibration: tuple[CalibrationBin, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a report."""
        return dataclasses.asdict(self)


def noise_of(plan: Plan, sites: int) -> float:
    """Return the standard deviation of the noise in one cell, in patients.

    Args:
        plan: What was run.
        sites: Sites in the opened sum: each of them added its share.
    """
    noise = None if plan.privacy is None else plan.privacy.noise()
    return 0.0 if noise is None else noise.share_sigma(1.0) * math.sqrt(sites)


def histogram_figures(table: Vector, *, noise: float = 0.0) -> HistogramFigures:
    """Return the figures of an opened histogram.

    Args:
        table: float64 [2, bins] for a risk, [2 J + 1, bins] for survival; see
            `study.score_histogram`.
        noise: Standard deviation of the noise in one cell, in patients; see `noise_of`.

    Raises:
        ValueError: The table has another shape, or the noise is no number >= 0.

    >>> figures = histogram_figures(np.array([[6.0, 2.0], [2.0, 6.0]]))
    >>> figures.discrimination.value, figures.discrimination.bin_error
    (0.75, 0.1875)
    """
    if table.ndim != 2 or table.shape[0] < 2 or not (math.isfinite(noise) and noise >= 0):
        raise ValueError(f"need a table [2 or more, bins] and noise >= 0, got {table.shape}")
    if table.shape[0] == 2:
        return _risk(table, noise)
    if table.shape[0] % 2 == 0:
        raise ValueError(f"a survival table has 2 J + 1 rows, got {table.shape[0]}")
    return _survival(table, noise)


def _risk(table: Vector, noise: float) -> HistogramFigures:
    others, events = table
    bins = events.size
    centre = (np.arange(bins) + 0.5) / bins
    patients = float(table.sum())
    reason = _why_not(patients, (float(events.sum()), float(others.sum())), bins, noise)
    discrimination = brier = Figure(reason=reason)
    if reason is None:
        discrimination = _ordered(events[None, :], others[None, :], table, noise)
        each = np.stack([centre**2, (1 - centre) ** 2])
        mean = float((table * each).sum() / patients)
        brier = _figure(mean, (each - mean) / patients, table, noise, bin_error=1.0 / bins)
    return HistogramFigures(
        patients=patients,
        events=float(events.sum()),
        noise=noise,
        discrimination=discrimination,
        brier=brier,
        calibration=tuple(
            CalibrationBin(
                low=place / bins,
                high=(place + 1) / bins,
                patients=float(whole),
                observed=(
                    float(np.clip(with_it / whole, 0.0, 1.0))
                    if whole > _CLEAR * noise * math.sqrt(2)
                    else None
                ),
            )
            for place, (with_it, whole) in enumerate(zip(events, table.sum(axis=0), strict=True))
        ),
    )


def _survival(table: Vector, noise: float) -> HistogramFigures:
    intervals = table.shape[0] // 2
    events, rest = table[:intervals], table[intervals:]  # rest: censored [J], then beyond [1]
    # An event's interval is compared with whoever is censored in it or comes later.
    later = np.cumsum((rest[:-1] + np.vstack([events[1:], np.zeros((1, table.shape[1]))]))[::-1], 0)
    at_risk = later[::-1] + rest[-1]
    patients, seen = float(table.sum()), float(events.sum())
    pairs = float((events.sum(axis=1) * at_risk.sum(axis=1)).sum())
    reason = _why_not(patients, (seen,), table.shape[1] * intervals, noise)
    if reason is None and not pairs > 0:
        reason = "no_pairs"
    discrimination = Figure(reason=reason)
    if reason is None:
        discrimination = _ordered(events, at_risk, table, noise)
    return HistogramFigures(
        patients=patients, events=seen, noise=noise, discrimination=discrimination
    )


def _ordered(cases: Vector, controls: Vector, table: Vector, noise: float) -> Figure:
    """Return the share of pairs (case, control of the same line) that scores order right.

    Args:
        cases: [J, bins]; for a risk J is 1.
        controls: [J, bins], whom the cases of each line are compared with.
        table: The cells; [controls, cases] for a risk, as `_survival` has them otherwise.
        noise: See `noise_of`.
    """
    below = np.cumsum(controls, axis=1) - controls / 2  # controls that a case stands above
    above = np.cumsum(cases[:, ::-1], axis=1)[:, ::-1] - cases / 2
    pairs = float((cases.sum(axis=1) * controls.sum(axis=1)).sum())
    value = float((cases * below).sum() / pairs)
    tied = float((np.maximum(cases, 0) * np.maximum(controls, 0)).sum() / pairs)
    as_case = (below - value * controls.sum(axis=1, keepdims=True)) / pairs
    as_control = (above - value * cases.sum(axis=1, keepdims=True)) / pairs
    if table.shape[0] == 2:
        gradient = np.vstack([as_control, as_case])
    else:  # a patient is a control of every line up to the one the patient leaves in
        so_far = np.cumsum(as_control, axis=0)
        before = np.vstack([np.zeros((1, table.shape[1])), so_far[:-1]])
        gradient = np.vstack([as_case + before, so_far, so_far[-1:]])
    return _figure(value, gradient, table, noise, bin_error=tied / 2)


def _figure(
    value: float, gradient: Vector, table: Vector, noise: float, *, bin_error: float
) -> Figure:
    variance = float(((np.maximum(table, 0.0) + noise**2) * gradient**2).sum())
    return Figure(
        value=min(max(value, 0.0), 1.0),
        standard_error=math.sqrt(variance),
        bin_error=min(bin_error, 1.0),
    )


def _why_not(
    patients: float, classes: tuple[float, ...], cells: int, noise: float
) -> Reason | None:
    """Return why there is no figure; a total of `cells` cells must stand clear of its noise."""
    if noise == 0 and min(classes) <= 0:
        return "one_class" if patients >= MINIMUM_PATIENTS else "few_patients"
    if patients < MINIMUM_PATIENTS:
        return "few_patients"
    clear = _CLEAR * noise * math.sqrt(cells)
    return None if min(classes) > clear else "not_estimable"
