"""The parts of a policy file, and how each is read: strictly, every key once, none unknown."""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from typing import Any

from ...privacy.disclosure import Minimums
from ._fields import Fields
from .plain_text import check_id, check_text
from .strict_yaml import Mapped

__all__ = ["HOURS", "POLICY_FORMAT", "ROLES", "Approver", "Dataset", "Limits", "read_parts"]

POLICY_FORMAT = "fedcohort.policy/1"
ROLES = ("data_owner", "security_officer")
HOURS = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])-([01][0-9]|2[0-3]):([0-5][0-9])")
_COUNTRY = re.compile(r"[A-Z]{2}(-[A-Z0-9]{1,3})?")
_ADDRESS = re.compile(r"([a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?):([1-9][0-9]{0,4})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Approver:
    """A person who may sign: of one role, with one Ed25519 key (hex)."""

    name: str
    role: str
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """The extract that plans may use.

    Attributes:
        id: Its name.
        population: Whom the ledger counts for, as `fedcohort ledger create` was told.
        level: Highest level (GB/T 39725, 1 to 5) of a column that a plan may use.
        legal_basis: On what the use rests; shown to approvers and kept with approvals.
        purposes: Purposes that plans may state, to the letter; None: any.
        columns: Columns that plans may use, each with its level.
        opt_out_file: Patients who are left out of every read, one a line; empty: none.
        expires: Last day on which anything is computed.
    """

    id: str
    population: str
    level: int
    legal_basis: str
    purposes: tuple[str, ...] | None
    columns: dict[str, int]
    opt_out_file: str
    expires: dt.date


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much is answered, and when.

    Attributes:
        max_rounds: Most sums of a plan.
        max_requests_per_day: N: most proposals and rounds of a day, refused ones too; what it
            means for other messages, `day_limits` says.
        hours: `HH:MM-HH:MM`, the site's own clock, or `always`.
    """

    max_rounds: int = 200
    max_requests_per_day: int = 200
    hours: str = "always"


def read_parts(root: Mapped, file: str) -> dict[str, Any]:
    """Return the fields of a `Policy` from a parsed file.

    Raises:
        PolicyError: `yaml_value`, `yaml_missing_key`, `yaml_unknown_key`, `text_not_plain` or
            `path_outside`, naming line and rule.
    """
    fields = Fields(root, file)
    fields.choice("schema", (POLICY_FORMAT,))
    parts = {
        **_site(fields.section("site")),
        **_network(fields.section("network")),
        **_operations(fields.section("operations")),
        **_privacy(fields.section("privacy")),
        "mode": fields.choice("mode", ("enforce", "dry_run")),
        "dataset": _dataset(fields.section("dataset")),
        "disclosure": Minimums(),
        "limits": Limits(),
        **{"bundle_hashes": (), "valid_days": 90},
        **{"min_sites": 3, "secagg": "required", "colluders": 1},
    }
    optional = {
        "code": _code,
        "approval": _approval,
        "disclosure": _disclosure,
        "federation": _federation,
        "limits": _limits,
    }
    for name, read in optional.items():
        if fields.has(name):
            parts |= read(fields.section(name))
    fields.done()
    return parts


def _site(fields: Fields) -> dict[str, Any]:
    roles = fields.section("approvers")
    found = []
    for role in ROLES:
        keys = roles.pairs(role, Fields.sha256, check_id)
        found += [Approver(name=name, role=role, key=key) for name, key in keys.items()]
        if not keys:
            roles.refuse(role, "must name at least one person, with the key")
    roles.done()
    if len({one.name.casefold() for one in found}) + len({one.key for one in found}) < 2 * len(
        found
    ):
        fields.refuse("approvers", "a person or a key stands in it twice; two people decide")
    parts = {
        "site": fields.id("id"),
        "name": fields.label("name"),
        "jurisdiction": _country(fields, "jurisdiction"),
        "approvers": tuple(found),
    }
    fields.done()
    return parts


def _network(fields: Fields) -> dict[str, Any]:
    coordinator = fields.section("coordinator")
    address = coordinator.text("address")
    found = _ADDRESS.fullmatch(address)
    if found is None or int(found[2]) > 65535 or ".." in address:
        coordinator.refuse("address", "must be host:port, in small letters")
    parts: dict[str, Any] = {
        "coordinator": address,
        "ca_sha256": coordinator.sha256("ca_sha256"),
        "coordinator_jurisdiction": _country(coordinator, "jurisdiction"),
        "cross_border": {},
    }
    coordinator.done()
    if fields.has("cross_border"):
        if fields.is_text("cross_border"):
            fields.choice("cross_border", ("deny",))
        else:
            parts["cross_border"] = fields.pairs("cross_border", Fields.text)
    fields.done()
    return parts


def _code(fields: Fields) -> dict[str, Any]:
    hashes_ = fields.texts("allow_bundle_hashes", lambda text, where: text)
    if not all(re.fullmatch(r"[0-9a-f]{64}", one) for one in hashes_):
        fields.refuse("allow_bundle_hashes", "must be 64 hex digits each, 0-9 and a-f")
    fields.done()
    return {"bundle_hashes": hashes_}


def _approval(fields: Fields) -> dict[str, Any]:
    parts = {"valid_days": fields.whole("valid_days", 1, 366)}
    fields.done()
    return parts


def _dataset(fields: Fields) -> Dataset:
    purposes = None
    if not fields.is_text("purposes"):
        purposes = fields.texts("purposes", check_text)
    elif fields.text("purposes") != "any":
        fields.refuse("purposes", "must be a list of purposes, or any")
    made = Dataset(
        id=fields.id("id"),
        population=fields.label("population"),
        level=fields.whole("level", 1, 5),
        legal_basis=fields.text("legal_basis"),
        purposes=purposes,
        columns=fields.pairs("columns", lambda part, name: part.whole(name, 1, 5), check_text),
        opt_out_file=fields.path("opt_out_file") if fields.has("opt_out_file") else "",
        expires=fields.date("expires"),
    )
    fields.done()
    return made


def _operations(fields: Fields) -> dict[str, Any]:
    allowed = fields.texts("allow", check_id)
    unnoised = fields.texts("unnoised", check_id) if fields.has("unnoised") else ()
    if set(unnoised) - set(allowed):
        fields.refuse("unnoised", "names an analysis that `allow` does not")
    fields.done()
    return {"operations": allowed, "unnoised": unnoised}


def _disclosure(fields: Fields) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for key in ("min_cell_count", "min_cohort", "min_cohort_training", "min_class_count"):
        if fields.has(key):
            given[key] = fields.whole(key, 3, 10**6)
    if fields.has("max_params_ratio"):
        given["max_params_ratio"] = fields.number("max_params_ratio", above=0.0, most=0.33)
    fields.done()
    return {"disclosure": Minimums(**given)}


def _federation(fields: Fields) -> dict[str, Any]:
    parts: dict[str, Any] = {}
    if fields.has("min_sites"):
        parts["min_sites"] = fields.whole("min_sites", 1, 1000)
    if fields.has("secagg"):
        parts["secagg"] = fields.choice("secagg", ("required", "optional"))
    if fields.has("colluders"):
        parts["colluders"] = fields.whole("colluders", 0, 1000)
    fields.done()
    return parts


def _privacy(fields: Fields) -> dict[str, Any]:
    parts = {
        "epsilon_per_study": fields.number("epsilon_per_study", above=0.0, most=100.0),
        "delta_max": fields.number("delta_max", above=0.0, most=0.01),
        "ledger": fields.path("ledger"),
    }
    fields.done()
    return parts


def _limits(fields: Fields) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for key in ("max_rounds", "max_requests_per_day"):
        if fields.has(key):
            given[key] = fields.whole(key, 1, 10**6)
    if fields.has("hours"):
        given["hours"] = fields.text("hours")
        if given["hours"] != "always" and HOURS.fullmatch(given["hours"]) is None:
            fields.refuse("hours", "must be always, or HH:MM-HH:MM")
    fields.done()
    return {"limits": Limits(**given)}


def _country(fields: Fields, key: str) -> str:
    found = fields.text(key)
    if _COUNTRY.fullmatch(found) is None:
        fields.refuse(key, "must be a country code such as CN, DE or US-CA")
    return found
