"""What PEM files of certificates and keys hold, and what is wrong with them.

Reads files and judges them. It opens no connection. Needs the library `cryptography`, which is imported at the first
call, because most processes use no certificates.
"""

from __future__ import annotations

import datetime
import itertools
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

#: How long a file may be, in bytes. A file of all public authorities has about 300 KB.
FILE_BYTES_MAX = 4 << 20
#: How many names of a certificate an error shows.
_NAMES_SHOWN = 8


class CertificateError(ValueError):
    """A file can't be used. The message names the file and says what to do."""


class Pair(Struct, frozen=True):
    """A certificate with those of its issuers, and its key."""

    #: PEM, the own certificate first.
    chain: bytes
    #: PEM, without a passphrase.
    key: bytes
    #: When the first certificate of the chain expires.
    expires: datetime.datetime
    #: The names of the own certificate, for which others take this process: `names_of`.
    names: tuple[str, ...]


def read_pair(certificate: Path, key: Path, now: datetime.datetime | None = None) -> Pair:
    """Reads a certificate and its key, and checks that they can be used now.

    Args:
        certificate: a PEM file with the own certificate, followed by those of its issuers, except the authority's own.
        key: a PEM file.
        now: with a time zone; None: the present time.

    Raises:
        CertificateError: a file can't be read, the key is of another certificate, the order of the certificates is
            wrong, or one of them is expired or not yet valid.
    """
    from cryptography.hazmat.primitives import serialization

    chain = read_certificates(certificate)
    pem = _read(key)
    private = _key_of(pem, key)
    own = chain[0]
    if not same_key(private, own):
        raise CertificateError(f"{key} is not the key of the certificate in {certificate}; give the two that fit")
    for issued, issuer in itertools.pairwise(chain):
        try:
            issued.verify_directly_issued_by(issuer)
        except Exception:  # noqa: BLE001 - see read_certificates
            raise CertificateError(
                f"{certificate}: {_shown(issuer)} has not issued {_shown(issued)}; put the own certificate first, "
                f"and after each one its issuer's"
            ) from None
    for each in chain:
        if wrong := time_fault(each, now):
            raise CertificateError(f"{certificate}: {_shown(each)} {wrong}")
    return Pair(
        b"".join(each.public_bytes(serialization.Encoding.PEM) for each in chain),
        pem,
        min(each.not_valid_after_utc for each in chain),
        names_of(own),
    )


def read_authorities(path: Path, now: datetime.datetime | None = None) -> bytes:
    """Reads the certificates of authorities, and returns them as PEM. Those that are expired are left out.

    Raises:
        CertificateError: the file can't be read, or has no certificate that is valid now.
    """
    from cryptography.hazmat.primitives import serialization

    found = read_certificates(path)
    valid = [each for each in found if not time_fault(each, now)]
    if not valid:
        raise CertificateError(f"{path}: {_shown(found[0])} {time_fault(found[0], now)}")
    return b"".join(each.public_bytes(serialization.Encoding.PEM) for each in valid)


def read_certificates(path: Path) -> list[x509.Certificate]:
    """Reads all certificates of a PEM file, as they are.

    Raises:
        CertificateError: the file can't be read, or has none.
    """
    from cryptography import x509

    pem = _read(path)
    try:
        return x509.load_pem_x509_certificates(pem)
    except Exception as error:  # noqa: BLE001 - whatever the library raises for bytes from outside
        raise CertificateError(f"{path} has no certificate in PEM form ({error})") from None


def read_key(path: Path) -> PrivateKeyTypes:
    """Reads a key of a PEM file.

    Raises:
        CertificateError: the file can't be read, or has no key without a passphrase.
    """
    return _key_of(_read(path), path)


def same_key(private: PrivateKeyTypes, certificate: x509.Certificate) -> bool:
    """Returns whether a key is that of a certificate."""
    return _spki(private.public_key()) == _spki(certificate.public_key())


def first_end(pem: bytes) -> datetime.datetime:
    """Returns when the first of these certificates expires.

    Args:
        pem: at least one, as `read_authorities` returns them.
    """
    from cryptography import x509

    return min(each.not_valid_after_utc for each in x509.load_pem_x509_certificates(pem))


def time_fault(certificate: x509.Certificate, now: datetime.datetime | None = None) -> str:
    """Returns "expired at …" or "is not valid before …"; empty where a certificate is valid now."""
    now = now or datetime.datetime.now(datetime.UTC)
    if now > certificate.not_valid_after_utc:
        return f"expired at {_time(certificate.not_valid_after_utc)}"
    if now < certificate.not_valid_before_utc:
        return f"is not valid before {_time(certificate.not_valid_before_utc)}; it is {_time(now)} here"
    return ""


def names_of(certificate: x509.Certificate) -> tuple[str, ...]:
    """Returns the hosts and IP addresses for which a certificate is: its subjectAltName."""
    from cryptography import x509

    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    hosts = names.get_values_for_type(x509.DNSName)
    return (*hosts, *map(str, names.get_values_for_type(x509.IPAddress)))


def shown_names(names: tuple[str, ...]) -> str:
    """Returns names for an error."""
    if not names:
        return "no names at all"
    rest = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            text = file.read(FILE_BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise CertificateError(f"{path} can't be read: {reason}") from None
    if len(text) > FILE_BYTES_MAX:
        raise CertificateError(f"{path} has more than {FILE_BYTES_MAX} bytes, and is no file of certificates")
    return text


def _key_of(pem: bytes, path: Path) -> PrivateKeyTypes:
    from cryptography.hazmat.primitives import serialization

    try:
        return serialization.load_pem_private_key(pem, password=None)
    except TypeError:
        raise CertificateError(f"{path}: the key has a passphrase; give a key without one") from None
    except Exception as error:  # noqa: BLE001 - see read_certificates
        raise CertificateError(f"{path} has no private key in PEM form ({error})") from None


def _spki(key: object) -> bytes:
    from cryptography.hazmat.primitives import serialization

    encoded: bytes = key.public_bytes(  # type: ignore[attr-defined]
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return encoded


def _shown(certificate: x509.Certificate) -> str:
    return f"the certificate of {certificate.subject.rfc4514_string() or shown_names(names_of(certificate))!r}"


def _time(moment: datetime.datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
