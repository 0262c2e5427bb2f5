"""Keeps the worker in a session with a leader: tries the addresses in turn, at once at first, then with delays."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from collections.abc import Sequence

import grpc

from gowork.base.channels import open_channel, unanswered
from gowork.proto.status import refusal_of
from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker._session.lease import Lease
from gowork.worker._session.stream import SessionEnded, SessionStream
from gowork.worker._supervisor.supervisor import Supervisor

logger = logging.getLogger("gowork.worker")

#: Seconds of delay before each try of the second round over all addresses. It doubles with each round, up to the most.
_DELAY_FIRST = 0.1
_DELAY_MAX = 2.0
#: Seconds after which the same complaint is logged again.
_REPEAT_AFTER = 60.0


class Connector:
    """Opens sessions. `run` ends when the worker has said goodbye, or is cancelled."""

    def __init__(self, supervisor: Supervisor, addresses: Sequence[str]) -> None:
        """Args:
        supervisor: gives and takes the frames of the sessions.
        addresses: the leaders' addresses, each HOST:PORT, at least one.
        """
        self._supervisor = supervisor
        self._addresses = addresses
        #: The highest term that a leader has shown.
        self._term = 0
        #: Set by the first Welcome.
        self.welcomed = asyncio.Event()
        #: Whether a session is open.
        self.connected = False
        self._complaint = ""
        self._complained_at = 0.0
        self._lease = Lease(self._lose_lease)
        #: The timer of the reconnect grace: runs from the end of a session to the next one.
        self._grace: asyncio.TimerHandle | None = None

    async def run(self) -> None:
        """Connects, again after each session, until the worker has left."""
        failures = 0
        for address in itertools.cycle(self._addresses):
            # The first round over all addresses goes without waiting.
            if failures >= len(self._addresses):
                rounds = failures // len(self._addresses) - 1
                await asyncio.sleep(min(_DELAY_MAX, _DELAY_FIRST * 2 ** min(rounds, 10)) * random.uniform(0.8, 1.0))
            if await self._connect(address):
                failures = 0
            else:
                failures += 1
            if self._supervisor.has_left:
                return

    async def _connect(self, address: str) -> bool:
        """Holds one session to its end. Returns whether there was one."""
        loop = asyncio.get_running_loop()
        welcome: session.Welcome | None = None
        channel = open_channel([address])
        try:
            stream = SessionStream(channel, self._supervisor, self._lease)
            first = await stream.open()
            if first.welcome.term < self._term:
                self._complain(f"the leader at {address} has term {first.welcome.term}, older than term {self._term}")
                return False
            welcome = first.welcome
            self._term = welcome.term
            self.connected = True
            self._complaint = ""
            if self._grace is not None:
                self._grace.cancel()
            self._lease.begin(welcome.lease_ms / 1000)
            logger.info("session open", extra={"leader": address, "term": welcome.term})
            self.welcomed.set()
            await stream.run(first)
            logger.info("session over", extra={"leader": address, "reason": "the leader ended it"})
        except SessionEnded as error:
            self._complain(f"the leader at {address} {error}")
        except grpc.aio.AioRpcError as error:
            self._complain(_words(address, error))
        finally:
            if welcome is not None:
                self.connected = False
                self._grace = loop.call_later(welcome.reconnect_grace_ms / 1000, self._supervisor.cut_off)
            await channel.close()
        return welcome is not None

    def _lose_lease(self) -> None:
        logger.warning("lease lost")
        self._supervisor.lose_lease()

    def _complain(self, complaint: str) -> None:
        """Logs why there is no session, once for each reason."""
        now = asyncio.get_running_loop().time()
        if complaint != self._complaint or now - self._complained_at > _REPEAT_AFTER:
            self._complaint, self._complained_at = complaint, now
            logger.warning("no session, trying again", extra={"reason": complaint})


def _words(address: str, error: grpc.aio.AioRpcError) -> str:
    refusal = refusal_of(error)
    if refusal.code is grpc.StatusCode.UNAVAILABLE:
        # The leader itself may say so, when it stops or its store takes nothing. Else nobody answers there.
        return f"the leader at {address} said: {refusal.message}" if refusal.is_said else unanswered([address])
    return f"the leader at {address} refused: {refusal.message or refusal.reason}"
