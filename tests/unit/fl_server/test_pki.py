"""Certificates and keys of a coordinator: who may read them, what they name, when they end."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest
from cryptography import x509

from fedcohort.fl_server.pki import certificate_dates, create_pki, names_of_certificate
from fedcohort.privacy.errors import ConfigError, PolicyError

NAMES = ["coordinator.example", "127.0.0.1"]


def test_the_ca_signs_the_server_and_both_say_what_they_are_for(tmp_path: Path) -> None:
    folder = tmp_path / "pki"
    create_pki(folder, NAMES, federation="heart")
    ca = x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes())
    server = x509.load_pem_x509_certificate((folder / "server.pem").read_bytes())
    server.verify_directly_issued_by(ca)
    basic = x509.BasicConstraints
    assert ca.extensions.get_extension_for_class(basic).value.ca
    assert not server.extensions.get_extension_for_class(basic).value.ca
    assert names_of_certificate(folder / "server.pem") == tuple(NAMES)
    assert names_of_certificate(folder / "ca.crt") == ()


def test_only_the_owner_may_read_any_of_it(tmp_path: Path) -> None:
    folder = tmp_path / "pki"
    create_pki(folder, NAMES, federation="heart")
    assert folder.stat().st_mode & 0o777 == 0o700
    names = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert names == dict.fromkeys(("ca.crt", "ca.key", "server.key", "server.pem"), 0o600)


def test_its_dates_are_read_in_days(tmp_path: Path) -> None:
    folder = tmp_path / "pki"
    create_pki(folder, NAMES, federation="heart")
    dates = certificate_dates(folder / "server.pem")
    now = dt.datetime.now(dt.UTC)
    assert dates.valid_from < now < dates.valid_to
    assert dates.days_left(now) in (364, 365)
    assert dates.days_left(dates.valid_to + dt.timedelta(days=2)) < 0


def test_a_ca_is_never_made_twice(tmp_path: Path) -> None:
    folder = tmp_path / "pki"
    create_pki(folder, NAMES, federation="heart")
    before = (folder / "ca.key").read_bytes()
    with pytest.raises(PolicyError) as refused:
        create_pki(folder, NAMES, federation="heart")
    assert refused.value.code == "file_exists"
    assert (folder / "ca.key").read_bytes() == before


def test_a_folder_that_is_open_to_others_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "pki"
    folder.mkdir(mode=0o755)
    folder.chmod(0o755)
    with pytest.raises(PolicyError) as refused:
        create_pki(folder, NAMES, federation="heart")
    assert refused.value.code == "folder_mode"


@pytest.mark.parametrize("names", [[], ["münchen.example"]])
def test_a_certificate_needs_a_name_that_hosts_can_have(tmp_path: Path, names: list[str]) -> None:
    with pytest.raises(ConfigError) as refused:
        create_pki(tmp_path / "pki", names, federation="heart")
    assert refused.value.code == "certificate_names"


def test_what_is_no_certificate_is_told_apart_from_none(tmp_path: Path) -> None:
    with pytest.raises(PolicyError) as refused:
        certificate_dates(tmp_path / "ca.crt")
    assert refused.value.code == "file_missing"
    (tmp_path / "ca.crt").write_text("no", encoding="ascii")
    (tmp_path / "ca.crt").chmod(0o600)
    with pytest.raises(PolicyError) as refused:
        certificate_dates(tmp_path / "ca.crt")
    assert refused.value.code == "certificate_broken"
