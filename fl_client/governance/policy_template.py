"""The commented policy that `fedcohort site init` writes: it allows nothing until it is edited."""

from __future__ import annotations

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from ...study.enrolment import Invitation
from .plain_text import check_id, check_text

__all__ = ["policy_template"]

_TEMPLATE = """\
# What this hospital lets its node do. Everything that is not allowed here is refused.
#
# Strict YAML: no aliases, tags or repeated keys; a key that is not known is an error. A change of
# any value needs two new signatures (`fedcohort site sign-policy`); a change of a comment
# needs none. Every key, what enforces it and how it refuses: docs/reference/policy.md.
schema: fedcohort.policy/1

site:
  id: SITE_ID                    # the hospital's name in plans
  name: SITE_ID                  # for people, in any language
  jurisdiction: CN               # country code
  approvers:                     # two people, of different roles: NAME: PUBLIC KEY (hex)
    data_owner:                  # `fedcohort site approver-key FILE` makes a key
      NAME_ONE: "KEY_ONE"
    security_officer:
      NAME_TWO: "KEY_TWO"

mode: dry_run                    # enforce, or dry_run: check everything, release nothing

code:
  allow_bundle_hashes: []        # SHA-256 of the app bundles that may run; none: nothing runs

network:
  coordinator:
    address: "coordinator.example:443"
    ca_sha256: "CA_SHA256"       # of its CA certificate, which goes to ca.crt
    jurisdiction: CN             # what the coordinator must declare
  cross_border: deny             # or STUDY: "legal reference", for each study

approval:
  valid_days: 90                 # after that, two people look again

dataset:
  id: SITE_ID-extract
  population: SITE_ID            # whom the ledger counts for; the same for every extract of them
  level: 3                       # highest level (GB/T 39725, 1 to 5) of a column that may be used
  legal_basis: "to be filled in: approval number, consent or waiver"
  purposes: []                   # purposes that plans may state, to the letter; or: any
  columns: {}                    # every column a plan may use: its level, as in age: 2
  opt_out_file: opt-out.txt      # patients who are left out of every read, one a line
  expires: "2000-01-01"          # last day of the permission

operations:
  allow: []                      # averaging breslow counts gradient kaplan_meier newton ...
  unnoised: []                   # those of them that may leave without noise

disclosure:                      # for what leaves without noise; with noise nothing depends on data
  min_cell_count: 10             # patients in a cell of a table that is not empty
  min_cohort: 50                 # patients in any sum
  min_cohort_training: 200       # patients in a sum that trains a model
  min_class_count: 10            # patients with and without the outcome, or a two-valued feature
  max_params_ratio: 0.10         # parameters of a model for each patient

federation:
  min_sites: 3                   # sites in an opened sum
  secagg: required               # required, or optional: sums may then be in plain
  colluders: 1                   # colluding sites that masks and shared noise must stand

privacy:
  epsilon_per_study: 3.0         # of all plans of one study together; no value is safe by itself
  delta_max: 1e-6                # below 1 / patients
  ledger: ledger.sqlite         # the budget for ever: `fedcohort ledger create`

limits:
  max_rounds: 200
  max_requests_per_day: 200      # of each kind, refused ones too
  hours: always                  # or "20:00-06:00", by this machine's clock
"""


def policy_template(
    site: str,
    *,
    approvers: tuple[tuple[str, str], tuple[str, str]] | None = None,
    invitation: Invitation | None = None,
) -> str:
    """Return the text of a policy that parses and allows nothing.

    Args:
        site: The hospital's name in plans.
        approvers: (name, key in hex) of the data owner and of the security officer; None:
            stand-ins whose keys sign nothing.
        invitation: Tells the coordinator's address, CA and country, and the release's bundle, for
            people to check before they sign.

    Raises:
        PolicyError: `text_not_plain`: a name is no plain one.
    """
    people = approvers or (("nobody.one", "0" * 63 + "1"), ("nobody.two", "0" * 63 + "2"))
    text = _TEMPLATE.replace("SITE_ID", check_id(site, "site.id"))
    for (name, key), number in zip(people, ("ONE", "TWO"), strict=True):
        text = text.replace(f"NAME_{number}", check_id(name, "approver"))
        text = text.replace(f"KEY_{number}", check_id(key, "key"))
    if invitation is not None:
        address = check_text(invitation.superlink, "invitation.superlink")
        country = check_id(invitation.jurisdiction, "invitation.jurisdiction")
        bundle = check_id(invitation.bundle, "invitation.bundle")
        text = text.replace("coordinator.example:443", address.replace('"', ""))
        text = text.replace(
            "jurisdiction: CN             # what", f"jurisdiction: {country}   # what"
        )
        text = text.replace("allow_bundle_hashes: []  ", f'allow_bundle_hashes: ["{bundle}"]')
        text = text.replace("CA_SHA256", _fingerprint(invitation.ca))
    return text.replace("CA_SHA256", "0" * 64)


def _fingerprint(ca: str) -> str:
    try:
        found = x509.load_pem_x509_certificate(bytes(ca, "utf-8"))
    except ValueError:
        return "0" * 64  # no certificate: nothing is pinned, so nothing runs
    return found.fingerprint(hashes.SHA256()).hex()
