"""Says who makes a call, and whether they may.

Owns what the access file says now. It starts no thread: its owner calls `refresh`.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import grpc
from msgspec import Struct
from msgspec.structs import replace

from gowork.base.identities import (
    PROXIED,
    IdentityError,
    Role,
    certificate_of,
    proxied_certificate,
    said_in,
    shown_by,
)
from gowork.leader._access.access_file import AccessError, AccessFile, Entry, is_allowed_host, read_access_file
from gowork.leader._access.audit import Audit
from gowork.leader._access.authenticators import Authenticator, Credentials
from gowork.leader._access.metadata import CALLER_KEY, FORWARDED
from gowork.leader._access.rights import CALLS, CONCERN_ALL, Identity, Limits, decoded
from gowork.proto.status import Refusal

_log = logging.getLogger(__name__)

AUTHORIZATION = "authorization"
_BEARER = "bearer "
_NO_ENTRY = Entry("")
#: The reasons of refusals of callers whom the leader does not know by itself. One that is revoked is known.
_UNKNOWN = frozenset({"NO_IDENTITY", "NO_ROLE", "TOKEN_UNKNOWN", "TOKEN_UNUSABLE"})
#: Metadata that anybody can send, and that only leaders and proxies are believed.
_INTERNAL = frozenset({CALLER_KEY, FORWARDED, PROXIED})
#: How many bytes of a token's hash are looked up. The rest is compared in constant time.
_LOOKED_UP_BYTES = 8
_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class _Known(Struct, frozen=True):
    """What an access file says, ready to be looked up."""

    file: AccessFile
    by_name: dict[str, Entry]
    by_certificate: dict[str, Entry]
    #: {the first bytes of a hash: the whole hashes that begin so, and whose they are}
    by_token: dict[bytes, list[tuple[bytes, Entry]]]
    revoked: frozenset[str]


class Access:
    """Who may do what, by the certificates of callers and by an access file. Threads may share it.

    Args:
        path: the access file; None: there is none, and only certificates with gowork:// URIs have roles.
        authenticator: is asked who calls where neither says it; None: nobody is.

    Raises:
        AccessError: the file can't be used.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None, authenticator: Authenticator | None = None) -> None:
        self._authenticator = authenticator
        self._path = path = None if path is None else Path(path)
        self.audit = Audit()
        self._look = self._seen = _look(path)
        self._known = _known(AccessFile() if path is None else read_access_file(path))
        #: Why the newest file is not used; empty: it is.
        self.fault = ""

    def refresh(self) -> bool:
        """Uses the file anew when it has changed. It reads the disk. Returns whether it says something else now."""
        look = _look(self._path)
        if self._path is None or (look == self._look and not self.fault):
            return False
        if look != self._seen and look.inode == self._look.inode:
            # It is being written, perhaps. A file that another one was renamed to is whole.
            self._seen = look
            return False
        self._look = self._seen = look
        try:
            file = read_access_file(self._path)
        except AccessError as error:
            if self.fault != str(error):
                self.fault = str(error)
                _log.error("new access file not used", extra={"reason": self.fault, "uses": "that from before"})
            return False
        self.fault = ""
        if file == self._known.file:
            return False
        self._known = _known(file)
        _log.info("new access file is used", extra={"identities": len(file.identity), "revoked": len(file.revoked)})
        return True

    def admit(self, call: str, context: _Context) -> Identity:
        """Returns who makes a call, named service/method, who may make it.

        Raises:
            Refusal: UNAUTHENTICATED: it is not known who calls, or they are revoked. PERMISSION_DENIED: they may not
                make this call.
        """
        return _allowed(self._caller(context), call)

    def close(self) -> None:
        """Ends what it has begun, when its leader ends."""
        if self._authenticator is not None:
            self._authenticator.close()

    @property
    def authenticator(self) -> str:
        """What the authenticator is called; empty: there is none."""
        return "" if self._authenticator is None else self._authenticator.title

    def has_to_ask(self, refusal: Refusal) -> bool:
        """Whether the authenticator may know a caller whom `admit` has refused so."""
        return self._authenticator is not None and refusal.reason in _UNKNOWN

    async def ask(self, call: str, context: _Context, refusal: Refusal) -> Identity:
        """Does as `admit`, and has the authenticator say who makes the call.

        Args:
            call: service/method.
            context: the call's.
            refusal: that of `admit`, which stands where the authenticator does not know the caller.

        Raises:
            Refusal: as `admit`, or the authenticator has failed.
        """
        assert self._authenticator is not None, "has_to_ask says so"
        said = said_in(context, AUTHORIZATION, CALLER_KEY, FORWARDED, PROXIED)
        _, pem = self._shown(self._known, context, said[PROXIED])
        kept = tuple((str(key), value) for key, value in context.invocation_metadata() or () if key not in _INTERNAL)
        found = await self._authenticator.ask(Credentials(call, context.peer(), pem or b"", kept))
        if found is None:
            raise refusal
        # What the file says by now.
        caller = self._vouched(*found)
        return _allowed(_handed_on(self._known, caller, said[CALLER_KEY], is_forwarded=bool(said[FORWARDED])), call)

    def admit_again(self, call: str, context: _Context, caller: Identity) -> Identity:
        """Does as `admit`, for somebody who has been admitted before. The authenticator is not asked again.

        Raises:
            Refusal: as `admit`.
        """
        if caller.vouched is None:
            return self.admit(call, context)
        return _allowed(self._vouched(caller.name, caller.vouched), call)

    def _vouched(self, name: str, roles: frozenset[Role]) -> Identity:
        """Returns whom the authenticator has named, as the file leaves them."""
        return replace(_of_roles(self._known, name, roles), vouched=roles)

    def is_leader(self, certificate: bytes) -> bool:
        """Whether other leaders with the same access file take a certificate (PEM) for a leader's.

        Raises:
            IdentityError: it can't be read.
        """
        try:
            found = _of_certificate(self._known, certificate)
        except Refusal:
            return False
        return isinstance(found, Identity) and Role.LEADER in found.roles

    def may_join_from(self, host: str) -> bool:
        """Whether a callback worker may be at this host: an IP address, or a name."""
        return is_allowed_host(host, self._known.file.join_networks)

    def may_stay(self, owner: str, host: str) -> bool:
        """Whether a callback worker that joined as this owner, and is at this host, may still be a member."""
        entry = self._known.by_name.get(owner, _NO_ENTRY)
        is_worker = entry.roles is None or Role.WORKER in entry.roles
        is_bound = entry.queues is not None or entry.handlers is not None
        return owner not in self._known.revoked and is_worker and not is_bound and self.may_join_from(host)

    def _caller(self, context: _Context) -> Identity:
        known = self._known
        said = said_in(context, AUTHORIZATION, CALLER_KEY, FORWARDED, PROXIED)
        caller, _ = self._shown(known, context, said[PROXIED])
        caller = _by_token(known, said[AUTHORIZATION]) or caller
        if isinstance(caller, Refusal):
            raise caller
        if caller is None:
            raise _unknown("NO_IDENTITY", "show a certificate, or a token: this leader wants to know who calls")
        return _handed_on(known, caller, said[CALLER_KEY], is_forwarded=bool(said[FORWARDED]))

    @staticmethod
    def _shown(known: _Known, context: _Context, proxied: list[str]) -> tuple[Identity | Refusal | None, bytes | None]:
        """Returns whose the certificate is that counts, and the certificate: a proxy hands that of its caller on.

        Raises:
            Refusal: it can't be read, or is revoked.
        """
        try:
            pem = certificate_of(context)
            caller = _of_certificate(known, pem)
            is_proxy = isinstance(caller, Identity) and Role.PROXY in caller.roles
            if is_proxy or context.peer().startswith("unix:"):
                pem = proxied_certificate(proxied)
                caller = _of_certificate(known, pem)
        except IdentityError as error:
            raise _unknown("CERTIFICATE_UNUSABLE", str(error)) from None
        return caller, pem


