"""Authenticators: what other packages contribute to say who makes a call, and how one of them is asked.

Owns the bounds: how long an answer may take, and how many may be waited for. Foreign code runs in threads of its own,
because the leader's loop is what all leases depend on.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import grpc
from msgspec import Struct

from gowork.base import extensions
from gowork.base.identities import NAME_BYTES_MAX, Role
from gowork.proto.status import Refusal

_log = logging.getLogger(__name__)

#: The group of entry points: name = "module:function". The function takes Credentials and returns a Caller, or None.
ENTRY_POINT_GROUP = "gowork.authenticators"
#: How long an answer may take. A later one is as none.
ANSWER_SECONDS_MAX = 2.0
#: How many questions are asked at once, those included whose answer is too late. Further ones wait for their turn, and
#: that counts as time of the answer.
ASKING_MAX = 64
#: How often its failures are logged, with where they were raised. The record of denials has each.
_FAILURE_LOG_SECONDS = 10.0
#: Roles that only certificates give: leaders and proxies speak for others.
_OF_CERTIFICATES = frozenset({Role.LEADER, Role.PROXY})


class Credentials(Struct, frozen=True):
    """What somebody shows who makes a call."""

    #: service/method, as in "scheduler.v1.SchedulerService/ScheduleTask".
    call: str
    #: Where the connection comes from, as gRPC writes it: "ipv4:10.0.0.7:40112".
    peer: str
    #: The certificate, as PEM; empty: none. It is from an authority that the leader trusts, or a proxy hands it on.
    certificate: bytes
    #: All metadata of the call, keys in lower case, without what only leaders and proxies are believed.
    metadata: tuple[tuple[str, str | bytes], ...]

    @property
    def token(self) -> str:
        """What follows "Bearer " in `authorization`; empty: nothing, or there are several."""
        values = [value for key, value in self.metadata if key == "authorization" and isinstance(value, str)]
        if len(values) != 1 or values[0][:7].lower() != "bearer ":
            return ""
        return values[0][7:].strip()


class Caller(Struct, frozen=True):
    """Who makes a call, and which roles they have. The access file binds and revokes them by this name."""

    #: Printable text of 1 to 256 bytes.
    name: str
    #: Of "client", "worker", "admin" and "read-only".
    roles: tuple[str, ...]


Authenticate: TypeAlias = Callable[[Credentials], Caller | Awaitable[Caller | None] | None]


class AuthenticatorError(ValueError):
    """There is no such authenticator, or it cannot be loaded. The message says which there are."""


class Authenticator:
    """Asks one function who makes a call.

    Args:
        authenticate: takes Credentials, and returns a Caller, or None for somebody that it does not know. It may be
            `async def`. It is called in other threads than the leader's, a plain one by several at once.
        title: what it is called in the log.
    """

    def __init__(self, authenticate: Authenticate, title: str = "(code)") -> None:
        self._authenticate = authenticate
        self.title = title
        self._is_async = inspect.iscoroutinefunction(authenticate)
        #: Held by each question that has not been answered.
        self._turns = asyncio.Semaphore(ASKING_MAX)
        self._logged_at = float("-inf")
        self._loop: asyncio.AbstractEventLoop | None = None

    async def ask(self, credentials: Credentials) -> tuple[str, frozenset[Role]] | None:
        """Returns the name and the roles of who shows these credentials; None: it does not know them.

        Raises:
            Refusal: UNAUTHENTICATED: it failed, took too long, or answered what makes no sense.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Caller | None] = loop.create_future()
        limit = asyncio.timeout(ANSWER_SECONDS_MAX)
        try:
            async with limit:
                await self._turns.acquire()
                try:
                    self._start(credentials, _Answer(loop, answer, self._turns))
                except RuntimeError:
                    # The system gives no more threads.
                    self._turns.release()
                    raise
                return _checked(await answer)
        except Exception as error:  # noqa: BLE001 - it is foreign code
            if limit.expired():
                raise _denied(f"the authenticator {self.title} took longer than {ANSWER_SECONDS_MAX:g} s") from None
            raise self._failed(error) from None

    def close(self) -> None:
        """Ends the thread of an async one. The next question begins another."""
        loop, self._loop = self._loop, None
        if loop is not None:
            loop.call_soon_threadsafe(loop.stop)

    def _start(self, credentials: Credentials, answer: _Answer) -> None:
        if self._is_async:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=_serve, args=(self._loop,), name="gowork-authenticator", daemon=True).start()
            asyncio.run_coroutine_threadsafe(answer.take_async(self._authenticate, credentials), self._loop)
            return
        # Daemons, because one that hangs must not keep the leader from ending.
        threading.Thread(
            target=answer.take, args=(self._authenticate, credentials), name="gowork-authenticator", daemon=True
        ).start()

    def _failed(self, error: Exception) -> Refusal:
        # How often something is logged is no decision of the engine's.
        now = time.monotonic()
        if now - self._logged_at >= _FAILURE_LOG_SECONDS:
            self._logged_at = now
            reason = extensions.describe(error)
            _log.error("an authenticator failed", extra={"authenticator": self.title, "reason": reason})
        # Its text is for the log alone: it may have what the caller must not read.
        return _denied(f"the authenticator {self.title} failed: {type(error).__name__}")


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    """Runs the questions of a loop until it is stopped, and gives up those that are open."""
    loop.run_forever()
    for task in asyncio.all_tasks(loop):
        task.cancel()
    # Once through what they do about that. One that does not end then is dropped.
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()


