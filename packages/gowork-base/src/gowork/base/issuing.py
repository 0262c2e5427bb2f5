"""Makes an authority for development, and the certificates that it issues, with the roles of those who have them.

Owns what these certificates say, and which keys and spans of time they may have. It writes no files. Each certificate
has a key of its own, on the curve P-256: gRPC refuses certificates of Ed25519 keys.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import re
import secrets
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from msgspec import Struct

from gowork.base.certificates import CertificateError, read_certificates, read_key, same_key, time_fault
from gowork.base.file_writing import SECRET_FORBIDDEN
from gowork.base.identities import Role, uri_of

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes

#: How long an authority is valid, in days.
AUTHORITY_DAYS = 3650
#: How long a certificate is valid unless somebody asks otherwise, and at most, in days.
DAYS, DAYS_MAX = 90, 397
#: How many bytes of UTF-8 a name has at most. RFC 5280 allows no more in a common name.
NAME_BYTES_MAX = 64
#: How many hosts a certificate names at most.
HOSTS_MAX = 100
#: How long before now certificates begin to be valid, because clocks differ.
_EARLIER = datetime.timedelta(minutes=5)
#: How many bits an authority's RSA key has at least. Other authorities than ours may have one.
_RSA_BITS_MIN = 2048
_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")
_HOST_CHARACTERS_MAX = 253
#: Whoever listens there is called at other addresses.
_UNSPECIFIED = ("0.0.0.0", "::")  # noqa: S104 - they are refused


#: Those that others call in any case.
SERVERS = frozenset({Role.LEADER, Role.PROXY})
#: Those that others may call: a callback worker is one of them.
CALLED = SERVERS | {Role.WORKER}
#: For which hosts the certificates of SERVERS are, unless somebody asks otherwise.
LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")


class IssuingError(ValueError):
    """No certificate can be made of what was asked for. The message says what to ask for instead."""


class Issued(Struct, frozen=True):
    """A certificate and its key."""

    certificate: x509.Certificate
    #: Both in PEM form, the key without a passphrase.
    pem: bytes
    key_pem: bytes


class Authority:
    """An authority that can issue certificates.

    Args:
        certificate: its own.
        key: the certificate's.
    """

    def __init__(self, certificate: x509.Certificate, key: CertificateIssuerPrivateKeyTypes) -> None:
        self.certificate = certificate
        self._key = key

    @classmethod
    def read(cls, certificate: Path, key: Path, now: datetime.datetime | None = None) -> Authority:
        """Reads an authority from PEM files.

        Args:
            certificate: a file with its certificate; there may be those of other authorities, as while it is replaced.
            key: its key.
            now: with a time zone; None: the present time.

        Raises:
            CertificateError: a file can't be read, others may read the key, it is of no certificate there, or the
                authority is expired, not yet valid, weak, or none at all.
        """
        private = read_key(key)
        _check_secret(key)
        found = next((each for each in read_certificates(certificate) if same_key(private, each)), None)
        if found is None:
            raise CertificateError(f"{key} is the key of another authority than {certificate}; give the two that fit")
        if fault := _no_authority(found) or time_fault(found, now):
            raise CertificateError(f"{certificate}: the authority {fault}")
        return cls(found, _strong(private, key))

    def issue(
        self,
        name: str,
        roles: Sequence[Role],
        hosts: Sequence[str] = (),
        days: int = DAYS,
        now: datetime.datetime | None = None,
    ) -> Issued:
        """Makes a certificate and its key.

        Args:
            name: who has it.
            roles: what they are, at least one.
            hosts: names and IP addresses at which others call them; none for LOCAL_HOSTS where a role is of SERVERS.
            days: how long it is valid, from 1 to DAYS_MAX. It ends with the authority at the latest.
            now: with a time zone; None: the present time.

        Raises:
            IssuingError: the name, or a host, can't be in a certificate, or nobody calls those of these roles.
        """
        from cryptography import x509
        from cryptography.hazmat.primitives import serialization
        from cryptography.x509.oid import ExtendedKeyUsageOID as Usage

        subject = _named(checked_name(name))
        if not roles:
            raise IssuingError("no role; give at least one")
        if not 1 <= days <= DAYS_MAX:
            raise IssuingError(f"{days} days are not 1 to {DAYS_MAX}")
        is_called = bool(hosts) or not SERVERS.isdisjoint(roles)
        if is_called and CALLED.isdisjoint(roles):
            raise IssuingError("hosts are for leaders, proxies and callback workers, because nobody calls the others")
        names = [general_name(host) for host in (hosts or (LOCAL_HOSTS if is_called else ()))]
        if len(names) > HOSTS_MAX:
            raise IssuingError(f"{len(names)} hosts are more than {HOSTS_MAX}")
        uris = [x509.UniformResourceIdentifier(uri_of(role, name)) for role in dict.fromkeys(roles)]
        now = now or datetime.datetime.now(datetime.UTC)
        issuer = self.certificate
        key = _new_key()
        made = (
            _begun(subject, issuer.subject, key.public_key())
            .not_valid_before(max(now - _EARLIER, issuer.not_valid_before_utc))
            .not_valid_after(min(now + datetime.timedelta(days=days), issuer.not_valid_after_utc))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(digital_signature=True), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([*([Usage.SERVER_AUTH] if is_called else []), Usage.CLIENT_AUTH]), critical=False
            )
            .add_extension(x509.SubjectAlternativeName([*names, *uris]), critical=False)
            .add_extension(_key_identifier_of(issuer), critical=False)
            .sign(self._key, _digest())
        )
        chain = [made, *([] if issuer.subject == issuer.issuer else [issuer])]
        return Issued(made, b"".join(each.public_bytes(serialization.Encoding.PEM) for each in chain), _pem_of_key(key))


def new_authority(days: int = AUTHORITY_DAYS, now: datetime.datetime | None = None) -> Issued:
    """Makes an authority. Its name has the day and a random part, so that two of them can be told apart.

    Args:
        days: how long it is valid, from 1 to AUTHORITY_DAYS.
        now: with a time zone; None: the present time.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    now = now or datetime.datetime.now(datetime.UTC)
    subject = _named(f"gowork authority {now:%Y-%m-%d} {secrets.token_hex(3)}")
    key = _new_key()
    made = (
        _begun(subject, subject, key.public_key())
        .not_valid_before(now - _EARLIER)
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .sign(key, _digest())
    )
    return Issued(made, made.public_bytes(serialization.Encoding.PEM), _pem_of_key(key))


