"""Channels and servers with the options that every part of gowork uses.

Owns gRPC's options and the form of addresses. Opens a channel only when it is asked to.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar, cast

import grpc

from gowork.base.bearer import showing
from gowork.base.interception import client_interceptors, intercepted, uninstrumented
from gowork.base.proxies import goes_past_proxies, is_loopback, is_unspecified, proxy_of
from gowork.proto import limits

if TYPE_CHECKING:
    from gowork.base.tls import Tls

ChannelT = TypeVar("ChannelT", "grpc.aio.Channel", "grpc.Channel")
#: An option as gRPC takes it: (name, value).
Option = tuple[str, str | int]

_MESSAGES: list[Option] = [
    ("grpc.max_receive_message_length", limits.MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", limits.MESSAGE_BYTES_MAX),
]

#: The first back-off is shorter than gRPC's own 1 s, with which a worker would reconnect after its reconnect grace.
CHANNEL_OPTIONS: Sequence[Option] = (
    *_MESSAGES,
    ("grpc.initial_reconnect_backoff_ms", 100),
    # This is also how long one attempt to connect may take. A leader that is busy for a moment must not be given up.
    ("grpc.min_reconnect_backoff_ms", 2000),
    ("grpc.max_reconnect_backoff_ms", 2000),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    # The caller decides about retries, because only some calls are safe to repeat.
    ("grpc.enable_retries", 0),
    # Several clients in one process must not share one connection and its flow control.
    ("grpc.use_local_subchannel_pool", 1),
    # Otherwise gRPC also asks name servers for a service config record of each name, which nobody has.
    ("grpc.service_config_disable_resolution", 1),
)

#: Whoever listens there is reached at any of the machine's addresses, and nobody is reached at these.
ALL_INTERFACES = ("0.0.0.0", "::")  # noqa: S104 - they are looked for

#: How many addresses of leaders a client or worker takes.
ADDRESSES_MAX = 16
#: How long one attempt to connect may take where there are other addresses, in seconds.
CONNECT_SECONDS = 1.0
#: A channel to several addresses connects to each, and its calls take turns.
_IN_TURN = '{"loadBalancingConfig": [{"round_robin": {}}]}'

#: grpc.experimental.ChannelOptions: the thread that iterates a stream reads it, instead of one of gRPC's threads. That
#: halves the processor time; a stream of one message takes 0.8 ms instead of 0.9.
_BLOCKING_OPTIONS: Sequence[Option] = (("SingleThreadedUnaryStream", 1),)

#: How many calls of one connection a server takes at once. The caller's gRPC holds further calls back.
CONNECTION_CALLS_MAX = 10_000
#: How many calls may have arrived at a port before the server's loop takes them; each takes about 12 KB. gRPC's default
#: ends some calls beyond 1,000, and all beyond 3,000, with CANCELLED and no reason, so that a program that makes a few
#: thousand calls at once would lose some. One connection alone never reaches this bound. When several connections
#: exceed it together, gRPC still ends calls so, and clients repeat them.
PENDING_CALLS_MAX = CONNECTION_CALLS_MAX

SERVER_OPTIONS: Sequence[Option] = (
    *_MESSAGES,
    ("grpc.server.max_pending_requests", PENDING_CALLS_MAX),
    ("grpc.server.max_pending_requests_hard_limit", PENDING_CALLS_MAX),
    ("grpc.max_concurrent_streams", CONNECTION_CALLS_MAX),
    # Otherwise two leaders could listen on one port, and each would get some of the callers.
    ("grpc.so_reuseport", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # A connection whose other end is gone is closed after 40 s (gRPC's default: 2 hours), and one whose other end never
    # said anything after 10 s (default: 2 minutes).
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.server_handshake_timeout_ms", 10_000),
    # How many bytes a stream may send before they are read. gRPC's default lets each stream grow to megabytes, so that
    # calls that are held back, and sessions, would fill the server's memory. With a round trip of 50 ms, this bound
    # allows 5 MB/s.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 256 << 10),
)


#: The messages with which gRPC's resolver fails; the reason follows the last colon.
_LOOKUP_FAILED = re.compile(r"^(?:errors resolving|DNS resolution failed) .*: ([^:\]]+)\]?$", re.DOTALL)
#: What gRPC says of the transport, without the words before it that repeat the address.
_TRANSPORT = re.compile(r"(?:last error: )?\w+: ?ipv[46]:\S+: (?:Failed to connect to remote host: )?(.+)$", re.DOTALL)
#: The same as older versions of gRPC say it: as in "connect: Connection refused (111)".
_CONNECT = re.compile(r"^connect: (.+) \(\d+\)$")
#: {what gRPC says of a handshake: what it means}. `handshakes` finds out more, at the cost of a connection.
_HANDSHAKES = {
    "certificate has expired": "its certificate has expired",
    "certificate is not yet valid": "its certificate is not valid yet",
    "Hostname Verification Check failed": "its certificate is for other names",
    "is not in peer certificate": "its certificate is for other names",
    "WRONG_VERSION_NUMBER": "it takes plain text alone, and was called by TLS",
    # So end connections whose handshake the client has finished, as with Envoy, which sends the reason as an alert.
    "TSI_DATA_CORRUPTED": "it does not take the certificate of who calls, or wants one",
    "CERTIFICATE_VERIFY_FAILED": "its certificate is from an authority that tls-ca does not have",
}
#: What newer and older versions of gRPC say of a connection that the other side has ended.
_ENDED = ("Socket closed", "Secure read failed")


class AddressError(ValueError):
    """An address that is not HOST:PORT."""


def parse_address(text: str, *, name: str = "address") -> tuple[str, int]:
    """Splits `HOST:PORT`, `[IPV6]:PORT` or `:PORT` (all interfaces).

    Args:
        text: the address. The port is from 0 to 65535.
        name: what the error calls the address.

    Returns:
        (host, port); the host without brackets, `0.0.0.0` when it was left out.

    Raises:
        AddressError: the address has another form.
    """
    if "://" in text:
        scheme, _, rest = text.strip().partition("://")
        raise AddressError(f"{name} {text!r}: write HOST:PORT without {scheme}://, as in {rest.rstrip('/')}")
    try:
        text.encode()
    except UnicodeEncodeError:
        # Python reads bytes of a command line that are not UTF-8 as lone surrogates, which gRPC does not take.
        raise AddressError(f"{name} {text!r} is not UTF-8 text") from None
    host, separator, port = text.strip().rpartition(":")
    if not separator or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise AddressError(f"{name} {text!r} is not HOST:PORT, as in 127.0.0.1:50051")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise AddressError(f"{name} {text!r}: write an IPv6 host in brackets, as in [::1]:50051")
    return host or "0.0.0.0", int(port)  # noqa: S104 - the caller asked for it by leaving the host out


def check_local(address: str, because: str, *, name: str = "address") -> None:
    """Checks that only this machine reaches what listens at an address without knowing who calls.

    Raises:
        AddressError: others reach it. The message says why that is bad, and what to do.
    """
    host, _ = parse_address(address, name=name)
    if not is_loopback(host) or is_unspecified(host):
        raise AddressError(
            f"other machines reach {address}, and {because}: give tls-cert, tls-key and tls-client-ca, or, where "
            "the network lets nobody else in, --insecure (GOWORK_INSECURE=1); see docs/access.md"
        )


def format_address(host: str, port: int) -> str:
    """Joins what parse_address splits."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def split_addresses(given: str | Iterable[str]) -> list[str]:
    """Splits `HOST:PORT[,HOST:PORT]…`, or several such texts, and checks each part. What is given twice counts once.

    Raises:
        AddressError: there is no address, or one has another form, or there are more than ADDRESSES_MAX.
    """
    addresses: dict[str, None] = {}
    for text in (given,) if isinstance(given, str) else given:
        if not isinstance(text, str):
            raise AddressError(f"address {text!r} is not HOST:PORT, as in '127.0.0.1:50051'")
        addresses |= dict.fromkeys(part.strip() for part in text.split(",") if part.strip())
    if not addresses:
        raise AddressError("no address given; write HOST:PORT, as in 127.0.0.1:50051")
    for address in addresses:
        parse_address(address)
    if len(addresses) > ADDRESSES_MAX:
        raise AddressError(f"{len(addresses)} addresses given; at most {ADDRESSES_MAX} are taken")
    return list(addresses)