def _allowed(caller: Identity, call: str) -> Identity:
    """Returns the caller of a call who may make it.

    Raises:
        Refusal: PERMISSION_DENIED: they may not.
    """
    if not caller.may(call):
        message = f"{caller.words} may not call {call.partition('/')[2]}; that takes {_roles_for(call)}"
        raise _denied("ROLE_MISSING", message)
    if caller.is_bound and call in CONCERN_ALL:
        message = f"{caller.words} may not call {call.partition('/')[2]}: it concerns all queues and handlers"
        raise _denied("OUT_OF_BOUNDS", message)
    return caller


def _roles_for(call: str) -> str:
    """Names the roles that may make a call."""
    roles = [role.value for role in Role if call in CALLS[role]]
    return f"one of the roles {', '.join(roles)}" if roles[1:] else f"the role {''.join(roles) or 'of nobody'}"


def _known(file: AccessFile) -> _Known:
    tokens: dict[bytes, list[tuple[bytes, Entry]]] = {}
    for entry in file.identity:
        for token in entry.tokens:
            digest = bytes.fromhex(token.partition(":")[2])
            tokens.setdefault(digest[:_LOOKED_UP_BYTES], []).append((digest, entry))
    return _Known(
        file,
        {entry.name: entry for entry in file.identity},
        {name: entry for entry in file.identity for name in entry.certificates},
        tokens,
        frozenset(map(_plain, file.revoked)),
    )


