"""A site's folder, its extract, its disclosure rules, and the doctor that looks at all of it."""

from __future__ import annotations

import datetime as dt
import http.server
import ipaddress
import os
import ssl
import stat
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_ssh_private_key,
    load_ssh_public_key,
)

from fedcohort.fl_client.doctor import FLOWER_SWITCHES, Check, doctor
from fedcohort.fl_client.governance.plain_text import check_path, inside
from fedcohort.fl_client.governance.policy import Policy
from fedcohort.fl_client.governance.signatures import pin, sign_policy
from fedcohort.fl_client.governance.site_rules import classes_of, site_rules
from fedcohort.fl_client.site_data import SiteData
from fedcohort.fl_client.site_folder import create_approver_key, init
from fedcohort.privacy.budget import Budget
from fedcohort.privacy.errors import ConfigError, FedCohortError, PolicyError
from fedcohort.privacy.ledger.charges import Opening
from fedcohort.privacy.ledger.store import SqliteLedger
from fedcohort.privacy.secagg.identity import load_identity
from fedcohort.privacy.secagg.roster import Member, Roster, SignedRoster
from fedcohort.privacy.secagg.roster_file import signed_roster_to_json
from fedcohort.study.bundle import bundle_sha256
from fedcohort.study.plan import Plan

NOW = dt.datetime.now(dt.UTC)
CODEBOOK = """\
name: stroke
outcome: outcome
columns:
  age: {type: number, range: [0, 110]}
  sex: {type: category, values: [female, male], other: false}
  glucose: {type: number, range: [0, 50]}
  late: {type: number, range: [0, 9], after_outcome: true}
"""
MAPPING = """\
schema: fedcohort.mapping/1
table: data/extract.csv
codebook: data/codebook.yaml
patient: id
outcome: outcome
"""


def code_of(act: Callable[[], object]) -> str:
    with pytest.raises(FedCohortError) as error:
        act()
    return error.value.code


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# ---- the folder


def test_init_makes_keys_and_a_policy_that_only_the_owner_may_read(tmp_path: Path) -> None:
    made = init(tmp_path / "site", "h03")
    folder = made.folder
    everything = [folder.root, *folder.root.rglob("*")]
    assert all(mode_of(path) == (0o700 if path.is_dir() else 0o600) for path in everything)
    assert load_identity(folder.identity).public_key().public_bytes_raw().hex() == made.identity
    key = load_ssh_private_key(folder.node_key.read_bytes(), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert isinstance(key.curve, ec.SECP384R1)
    public = folder.node_key.with_name("node.key.pub").read_bytes()
    assert load_ssh_public_key(public) == key.public_key()
    assert public.decode().strip() == made.node_key
    assert Policy.read(folder.policy).site == "h03"


def test_nothing_is_ever_overwritten(tmp_path: Path) -> None:
    init(tmp_path / "site", "h03")
    before = (tmp_path / "site" / "identity.pem").read_bytes()
    assert code_of(lambda: init(tmp_path / "site", "h03")) == "site_exists"
    assert (tmp_path / "site" / "identity.pem").read_bytes() == before
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("file", "link"):
        assert code_of(partial(init, tmp_path / name, "h03")) == "site_exists"
    assert code_of(lambda: create_approver_key(tmp_path / "site" / "identity.pem")) == (
        "identity_exists"
    )


def test_a_wrong_name_leaves_nothing_behind(tmp_path: Path) -> None:
    assert code_of(lambda: init(tmp_path / "site", "../h03")) == "text_not_plain"
    assert list(tmp_path.iterdir()) == []


def test_an_approvers_key_is_the_approvers_alone(tmp_path: Path) -> None:
    public = create_approver_key(tmp_path / "zhang.pem")
    assert mode_of(tmp_path / "zhang.pem") == 0o600
    assert load_identity(tmp_path / "zhang.pem").public_key().public_bytes_raw().hex() == public


@pytest.mark.parametrize(
    "path",
    ["", ".", "..", "../x", "a/../b", "/etc/passwd", "~/x", "$HOME/x", "a//b", "a/", "./a",
     "a\\b", "c:x", "a\x00b", "a\nb", "a*", "a?", "a|b", "<a", "a\u202eb"],
)  # fmt: skip
def test_a_path_stays_below_the_folder(path: str) -> None:
    assert code_of(lambda: check_path(path, "where")) == "path_outside"


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "data").symlink_to(tmp_path)
    assert inside(site, "a/b.csv", "where") == site / "a" / "b.csv"
    assert code_of(lambda: inside(site, "data/b.csv", "where")) == "path_outside"


