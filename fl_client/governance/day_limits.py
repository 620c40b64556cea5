"""How many messages of each kind a site takes in a day (UTC).

`limits.max_requests_per_day` is N. Each kind has a count of its own, so that a flood of one does
not use up another: proposals and rounds N together, ends of plans N, messages of masked sums 5 N
(a round has two, and each set-up of keys three), greetings 10 N (a coordinator whose plan waits
for people asks every two minutes). All but greetings are counted in the audit log, which a
restart forgets nothing of.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from typing import Literal

from ...privacy.errors import PolicyError
from .audit_log import REQUESTS, AuditLog
from .policy import Policy

__all__ = ["TIMES", "DayLimits", "Kind"]

Kind = Literal["request", "phase", "close", "greeting"]
TIMES: dict[Kind, int] = {"request": 1, "phase": 5, "close": 1, "greeting": 10}
_EVENTS = {"request": REQUESTS, "phase": ("phase_asked",), "close": ("plan_closed",)}


class DayLimits:
    """Counts messages; see the module's docstring.

    Args:
        audit: The site's log.
    """

    def __init__(self, audit: AuditLog) -> None:
        self._audit = audit
        self._greetings = Counter[dt.date]()
        self._lines = Counter[tuple[dt.date, str]]()

    def check(self, policy: Policy, kind: Kind, today: dt.date) -> None:
        """Refuse a message beyond the day's number. A greeting is counted here.

        Args:
            policy: In force.
            kind: What is asked.
            today: By the site's clock, UTC.

        Raises:
            PolicyError: `policy_requests`.
        """
        events = _EVENTS.get(kind)
        if events is None:
            made = self._greetings[today]
            self._greetings[today] += 1
        else:
            made = self._audit.events_on(today, events)
        most = TIMES[kind] * policy.limits.max_requests_per_day
        if made >= most:
            raise PolicyError(
                "policy_requests",
                f"the site takes {most} messages of this kind a day ({kind})",
                hint="Wait until tomorrow; refused requests count too.",
            )

    def is_written(self, event: str, today: dt.date, most: int) -> bool:
        """Return whether one more line of this event is written down today: `most` are."""
        self._lines[today, event] += 1
        return self._lines[today, event] <= most
