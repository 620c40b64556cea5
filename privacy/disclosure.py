"""Disclosure rules: what may leave a site without noise, judged on the patients in the sum.

Four rules, each a pure function that refuses by its name and tells no count: a cohort must be
large enough, no class of patients small, no cell of a table small, and a model must have few
parameters for its patients. They lower a risk; they prove nothing, as noise does. With noise
they are not asked: a refusal that depends on data would speak of it.

An empty cell of a table passes (nobody is in it), an outcome that nobody or everybody has does
not: it would tell the outcome of each.

Sources: the numbers are those of SACRO (cells of 10), vantage6 (ratio 0.10) and DataSHIELD
(classes of a binary variable), and never laxer than the three.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .errors import DisclosureError, PolicyError

__all__ = [
    "Classes",
    "Minimums",
    "SiteRules",
    "Summed",
    "check_cells",
    "check_classes",
    "check_cohort",
    "check_ratio",
]

_HINT = "The site's data team finds the reason in its own log; nothing was sent."


@dataclass(frozen=True, slots=True, kw_only=True)
class Minimums:
    """The numbers of a site's policy.

    Attributes:
        min_cell_count: Fewest patients in a cell of a table that is not empty.
        min_cohort: Fewest patients in any sum.
        min_cohort_training: Fewest patients in a sum that trains a model.
        min_class_count: Fewest patients with and without the outcome, or with either value of
            a feature that has two.
        max_params_ratio: Most parameters for each patient.
    """

    min_cell_count: int = 10
    min_cohort: int = 50
    min_cohort_training: int = 200
    min_class_count: int = 10
    max_params_ratio: float = 0.10


@dataclass(frozen=True, slots=True, kw_only=True)
class Classes:
    """How many patients stand on each side of what divides them; it never leaves the site.

    Attributes:
        outcome: Patients with and without the outcome.
        features: For each feature that takes two values or three, the patients of each.
    """

    outcome: tuple[int, ...]
    features: tuple[tuple[int, ...], ...] = field(default=())


class Summed(Protocol):
    """What is judged: a site's sum and whom it is of."""

    @property
    def total(self) -> NDArray[np.float64]:
        """The sum, float64 [d]."""
        ...

    @property
    def patients(self) -> int:
        """Patients in it."""
        ...

    @property
    def classes(self) -> Classes | None:
        """What divides them; None where nobody counted."""
        ...

    @property
    def is_table(self) -> bool:
        """Whether each coordinate counts patients."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteRules:
    """The rules of one site for one plan; it is the door's `Disclosure`.

    Attributes:
        minimums: The site's numbers.
        parameters: Of the model that sums train; of an analysis without a model, the numbers that
            leave.
    """

    minimums: Minimums
    parameters: int = 0

    @property
    def counts_classes(self) -> bool:
        """The classes of the patients in a sum must be counted; a table's cells speak already."""
        return True

    def check(self, contribution: Summed) -> None:
        """Refuse a sum that the rules forbid.

        Raises:
            DisclosureError: `disclosure_cohort`, `disclosure_cell`, `disclosure_class`,
                `disclosure_ratio`, or `disclosure_uncounted` where classes were not counted.
        """
        least = self.minimums
        if contribution.is_table:
            check_cohort(contribution.patients, least.min_cohort)
            check_cells(contribution.total, least.min_cell_count)
            return
        check_cohort(contribution.patients, max(least.min_cohort, least.min_cohort_training))
        if contribution.classes is None:
            raise PolicyError(
                "disclosure_uncounted",
                "the classes of the patients in a sum without noise were not counted",
                hint="This is a fault of the node: report it.",
            )
        check_classes(contribution.classes, least.min_class_count)
        check_ratio(self.parameters, contribution.patients, least.max_params_ratio)


def check_cohort(patients: int, minimum: int) -> None:
    """Refuse a cohort of fewer patients than the minimum.

    Raises:
        DisclosureError: `disclosure_cohort`.
    """
    if patients < minimum:
        raise DisclosureError("disclosure_cohort", "the cohort is smaller than allowed", hint=_HINT)


def check_cells(cells: NDArray[np.float64], minimum: int) -> None:
    """Refuse a table with a cell between nobody and the minimum, or that holds no counts.

    Raises:
        DisclosureError: `disclosure_cell`.
    """
    counted = np.isfinite(cells) & (cells >= 0) & (cells == np.floor(cells))
    if not bool(counted.all()) or bool(((cells > 0) & (cells < minimum)).any()):
        raise DisclosureError("disclosure_cell", "a cell is smaller than allowed", hint=_HINT)


def check_classes(classes: Classes, minimum: int) -> None:
    """Refuse where few patients, or for the outcome none, stand on one side.

    Raises:
        DisclosureError: `disclosure_class`.
    """
    small = any(count < minimum for count in classes.outcome) or len(classes.outcome) < 2
    if small or _few(classes.features, minimum):
        raise DisclosureError("disclosure_class", "a class is smaller than allowed", hint=_HINT)


def check_ratio(parameters: int, patients: int, most: float) -> None:
    """Refuse a model of many parameters for few patients; a model without any is refused too.

    Raises:
        DisclosureError: `disclosure_ratio`.
    """
    if parameters < 1 or parameters > most * patients:
        raise DisclosureError(
            "disclosure_ratio",
            "the model has more parameters for its patients than allowed",
            hint=_HINT,
        )


def _few(divided: Iterable[tuple[int, ...]], minimum: int) -> bool:
    return any(0 < count < minimum for counts in divided for count in counts)
