"""Keeps the worker in a session with a leader: tries the addresses in turn, at once at first, then with delays.

A leader that forwards sessions may name the one that leads. The worker then goes there, if that connects.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence

import grpc

from gowork.base.channels import (
    CONNECT_SECONDS,
    may_be_handshake,
    open_channel,
    parse_address,
    unanswered,
    why_unanswered,
)
from gowork.base.rotation import Rotation, hint_of
from gowork.base.succession import Succession
from gowork.base.tls import Tls
from gowork.proto.status import Refusal, refusal_of
from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker._session.lease import Lease
from gowork.worker._session.stream import WELCOME_TIMEOUT, SessionEnded, SessionStream, unread_refusal
from gowork.worker._supervisor.supervisor import Supervisor

logger = logging.getLogger("gowork.worker")

#: Seconds of delay before each try of the second round over all addresses. It doubles with each round, up to the most.
_DELAY_FIRST = 0.1
_DELAY_MAX = 2.0
#: Seconds that Welcome may take at the only address, once, when another leader has taken over. A balancer may choose
#: the former leader again, and the try after that one meets another.
_WELCOME_TIMEOUT_ONCE = 1.0
#: What gRPC says of a call whose status it has lost.
_STATUS_LOST = "Internal error from Core"
#: What ends a call before it reads anything.
_UNREAD = "it is no leader's address, or it refused this worker before it read anything, or is a proxy without a leader"
#: Seconds after which the same complaint is logged again.
_REPEAT_AFTER = 60.0


class Connector:
    """Opens sessions. `run` ends when the worker has said goodbye, or is cancelled."""

    def __init__(self, supervisor: Supervisor, addresses: Sequence[str], tls: Tls | None = None) -> None:
        """Args:
        supervisor: gives and takes the frames of the sessions.
        addresses: the leaders' addresses, each HOST:PORT, at least one.
        tls: the certificates with which they are called; None: plain text.
        """
        self._supervisor = supervisor
        self._rotation = Rotation(addresses, tls)
        self._tls = tls
        self._succession = Succession(self._rotation, for_workers=True, tls=tls)
        #: Whether a hint led away from the address that was tried last.
        self._has_followed = False
        #: Whether another leader leads than that of the last session, behind the same address.
        self._is_succeeded_here = False
        #: The highest term that a leader has shown.
        self._term = 0
        #: Set by the first Welcome.
        self.welcomed = asyncio.Event()
        #: Whether a session is open.
        self.connected = False
        #: Why there was no session at the address that was tried last.
        self._complaint = ""
        #: {complaint: when it was logged, on the loop's clock}, of the last minute
        self._complaints: dict[str, float] = {}
        self._lease = Lease(self._lose_lease)
        #: The timer of the reconnect grace: runs from the end of a session to the next one.
        self._grace: asyncio.TimerHandle | None = None

    async def run(self) -> None:
        """Connects, again after each session, until the worker has left."""
        rotation = self._rotation
        failures = 0
        while True:
            # The first round over all addresses goes without waiting.
            if failures >= (count := len(rotation.addresses)):
                rounds = failures // count - 1
                await asyncio.sleep(min(_DELAY_MAX, _DELAY_FIRST * 2 ** min(rounds, 10)) * random.uniform(0.8, 1.0))
            address = rotation.current
            if await self._connect(address):
                failures = 0
                rotation.leave(address)
            elif not self._has_followed:
                failures += 1
                rotation.failed(address, self._complaint, answered=False)
            if self._supervisor.has_left:
                return

    async def _connect(self, address: str) -> bool:
        """Holds one session to its end. Returns whether there was one."""
        loop = asyncio.get_running_loop()
        welcome: session.Welcome | None = None
        # Of two leaders that name each other, each is left once.
        may_follow, self._has_followed = not self._has_followed, False
        seconds = _WELCOME_TIMEOUT_ONCE if self._is_succeeded_here else WELCOME_TIMEOUT
        self._is_succeeded_here = False
        known = self._rotation.addresses
        has_others = len(known) > 1 or address not in known
        if self._tls is not None:
            await asyncio.to_thread(self._tls.refresh)
        channel = open_channel([address], has_others=has_others, tls=self._tls)
        try:
            stream = SessionStream(channel, self._supervisor, self._lease)
            first = await stream.open(seconds)
            if first.welcome.term < self._term:
                self._complain(f"the leader at {address} has term {first.welcome.term}, older than term {self._term}")
                return False
            if may_follow and await self._follow(hint_of(address, await stream.initial_metadata())):
                return False
            welcome = first.welcome
            self._term = welcome.term
            self.connected = True
            self._complaints = {}
            if self._grace is not None:
                self._grace.cancel()
            self._lease.begin(welcome.lease_ms / 1000)
            logger.info("session open", extra={"leader": address, "term": welcome.term})
            self.welcomed.set()
            await stream.run(first, self._is_succeeded, has_others=has_others)
            logger.info("session over", extra={"leader": address, "reason": "the leader ended it"})
        except SessionEnded as error:
            self._complain(f"the leader at {address} {error}")
        except grpc.aio.AioRpcError as error:
            is_lost = welcome is None and error.details() == _STATUS_LOST
            refused = (await unread_refusal(channel) if is_lost else None) or error
            self._complain(await self._words(address, refused))
            if may_follow:
                await self._follow(hint_of(address, refused.trailing_metadata(), refused.initial_metadata()))
        finally:
            if welcome is not None:
                self.connected = False
                self._grace = loop.call_later(welcome.reconnect_grace_ms / 1000, self._supervisor.cut_off)
            await channel.close()
        return welcome is not None

    async def _is_succeeded(self) -> bool:
        """Asks whether another leader leads. If one does, it is the next to connect to."""
        address = self._rotation.current
        is_succeeded = await self._succession.ask(address, self._term)
        self._is_succeeded_here = is_succeeded and self._rotation.current == address
        return is_succeeded

    async def _follow(self, hint: str) -> bool:
        """Makes the hinted address the next one, if it connects. Returns whether it does."""
        if not self._rotation.wants(hint):
            return False
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                _, writer = await asyncio.open_connection(*parse_address(hint))
        except (OSError, UnicodeError):
            self._rotation.refuse(hint)
            return False
        writer.close()
        self._rotation.prefer(hint)
        self._has_followed = True
        return True

    async def _words(self, address: str, error: grpc.aio.AioRpcError) -> str:
        """Returns why there was no session. Where TLS may be the reason, it connects once more to find that out."""
        refusal = refusal_of(error)
        if refusal.code is grpc.StatusCode.UNAVAILABLE and not refusal.is_said and may_be_handshake(refusal.message):
            # Imported only now, because it is seldom needed.
            from gowork.base.handshakes import why_no_handshake

            if why := await asyncio.to_thread(why_no_handshake, address, self._tls):
                return f"the leader at {address} can't be called: {why}"
        return _words(address, error)

    def _lose_lease(self) -> None:
        logger.warning("lease lost")
        self._supervisor.lose_lease()

    def _complain(self, complaint: str) -> None:
        """Logs why there is no session, once a minute for each address and reason."""
        self._complaint = complaint
        now = asyncio.get_running_loop().time()
        self._complaints = {each: at for each, at in self._complaints.items() if now - at <= _REPEAT_AFTER}
        if complaint not in self._complaints:
            self._complaints[complaint] = now
            logger.warning("no session, trying again", extra={"reason": complaint})


def _words(address: str, error: grpc.aio.AioRpcError) -> str:
    refusal = refusal_of(error)
    if refusal.code is grpc.StatusCode.UNAVAILABLE:
        # The leader itself may say so, when it stops or its store takes nothing. Else nobody answers there.
        return f"the leader at {address} said: {refusal.message}" if refusal.is_said else _unanswered(address, refusal)
    # gRPC loses the status of a call that ends while Hello is being written. What has no sessions ends it then, and so
    # do a leader that refuses the caller, and a proxy that does or that reaches no leader. It was asked once more.
    lacks_sessions = refusal.code is grpc.StatusCode.UNIMPLEMENTED and not refusal.is_said
    if lacks_sessions or refusal.message == _STATUS_LOST:
        return f"what answers at {address} took no session: {_UNREAD}"
    return f"the leader at {address} refused: {refusal.message or refusal.reason}"


def _unanswered(address: str, refusal: Refusal) -> str:
    why = why_unanswered(refusal.message)
    return f"{unanswered([address])}: {why}" if why else unanswered([address])