# ---- the extract


def extract(rows: int = 400, columns: str = "id,age,sex,glucose,outcome,hiv") -> str:
    draw = np.random.default_rng(5)
    lines = [columns]
    for number in range(rows):
        sex, hiv = ("female", "male")[number % 2], int(number == 17)
        values = f"P{number},{draw.integers(20, 90)},{sex},{draw.normal(6, 1):.2f}"
        lines.append(f"{values},{int(draw.random() < 0.4)},{hiv}")
    return "\n".join(lines) + "\n"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    folder = tmp_path / "site"
    init(folder, "h03")
    (folder / "data" / "extract.csv").write_text(extract())
    (folder / "data" / "codebook.yaml").write_text(CODEBOOK)
    (folder / "mapping.yaml").write_text(MAPPING)
    return folder


def test_a_mapping_gives_the_cohort_of_one_hospital(site: Path) -> None:
    data = SiteData.read(site, "h03")
    assert data.columns == ("age", "sex", "glucose", "outcome")
    cohort, _ = data.cohort()
    assert (cohort.site, cohort.patients) == ("h03", 400)
    assert cohort.schema.features == ("age", "sex=male", "glucose")
    assert cohort.schema.name == "stroke"


def test_a_column_that_is_not_named_is_not_read(site: Path) -> None:
    data = SiteData.read(site, "h03")
    assert set(data.cohort()[0].groups) == {"sex", "age_band"}
    (site / "mapping.yaml").write_text(MAPPING + "features: [glucose]\n")
    narrow = SiteData.read(site, "h03")
    assert narrow.columns == ("glucose", "outcome")
    assert narrow.cohort()[0].groups == {}
    assert set(narrow.cohort(["sex"])[0].groups) == {"sex"}


def test_the_fingerprint_is_of_table_codebook_and_mapping(site: Path) -> None:
    first = SiteData.read(site, "h03").fingerprint
    assert SiteData.read(site, "h03").fingerprint == first
    (site / "opt-out.txt").write_text("P1\n")
    assert SiteData.read(site, "h03").fingerprint == first
    for path, text in [
        (site / "data" / "extract.csv", extract(399)),
        (site / "data" / "codebook.yaml", CODEBOOK.replace("110", "111")),
        (site / "mapping.yaml", MAPPING + "exclude: [glucose]\n"),
    ]:
        before = path.read_text()
        path.write_text(text)
        assert SiteData.read(site, "h03").fingerprint != first
        path.write_text(before)


def test_an_extract_that_changes_under_a_running_node_is_refused(site: Path) -> None:
    data = SiteData.read(site, "h03")
    assert data.fingerprint
    (site / "data" / "extract.csv").write_text(extract(399))
    assert code_of(data.cohort) == "data_changed"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (MAPPING.replace("data/extract", "../extract"), "path_outside"),
        (MAPPING.replace("data/extract.csv", "/etc/passwd"), "path_outside"),
        (MAPPING.replace("table:", "tables:"), "yaml_missing_key"),
        (MAPPING + "_target_: os.system\n", "yaml_unknown_key"),
        (MAPPING + "features: age\n", "yaml_value"),
        (MAPPING + 'time: "a\\u202eb"\n', "yaml_character"),
        (MAPPING + "time: &x days\n", "yaml_alias"),
    ],
)
def test_a_mapping_is_read_strictly(site: Path, text: str, code: str) -> None:
    (site / "mapping.yaml").write_text(text)
    assert code_of(lambda: SiteData.read(site, "h03")) == code