def target_of(addresses: Sequence[str]) -> str:
    """Returns the gRPC target of these addresses (each HOST:PORT).

    gRPC looks up a single name itself, again at every reconnect. In a list it takes only IP addresses of one family.
    The names in a list are therefore looked up here, once, and unknown names are left out. If any name has an IPv4
    address, only IPv4 addresses are used.

    Raises:
        AddressError: there are several names, and none of them is known.
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
    """Returns the error text for addresses without a leader that answers, with the proxy between, if there is one."""
    return f"no leader answers at {','.join(addresses)}{through_proxy(addresses)}"


def why_unanswered(message: str) -> str:
    """Returns why nobody answers at an address, in a few words, from gRPC's message about it."""
    found = _TRANSPORT.search(message)
    words = lookup_failure(message) or (found[1] if found else message)
    if older := _CONNECT.match(words):
        words = older[1]
    if "Failed parsing HTTP/2" in words:
        return "it does not speak gRPC"
    for sign, meaning in _HANDSHAKES.items():
        if sign in words:
            return meaning
    if words in _ENDED and message.startswith("failed to connect"):
        return "it ended the connection at once; it may take TLS alone, or want a certificate"
    return "no answer" if "timed out" in words else words


def may_be_handshake(message: str) -> bool:
    """Whether TLS may be why a call failed, by gRPC's message: something listens, and ended the connection."""
    if not message.startswith("failed to connect"):
        return False
    return any(sign in message for sign in (*_HANDSHAKES, "andshake", *_ENDED, "HTTP/2"))


