"""The addresses at which the other leaders, workers and clients reach a leader: which it tells, and which it can't."""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import urlsplit

from gowork.base.channels import ALL_INTERFACES, AddressError, format_address, parse_address
from gowork.base.proxies import is_loopback
from gowork.leader._app.node import Addresses

#: How long a host may be.
HOST_CHARACTERS_MAX = 253


def advertised_host(given: str) -> str:
    """Returns the host that a leader is to advertise, without brackets; empty when none is given.

    Raises:
        AddressError: nobody can reach it.
    """
    host = given[1:-1] if given.startswith("[") and given.endswith("]") else given
    if ":" in host:
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise AddressError(
                f"{given!r}: give the host alone, because the ports are those of the --…-listen options"
            ) from None
    if len(host) > HOST_CHARACTERS_MAX or not host.isprintable() or set(host) & set(" ,/[]"):
        raise AddressError(f"{given[:HOST_CHARACTERS_MAX]!r} is no host, such as 10.0.0.1 or node-1")
    if host in ALL_INTERFACES:
        raise AddressError(f"{given!r}: give the host at which the other leaders reach this one")
    return host


def advertised_addresses(addresses: Addresses, host: str) -> Addresses:
    """Returns the addresses at which others reach this leader."""

    def reached(address: str) -> str:
        listened, port = parse_address(address)
        if not host and listened in ALL_INTERFACES:
            return format_address(socket.gethostname(), port)
        return format_address(host or listened, port)

    return Addresses(reached(addresses.cluster), reached(addresses.scheduler), reached(addresses.http))


def reached_here_alone(log: str, advertise: str, *listened: str) -> str:
    """Returns the host that only this machine reaches, at which this leader is to be reached; empty: there is none.

    Two such leaders on two machines take themselves for each other. With a log on this machine the others are taken to
    be here, too.

    Args:
        log: the URL of a log that can be opened.
        advertise: see Leader; empty: the hosts that it listens on.
        listened: HOST:PORT, for workers and for clients.
    """
    places = urlsplit(log).netloc.rpartition("@")[2]
    hosts = [each.rpartition(":")[0].strip("[] ") if ":" in each else each for each in places.split(",")]
    if not places or all(map(is_loopback, hosts)):
        return ""
    # A leader that listens on all addresses gives the name of this machine.
    reached = [advertise] if advertise else [parse_address(address)[0] for address in listened]
    return next((host for host in reached if is_loopback(host) and (advertise or host not in ALL_INTERFACES)), "")
