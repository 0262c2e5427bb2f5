"""The access file: which identities there are besides those of certificates, and what binds or revokes them.

Reads and judges the file. What it means for a call is decided in `access`.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
import stat
import tomllib
from pathlib import Path

import msgspec
from msgspec import Struct

from gowork.base.identities import NAME_BYTES_MAX, Role
from gowork.leader._access.rights import Limits

#: How long the file may be, in bytes, and how many identities it may have.
FILE_BYTES_MAX = 4 << 20
IDENTITIES_MAX = 10_000
_TOKEN = re.compile("sha256:[0-9a-f]{64}")
_NOTHING = f"sha256:{hashlib.sha256().hexdigest()}"
_SERIAL = re.compile("serial:[0-9a-f]+")
_KINDS = ("CN=", "DNS:", "IP:", "URI:", "EMAIL:")


_OF_ALL = ("revoked", "join_networks", "limits")


class AccessError(ValueError):
    """The file can't be used. The message names it, and says what to do."""


class Entry(Struct, frozen=True, forbid_unknown_fields=True):
    """One [[identity]]."""

    name: str
    #: For who has a gowork:// certificate: roles that this file leaves it; None: all of the certificate's.
    roles: tuple[Role, ...] | None = None
    #: Names of certificates that stand for it: CN=…, DNS:…, IP:…, URI:…, EMAIL:….
    certificates: tuple[str, ...] = ()
    #: SHA-256 of its tokens, as in sha256:HEX.
    tokens: tuple[str, ...] = ()
    queues: tuple[str, ...] | None = None
    handlers: tuple[str, ...] | None = None
    #: What is missing is as `limits` of the file says.
    limits: Limits = Limits()


class AccessFile(Struct, frozen=True, forbid_unknown_fields=True):
    """All that the file says."""

    identity: tuple[Entry, ...] = ()
    #: Those of each identity, whether it has an [[identity]] or not. Leaders have none.
    limits: Limits = Limits()
    #: Names of identities, and serial:HEX of certificates, that are let in no more.
    revoked: tuple[str, ...] = ()
    #: Where callback workers may be: networks, as in 10.0.0.0/8, and hosts, as in *.workers.example; None: anywhere.
    join_networks: tuple[str, ...] | None = None


def read_access_file(path: Path) -> AccessFile:
    """Reads and checks the file.

    Raises:
        AccessError: it can't be read, or says what makes no sense.
    """
    try:
        if path.exists() and not path.is_file():
            raise AccessError(f"{path} is no file")
        if path.stat().st_mode & stat.S_IWOTH:
            raise AccessError(f"{path}: everybody may write to it; take that away with chmod o-w")
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except AccessError:
        raise
    except (OSError, ValueError) as error:
        raise AccessError(f"{path} can't be read: {getattr(error, 'strerror', None) or error}") from None
    if len(data) > FILE_BYTES_MAX:
        raise AccessError(f"{path} has more than {FILE_BYTES_MAX} bytes")
    if not data.strip():
        raise AccessError(f"{path} is empty; to let everybody in again who was revoked, leave a comment in it")
    try:
        found = msgspec.convert(tomllib.loads(data.decode()), AccessFile)
    except (ValueError, msgspec.ValidationError, RecursionError) as error:
        raise AccessError(f"{path}: {error}{_advice(str(error))}") from None
    for wrong in _faults(found):
        raise AccessError(f"{path}: {wrong}")
    return found


def _advice(error: str) -> str:
    """Returns what to do about what the library says of a file."""
    if "unknown field" in error and "$.identity" in error and any(f"`{name}`" in error for name in _OF_ALL):
        return f"; {', '.join(_OF_ALL)} stand above the first [[identity]]"
    if "Invalid enum value" in error:
        return f"; roles are {', '.join(Role)}"
    if "Expected `array`, got `object` - at `$.identity`" in error:
        return "; each identity begins with [[identity]]"
    return '; lists are written as in ["client"]' if "Expected `array" in error else ""


def _faults(found: AccessFile) -> list[str]:
    """Returns what is wrong with a file."""
    faults = []
    if len(found.identity) > IDENTITIES_MAX:
        faults.append(f"it has {len(found.identity)} identities; the limit is {IDENTITIES_MAX}")
    names: set[str] = set()
    owners: dict[str, str] = {}
    for entry in found.identity:
        at = f"identity {entry.name[:80]!r}"
        if not entry.name.strip() or not entry.name.isprintable() or len(entry.name.encode()) > NAME_BYTES_MAX:
            faults.append(f"{at}: a name is printable text of 1 to {NAME_BYTES_MAX} bytes")
        if entry.name in names:
            faults.append(f"{at} is there twice; put what belongs to it into one")
        names.add(entry.name)
        if (entry.tokens or entry.certificates) and not entry.roles:
            faults.append(f'{at}: tokens and certificates need roles, such as roles = ["client"]')
        faults += [
            f"{at}: a token is written as sha256: and 64 hexadecimal digits, its hash and not itself; "
            "`gowork tokens new FILE` makes one and prints that"
            for token in entry.tokens
            if not _TOKEN.fullmatch(token)
        ]
        if _NOTHING in entry.tokens:
            faults.append(f"{at}: {_NOTHING} is the hash of an empty token")
        faults += [
            f"{at}: certificate {name[:80]!r} must begin with one of {', '.join(_KINDS)}"
            for name in entry.certificates
            if not name.startswith(_KINDS)
        ]
        for each in (*entry.tokens, *entry.certificates):
            if each in owners:
                faults.append(f"{at}: {each[:80]} is also that of {owners[each][:80]!r}")
            owners[each] = entry.name
        if entry.roles and {Role.LEADER, Role.PROXY} & set(entry.roles) and entry.tokens:
            faults.append(f"{at}: leaders and proxies have certificates, not tokens")
    faults += [
        f"revoked: {each[:80]!r} must be serial: and hexadecimal digits in lower case"
        for each in found.revoked
        if each.startswith("serial:") and not _SERIAL.fullmatch(each)
    ]
    faults += [
        f"revoked: {each[:80]!r} is neither the name of an identity nor serial:HEX"
        for each in found.revoked
        if each.startswith((*_KINDS, "sha256:", "gowork:")) or each != each.strip() or not each
    ]
    faults += [
        f"join_networks: {each[:80]!r} is no network or host"
        for each in found.join_networks or ()
        # No host has a slash or a space in its name, so this is a network that was written wrongly.
        if not each or (_network(each) is None and ("/" in each or any(map(str.isspace, each))))
    ]
    return faults


def is_allowed_host(host: str, allowed: tuple[str, ...] | None) -> bool:
    """Whether a callback worker may be at this host: an IP address, or a name."""
    if allowed is None:
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return any(fits(host.lower(), pattern.lower()) for pattern in allowed if _network(pattern) is None)
    return any(address in network for pattern in allowed if (network := _network(pattern)) is not None)


def fits(host: str, pattern: str) -> bool:
    """Whether a host is that of a pattern, in which *. at the beginning stands for any names before."""
    if pattern.startswith("*."):
        return host.endswith(pattern[1:]) and len(host) >= len(pattern)
    return host == pattern


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None
