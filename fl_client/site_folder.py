"""A site's folder: everything a node has of its own, readable for its own user only.

    policy.yaml  policy.signatures.json  approvers.json   what the hospital allows, and who signed
    mapping.yaml  data/  opt-out.txt                      the extract
    identity.pem  node.key  ca.crt                        who this node is, whom it trusts
    plans/  approvals.jsonl  audit.jsonl  ledger.sqlite   what was asked, decided and spent
    flower/                                               FLWR_HOME

Approvers' private keys do not belong here: each approver keeps one's own.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ..privacy.errors import ConfigError
from ..privacy.secagg.identity import create_identity
from .node_key import create_node_key
from .plain_text import inside
from .policy import Policy
from .policy_template import policy_template
from .site_data import mapping_template

__all__ = ["Made", "SiteFolder", "add_policy", "create_approver_key", "init"]

_FOLDERS = ("data", "plans", "flower")
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW


@dataclass(frozen=True, slots=True)
class SiteFolder:
    """The names of the files in a site's folder."""

    root: Path

    @property
    def policy(self) -> Path:
        """What the hospital allows."""
        return self.root / "policy.yaml"

    @property
    def signatures(self) -> Path:
        """Who signed it."""
        return self.root / "policy.signatures.json"

    @property
    def approvers(self) -> Path:
        """Whose signatures count: the pin."""
        return self.root / "approvers.json"

    @property
    def mapping(self) -> Path:
        """Where the extract lies."""
        return self.root / "mapping.yaml"

    @property
    def approvals(self) -> Path:
        """What was said of plans."""
        return self.root / "approvals.jsonl"

    @property
    def audit(self) -> Path:
        """What happened."""
        return self.root / "audit.jsonl"

    @property
    def plans(self) -> Path:
        """The plans that came in."""
        return self.root / "plans"

    @property
    def identity(self) -> Path:
        """The Ed25519 key of secure aggregation."""
        return self.root / "identity.pem"

    @property
    def node_key(self) -> Path:
        """The EC P-384 key by which Flower knows the node; `.pub` beside it is enrolled."""
        return self.root / "node.key"

    @property
    def ca(self) -> Path:
        """The coordinator's CA certificate, PEM."""
        return self.root / "ca.crt"

    @property
    def flower(self) -> Path:
        """FLWR_HOME."""
        return self.root / "flower"

    def ledger(self, policy: Policy) -> Path:
        """Return the ledger's file.

        Raises:
            PolicyError: `path_outside`.
        """
        return inside(self.root, policy.ledger, "privacy.ledger")

    def opt_out(self, policy: Policy) -> Path | None:
        """Return the opt-out list's file, None where the policy names none.

        Raises:
            PolicyError: `path_outside`.
        """
        named = policy.dataset.opt_out_file
        return inside(self.root, named, "dataset.opt_out_file") if named else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What `init` made: the public halves, for the coordinator's roster.

    Attributes:
        folder: The site's folder.
        identity: Ed25519 public key, hex.
        node_key: EC P-384 public key, one line of OpenSSH.
    """

    folder: SiteFolder
    identity: str
    node_key: str


def init(
    folder: Path,
    site: str,
    *,
    approvers: tuple[tuple[str, str], tuple[str, str]] | None = None,
) -> Made:
    """Make a site's folder: keys, a policy that allows nothing yet, a mapping to be filled in.

    Args:
        folder: Must not exist, or be empty.
        site: The hospital's name in plans.
        approvers: (name, public key in hex) of the data owner and the security officer.

    Raises:
        ConfigError: `site_exists`: nothing is ever overwritten.
        PolicyError: `text_not_plain`.
    """
    Policy.parse(policy_template(site, approvers=approvers))  # before anything is made
    if folder.is_symlink() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
        raise _exists(folder)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.chmod(0o700)
    made = SiteFolder(folder)
    identity = create_identity(made.identity)
    node_key = _node_key(made.node_key)
    add_policy(folder, site, approvers=approvers)
    return Made(
        folder=made, identity=identity.public_key().public_bytes_raw().hex(), node_key=node_key
    )


def add_policy(
    folder: Path,
    site: str,
    *,
    approvers: tuple[tuple[str, str], tuple[str, str]] | None = None,
) -> None:
    """Put a policy that allows nothing, a mapping stub and an opt-out list into a site's folder.

    For a folder whose keys are made by other means, such as joining by an invitation.

    Raises:
        ConfigError: `site_exists`: nothing is ever overwritten.
        PolicyError: `text_not_plain`.
    """
    made = SiteFolder(folder)
    files = {
        made.policy: policy_template(site, approvers=approvers),
        made.mapping: mapping_template(),
        folder / "opt-out.txt": "# one patient's token a line, as in the patient column\n",
    }
    if any(path.exists() or path.is_symlink() for path in files):
        raise _exists(folder)
    for name in _FOLDERS:
        (folder / name).mkdir(mode=0o700, exist_ok=True)
        (folder / name).chmod(0o700)
    for path, text in files.items():
        _write(path, bytes(text, "utf-8"))


def create_approver_key(path: Path) -> str:
    """Make an approver's key, mode 0600; return its public half, hex, for the policy.

    Raises:
        PolicyError: `identity_exists`: a key is never overwritten.
    """
    return create_identity(path).public_key().public_bytes_raw().hex()


def _node_key(path: Path) -> str:
    public = create_node_key(path)
    _write(path.with_name(f"{path.name}.pub"), bytes(f"{public}\n", "ascii"))
    return public


def _exists(folder: Path) -> ConfigError:
    return ConfigError(
        "site_exists",
        f"{folder} holds something already, and nothing is overwritten",
        hint="Name a new folder; a node that is moved takes its whole folder along.",
    )


def _write(path: Path, data: bytes) -> None:
    with os.fdopen(os.open(path, _NEW, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
