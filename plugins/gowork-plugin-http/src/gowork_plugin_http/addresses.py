"""Says which addresses may be dialled: those that everybody can reach, and those that the worker's setting allows."""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

#: The environment variable that names addresses and networks that may be dialled though they are not public.
ALLOW_VARIABLE = "GOWORK_HTTP_ALLOW"
NETWORKS_MAX = 1000

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

#: What `is_global` of the older Pythons takes as public, and what is public but has a cloud's metadata.
_NOT_PUBLIC: tuple[Network, ...] = tuple(
    ipaddress.ip_network(text)
    for text in (
        *("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32"),
        *("64:ff9b:1::/48", "2001::/23", "2002::/16", "5f00::/16", "fec0::/10"),
    )
)
#: Addresses of IPv6 that stand for one of IPv4, in their last 32 bits: a translator (RFC 6052) dials that one.
_TRANSLATED: tuple[ipaddress.IPv6Network, ...] = (
    ipaddress.IPv6Network("64:ff9b::/96"),
    ipaddress.IPv6Network("::/96"),
    ipaddress.IPv6Network("::ffff:0:0:0/96"),
)


class AddressRefused(OSError):
    """An address was not dialled."""


class Addresses:
    """The addresses that this worker dials."""

    def __init__(self, text: str) -> None:
        """Reads the setting: addresses and networks such as 10.1.0.0/16, separated by commas, spaces or lines.

        Raises:
            ValueError: when one of them can't be read, or when there are more than NETWORKS_MAX.
        """
        words = text.replace(",", " ").split()
        if len(words) > NETWORKS_MAX:
            raise ValueError(f"{ALLOW_VARIABLE}: it has {len(words)} networks; at most {NETWORKS_MAX} are read")
        self._allowed: list[Network] = []
        for word in words:
            try:
                self._allowed.append(ipaddress.ip_network(word))
            except ValueError as error:
                raise ValueError(
                    f"{ALLOW_VARIABLE}: {error}; write addresses and networks, as in 127.0.0.1 10.1.0.0/16 fd00::/8"
                ) from None

    def may_dial(self, text: str) -> bool:
        """Whether an address may be dialled. Its zone, as in fe80::1%eth0, makes no difference."""
        address = _plain(ipaddress.ip_address(text.partition("%")[0]))
        if any(address in network for network in self._allowed):
            return True
        return (
            address.is_global
            and not (address.is_multicast or address.is_reserved or address.is_unspecified)
            and not any(address in network for network in _NOT_PUBLIC)
        )


class Dialler:
    """Makes the sockets of one task, and refuses to make one for an address that may not be dialled.

    The HTTP client calls it with each address just before it connects to that very address. So it makes no difference
    what a name has resolved to before.
    """

    def __init__(self, addresses: Addresses) -> None:
        self._addresses = addresses
        #: The addresses that were refused.
        self.refused: list[str] = []

    def __call__(self, found: tuple[Any, ...]) -> socket.socket:
        """Returns a socket for an address as getaddrinfo gives it.

        Raises:
            AddressRefused: when it may not be dialled.
        """
        family, kind, protocol, _, place = found
        address = str(place[0])
        if family not in (socket.AF_INET, socket.AF_INET6) or not self._addresses.may_dial(address):
            self.refused.append(address)
            raise AddressRefused(f"{address} is not public")
        return socket.socket(family, kind, protocol)


def _plain(address: Address) -> Address:
    """Returns the address of IPv4 that one of IPv6 stands for; the address itself where it stands for none."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        # The first of these are no address of IPv4, but ::, and ::1.
        if int(address) > 1 and any(address in network for network in _TRANSLATED):
            return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address