def test_a_list_of_patients_needs_a_column_of_patients(site: Path) -> None:
    SiteData.read(site, "h03").check_opt_out("opt-out.txt")
    (site / "mapping.yaml").write_text(MAPPING.replace("patient: id", "patient: one_row_each"))
    SiteData.read(site, "h03").check_opt_out("")
    code = code_of(lambda: SiteData.read(site, "h03").check_opt_out("opt-out.txt"))
    assert code == "opt_out_no_patient"


# ---- the rules of a plan at this site


def test_the_patients_of_each_class_are_counted(site: Path) -> None:
    cohort, _ = SiteData.read(site, "h03").cohort()
    counted = classes_of(cohort)
    with_outcome = int(cohort.outcome_flag.sum())
    assert counted.outcome == (with_outcome, 400 - with_outcome)
    assert counted.features == ((200, 200),)  # sex; age and glucose take many values
    twice = cohort.take(np.arange(400).repeat(2))
    assert classes_of(twice) == counted  # patients, not rows


def test_a_rare_value_at_the_end_of_a_long_table_is_seen(site: Path) -> None:
    cohort, _ = SiteData.read(site, "h03").cohort()
    features = np.zeros((3000, 3), dtype=np.float32)
    features[-1, 0] = 1
    features[:, 1] = np.arange(3000)
    many = cohort.take(np.zeros(3000, dtype=np.int64))
    object.__setattr__(many, "features", features)
    object.__setattr__(many, "patient", np.arange(3000, dtype=np.uint64))
    assert classes_of(many).features == ((2999, 1), (3000,))


def test_the_rules_follow_the_plan(hospital: Any, plan_of: Callable[..., Plan]) -> None:
    training = site_rules(hospital.policy, plan_of(analysis="newton", privacy=None))
    assert training.parameters == 4
    assert training.minimums.min_cohort == 60
    hazard = plan_of(
        analysis="breslow",
        privacy=None,
        parameters={"theta": [0.1], "horizon_days": 365.0, "bound": 3.0},
    )
    assert site_rules(hospital.policy, hazard).parameters > 2  # every number that leaves


# ---- the doctor


class _Healthy(http.server.BaseHTTPRequestHandler):
    ahead_s = 0.0

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()

    def date_time_string(self, timestamp: float | None = None) -> str:
        return super().date_time_string(NOW.timestamp() + self.ahead_s)

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


class Coordinator:
    """A TLS server on this machine, under a CA of its own."""

    def __init__(self, folder: Path, ends: dt.timedelta = dt.timedelta(days=300)) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test CA")])
        local = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        self.ca = (
            x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
            .not_valid_before(NOW - dt.timedelta(days=1))
            .not_valid_after(NOW + ends)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(local, critical=False)
            .sign(key, hashes.SHA256())
        )
        self.pem = self.ca.public_bytes(Encoding.PEM)
        both = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + self.pem
        (folder / "server.pem").write_bytes(both)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "server.pem")
        self.handler = type("Handler", (_Healthy,), {})
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self.handler)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[Coordinator]:
    made = Coordinator(tmp_path)
    yield made
    made.server.shutdown()
    made.server.server_close()


def checks(folder: Path, **changes: Any) -> dict[str, Check]:
    facts: dict[str, Any] = {"environment": dict(FLOWER_SWITCHES), "now": lambda: NOW}
    return {one.name: one for one in doctor(folder, timeout_s=5.0, **(facts | changes))}