def encoded(name: str) -> str:
    """Returns a name as it is in a URI, and as a file is called: letters, digits, `-._~`, and the rest as %XX."""
    return quote(name, safe="")


def checked_name(name: str) -> str:
    """Returns a name if a certificate can have it.

    Raises:
        IssuingError: it can't.
    """
    if not name.isprintable() or name != name.strip():
        raise IssuingError(f"{name!r} has characters that can't be seen, or spaces at an end")
    if not 1 <= len(name.encode()) <= NAME_BYTES_MAX:
        raise IssuingError(f"{name[:NAME_BYTES_MAX]!r} has not 1 to {NAME_BYTES_MAX} bytes")
    if name in (".", ".."):
        raise IssuingError(f"{name!r} is another word for a folder")
    return name


def general_name(host: str) -> x509.GeneralName:
    """Returns a host as a certificate has it.

    Args:
        host: a name, which may begin with `*.`, or an IP address, with or without brackets.

    Raises:
        IssuingError: it is none.
    """
    from cryptography import x509

    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if bare in _UNSPECIFIED:
        raise IssuingError(f"{bare} is where somebody listens; give the addresses at which others call them")
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        pass
    else:
        if getattr(address, "scope_id", None) is not None:
            raise IssuingError(f"{host!r}: a certificate has no zones of addresses; leave out what begins with %")
        return x509.IPAddress(address)
    if not bare.isascii():
        raise IssuingError(f"{host!r}: write it as the DNS does, in ASCII (xn--…)")
    labels = bare.removeprefix("*.").removesuffix(".").split(".")
    if len(bare) > _HOST_CHARACTERS_MAX or not all(map(_LABEL.fullmatch, labels)) or labels[-1].isdigit():
        raise IssuingError(
            f"{host[:_HOST_CHARACTERS_MAX]!r} is no host name and no IP address; give it without a port and a scheme"
        )
    return x509.DNSName(bare.removesuffix("."))


def _check_secret(key: Path) -> None:
    """Checks that nobody but its owner, and the owner's group, may read a key.

    Raises:
        CertificateError: somebody may.
    """
    mode = stat.S_IMODE(key.stat().st_mode)
    if mode & SECRET_FORBIDDEN and os.name == "posix":
        raise CertificateError(
            f"{key} has mode {mode:04o}, so that others may make certificates, or change it: chmod 600 {key}"
        )


def _no_authority(certificate: x509.Certificate) -> str:
    """Returns why a certificate is no authority's; empty where it is one."""
    from cryptography import x509

    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        constraints = None
    if constraints is None or not constraints.ca:
        return f"is none: the certificate of {certificate.subject.rfc4514_string()!r} may not issue others"
    return ""


def _strong(private: object, path: Path) -> CertificateIssuerPrivateKeyTypes:
    """Returns an authority's key if it may sign.

    Raises:
        CertificateError: it is weak, or of a kind that gRPC does not take.
    """
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    if isinstance(private, rsa.RSAPrivateKey) and private.key_size >= _RSA_BITS_MIN:
        return private
    if isinstance(private, ec.EllipticCurvePrivateKey) and isinstance(
        private.curve, ec.SECP256R1 | ec.SECP384R1 | ec.SECP521R1
    ):
        return private
    raise CertificateError(f"{path}: the key is not on P-256, P-384 or P-521, nor of RSA with {_RSA_BITS_MIN} bits")


def _begun(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    from cryptography import x509

    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _named(name: str) -> x509.Name:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _key_usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _key_identifier_of(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    from cryptography import x509

    try:
        known = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key())  # type: ignore[arg-type]
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(known)


def _new_key() -> ec.EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1())


def _pem_of_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    from cryptography.hazmat.primitives import serialization

    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _digest() -> hashes.SHA256:
    from cryptography.hazmat.primitives import hashes

    return hashes.SHA256()