def lookup_failure(message: str) -> str:
    """Returns the reason in gRPC's message about a name that it could not look up; empty for other messages."""
    found = _LOOKUP_FAILED.search(message)
    return found[1] if found else ""


def through_proxy(addresses: Sequence[str]) -> str:
    """Returns words about the proxy before these addresses; empty where there is none."""
    proxy = proxy_of(_hosts(addresses))
    return f" through the proxy of {proxy}; list the host in no_proxy to go past it" if proxy else ""


def _hosts(addresses: Sequence[str]) -> list[str]:
    """Returns the host of each address; the whole text where a member joined with something other than HOST:PORT."""
    hosts = []
    for address in addresses:
        try:
            hosts.append(parse_address(address)[0])
        except AddressError:
            hosts.append(address)
    return hosts


def _options_for(
    addresses: Sequence[str], more: Sequence[Option] = (), *, has_others: bool = False, tls: Tls | None = None
) -> list[Option]:
    check_token(addresses, tls)
    options = dict([*CHANNEL_OPTIONS, *more])
    if has_others or len(addresses) > 1:
        options["grpc.min_reconnect_backoff_ms"] = int(CONNECT_SECONDS * 1000)
    if len(addresses) > 1:
        options["grpc.service_config"] = _IN_TURN
    if goes_past_proxies(_hosts(addresses)):
        options["grpc.enable_http_proxy"] = 0
    if tls is not None and tls.calls:
        if tls.files.name:
            options.setdefault("grpc.ssl_target_name_override", tls.files.name)
        elif len(addresses) > 1:
            raise AddressError(
                f"{len(addresses)} addresses with TLS need tls-name, a name that the certificate at each of them has"
            )
    return list(options.items())


def _look_up(host: str, port: int) -> list[tuple[int, str, int]]:
    try:
        answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror:
        return []
    return [(family, str(address[0]), port) for family, *_, address in answers]


def open_channel(
    addresses: Sequence[str], more: Sequence[Option] = (), *, has_others: bool = False, tls: Tls | None = None
) -> grpc.aio.Channel:
    """Opens an asyncio channel. It connects at its first use.

    Its calls are traced if the process has set up tracing before this call.

    Args:
        addresses: each HOST:PORT. The calls of a channel to several take turns among those that are connected.
        more: options besides those that all channels have.
        has_others: whether the caller goes on to other addresses when a call fails. An attempt to connect is then given
            up after CONNECT_SECONDS.
        tls: the certificates of this process, as they are now; None, or without authorities: plain text.

    Raises:
        AddressError: there are several addresses, and none is known, or `tls` has no name for all of them, or a token
            that must not be shown in plain text.
    """
    target, interceptors = target_of(addresses), client_interceptors()
    options = _options_for(addresses, more, has_others=has_others, tls=tls)
    if tls is not None and tls.calls:
        credentials = tls.channel_credentials()
        channel = grpc.aio.secure_channel(target, credentials, options=options, interceptors=interceptors)
    else:
        channel = grpc.aio.insecure_channel(target, options=options, interceptors=interceptors)
    return _identified(channel, tls)


def open_blocking_channel(
    addresses: Sequence[str], *, has_others: bool = False, tls: Tls | None = None
) -> grpc.Channel:
    """Does what open_channel does, for callers without an event loop."""
    target, options = target_of(addresses), _options_for(addresses, _BLOCKING_OPTIONS, has_others=has_others, tls=tls)
    if tls is not None and tls.calls:
        secure_channel = uninstrumented(grpc.secure_channel)
        channel = intercepted(secure_channel(target, tls.channel_credentials(), options=options))
    else:
        insecure_channel = uninstrumented(grpc.insecure_channel)
        channel = intercepted(insecure_channel(target, options=options))
    return _identified(channel, tls)


def check_token(addresses: Sequence[str], tls: Tls | None) -> None:
    """Checks that the token of this process would not go to another machine in plain text.

    Raises:
        AddressError: it would.
    """
    if tls is None or not tls.token or tls.calls or tls.files.insecure or all(map(is_loopback, _hosts(addresses))):
        return
    raise AddressError(
        f"the token would go to {','.join(addresses)} in plain text; give tls-ca (--tls-ca), or, if nobody can listen, "
        "insecure (--insecure)"
    )


def _identified(channel: ChannelT, tls: Tls | None) -> ChannelT:
    """Returns the channel with the token of this process, if it has one."""
    return channel if tls is None or not tls.token else cast("ChannelT", showing(channel, lambda: tls.token))


def bind(server: grpc.aio.Server, address: str, tls: Tls | None = None) -> int:
    """Has a server listen at HOST:PORT, by TLS if there is a certificate. Returns the port.

    Raises:
        RuntimeError: it can't listen there.
    """
    if tls is not None and tls.serves:
        return server.add_secure_port(address, tls.server_credentials())
    return server.add_insecure_port(address)