@pytest.fixture
def ready(site: Path, coordinator: Coordinator, hospital: Any, monkeypatch: Any) -> Path:
    """A site whose every precondition holds."""
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    policy = write_policy(site, coordinator, hospital)
    (site / "ca.crt").write_bytes(coordinator.pem)
    opening = Opening(
        hospital="h03",
        population=policy.dataset.population,
        kind="site",
        budget=Budget(epsilon=8.0, delta=1e-5),
        unnoised=False,
    )
    SqliteLedger.create(site / "ledger.sqlite", opening).dispose()
    (site / "roster.json").write_text(roster_of(site))
    for path in site.rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)
    return site


def roster_of(site: Path) -> str:
    identities = {name: Ed25519PrivateKey.generate() for name in ("h01", "h02")}
    identities["h03"] = load_identity(site / "identity.pem")
    roster = Roster(
        federation="f",
        version=1,
        suite=1,
        members=tuple(
            Member(name=name, public=key.public_key().public_bytes_raw())
            for name, key in identities.items()
        ),
        coordinator=bytes([7]) * 32,
        colluders=1,
        valid_from=(NOW.date() - dt.timedelta(days=9)).isoformat(),
        valid_to=(NOW.date() + dt.timedelta(days=9)).isoformat(),
    )
    return signed_roster_to_json(SignedRoster.sign(roster, identities))


def write_policy(
    site: Path, coordinator: Coordinator, hospital: Any, *edits: tuple[str, str]
) -> Policy:
    fingerprint = coordinator.ca.fingerprint(hashes.SHA256()).hex()
    text = hospital.edited(
        ("coord.example:443", coordinator.address),
        ("cd" * 32, fingerprint),
        ("ab" * 32, bundle_sha256()),
        *edits,
    )
    (site / "policy.yaml").write_text(text)
    policy = Policy.parse(text)
    for name, key in hospital.keys.items():
        sign_policy(policy, name, key, site / "policy.signatures.json")
    if not (site / "approvers.json").exists():
        pin(policy, site / "policy.signatures.json", site / "approvers.json")
    return policy


def test_a_site_that_is_ready_passes_every_check(ready: Path) -> None:
    found = checks(ready)
    assert {name: (one.outcome, one.detail) for name, one in found.items()
            if one.outcome != "pass"} == {}  # fmt: skip
    assert len(found) == 18
    assert float(found["clock"].detail.split(" s ")[0]) <= 2


def test_every_failure_has_a_remedy_and_stops_no_other_check(tmp_path: Path) -> None:
    init(tmp_path / "site", "h03")
    (tmp_path / "site" / "policy.yaml").unlink()
    found = checks(tmp_path / "site", environment={})
    assert len(found) == 18
    failed = {name for name, one in found.items() if one.outcome == "fail"}
    assert failed == {"flower switches", "policy", "CA dates"}
    assert all(found[name].remedy for name in failed)
    assert found["data"].outcome == found["coordinator"].outcome == "skip"
    nowhere = checks(tmp_path / "nowhere")
    assert nowhere["modes"].outcome == nowhere["policy"].outcome == "fail"


BREAK: list[tuple[str, Callable[[Path], object]]] = [
    ("modes", lambda site: (site / "policy.yaml").chmod(0o644)),
    ("identity key", lambda site: (site / "identity.pem").chmod(0o640)),
    ("policy", lambda site: (site / "policy.yaml").write_text("a: &x 1\n")),
    ("policy signatures", lambda site: (site / "policy.signatures.json").unlink()),
    ("pinned CA", lambda site: (site / "ca.crt").write_text("no certificate")),
    ("CA dates", lambda site: (site / "ca.crt").unlink()),
    (
        "release",
        lambda site: (site / "policy.yaml").write_text(
            (site / "policy.yaml").read_text().replace(bundle_sha256(), "ef" * 32)
        ),
    ),
    ("roster", lambda site: (site / "roster.json").unlink()),
    ("ledger", lambda site: (site / "ledger.sqlite").unlink()),
    ("ledger", lambda site: (site / "ledger.sqlite.head").unlink()),
    ("audit log", lambda site: (site / "audit.jsonl").write_text("{}\n")),
    ("data", lambda site: (site / "data" / "extract.csv").unlink()),
    ("data", lambda site: (site / "mapping.yaml").write_text(MAPPING + "features: [hiv]\n")),
    ("data", lambda site: (site / "data" / "extract.csv").write_text("id,age\nP1,3\n")),
]


