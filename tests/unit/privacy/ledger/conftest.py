"""What tests of the ledger share: openings, requests and charges that fit each other."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedcohort.privacy.budget import Budget
from fedcohort.privacy.ledger.charges import Charge, Opening, Reservation
from fedcohort.privacy.mechanism import Mechanism

OPENING: dict[str, Any] = {
    "hospital": "h",
    "population": "p",
    "kind": "site",
    "budget": Budget(epsilon=3.0, delta=1e-5),
    "unnoised": False,
}
ASKED: dict[str, Any] = {
    "plan_sha256": "0" * 64,
    "study": "s",
    "purpose": "To be asked.",
    "analysis": "gradient",
    "rounds": 4,
    "releases": 4,
    "mechanism": Mechanism(noise_multiplier=20.0),
    "clip": 1.0,
    "sharing": "sum",
    "min_survivors": 3,
    "colluders": 1,
}
UNNOISED: dict[str, Any] = {"mechanism": None, "releases": 0, "clip": None, "sharing": None}


@pytest.fixture(scope="session")
def opening_of() -> Callable[..., Opening]:
    """Factory: an opening, a site's at (3, 1e-5) unless told otherwise."""
    return lambda **changes: Opening(**{**OPENING, **changes})


@pytest.fixture(scope="session")
def asked_of() -> Callable[..., Reservation]:
    """Factory: a plan's request, four noisy sums unless told otherwise."""

    def make(number: int = 0, *, noisy: bool = True, **changes: Any) -> Reservation:
        plan = {"plan_sha256": f"{number:064x}"}
        return Reservation(**{**ASKED, **plan, **({} if noisy else UNNOISED), **changes})

    return make


@pytest.fixture(scope="session")
def charge_of() -> Callable[..., Charge]:
    """Factory: the charge of one round of a request."""

    def make(asked: Reservation, number: int = 0, **changes: Any) -> Charge:
        facts: dict[str, Any] = {
            "plan_sha256": asked.plan_sha256,
            "round": number,
            "releases": 0 if asked.mechanism is None else 1,
            "mechanism": asked.mechanism,
        }
        return Charge(**{**facts, **changes})

    return make


@pytest.fixture(scope="session")
def written_in() -> Callable[[Path], list[dict[str, Any]]]:
    """What a ledger's file says, read without a line of ours."""

    def read(path: Path) -> list[dict[str, Any]]:
        connection = sqlite3.connect(path)
        try:
            rows = connection.execute("SELECT entry FROM entries ORDER BY number").fetchall()
        finally:
            connection.close()
        return [json.loads(text) for (text,) in rows]

    return read
