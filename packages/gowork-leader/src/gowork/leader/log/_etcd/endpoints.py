"""Where the members of an etcd are, and how they are called: addresses, TLS, user and password."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import parse_qsl, unquote

import grpc
from msgspec import Struct

from gowork.base.channels import AddressError, split_addresses
from gowork.base.interception import uninstrumented
from gowork.base.proxies import goes_past_proxies
from gowork.leader._schemes import shown
from gowork.leader.log.protocol import LogError

#: How much one answer may have, in bytes: a page of entries.
ANSWER_BYTES_MAX = 64 << 20
_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", ANSWER_BYTES_MAX),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # etcd closes connections that ping more often than every 5 s.
    ("grpc.keepalive_time_ms", 6_000),
    ("grpc.keepalive_timeout_ms", 2_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.service_config_disable_resolution", 1),
)
#: What etcd says of a token that it no longer takes. Another one is asked for then.
_OLD_TOKEN = ("invalid auth token", "revision of auth store is old")


class Endpoints(Struct, frozen=True):
    """The members of one etcd."""

    #: Each HOST:PORT.
    addresses: tuple[str, ...]
    #: The keys of the log begin with this and a slash.
    prefix: str = "gowork"
    #: Whether the history of keys is compacted after each prune. Of an etcd that others share, they may need it.
    compacts: bool = True
    user: str = ""
    password: str = ""
    #: The texts of PEM files. Without `ca` connections are not encrypted.
    ca: bytes = b""
    certificate: bytes = b""
    key: bytes = b""

    def has_old_token(self, details: str) -> bool:
        """Whether etcd says in an error that the token is no longer taken."""
        return bool(self.user) and any(text in details for text in _OLD_TOKEN)

    def channel(self, address: str) -> grpc.aio.Channel:
        """Opens a channel to one member. It connects at its first use."""
        options = self._options(address)
        if self.ca:
            return grpc.aio.secure_channel(address, self._credentials(), options=options)
        return grpc.aio.insecure_channel(address, options=options)

    def blocking_channel(self, address: str) -> grpc.Channel:
        """Does as `channel`, for threads."""
        options = self._options(address)
        if self.ca:
            return uninstrumented(grpc.secure_channel)(address, self._credentials(), options=options)
        return uninstrumented(grpc.insecure_channel)(address, options=options)

    def _options(self, address: str) -> list[tuple[str, int]]:
        past = goes_past_proxies([address.rpartition(":")[0]])
        return [*_OPTIONS, *([("grpc.enable_http_proxy", 0)] if past else [])]

    def _credentials(self) -> grpc.ChannelCredentials:
        return grpc.ssl_channel_credentials(self.ca, self.key or None, self.certificate or None)


def endpoints_of(url: str, environment: Mapping[str, str] = os.environ) -> Endpoints:
    """Reads `etcd://HOST:PORT[,HOST:PORT]…[/PREFIX][?compact=no]`.

    The environment gives what must not be in a URL: GOWORK_ETCD_USER and GOWORK_ETCD_PASSWORD, and with GOWORK_ETCD_CA,
    GOWORK_ETCD_CERT and GOWORK_ETCD_KEY the paths of PEM files for TLS.

    Raises:
        LogError: something of it makes no sense, or a file can't be read.
    """
    _, _, rest = url.partition("://")
    place, _, query = rest.partition("?")
    hosts, _, prefix = place.partition("/")
    if "@" in hosts:
        raise LogError(
            "etcd://…: leave user and password out of the URL; set GOWORK_ETCD_USER and GOWORK_ETCD_PASSWORD"
        )
    try:
        addresses = split_addresses(hosts)
    except AddressError as error:
        raise LogError(f"{shown(url)!r} names no etcd: {error}; write etcd://HOST:2379,HOST:2379/PREFIX") from None
    options = dict(parse_qsl(query, keep_blank_values=True))
    compact = options.pop("compact", "yes")
    if options or compact not in ("yes", "no"):
        raise LogError(f"{shown(url)!r}: the only option is compact=yes or compact=no")
    files = {name: environment.get(f"GOWORK_ETCD_{name}", "") for name in ("CA", "CERT", "KEY")}
    if bool(files["CERT"]) != bool(files["KEY"]):
        raise LogError("set both GOWORK_ETCD_CERT and GOWORK_ETCD_KEY, or neither")
    if files["CERT"] and not files["CA"]:
        raise LogError("GOWORK_ETCD_CERT needs GOWORK_ETCD_CA, the certificate of the authority that etcd's are from")
    user, password = environment.get("GOWORK_ETCD_USER", ""), environment.get("GOWORK_ETCD_PASSWORD", "")
    if password and not user:
        raise LogError("GOWORK_ETCD_PASSWORD is set, and GOWORK_ETCD_USER is not")
    return Endpoints(
        tuple(dict.fromkeys(addresses)),
        unquote(prefix).strip("/") or "gowork",
        compact == "yes",
        user,
        password,
        *(_read(f"GOWORK_ETCD_{name}", path) for name, path in files.items()),
    )


def _read(name: str, path: str) -> bytes:
    if not path:
        return b""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise LogError(f"{name}: {path} can't be read: {error.strerror or error}") from None
