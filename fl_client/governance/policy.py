"""The hospital's policy: one file that says all that this site will do; nothing else runs.

A missing file runs nothing, a key that is not known is refused, and every key here is
enforced somewhere: `docs/reference/policy.md` says where. The policy is named by the SHA-256 of
what it says, so that a comment may change without a signature and a number may not.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from ...privacy.disclosure import Minimums
from ...privacy.errors import PolicyError
from ...privacy.ledger.charges import Opening
from ._policy_parts import POLICY_FORMAT, ROLES, Approver, Dataset, Limits, read_parts
from .strict_yaml import parse_yaml, read_yaml

__all__ = ["POLICY_FORMAT", "ROLES", "Approver", "Dataset", "Limits", "Policy"]


@dataclass(frozen=True, kw_only=True)  # no slots: its hash is kept
class Policy:
    """See the module's docstring, and docs/reference/policy.md for each key.

    Attributes:
        site: Its name in plans.
        name: For people.
        jurisdiction: Country code of the site.
        approvers: Who may sign, in the file's order.
        mode: `dry_run` releases nothing.
        bundle_hashes: SHA-256 of the app bundles that may run; none: nothing runs.
        coordinator: host:port.
        coordinator_jurisdiction: Country code that the coordinator must declare.
        ca_sha256: Fingerprint of the only CA that is trusted for it.
        cross_border: Studies that may be answered to another country, each with its legal
            reference; empty: none.
        valid_days: How long an approval holds.
        dataset: The extract.
        operations: Names of the analyses that plans may use.
        unnoised: Those of them that may leave without noise.
        disclosure: What leaves without noise at all.
        min_sites: Fewest sites in an opened sum.
        secagg: Whether sums must be masked.
        colluders: Fewest colluding sites that masks (and shared noise) must stand.
        epsilon_per_study: Most epsilon of all plans of one study together.
        delta_max: Largest delta of a plan.
        ledger: File of the ledger, below the site's folder.
        limits: How much is answered, and when.
    """

    site: str
    name: str
    jurisdiction: str
    approvers: tuple[Approver, ...]
    mode: Literal["enforce", "dry_run"]
    bundle_hashes: tuple[str, ...]
    coordinator: str
    coordinator_jurisdiction: str
    ca_sha256: str
    cross_border: dict[str, str]
    valid_days: int
    dataset: Dataset
    operations: tuple[str, ...]
    unnoised: tuple[str, ...]
    disclosure: Minimums
    min_sites: int
    secagg: Literal["required", "optional"]
    colluders: int
    epsilon_per_study: float
    delta_max: float
    ledger: str
    limits: Limits

    @classmethod
    def read(cls, path: Path) -> Policy:
        """Read a policy file.

        Raises:
            PolicyError: `policy_missing`, or as `parse`.
        """
        if not path.is_file():
            raise PolicyError(
                "policy_missing",
                f"there is no policy at {path}, so nothing runs",
                hint="Make one with `fedcohort site init`, and have two people sign it.",
            )
        return cls(**read_parts(read_yaml(path), path.name))

    @classmethod
    def parse(cls, text: str, name: str = "policy.yaml") -> Policy:
        """Read a policy from text.

        Raises:
            PolicyError: `yaml_...`, `text_not_plain` or `path_outside`, naming line and rule.
        """
        return cls(**read_parts(parse_yaml(text, name), name))

    def to_json(self) -> str:
        """Return what it says as canonical JSON; comments and order are no part of it."""
        document = {"format": POLICY_FORMAT, **dataclasses.asdict(self)}
        return json.dumps(
            document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str
        )

    @cached_property
    def sha256(self) -> str:
        """Hash of the canonical JSON: what two people sign, and what every entry names."""
        return hashlib.sha256(bytes(self.to_json(), "utf-8")).hexdigest()

    @property
    def allowed_columns(self) -> tuple[str, ...]:
        """Columns that a plan may use: listed, and of an allowed level."""
        data = self.dataset
        return tuple(name for name, level in data.columns.items() if level <= data.level)

    def person(self, name: str) -> Approver | None:
        """Return the approver of a name."""
        return next((one for one in self.approvers if one.name == name), None)

    def check_bundle(self, sha256: str) -> None:
        """Refuse an app bundle that is not on the list.

        Raises:
            PolicyError: `policy_bundle`.
        """
        if sha256 not in self.bundle_hashes:
            raise PolicyError(
                "policy_bundle",
                "the app bundle's hash is not in code.allow_bundle_hashes",
                hint="Compare it with the release notes; then add it, and sign the policy anew.",
            )

    def check_ca(self, pem: bytes) -> None:
        """Refuse a certificate authority other than the pinned one.

        Raises:
            PolicyError: `policy_ca`.
        """
        try:
            found = x509.load_pem_x509_certificate(pem).fingerprint(hashes.SHA256()).hex()
        except ValueError:
            found = ""
        if found != self.ca_sha256:
            raise PolicyError(
                "policy_ca",
                "the coordinator's CA certificate is not the one that the policy pins",
                hint="Ask the coordinator for its fingerprint by another way than this file came.",
            )

    def check_ledger(self, opening: Opening) -> None:
        """Refuse a ledger that counts for somebody else.

        Raises:
            PolicyError: `policy_ledger`.
        """
        told = (opening.kind, opening.hospital, opening.population)
        if told != ("site", self.site, self.dataset.population):
            raise PolicyError(
                "policy_ledger",
                "the ledger was opened for another hospital or population than the policy names",
                hint="Give `fedcohort ledger create` site.id and dataset.population.",
            )
