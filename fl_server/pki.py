"""The coordinator's certificates and the nodes' keys.

One CA, kept by the coordinator, signs one server certificate; hospitals get the CA's
certificate with their invitation and trust nothing else. A node proves itself by a P-384 key,
which is all that Flower's node authentication accepts.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives import serialization as formats
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ..hosting import private_folder, read_private, write_new
from ..privacy.errors import ConfigError, PolicyError

__all__ = ["CertificateDates", "certificate_dates", "create_pki", "names_of_certificate"]

_CA_DAYS = 365 * 3
_SERVER_DAYS = 365
_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOST = re.compile(rf"({_LABEL}\.)*{_LABEL}")
_SLACK = dt.timedelta(minutes=5)  # clocks differ


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateDates:
    """When a certificate holds.

    Attributes:
        valid_from: UTC.
        valid_to: UTC.
    """

    valid_from: dt.datetime
    valid_to: dt.datetime

    def days_left(self, now: dt.datetime) -> int:
        """Return whole days until it ends; below 0 when it has."""
        return (self.valid_to - now).days


def create_pki(folder: Path, names: Sequence[str], *, federation: str) -> None:
    """Make a CA and a server certificate: `ca.crt`, `ca.key`, `server.pem`, `server.key`.

    Args:
        folder: New or empty; gets mode 0700, its files 0600.
        names: Host names and IP addresses that hospitals reach the coordinator by.
        federation: The CA's name.

    Raises:
        ConfigError: `certificate_names`: none, or one that is no host name.
        PolicyError: `file_exists`: there is a PKI already.
    """
    if not names:
        raise ConfigError("certificate_names", "a server certificate needs a name")
    alternatives = [_alternative(name) for name in names]
    private_folder(folder)
    if (folder / "ca.key").exists():
        raise PolicyError(
            "file_exists",
            f"{folder} holds a CA already",
            hint="A new CA needs every hospital's consent; use a new folder.",
        )
    now = dt.datetime.now(dt.UTC)
    ca_key, server_key = (ec.generate_private_key(curve) for curve in (_P384, _P256))
    ca_name = _name(f"{federation} CA")
    ca_id = x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key())
    usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
    ca = (
        _dated(x509.CertificateBuilder(), now, _CA_DAYS)
        .subject_name(ca_name)
        .issuer_name(ca_name)
        .public_key(ca_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(ca_id, critical=False)
        .add_extension(usage, critical=True)
        .sign(ca_key, hashes.SHA384())
    )
    issuer = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(ca_id)
    server = (
        _dated(x509.CertificateBuilder(), now, _SERVER_DAYS)
        .subject_name(_name("coordinator"))
        .issuer_name(ca_name)
        .public_key(server_key.public_key())
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(issuer, critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(ca_key, hashes.SHA384())
    )
    write_new(folder / "ca.key", _private(ca_key))
    write_new(folder / "ca.crt", ca.public_bytes(formats.Encoding.PEM))
    write_new(folder / "server.key", _private(server_key))
    write_new(folder / "server.pem", server.public_bytes(formats.Encoding.PEM))


def certificate_dates(path: Path) -> CertificateDates:
    """Return when a certificate holds.

    Raises:
        PolicyError: `file_missing`, `file_mode` or `certificate_broken`.
    """
    found = _certificate(path)
    return CertificateDates(
        valid_from=found.not_valid_before_utc, valid_to=found.not_valid_after_utc
    )


def names_of_certificate(path: Path) -> tuple[str, ...]:
    """Return the host names and addresses of a server certificate.

    Raises:
        PolicyError: As `certificate_dates`.
    """
    try:
        names = _certificate(path).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return ()
    return tuple(str(name.value) for name in names.value)


_P384, _P256 = ec.SECP384R1(), ec.SECP256R1()


def _certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(read_private(path))
    except ValueError as error:
        raise PolicyError("certificate_broken", f"{path} holds no certificate") from error


def _dated(
    builder: x509.CertificateBuilder, now: dt.datetime, days: int
) -> x509.CertificateBuilder:
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - _SLACK)
    return builder.not_valid_after(now + dt.timedelta(days=days))


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    if _HOST.fullmatch(name) is None or len(name) > 253:
        raise ConfigError("certificate_names", f"{name[:64]!r} is no host name")
    return x509.DNSName(name)


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        formats.Encoding.PEM, formats.PrivateFormat.PKCS8, formats.NoEncryption()
    )