class _Answer:
    """Takes an answer from another thread to the leader's loop."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, future: asyncio.Future[Caller | None], turns: asyncio.Semaphore
    ) -> None:
        self._loop = loop
        self._future = future
        self._turns = turns

    def take(self, authenticate: Authenticate, credentials: Credentials) -> None:
        try:
            found = authenticate(credentials)
        except BaseException as error:  # noqa: BLE001 - whatever it raises, the call is denied
            self._give(None, error)
        else:
            self._give(found, None)

    async def take_async(self, authenticate: Authenticate, credentials: Credentials) -> None:
        try:
            async with asyncio.timeout(ANSWER_SECONDS_MAX):
                found = await authenticate(credentials)  # type: ignore[misc] # It is async.
        except BaseException as error:  # noqa: BLE001 - as above
            self._give(None, error)
        else:
            self._give(found, None)

    def _give(self, found: object, error: BaseException | None) -> None:
        try:
            self._loop.call_soon_threadsafe(self._settle, found, error)
        except RuntimeError:
            pass  # The leader has stopped.

    def _settle(self, found: Any, error: BaseException | None) -> None:
        self._turns.release()
        if self._future.done():
            return
        if error is None:
            self._future.set_result(found)
        elif isinstance(error, Exception) and not isinstance(error, StopIteration):
            self._future.set_exception(error)
        else:
            self._future.set_exception(RuntimeError(f"it raised {type(error).__name__}"))


def load_authenticator(name: str) -> Authenticator:
    """Finds and imports an authenticator that a package contributes.

    Raises:
        AuthenticatorError: there is none of this name, or several, or it can't be loaded.
    """
    installed = extensions.installed(ENTRY_POINT_GROUP)
    found = [each for each in installed if each.name == name]
    if not found:
        known = ", ".join(sorted({each.name for each in installed})) or "none"
        raise AuthenticatorError(f"there is no authenticator {name!r} here; installed are: {known}")
    if len(found) > 1:
        origins = " and ".join(each.origin or each.value for each in found)
        raise AuthenticatorError(f"the authenticator {name!r} is contributed by {origins}: uninstall all but one")
    try:
        authenticate = found[0].load()
    except extensions.ExtensionError as error:
        raise AuthenticatorError(f"the authenticator {found[0].title} can't be loaded: {error}") from None
    if not callable(authenticate):
        raise AuthenticatorError(f"the authenticator {found[0].title} is {type(authenticate).__name__}, no function")
    return Authenticator(authenticate, found[0].title)


def _checked(found: object) -> tuple[str, frozenset[Role]] | None:
    """Returns the name and the roles of an answer, without roles that only certificates give.

    Raises:
        TypeError, ValueError: it makes no sense.
    """
    if found is None:
        return None
    if not isinstance(found, Caller):
        raise TypeError(f"it returned {type(found).__name__}: return a Caller, or None")
    name: object = found.name
    if not isinstance(name, str) or not name.strip() or not name.isprintable() or len(name.encode()) > NAME_BYTES_MAX:
        raise ValueError(f"name: it is printable text of 1 to {NAME_BYTES_MAX} bytes")
    roles: object = found.roles
    if isinstance(roles, str):
        raise TypeError(f'roles: give several, as in ("{roles[:20]}",)')
    return name, frozenset(Role(role) for role in found.roles) - _OF_CERTIFICATES


def _denied(message: str) -> Refusal:
    return Refusal(grpc.StatusCode.UNAUTHENTICATED, "AUTHENTICATOR_FAILED", message)
