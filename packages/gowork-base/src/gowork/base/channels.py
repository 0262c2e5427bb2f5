"""Channels and servers with the options that every part of gowork uses.

Owns gRPC's options and the form of addresses; opens nothing by itself.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence

import grpc

from gowork.base.interception import client_interceptors, intercepted, uninstrumented
from gowork.base.proxies import goes_past_proxies, proxy_of
from gowork.proto import limits

#: An option as gRPC takes it: (name, value).
Option = tuple[str, str | int]

_MESSAGES: list[Option] = [
    ("grpc.max_receive_message_length", limits.MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", limits.MESSAGE_BYTES_MAX),
]

#: gRPC's own first back-off of 1 s would hold up a worker's return beyond its reconnect grace.
CHANNEL_OPTIONS: Sequence[Option] = (
    *_MESSAGES,
    ("grpc.initial_reconnect_backoff_ms", 100),
    # This is also how long one attempt to connect may take: a leader that is busy for a moment is still a leader.
    ("grpc.min_reconnect_backoff_ms", 2000),
    ("grpc.max_reconnect_backoff_ms", 2000),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    # Retries are the caller's decision: only calls that are safe to repeat are repeated.
    ("grpc.enable_retries", 0),
    # Several clients in one process must not share one connection's flow control with each other.
    ("grpc.use_local_subchannel_pool", 1),
    # gRPC would ask name servers for a record of its own beside each name; nobody has one.
    ("grpc.service_config_disable_resolution", 1),
)

#: grpc.experimental.ChannelOptions: a stream is read on the thread that iterates it, instead of through one of gRPC's;
#: half the processor time, and 0.8 ms instead of 0.9 for a stream of one message.
_BLOCKING_OPTIONS: Sequence[Option] = (("SingleThreadedUnaryStream", 1),)

#: Calls of one connection that a server takes at once. The next ones wait in their sender, whose gRPC holds them back.
CONNECTION_CALLS_MAX = 10_000
#: Calls that have arrived at a port and that the server's loop has not taken yet, some 12 KB each. By itself gRPC ends
#: some beyond 1,000, and all beyond 3,000, with CANCELLED and no reason: one program that makes a few thousand calls at
#: once would lose some. One connection alone never reaches this bound. What several have beyond it ends so still, and
#: clients repeat it.
PENDING_CALLS_MAX = CONNECTION_CALLS_MAX

SERVER_OPTIONS: Sequence[Option] = (
    *_MESSAGES,
    ("grpc.server.max_pending_requests", PENDING_CALLS_MAX),
    ("grpc.server.max_pending_requests_hard_limit", PENDING_CALLS_MAX),
    ("grpc.max_concurrent_streams", CONNECTION_CALLS_MAX),
    # Two leaders on one port would share the callers between them.
    ("grpc.so_reuseport", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # Connections whose other end is gone, or has never said anything, are closed: by gRPC itself after 2 hours, and
    # 2 minutes.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.server_handshake_timeout_ms", 10_000),
    # What a stream may send before it is read: gRPC would let each grow to megabytes, so that a call that is held back,
    # or a session, would have its bytes here all the same. At 50 ms from end to end and back it allows 5 MB/s.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 256 << 10),
)


class AddressError(ValueError):
    """An address that is not HOST:PORT."""


def parse_address(text: str, *, name: str = "address") -> tuple[str, int]:
    """Splits `HOST:PORT`, `[IPV6]:PORT` or `:PORT` (all interfaces).

    Args:
        text: the address; port 0 to 65535.
        name: what to call it in the error.

    Returns:
        (host, port); the host without brackets, `0.0.0.0` when it was left out.

    Raises:
        AddressError: when it has another form.
    """
    if "://" in text:
        scheme, _, rest = text.strip().partition("://")
        raise AddressError(f"{name} {text!r}: write HOST:PORT without {scheme}://, as in {rest.rstrip('/')}")
    host, separator, port = text.strip().rpartition(":")
    if not separator or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise AddressError(f"{name} {text!r} is not HOST:PORT, as in 127.0.0.1:50051")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise AddressError(f"{name} {text!r}: write an IPv6 host in brackets, as in [::1]:50051")
    return host or "0.0.0.0", int(port)  # noqa: S104 - the caller asked for it by leaving the host out


def format_address(host: str, port: int) -> str:
    """The inverse of parse_address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def split_addresses(text: str) -> list[str]:
    """Splits `HOST:PORT[,HOST:PORT]…` and checks each part.

    Raises:
        AddressError: when there is none, or one has another form.
    """
    addresses = [part.strip() for part in text.split(",") if part.strip()]
    if not addresses:
        raise AddressError("no address given; write HOST:PORT, as in 127.0.0.1:50051")
    for address in addresses:
        parse_address(address)
    return addresses


def target_of(addresses: Sequence[str]) -> str:
    """The gRPC target that tries these addresses in turn (each HOST:PORT).

    gRPC looks a single name up by itself, again at every reconnect. A list it takes only as IP addresses of one family,
    so that the names in a list are looked up here, once, and names that are not known are left out; of both families,
    IPv4 is used where there is one.

    Raises:
        AddressError: when none of several names is known.
    """
    if len(addresses) == 1:
        return addresses[0]
    found = [answer for address in addresses for answer in _look_up(*parse_address(address))]
    for family, scheme in ((socket.AF_INET, "ipv4"), (socket.AF_INET6, "ipv6")):
        of_family = [format_address(host, port) for answered, host, port in found if answered == family]
        if of_family:
            return f"{scheme}:{','.join(dict.fromkeys(of_family))}"
    raise AddressError(f"none of these hosts is known: {', '.join(addresses)}")


def unanswered(addresses: Sequence[str]) -> str:
    """The words for what happens when no leader answers at these addresses, with the proxy that stands between."""
    proxy = proxy_of(_hosts(addresses))
    through = f" through the proxy of {proxy}; list the host in no_proxy to go past it" if proxy else ""
    return f"no leader answers at {','.join(addresses)}{through}"


def _hosts(addresses: Sequence[str]) -> list[str]:
    """The hosts of those that are HOST:PORT. A member may have joined with something else."""
    hosts = []
    for address in addresses:
        try:
            hosts.append(parse_address(address)[0])
        except AddressError:
            hosts.append(address)
    return hosts


def _options_for(addresses: Sequence[str], more: Sequence[Option] = ()) -> list[Option]:
    options = [*CHANNEL_OPTIONS, *more]
    if goes_past_proxies(_hosts(addresses)):
        options.append(("grpc.enable_http_proxy", 0))
    return options


def _look_up(host: str, port: int) -> list[tuple[int, str, int]]:
    try:
        answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror:
        return []
    return [(family, str(address[0]), port) for family, *_, address in answers]


def open_channel(addresses: Sequence[str]) -> grpc.aio.Channel:
    """An asyncio channel to the first of these addresses that answers. It connects at its first use.

    Its calls are traced where the process has set up tracing by then.
    """
    return grpc.aio.insecure_channel(
        target_of(addresses), options=_options_for(addresses), interceptors=client_interceptors()
    )


def open_blocking_channel(addresses: Sequence[str]) -> grpc.Channel:
    """As open_channel, for callers without an event loop."""
    insecure_channel = uninstrumented(grpc.insecure_channel)
    return intercepted(insecure_channel(target_of(addresses), options=_options_for(addresses, _BLOCKING_OPTIONS)))
