"""A site's folder: everything a node has of its own, readable for its own user only.

    policy.yaml  policy.signatures.json  approvers.json   what the hospital allows, and who signed
    mapping.yaml  data/  opt-out.txt                      the extract
    identity.pem  node.key  runtime.secret                who this node is
    ca.crt  coordinator.pub  roster.json                  whom it trusts
    plans/  approvals.jsonl  audit.jsonl                  what was asked, decided and let out
    ledger.sqlite  rounds.json                            what was spent, which keys were used
    results/  exact-cohorts.json                          what came of plans, whom exact ones used
    extract-check.json                                    that people looked at the records
    flower/  logs/                                        FLWR_HOME, and what the processes said

Approvers' private keys do not belong here: each approver keeps one's own.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from pathlib import Path

from ..hosting import private_folder, read_private, write_new
from ..privacy.errors import ConfigError, PolicyError
from ..privacy.secagg.identity import create_identity
from ..study.enrolment import Invitation
from ..study.plan import Plan
from .governance.plain_text import inside
from .governance.policy import Policy
from .governance.policy_template import policy_template
from .node_key import create_node_key
from .site_data import mapping_template

__all__ = ["Made", "SiteFolder", "create_approver_key", "init"]

_FOLDERS = ("data", "plans", "results", "flower", "logs")


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
        """The EC P-384 key by which Flower knows the node."""
        return self.root / "node.key"

    @property
    def public_node_key(self) -> Path:
        """Its public half, one line of OpenSSH."""
        return self.root / "node.key.pub"

    @property
    def ca(self) -> Path:
        """The coordinator's CA certificate, PEM."""
        return self.root / "ca.crt"

    @property
    def coordinator(self) -> Path:
        """The coordinator's Ed25519 public key, hex, as its invitation said."""
        return self.root / "coordinator.pub"

    @property
    def roster(self) -> Path:
        """The roster that this site pinned."""
        return self.root / "roster.json"

    @property
    def rounds(self) -> Path:
        """The counter of used keys."""
        return self.root / "rounds.json"

    @property
    def exact_cohorts(self) -> Path:
        """Whom sums without noise were over."""
        return self.root / "exact-cohorts.json"

    @property
    def extract_check(self) -> Path:
        """That the extract broke no rule when people looked at it."""
        return self.root / "extract-check.json"

    def round(self, plan_sha256: str) -> Path:
        """Return where a plan's round is kept while it runs."""
        return self.plans / f"{plan_sha256}.round"

    @property
    def secret(self) -> Path:
        """What SuperNode and worker share."""
        return self.root / "runtime.secret"

    @property
    def results(self) -> Path:
        """What came of plans, by hash."""
        return self.root / "results"

    @property
    def flower(self) -> Path:
        """FLWR_HOME."""
        return self.root / "flower"

    @property
    def logs(self) -> Path:
        """One log a process, and the supervisor's state."""
        return self.root / "logs"

    def plan(self, plan_sha256: str) -> Plan:
        """Return a plan that came in.

        Raises:
            ConfigError: `plan_unknown_here`.
            PolicyError: `plan_unreadable`, or a file's mode.
        """
        known = re.fullmatch(r"[0-9a-f]{64}", plan_sha256) is not None
        path = self.plans / f"{plan_sha256}.json"
        if not known or not path.exists():
            raise ConfigError(
                "plan_unknown_here",
                "no plan of this hash came in here",
                hint="`fedcohort site studies` lists those that did.",
            )
        plan = Plan.from_json(read_private(path).decode("utf-8", "replace"))
        if plan.sha256 != plan_sha256:
            raise PolicyError("plan_unreadable", "the plan's file is not what its name says")
        return plan

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
    """What `init` made: the public halves.

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
    invitation: Invitation | None = None,
) -> Made:
    """Make a site's folder: keys, a policy that allows nothing yet, a mapping to be filled in.

    Args:
        folder: Must not exist, or be empty.
        site: The hospital's name in plans.
        approvers: (name, public key in hex) of the data owner and the security officer.
        invitation: Fills in where the coordinator is; joining is still to be done.

    Raises:
        ConfigError: `site_exists`: nothing is ever overwritten.
        PolicyError: `text_not_plain`, or a `yaml_value` that the invitation brought.
    """
    policy = policy_template(site, approvers=approvers, invitation=invitation)
    Policy.parse(policy)  # before anything is made
    if folder.is_symlink() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
        raise ConfigError(
            "site_exists",
            f"{folder} holds something already, and nothing is overwritten",
            hint="Name a new folder; a node that is moved takes its whole folder along.",
        )
    private_folder(folder).chmod(0o700)
    made = SiteFolder(folder)
    for name in _FOLDERS:
        private_folder(folder / name)
    identity = create_identity(made.identity)
    node_key = create_node_key(made.node_key)
    files = {
        made.public_node_key: f"{node_key}\n",
        made.policy: policy,
        made.mapping: mapping_template(),
        folder / "opt-out.txt": (
            "# one patient's token a line, as in the patient column\n"
            "# a comment is # and a space; without the space it is a token, as in #A12\n"
        ),
    }
    for path, text in files.items():
        write_new(path, bytes(text, "utf-8"))
    write_new(made.secret, secrets.token_bytes(48))
    return Made(
        folder=made, identity=identity.public_key().public_bytes_raw().hex(), node_key=node_key
    )


def create_approver_key(path: Path) -> str:
    """Make an approver's key, mode 0600; return its public half, hex, for the policy.

    Raises:
        PolicyError: `identity_exists`: a key is never overwritten.
    """
    return create_identity(path).public_key().public_bytes_raw().hex()
