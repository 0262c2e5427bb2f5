"""Which files a process uses for TLS. Imports nothing that talks to the network."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

#: In the place of a file with authorities: those that gRPC ships, or that GRPC_DEFAULT_SSL_ROOTS_FILE_PATH names.
PUBLIC = "public"


class TlsFiles(Struct, frozen=True):
    """Which files a process uses, and by which name it knows those whom it calls. All but `token` are PEM files."""

    #: The authorities of those whom this process calls; PUBLIC for public ones. None: those of `client_ca`.
    ca: str | os.PathLike[str] | None = None
    #: The own certificate, followed by its issuers', and its key.
    cert: str | os.PathLike[str] | None = None
    key: str | os.PathLike[str] | None = None
    #: The authorities of those who call this process. None: whoever calls needs no certificate.
    client_ca: str | os.PathLike[str] | None = None
    #: The name that the certificates of those whom this process calls must have; empty: their host.
    name: str = ""
    #: A file with a token, which is shown to those whom this process calls: by TLS, or on this machine.
    token: str | os.PathLike[str] | None = None
    #: Whether the token is shown to other machines in plain text, too.
    insecure: bool = False

    @property
    def is_public(self) -> bool:
        """Whether public authorities are trusted."""
        return self.ca == PUBLIC

    @property
    def paths(self) -> list[Path]:
        """The files that are given."""
        ca = None if self.is_public else self.ca
        return [Path(path) for path in (ca, self.cert, self.key, self.client_ca, self.token) if path]


def caller_files(environment: Mapping[str, str] = os.environ) -> TlsFiles:
    """Returns what the variables GOWORK_TLS_CA, _CERT, _KEY and _NAME, GOWORK_TOKEN_FILE and GOWORK_INSECURE say."""
    ca, cert, key, name = (environment.get(f"GOWORK_TLS_{word}") or None for word in ("CA", "CERT", "KEY", "NAME"))
    insecure = environment.get("GOWORK_INSECURE", "").lower() in ("1", "true", "yes", "on")
    return TlsFiles(
        ca, cert, key, name=name or "", token=environment.get("GOWORK_TOKEN_FILE") or None, insecure=insecure
    )
