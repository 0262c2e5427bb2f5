"""Proxies that the environment names for gRPC, and the connections that must not use them.

gRPC uses the first of these variables that is set, for every connection, even to this machine itself, and logs nothing.
A leader on this machine must not be reached through a proxy.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping, Sequence

#: The variables in the order in which gRPC reads them. It knows only these names, in lower case.
_VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")
_EXCEPTIONS = ("no_grpc_proxy", "no_proxy")
#: The user and password in a proxy's URL. Errors leave them out.
_USER = re.compile(r"(?<=//)[^/@]*@|^[^/@]*@")


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, by its name or IP address. It looks nothing up."""
    name = host.rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    number = _number(host)
    # A connection to the unspecified address (0.0.0.0, [::]) goes to this machine.
    return number is not None and (number.is_loopback or number.is_unspecified)


def is_unspecified(host: str) -> bool:
    """Whether a host is 0.0.0.0 or ::, in any spelling. Who listens there is reached at all addresses."""
    number = _number(host)
    return number is not None and number.is_unspecified


def _number(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Returns an IP address, that of IPv4 where one of IPv6 stands for it; None for a name."""
    try:
        number = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    return getattr(number, "ipv4_mapped", None) or number


def goes_past_proxies(hosts: Sequence[str]) -> bool:
    """Whether a channel to these hosts must use no proxy, because one of them is this machine."""
    return any(map(is_loopback, hosts))


def is_proxy_named(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the environment names a proxy for any host."""
    return any(environment.get(name) for name in _VARIABLES)


def proxy_of(hosts: Sequence[str], environment: Mapping[str, str] = os.environ) -> str:
    """Returns the variable and the proxy for a channel to these hosts, as in `http_proxy=http://10.0.0.1:3128`.

    The text is empty when the channel uses no proxy.
    """
    found = next(((name, environment[name]) for name in _VARIABLES if environment.get(name)), None)
    if found is None or goes_past_proxies(hosts):
        return ""
    exceptions = next((environment[name] for name in _EXCEPTIONS if environment.get(name)), "")
    endings = tuple(part.strip().lower() for part in exceptions.split(",") if part.strip())
    if endings and all(host.lower().endswith(endings) for host in hosts):
        return ""
    name, value = found
    return f"{name}={_USER.sub('', value)}"
