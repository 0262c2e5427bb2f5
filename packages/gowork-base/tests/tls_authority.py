"""Authorities and certificates for tests of TLS, in files."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gowork.base.tls_files import TlsFiles

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)


class Authority:
    """Issues certificates into a folder.

    Args:
        folder: where its files go.
        name: what its files are called.
    """

    def __init__(self, folder: Path, name: str = "ca") -> None:
        ca = trustme.CA(organization_name=name)
        self._certificate = x509.load_pem_x509_certificate(ca.cert_pem.bytes())
        key = serialization.load_pem_private_key(ca.private_key_pem.bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        self._key = key
        # Python's own TLS wants it from 3.13 on.
        known = self._certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        self._key_identifier = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(known)
        self._folder = folder
        self.file = folder / f"{name}.pem"
        ca.cert_pem.write_to_path(str(self.file))

    def issue(
        self,
        name: str,
        *hosts: str,
        since: datetime.datetime = NOW - DAY,
        until: datetime.datetime = NOW + DAY,
        uris: tuple[str, ...] = (),
    ) -> tuple[Path, Path]:
        """Writes `name.pem` and `name.key`, over earlier ones too, and returns their paths.

        Args:
            name: its common name.
            hosts: hosts and IP addresses that it is for.
            since, until: when it is valid.
            uris: as in gowork://client/web.
        """
        private = ec.generate_private_key(ec.SECP256R1())
        names = [_general_name(host) for host in hosts] + [x509.UniformResourceIdentifier(uri) for uri in uris]
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(self._certificate.subject)
            .public_key(private.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(since)
            .not_valid_after(until)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(self._key_identifier, critical=False)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        certificate, key = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        issued = builder.sign(self._key, hashes.SHA256())
        certificate.write_bytes(issued.public_bytes(serialization.Encoding.PEM))
        key.write_bytes(
            private.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return certificate, key

    def server(
        self, name: str = "leader", *hosts: str, client_ca: Path | None = None, role: str = "leader"
    ) -> TlsFiles:
        """The files of who serves at these hosts, with a role, and asks for certificates of `client_ca`."""
        issued = self.issue(name, *(hosts or ("127.0.0.1", "localhost")), uris=(f"gowork://{role}/{name}",))
        return TlsFiles(self.file, *issued, client_ca)

    def client(self, name: str = "client", *roles: str) -> TlsFiles:
        """The files of who calls, with a certificate of these roles; none: the role that the name says."""
        uris = tuple(f"gowork://{role}/{name}" for role in roles or (name,))
        return TlsFiles(self.file, *self.issue(name, f"{name}.example", uris=uris))


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
