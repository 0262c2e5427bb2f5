"""TLS for what this process serves and whom it calls: which files it uses, and what they hold now.

Files are read again when they have changed. New ones that can't be used are refused, with a reason, and the old ones
stay. Connections that are open go on with what they began with.

Owns the files' contents and gRPC's credentials. It starts no thread: its owner calls `refresh`.
"""

from __future__ import annotations

import datetime
import logging
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import grpc
from msgspec import Struct
from msgspec.structs import replace

from gowork.base.bearer import read_token
from gowork.base.certificates import CertificateError, Pair, first_end, read_authorities, read_pair
from gowork.base.tls_files import TlsFiles, caller_files

_log = logging.getLogger(__name__)

#: How often files are looked at, in seconds.
REFRESH_SECONDS = 5.0


class Held(Struct, frozen=True):
    """What the files held when they were read last."""

    pair: Pair | None
    #: PEM; None: public ones.
    ca: bytes | None
    client_ca: bytes | None
    #: Empty: none is shown.
    token: str = ""


class Tls:
    """The certificates of this process. Threads may share it.

    Args:
        files: where they are.

    Raises:
        CertificateError: they can't be used.
    """

    def __init__(self, files: TlsFiles) -> None:
        if bool(files.cert) != bool(files.key):
            given, missing = ("tls-key", "tls-cert") if files.key else ("tls-cert", "tls-key")
            raise CertificateError(f"{given} needs {missing}; give both, or neither")
        if files.client_ca and not files.cert:
            raise CertificateError("tls-client-ca needs tls-cert and tls-key, the certificate of who is called")
        if files.name and not (files.ca or files.client_ca):
            raise CertificateError("tls-name needs tls-ca, the authorities of those who are called")
        self.files = files
        self._looks = _looks(files)
        self._held = _read(files)
        #: Grows when new files are used. Channels that were opened before have the old ones.
        self.generation = 0
        #: Why the newest files are not used; empty: they are.
        self.fault = ""
        self._lock = threading.Lock()
        self._refreshed = time.monotonic()
        self._channel_credentials: tuple[int, grpc.ChannelCredentials] | None = None

    @property
    def serves(self) -> bool:
        """Whether this process can serve by TLS."""
        return self._held.pair is not None

    @property
    def calls(self) -> bool:
        """Whether this process calls others by TLS."""
        return self.files.is_public or self._held.ca is not None

    @property
    def asks_for_certificates(self) -> bool:
        """Whether those who call this process need a certificate."""
        return self._held.client_ca is not None

    @property
    def token(self) -> str:
        """The token that is shown to those who are called; empty: none."""
        return self._held.token

    @property
    def held(self) -> Held:
        """What is used now."""
        return self._held

    @property
    def expires(self) -> datetime.datetime | None:
        """When the own certificate, or one of its issuers', expires."""
        return self._held.pair.expires if self._held.pair is not None else None

    def ends(self) -> dict[str, float]:
        """Returns when what is used expires: {cert, ca or client_ca: Unix time of its first certificate to expire}.

        What no file was given for is not in it.
        """
        held = self._held
        found = {"cert": held.pair.expires} if held.pair is not None else {}
        for name, path, pem in (
            ("ca", self.files.ca, held.ca),
            ("client_ca", self.files.client_ca, held.client_ca),
        ):
            if path and pem is not None:
                found[name] = first_end(pem)
        return {name: end.timestamp() for name, end in found.items()}

    def refresh(self, seconds: float = REFRESH_SECONDS) -> None:
        """Uses the files anew when they have changed. It reads the disk.

        Args:
            seconds: does nothing when it was called less than this ago.
        """
        with self._lock:
            if time.monotonic() - self._refreshed < seconds:
                return
            self._refreshed = time.monotonic()
            looks = _looks(self.files)
            # Files that could not be used are read again: a certificate may be valid by now.
            if looks == self._looks and not self.fault:
                return
            self._looks = looks
            try:
                held = _read(self.files)
            except CertificateError as error:
                if self.fault != str(error):
                    self.fault = str(error)
                    _log.error("new certificates not used", extra={"reason": self.fault, "uses": "those from before"})
                return
            self.fault = ""
            former, self._held = self._held, held
            # Each call shows the token that is there then, so that no connection is made anew for it.
            if held != replace(former, token=held.token):
                self.generation += 1
                _log.info("new certificates are used", extra={"expires": str(self.expires or "")})
            elif held != former:
                _log.info("new token is used")

    def server_credentials(self) -> grpc.ServerCredentials:
        """Returns credentials with which a server uses, for each new connection, what is held then."""
        held, configuration = self._held, _server_configuration(self._held)

        def newest() -> grpc.ServerCertificateConfiguration | None:
            nonlocal held
            # gRPC takes None for "as before". It calls this for each handshake, on a thread of its own.
            if self._held is held:
                return None
            held = self._held
            return _server_configuration(held)

        return grpc.dynamic_ssl_server_credentials(
            configuration,
            newest,  # type: ignore[arg-type] # None is documented, and missing in the types
            self.asks_for_certificates,
        )

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """Returns credentials for a new channel."""
        made = self._channel_credentials
        if made is None or made[0] != self.generation:
            pair = self._held.pair
            own = (pair.key, pair.chain) if pair is not None else (None, None)
            made = self.generation, grpc.ssl_channel_credentials(self._held.ca, *own)
            self._channel_credentials = made
        return made[1]


def tls_of(files: TlsFiles) -> Tls | None:
    """Returns the certificates of these files; None where none is given, for plain text.

    Raises:
        CertificateError: they can't be used.
    """
    return None if replace(files, insecure=False) == TlsFiles() else Tls(files)


def tls_of_caller(files: TlsFiles | None, environment: Mapping[str, str] = os.environ) -> Tls | None:
    """Does as `tls_of`, for who calls and does not serve.

    Args:
        files: None: those that the variables name; see `caller_files`.
        environment: has the variables.

    Raises:
        CertificateError: they can't be used.
    """
    tls = tls_of(caller_files(environment) if files is None else files)
    if tls is not None and tls.serves and not tls.calls:
        raise CertificateError("tls-cert needs tls-ca, the authorities of the leaders' certificates")
    return tls


def _read(files: TlsFiles) -> Held:
    """Raises: CertificateError."""
    pair = read_pair(Path(files.cert), Path(files.key)) if files.cert and files.key else None
    client_ca = read_authorities(Path(files.client_ca)) if files.client_ca else None
    token = read_token(Path(files.token)) if files.token else ""
    if files.is_public:
        return Held(pair, None, client_ca, token)
    return Held(pair, read_authorities(Path(files.ca)) if files.ca else client_ca, client_ca, token)


def _looks(files: TlsFiles) -> tuple[object, ...]:
    """Returns what changes when a file does."""
    return tuple(map(_look, files.paths))


def _look(path: Path) -> object:
    try:
        look = path.stat()
    except (OSError, ValueError) as error:
        return str(error)
    return look.st_dev, look.st_ino, look.st_size, look.st_mtime_ns, look.st_ctime_ns


def _server_configuration(held: Held) -> grpc.ServerCertificateConfiguration:
    assert held.pair is not None, "it serves"
    return grpc.ssl_server_certificate_configuration([(held.pair.key, held.pair.chain)], held.client_ca)