def _plain(revoked: str) -> str:
    """Returns an entry with its serial number as certificates have it here: openssl writes zeros before."""
    kind, _, digits = revoked.partition(":")
    return f"serial:{int(digits, 16):x}" if kind == "serial" else revoked


def _of_certificate(known: _Known, pem: bytes | None) -> Identity | Refusal | None:
    """Returns whose a certificate is, or the refusal of one that has no role; None: there is none.

    Raises:
        IdentityError: it can't be read.
        Refusal: it, or whose it is, is revoked.
    """
    if pem is None:
        return None
    shown = shown_by(pem)
    if f"serial:{shown.serial}" in known.revoked:
        raise _unknown("REVOKED", f"the certificate of {shown.words} is revoked")
    if shown.name:
        return _of_roles(known, shown.name, shown.roles)
    for name in shown.names:
        if (entry := known.by_certificate.get(name)) is not None:
            return _identity(known, entry.name, frozenset(entry.roles or ()), entry)
    return _denied(
        "NO_ROLE",
        f"the certificate of {shown.words} has no role: it needs a URI such as gowork://client/NAME, or a line in the "
        "leader's access file",
    )


def _by_token(known: _Known, given: list[str]) -> Identity | None:
    """Returns whose token was sent; None when none was."""
    if not given:
        return None
    token = given[0][len(_BEARER) :].strip()
    if len(given) > 1 or given[0][: len(_BEARER)].lower() != _BEARER or not token:
        raise _unknown("TOKEN_UNUSABLE", "send one header, authorization: Bearer TOKEN")
    digest = hashlib.sha256(token.encode()).digest()
    for other, entry in known.by_token.get(digest[:_LOOKED_UP_BYTES], ()):
        if hmac.compare_digest(digest, other):
            return _identity(known, entry.name, frozenset(entry.roles or ()), entry)
    raise _unknown("TOKEN_UNKNOWN", "no identity has this token; it may have been replaced")


def _of_roles(known: _Known, name: str, roles: frozenset[Role]) -> Identity:
    """Returns the identity of a name with these roles, of which the file may leave it some only.

    Raises:
        Refusal: it is revoked.
    """
    entry = known.by_name.get(name)
    if entry is None:
        return _identity(known, name, roles, _NO_ENTRY)
    return _identity(known, name, roles if entry.roles is None else roles & frozenset(entry.roles), entry)


def _identity(known: _Known, name: str, roles: frozenset[Role], entry: Entry) -> Identity:
    if name in known.revoked:
        raise _unknown("REVOKED", f"{name!r} is revoked")
    # A leader's calls are those of others, each of which has limits.
    limits = Limits() if Role.LEADER in roles else entry.limits.over(known.file.limits)
    return Identity(name, roles, entry.queues, entry.handlers, limits)


def _handed_on(known: _Known, caller: Identity, named: list[str], *, is_forwarded: bool) -> Identity:
    """Returns for whom a call is made: for another caller if a leader hands its call on.

    Raises:
        Refusal: somebody else pretends to.
    """
    if not named and not is_forwarded:
        return caller
    if Role.LEADER not in caller.roles:
        raise _denied("NOT_A_LEADER", f"{caller.words} may not hand on calls of others; only a leader may")
    if not named:
        return caller
    try:
        (text,) = named
        name, roles = decoded(text)
    except ValueError:
        raise _unknown("CALLER_UNUSABLE", f"the other leader has not said who calls, but {named[0][:100]!r}") from None
    return _of_roles(known, name, roles - {Role.LEADER, Role.PROXY})


def _unknown(reason: str, message: str) -> Refusal:
    return Refusal(grpc.StatusCode.UNAUTHENTICATED, reason, message)


def _denied(reason: str, message: str) -> Refusal:
    return Refusal(grpc.StatusCode.PERMISSION_DENIED, reason, message)


class _Look(NamedTuple):
    """What changes when the file does."""

    inode: object
    rest: object


def _look(path: Path | None) -> _Look:
    try:
        look = None if path is None else os.stat(path)
    except (OSError, ValueError) as error:
        return _Look(None, str(error))
    if look is None:
        return _Look(None, None)
    return _Look((look.st_dev, look.st_ino), (look.st_size, look.st_mtime_ns, look.st_ctime_ns, look.st_mode))
