"""Which of the leaders' addresses to call.

Owns the order in which addresses are tried, what each one said last, names that have several addresses, and hints at
the address of the one that leads. The caller owns the connections, and says which address has failed.

Names are looked up, and hints are tried, in a thread, one at a time. No call waits for that.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from gowork.base.channels import (
    ADDRESSES_MAX,
    CONNECT_SECONDS,
    AddressError,
    check_token,
    format_address,
    parse_address,
)
from gowork.base.proxies import is_loopback, is_proxy_named, proxy_of

if TYPE_CHECKING:
    from gowork.base.tls import Tls

#: The metadata of an answer in which a leader that forwards calls names the one that leads, as HOST:PORT. The port
#: serves what the called port serves.
HINT_KEY = "gowork-leader"
#: A hint that could not be used is not tried again for this long, in seconds.
_HINT_AGAIN_S = 10.0
#: How many such hints are remembered.
_HINTS_REFUSED_MAX = 16
#: Names are looked up again at most this often, in seconds.
_LOOK_UP_AGAIN_S = 5.0
#: What an address said is cut to this number of characters.
_WORDS_MAX = 200

#: Metadata as gRPC gives it, blocking or asyncio: pairs of a key and a value, text or bytes.
Metadata = Iterable[Any] | None


class Said(NamedTuple):
    """What came back from an address, last."""

    address: str
    words: str
    #: Whether a leader answered there.
    answered: bool


class Rotation:
    """The leaders' addresses, and which of them is called now. Threads may share it."""

    def __init__(self, addresses: Sequence[str], tls: Tls | None = None) -> None:
        """Args:
        addresses: at least one, each HOST:PORT.
        tls: how they are called; None: in plain text.
        """
        self._tls = tls
        self._given = tuple(addresses)
        self._addresses: tuple[str, ...] = self._given
        self._current = self._given[0]
        #: {address: what it said last}
        self._said: dict[str, Said] = {}
        #: {hint: until when it is not tried, on the monotonic clock}
        self._refused: dict[str, float] = {}
        self._has_names = any(map(_may_have_several, self._given))
        self._looked_up_at = -_LOOK_UP_AGAIN_S
        #: Held by the thread that looks names up, or tries a hint.
        self._busy = threading.Lock()

    @property
    def current(self) -> str:
        """The address to call."""
        return self._current

    @property
    def addresses(self) -> Sequence[str]:
        """All addresses, in the order in which they are tried. A name with several addresses was replaced by these."""
        return self._addresses

    def failed(self, address: str, words: str, *, answered: bool) -> None:
        """Notes that no leader took a call at this address. If it is the current one, the next one becomes current.

        Args:
            address: the address that was called.
            words: why, for people.
            answered: whether a leader answered.
        """
        if address in self._addresses:
            said = {each: self._said[each] for each in self._addresses if each in self._said}
            said[address] = Said(address, " ".join(words.split())[:_WORDS_MAX], answered)
            self._said = said
        else:
            self.refuse(address)
        self.leave(address)

    def leave(self, address: str) -> None:
        """Makes the next address the current one, unless another than this one is current already."""
        self.refresh()
        if address == self._current:
            known = self._addresses
            self._current = known[(known.index(address) + 1) % len(known)] if address in known else known[0]

    def replace(self, silent: str, successor: str) -> None:
        """Makes `successor` the current address if `silent` is it, which does not answer while another leader leads."""
        if silent == self._current:
            self._current = successor

    def prefer(self, address: str) -> None:
        """Makes this address the current one, until it fails."""
        self._current = address

    def said(self) -> list[Said]:
        """Returns what each address said last."""
        return [self._said.get(address) or Said(address, "not tried yet", False) for address in self._addresses]

    def refresh(self) -> None:
        """Begins to look the names up, unless that was done lately."""
        now = time.monotonic()
        if self._has_names and now - self._looked_up_at >= _LOOK_UP_AGAIN_S and self._begin(self._look_up):
            self._looked_up_at = now

    def wants(self, hint: str) -> bool:
        """Whether this hint names another address than the current one, may be called, and did not fail lately."""
        if hint in ("", self._current) or time.monotonic() < self._refused.get(hint, 0.0):
            return False
        try:
            check_token([hint], self._tls)
        except AddressError:
            return False
        return True

    def hear(self, *metadata: Metadata) -> None:
        """Takes the hint in an answer's metadata, if there is one: the address becomes current when it connects."""
        hint = hint_of(self._current, *metadata)
        if self.wants(hint):
            self._begin(self._try, hint)

    def refuse(self, hint: str) -> None:
        """Notes that a hint could not be used, so that it is not tried again soon."""
        now = time.monotonic()
        refused = {each: until for each, until in self._refused.items() if until > now}
        if len(refused) < _HINTS_REFUSED_MAX:
            refused[hint] = now + _HINT_AGAIN_S
        self._refused = refused

    def _try(self, hint: str) -> None:
        try:
            socket.create_connection(parse_address(hint), CONNECT_SECONDS).close()
        except (OSError, UnicodeError):
            self.refuse(hint)
        else:
            self._current = hint

    def _look_up(self) -> None:
        found = dict.fromkeys(each for address in self._given for each in _looked_up(address))
        self._addresses = tuple(found)[:ADDRESSES_MAX]

    def _begin(self, work: Callable[..., None], *args: str) -> bool:
        """Begins the work in a thread. Returns False when one is at work, or the process has no threads left."""
        if not self._busy.acquire(blocking=False):
            return False

        def run() -> None:
            try:
                work(*args)
            finally:
                self._busy.release()

        try:
            threading.Thread(target=run, name="gowork-addresses", daemon=True).start()
        except RuntimeError:
            self._busy.release()
            return False
        return True


def hint_of(called: str, *metadata: Metadata) -> str:
    """Returns the address of the one that leads, HOST:PORT, from an answer's metadata; empty when there is none to use.

    A hint at this machine is used only if this machine was called: another machine's leader may say `127.0.0.1`. A hint
    is tried without a proxy, so that it is not used where there is one.

    Args:
        called: the address that was called.
        metadata: the answer's, initial and trailing.
    """
    for each in metadata:
        for key, value in each or ():
            if key == HINT_KEY and isinstance(value, str) and _is_usable(value, called):
                return value
    return ""


def _is_usable(hint: str, called: str) -> bool:
    try:
        host, port = parse_address(hint)
    except AddressError:
        return False
    is_here = is_loopback(host) and not is_loopback(parse_address(called)[0])
    return hint == format_address(host, port) and port > 0 and not is_here and not proxy_of([host])


def _may_have_several(address: str) -> bool:
    """Whether the host is a name to look up. Behind a proxy it is the proxy that looks names up."""
    host, _ = parse_address(address)
    return not (_is_number(host) or is_loopback(host) or is_proxy_named())


def _is_number(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def _looked_up(address: str) -> Iterable[str]:
    """Returns the addresses of a name that has several; else the name, which gRPC looks up at each connection."""
    if not _may_have_several(address):
        return [address]
    host, port = parse_address(address)
    try:
        answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return [address]
    found = dict.fromkeys(format_address(str(answer[4][0]), port) for answer in answers)
    return found if len(found) > 1 else [address]
