"""Which files a process uses for TLS. Imports nothing that talks to the network."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

#: In the place of a file with authorities: those that gRPC ships, or that GRPC_DEFAULT_SSL_ROOTS_FILE_PATH names.
PUBLIC = "public"


class TlsFiles(Struct, frozen=True):
    """Which files a process uses, and by which name it knows those whom it calls. All are PEM files."""

    #: The authorities of those whom this process calls; PUBLIC for public ones. None: those of `client_ca`.
    ca: str | os.PathLike[str] | None = None
    #: The own certificate, followed by its issuers', and its key.
    cert: str | os.PathLike[str] | None = None
    key: str | os.PathLike[str] | None = None
    #: The authorities of those who call this process. None: whoever calls needs no certificate.
    client_ca: str | os.PathLike[str] | None = None
    #: The name that the certificates of those whom this process calls must have; empty: their host.
    name: str = ""

    @property
    def is_public(self) -> bool:
        """Whether public authorities are trusted."""
        return self.ca == PUBLIC

    @property
    def paths(self) -> list[Path]:
        """The files that are given."""
        ca = None if self.is_public else self.ca
        return [Path(path) for path in (ca, self.cert, self.key, self.client_ca) if path]


def caller_variables(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Returns what the variables GOWORK_TLS_CA, _CERT, _KEY and _NAME say: {name of a field of TlsFiles: value}."""
    values = {name: environment.get(f"GOWORK_TLS_{name.upper()}") for name in ("ca", "cert", "key", "name")}
    return {name: value for name, value in values.items() if value}
