"""The outcome of each row: a 0/1 label, or a time in days and whether the event was seen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pandera.pandas as pa
from numpy.typing import NDArray

from ..privacy.errors import DataError
from .columns import canonical, canonical_series, coded, to_numbers
from .extract import LoadOptions
from .roles import Roles

__all__ = ["FALSE_TEXTS", "TRUE_TEXTS", "Outcome", "check_outcome", "outcome_of"]

TRUE_TEXTS = ("1", "true", "t", "yes", "y", "是", "有", "阳性", "positive")
FALSE_TEXTS = ("0", "false", "f", "no", "n", "否", "无", "阴性", "negative")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Outcome:
    """The outcome of each row; NaN where it is missing.

    Attributes:
        flag: float64 [rows] of 0.0 / 1.0 / NaN: the label, or whether the event was seen.
        time: float64 [rows], days; survival only.
    """

    flag: NDArray[np.float64]
    time: NDArray[np.float64] | None = None

    @property
    def missing(self) -> NDArray[np.bool_]:
        """True [rows] where there is no usable outcome."""
        missing = np.isnan(self.flag)
        return missing if self.time is None else missing | np.isnan(self.time)


def outcome_of(frame: pd.DataFrame, roles: Roles, options: LoadOptions) -> Outcome:
    """Read each row's outcome from that row alone; what cannot be an outcome is missing.

    Args:
        frame: The table of text.
        roles: Which columns tell the outcome.
        options: Which value is the event, where somebody said so.

    Returns:
        A label is 1 where the text is `options.positive`, and 0 for every other text; without
        `positive`, by `TRUE_TEXTS` and `FALSE_TEXTS`. A time is a number of days >= 0.
    """
    if roles.outcome is None:
        times = to_numbers(frame[str(roles.time)])
        return Outcome(
            flag=_flags(canonical_series(frame[str(roles.event)])),
            time=np.where(times >= 0, times, np.nan),
        )
    seen = canonical_series(frame[roles.outcome])
    if options.positive is None:
        return Outcome(flag=_flags(seen))
    event = seen == canonical(str(options.positive))
    flag = np.where(seen.isna().to_numpy(), np.nan, event.to_numpy(dtype=np.float64))
    return Outcome(flag=flag)


def check_outcome(frame: pd.DataFrame, roles: Roles, options: LoadOptions) -> None:
    """Refuse an outcome that `outcome_of` would read with a loss; for people, never for a node.

    Raises:
        DataError: `one_class`, `outcome_not_binary`, `unknown_positive`, `event_not_binary`,
            `time_not_number` or `negative_time`.
    """
    if roles.outcome is not None:
        _check_label(frame[roles.outcome], roles.outcome, options.positive)
    else:
        _check_survival(frame, str(roles.time), str(roles.event))


def _check_label(text: pd.Series[str], name: str, positive: str | None) -> None:
    seen = canonical_series(text)
    values = set(seen.dropna().unique())
    if positive is not None:
        if canonical(str(positive)) not in values:
            raise DataError(
                "unknown_positive",
                f"no row of {name} holds data.positive={positive}",
                hint="Give a value of that column; case and spaces around it do not count.",
            )
        return
    if len(values) > 2:
        raise DataError(
            "outcome_not_binary",
            f"{name} has more than two values",
            hint="Say which counts as the event: data.positive=VALUE.",
        )
    if len(values) == 1:
        raise DataError(
            "one_class",
            f"every row has the same {name}: there is nothing to learn",
            hint="Check the extract's selection, or name another outcome.",
        )
    if np.isnan(_flags(seen)[seen.notna().to_numpy()]).any():
        raise DataError(
            "unknown_positive",
            f"it is not clear which of the two values of {name} counts as the event",
            hint="Say which: data.positive=VALUE.",
        )


def _flags(seen: pd.Series[str]) -> NDArray[np.float64]:
    return coded(seen, dict.fromkeys(TRUE_TEXTS, 1.0) | dict.fromkeys(FALSE_TEXTS, 0.0))


def _check_survival(frame: pd.DataFrame, time: str, event: str) -> None:
    """Check time and event; the rules on rows are pandera's, its words are not passed on."""
    times, seen = to_numbers(frame[time]), canonical_series(frame[event])
    flags = _flags(seen)
    rows = pd.DataFrame(
        {
            "time": times,
            "time_known": ~(frame[time].notna().to_numpy() & np.isnan(times)),
            "event_known": ~(seen.notna().to_numpy() & np.isnan(flags)),
        }
    )
    rules = pa.DataFrameSchema(
        {
            "time": pa.Column(float, pa.Check.ge(0, name="negative_time"), nullable=True),
            "time_known": pa.Column(bool, pa.Check.eq(True, name="time_not_number")),
            "event_known": pa.Column(bool, pa.Check.eq(True, name="event_not_binary")),
        }
    )
    texts = {
        "negative_time": (f"{time} is negative in some rows", f"{time} must be days >= 0."),
        "time_not_number": (f"{time} is not a number in some rows", f"{time} must be in days."),
        "event_not_binary": (
            f"{event} holds values other than 0 and 1",
            "Recode it: 1 where the event was seen, 0 where follow-up ended without it.",
        ),
    }
    try:
        rules.validate(rows, lazy=True)
    except pa.errors.SchemaErrors as failure:
        broken = {str(error.check.name) for error in failure.schema_errors if error.check}
        code = next(code for code in texts if code in broken)
        raise DataError(code, texts[code][0], hint=texts[code][1]) from None
