"""Proxies that the environment names for gRPC, and those connections that go past them.

gRPC takes the first of these variables that is set for every connection, those of this machine to itself included, and
tells nobody. A leader on this machine is not to be reached through any proxy.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping, Sequence

#: In the order in which gRPC looks at them. It knows them in small letters only.
_VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")
_EXCEPTIONS = ("no_grpc_proxy", "no_proxy")
#: User and password, which no error tells.
_USER = re.compile(r"(?<=//)[^/@]*@|^[^/@]*@")


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, by its name or number; nothing is looked up."""
    name = host.rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        number = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(number, "ipv4_mapped", None) or number
    # To connect to the unspecified address is to connect to this machine.
    return mapped.is_loopback or mapped.is_unspecified


def goes_past_proxies(hosts: Sequence[str]) -> bool:
    """Whether a channel to these hosts must use no proxy, because one of them is this machine."""
    return any(map(is_loopback, hosts))


def proxy_of(hosts: Sequence[str], environment: Mapping[str, str] = os.environ) -> str:
    """Which variable sends a channel to these hosts through which proxy, as in `http_proxy=http://10.0.0.1:3128`.
    Empty when none does.
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