@pytest.mark.parametrize(("name", "spoil"), BREAK)
def test_what_is_wrong_is_found_where_it_is(
    ready: Path, name: str, spoil: Callable[[Path], object]
) -> None:
    spoil(ready)
    found = checks(ready)[name]
    assert found.outcome == "fail"
    assert found.detail
    assert found.remedy


def test_a_coordinator_under_another_ca_is_no_coordinator(ready: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Coordinator(tmp_path / "other")
    (ready / "ca.crt").write_bytes(other.pem)
    found = checks(ready)
    assert found["pinned CA"].outcome == "fail"
    assert "pinned CA" in found["coordinator"].detail
    assert found["clock"].outcome == "skip"
    other.server.shutdown()
    other.server.server_close()


def test_a_coordinator_that_is_away_is_told_with_what_to_open(
    ready: Path, coordinator: Coordinator
) -> None:
    coordinator.server.shutdown()
    coordinator.server.server_close()
    found = checks(ready)
    assert (found["coordinator"].outcome, found["clock"].outcome) == ("fail", "skip")
    assert coordinator.address in found["coordinator"].remedy


@pytest.mark.parametrize(("ahead_s", "outcome"), [(110, "pass"), (-110, "pass"), (130, "fail")])
def test_a_clock_that_is_off_is_found(
    ready: Path, coordinator: Coordinator, ahead_s: float, outcome: str
) -> None:
    coordinator.handler.ahead_s = ahead_s  # type: ignore[attr-defined]
    assert checks(ready)["clock"].outcome == outcome


def test_a_certificate_that_ends_soon_is_found(ready: Path) -> None:
    assert checks(ready, now=lambda: NOW + dt.timedelta(days=280))["CA dates"].outcome == "fail"


def test_an_edited_policy_and_another_ledger_are_found(
    ready: Path, coordinator: Coordinator, hospital: Any
) -> None:
    path = ready / "policy.yaml"
    path.write_text(path.read_text().replace("min_sites: 3", "min_sites: 2"))
    assert "policy_unsigned" in checks(ready)["policy signatures"].detail
    write_policy(ready, coordinator, hospital, ("admissions 2019-2025", "others"))
    assert checks(ready)["policy signatures"].outcome == "pass"
    assert "policy_ledger" in checks(ready)["ledger"].detail


def test_versions_are_held_against_the_releases_pins(tmp_path: Path) -> None:
    pins = tmp_path / "constraints.txt"
    pins.write_text("# pins\nnumpy==1.0\n")
    assert "numpy" in checks(tmp_path, constraints=pins)["versions"].detail
    assert checks(tmp_path)["versions"].outcome == "pass"


def test_the_doctor_tells_no_value_of_the_extract(ready: Path) -> None:
    (ready / "data" / "extract.csv").write_text(extract().replace("P17,", "张三 4711,"))
    shown = " ".join(f"{one.detail} {one.remedy}" for one in doctor(ready, environment=os.environ))
    assert "张三" not in shown
    assert "4711" not in shown


def test_errors_of_the_folder_are_of_the_researchers_kind(tmp_path: Path) -> None:
    init(tmp_path / "site", "h03")
    with pytest.raises(ConfigError):
        init(tmp_path / "site", "h03")
    with pytest.raises(PolicyError):
        create_approver_key(tmp_path / "site" / "identity.pem")
