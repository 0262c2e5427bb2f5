"""Authorities and certificates for tests of TLS, in files."""

from __future__ import annotations

import datetime
from pathlib import Path

import trustme

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
        self._ca = trustme.CA(organization_name=name)
        self._folder = folder
        self.file = folder / f"{name}.pem"
        self._ca.cert_pem.write_to_path(str(self.file))

    def issue(
        self, name: str, *hosts: str, since: datetime.datetime = NOW - DAY, until: datetime.datetime = NOW + DAY
    ) -> tuple[Path, Path]:
        """Writes `name.pem` and `name.key`, over earlier ones too, and returns their paths."""
        issued = self._ca.issue_cert(*hosts, common_name=name, not_before=since, not_after=until)
        certificate, key = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        key.write_bytes(issued.private_key_pem.bytes())
        return certificate, key

    def server(self, name: str = "leader", *hosts: str, client_ca: Path | None = None) -> TlsFiles:
        """The files of who serves at these hosts, and asks for certificates of `client_ca`."""
        return TlsFiles(self.file, *self.issue(name, *(hosts or ("127.0.0.1", "localhost"))), client_ca)

    def client(self, name: str = "client") -> TlsFiles:
        """The files of who calls, with a certificate."""
        return TlsFiles(self.file, *self.issue(name, f"{name}.example"))
