"""A hospital with two approvers and a policy that allows one study, for the tests of its node."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedcohort.fl_client.governance.policy import Policy
from fedcohort.privacy.accounting import calibrate
from fedcohort.study.plan import Plan, PrivacyTerms

OWNER, OFFICER = "zhang.w", "li.m"


@dataclasses.dataclass(frozen=True)
class Hospital:
    """What the tests start from; a text may be edited by replacing a part of it."""

    keys: dict[str, Ed25519PrivateKey]
    text: str
    today: dt.date

    @property
    def policy(self) -> Policy:
        return Policy.parse(self.text)

    def edited(self, *changes: tuple[str, str]) -> str:
        text = self.text
        for old, new in changes:
            assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in the policy"
            text = text.replace(old, new)
        return text

    def under(self, *changes: tuple[str, str]) -> Policy:
        return Policy.parse(self.edited(*changes))


TEXT = """\
schema: fedcohort.policy/1
site:
  id: h03
  name: 某县人民医院
  jurisdiction: CN
  approvers:
    data_owner: {zhang.w: "KEY-zhang.w"}
    security_officer: {li.m: "KEY-li.m"}
mode: enforce
code:
  allow_bundle_hashes: ["BUNDLE"]
network:
  coordinator: {address: "coord.example:443", ca_sha256: "CA", jurisdiction: CN}
  cross_border: deny
approval: {valid_days: 90}
dataset:
  id: stroke-2026
  population: h03 admissions 2019-2025
  level: 3
  legal_basis: "伦理批件 2026-014"
  purposes: any
  columns: {age: 2, sex: 2, glucose: 3, hiv: 5, outcome: 3}
  expires: "2027-06-30"
operations:
  allow: [newton_gram, newton, counts]
  unnoised: [counts]
disclosure: {min_cohort: 60}
federation: {min_sites: 3, secagg: required, colluders: 1}
privacy: {epsilon_per_study: 3.0, delta_max: 1e-5, ledger: ledger.sqlite}
limits: {max_rounds: 20, max_requests_per_day: 50, hours: always}
"""


@pytest.fixture(scope="session")
def hospital() -> Hospital:
    """A hospital whose policy is in force on 2026-11-22."""
    keys = {
        name: Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)
        for number, name in enumerate((OWNER, OFFICER), start=1)
    }
    text = TEXT.replace("BUNDLE", "ab" * 32).replace('"CA"', f'"{"cd" * 32}"')
    for name, key in keys.items():
        text = text.replace(f"KEY-{name}", key.public_key().public_bytes_raw().hex())
    return Hospital(keys=keys, text=text, today=dt.date(2026, 11, 22))


NOISE = PrivacyTerms(
    epsilon=3.0,
    delta=1e-5,
    noise_multiplier=calibrate(3.0, 1e-5, 1),
    releases=1,
    clip=1.0,
    sharing="sum",
    min_survivors=4,
    colluders=1,
    bound="rdp",
)


@pytest.fixture(scope="session")
def plan_of() -> Callable[..., Plan]:
    """Make plans that the hospital's policy allows, but for what is changed."""

    def make(*, noise: dict[str, Any] | None = None, **changes: Any) -> Plan:
        terms = dataclasses.replace(NOISE, **(noise or {}))
        facts: dict[str, Any] = {
            "study": "stroke risk",
            "purpose": "Who is at risk after a stroke.",
            "analysis": "newton_gram",
            "parameters": {"model": {"name": "logistic", "features": 3, "bound": 3.0}},
            "schema_sha256": "0" * 64,
            "sites": ("h01", "h02", "h03", "h04", "h05"),
            "privacy": terms,
            "max_rounds": 1,
            "max_patients_per_site": 1000,
            "min_sites": 4,
            "secagg": "masked",
            "colluders": 1,
            "roster": "0" * 64,
            "expires": "2027-01-31",
        }
        return Plan(**(facts | changes))

    return make
