"""Who is at the other end of a connection, by the certificate that was shown.

A certificate names its roles in the subjectAltName, each as a URI: gowork://ROLE/NAME. A proxy that ends TLS hands the
certificate of its caller on in a header, which only a connection from a proxy is believed.

Whether the certificate is from a trusted authority was settled when the connection began: by gRPC, or by the proxy.
"""

from __future__ import annotations

from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit

from msgspec import Struct

if TYPE_CHECKING:
    import grpc

#: The header with the certificate of a proxy's caller, in the form of Envoy: Cert="PEM, percent-encoded";…
PROXIED = "x-forwarded-client-cert"
#: How long the name of an identity may be, in bytes.
NAME_BYTES_MAX = 256
#: How many certificates are remembered with what they say, so that not each call reads one.
_REMEMBERED = 4096
_SCHEME = "gowork"


class Role(StrEnum):
    """What somebody is to a cluster."""

    #: Schedules tasks, and sees and ends them.
    CLIENT = "client"
    #: Runs tasks.
    WORKER = "worker"
    #: Does what a client does, and has the cluster changed: queues, members, leaders, back-ups.
    ADMIN = "admin"
    #: Sees everything and changes nothing.
    READ_ONLY = "read-only"
    #: Hands on the calls of others, copies the store, and has callback workers run tasks.
    LEADER = "leader"
    #: Ends TLS, and says who calls through it.
    PROXY = "proxy"


class IdentityError(ValueError):
    """A certificate, or a proxy's header, doesn't say who calls. The message says why."""


class Shown(Struct, frozen=True):
    """What a certificate says of who shows it."""

    #: The name in its gowork:// URIs; empty: it has none.
    name: str
    roles: frozenset[Role]
    #: Its other names: CN=…, DNS:…, IP:…, URI:…, EMAIL:….
    names: tuple[str, ...]
    #: Its serial number, in lower-case hexadecimal digits.
    serial: str

    @property
    def words(self) -> str:
        """What it is called in an error."""
        return self.name or next(iter(self.names), f"serial:{self.serial}")


def uri_of(role: Role, name: str) -> str:
    """Returns the URI with which a certificate gives this role to this name."""
    return f"{_SCHEME}://{role}/{quote(name, safe='')}"


@lru_cache(_REMEMBERED)
def shown_by(pem: bytes) -> Shown:
    """Returns what a certificate says.

    Args:
        pem: the certificate. What follows it is not looked at.

    Raises:
        IdentityError: it can't be read, or names several identities.
    """
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    try:
        certificate = x509.load_pem_x509_certificate(pem)
        alternative = _alternative_names(certificate)
        names = [f"CN={each.value!s}" for each in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    except Exception as error:  # noqa: BLE001 - whatever the library raises for bytes from outside
        raise IdentityError(f"the certificate can't be read: {error}") from None
    roles, own = set(), set()
    for each in alternative:
        if isinstance(each, x509.UniformResourceIdentifier) and each.value.startswith(f"{_SCHEME}://"):
            role, name = _role_and_name(each.value)
            # A newer version may know more roles.
            if role is not None:
                roles.add(role)
            own.add(name)
        elif kind := _KINDS.get(type(each).__name__):
            names.append(f"{kind}:{each.value}")
    if len(own) > 1:
        shown = ", ".join(repr(name[:80]) for name in sorted(own)[:3])
        raise IdentityError(f"the certificate has gowork:// URIs of several names ({shown}); it may have one name")
    return Shown(next(iter(own), ""), frozenset(roles), tuple(names), f"{certificate.serial_number:x}")


def certificate_of(context: grpc.aio.ServicerContext[Any, Any]) -> bytes | None:
    """Returns the certificate with which a caller connected, as PEM; None: it showed none."""
    found = context.auth_context().get("x509_pem_cert", ())
    return next(iter(found), None)


def proxied_certificate(values: list[str]) -> bytes | None:
    """Returns the certificate that a proxy hands on, as PEM; None: its caller showed none.

    Args:
        values: the values of the header PROXIED.

    Raises:
        IdentityError: a value has another form, or there are several. Then a caller's own header may have passed the
            proxy.
    """
    if not values or values == [""]:
        return None
    elements = _split(values[0], ",")
    if len(values) > 1 or len(elements) > 1:
        raise IdentityError(f"there are several certificates in {PROXIED}; a proxy must overwrite this header")
    found = None
    for pair in _split(elements[0], ";"):
        key, _, value = pair.partition("=")
        if key.strip().lower() == "cert":
            if found is not None:
                raise IdentityError(f"{PROXIED} has several certificates; a proxy must overwrite this header")
            found = value.strip().strip('"')
    if found is None:
        raise IdentityError(f"{PROXIED} has no Cert=…; have the proxy hand the whole certificate on")
    return unquote(found).encode() or None


def caller_shown(context: grpc.aio.ServicerContext[Any, Any]) -> Shown | None:
    """Returns what the caller's certificate says, also when a proxy is between; None: there is no certificate.

    Raises:
        IdentityError.
    """
    pem = certificate_of(context)
    shown = None if pem is None else shown_by(pem)
    if shown is not None and Role.PROXY in shown.roles:
        pem = proxied_certificate(said_in(context, PROXIED)[PROXIED])
        return None if pem is None else shown_by(pem)
    return shown


def said_in(context: grpc.aio.ServicerContext[Any, Any], *keys: str) -> dict[str, list[str]]:
    """Returns what a call's metadata say in text: {each of these keys: its values}."""
    said: dict[str, list[str]] = {key: [] for key in keys}
    metadata: Any = context.invocation_metadata() or ()
    for key, value in metadata:
        if key in said and isinstance(value, str):
            said[key].append(value)
    return said


def _role_and_name(uri: str) -> tuple[Role | None, str]:
    """Raises: IdentityError."""
    try:
        parts = urlsplit(uri)
        name = unquote(parts.path[1:], errors="strict")
    except ValueError:
        raise IdentityError(f"the certificate's URI {uri[:100]!r} is not {_SCHEME}://ROLE/NAME") from None
    well_formed = (
        parts.path.startswith("/") and name.strip() and name.isprintable() and not (parts.query or parts.fragment)
    )
    if not well_formed or len(name.encode()) > NAME_BYTES_MAX:
        raise IdentityError(f"the certificate's URI {uri[:100]!r} is not {_SCHEME}://ROLE/NAME")
    try:
        return Role(parts.netloc), name
    except ValueError:
        return None, name


def _split(text: str, separator: str) -> list[str]:
    """Splits a text at separators outside quotation marks, in which a backslash takes the next character as it is."""
    parts, begun, quoted, place = [], 0, False, 0
    while place < len(text):
        if text[place] == "\\" and quoted:
            place += 1
        elif text[place] == '"':
            quoted = not quoted
        elif text[place] == separator and not quoted:
            parts.append(text[begun:place])
            begun = place + 1
        place += 1
    return [*parts, text[begun:]]


_KINDS = {"DNSName": "DNS", "IPAddress": "IP", "UniformResourceIdentifier": "URI", "RFC822Name": "EMAIL"}


def _alternative_names(certificate: Any) -> list[Any]:
    from cryptography import x509

    try:
        return list(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        return []
