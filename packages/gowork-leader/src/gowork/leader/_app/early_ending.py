"""Ends the leadership of a leader whose process is gone, instead of waiting for its lease to run out.

A process that is gone refuses connections: nobody listens any more. A leader that is slow, stopped or cut off does not
refuse them, so it keeps its lease. Even a wrong ending would be safe, because a leader confirms with the log that it
leads before anything leaves it (STILL-LEADS).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time

import grpc
import msgspec

from gowork.base.channels import AddressError, open_channel, parse_address
from gowork.base.tls import Tls
from gowork.leader._replication import announcement
from gowork.leader.log.protocol import Leader, Log, LogError

_log = logging.getLogger(__name__)

#: How long to wait between two refused connections, in seconds. Both must be refused.
BETWEEN_SECONDS = 0.05
#: How long one attempt to connect may take, in seconds.
CONNECT_SECONDS = 1.0
#: How often it looks whether a channel has connected or failed, in seconds. Channels don't tell each change.
CONNECTING_SECONDS = 0.02
#: How long to wait before an address that can't be reached is tried again, in seconds.
UNREACHED_SECONDS = 0.2
#: A leader ends the leadership of those at one address at most once in this time, in seconds. Otherwise one that
#: advertises an address where nobody listens would be ended again and again. The limit is for each address, so that a
#: successor that is killed as well is not waited for.
AGAIN_SECONDS = 10.0

_READY, _FAILED = grpc.ChannelConnectivity.READY, grpc.ChannelConnectivity.TRANSIENT_FAILURE


class EarlyEnding:
    """Watches the leader that leads.

    Args:
        log: knows who leads.
        tls: the certificates with which leaders are called; None: plain text.
    """

    def __init__(self, log: Log, tls: Tls | None = None) -> None:
        self._log = log
        self._tls = tls
        self._watching: asyncio.Task[None] | None = None
        #: {address: when the leadership of a leader there was ended}, of the last AGAIN_SECONDS.
        self._ended_mono: dict[str, float] = {}

    def watch(self, leader: Leader | None) -> None:
        """Watches this leader from now on, and no other. None: watches nobody."""
        if self._watching is not None:
            self._watching.cancel()
            self._watching = None
        if leader is not None:
            self._watching = asyncio.get_running_loop().create_task(self._watch(leader), name="watch the leader")

    async def _watch(self, leader: Leader) -> None:
        try:
            address = announcement.decode(leader.announcement).cluster
            await until_refused(address, self._tls)
            # No clock of the engine's: this is no matter of any term.
            now = time.monotonic()
            lately = {at: mono for at, mono in self._ended_mono.items() if now < mono + AGAIN_SECONDS}
            if address in lately:
                # Its lease runs out by itself.
                return
            self._ended_mono = {**lately, address: now}
            # Said first: when the log has no leader any more, this watch ends.
            _log.warning("leader is gone", extra={"term": leader.term, "address": address})
            await self._log.depose(leader)
        except (LogError, msgspec.MsgspecError, AddressError, UnicodeError) as error:
            # Its lease runs out.
            _log.warning("leader not watched", extra={"term": leader.term, "reason": str(error)})


async def until_refused(address: str, tls: Tls | None = None) -> None:
    """Returns when nobody listens at an address any more: when two connections were refused, one after the other.

    Args:
        address: HOST:PORT.
        tls: the certificates with which it is called; None: plain text.
    """
    async with open_channel([address], tls=tls) as channel:
        while True:
            state = channel.get_state(try_to_connect=True)
            # The channel must have failed, too. gRPC may know more addresses of a name than the system's resolver,
            # such as [::1] of localhost, and the leader may listen on one of these alone.
            if state is _FAILED and await _is_refused(address):
                await asyncio.sleep(BETWEEN_SECONDS)
                if await _is_refused(address):
                    return
            # A channel that can't connect says so once, however often it tries. So the address is tried again here.
            wait = {_READY: None, _FAILED: UNREACHED_SECONDS}.get(state, CONNECTING_SECONDS)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await channel.wait_for_state_change(state)


async def _is_refused(address: str) -> bool:
    """Whether a connection is refused. One that gets no answer is not."""
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            _, writer = await asyncio.open_connection(*parse_address(address))
    except ConnectionRefusedError:
        return True
    except (OSError, TimeoutError):
        return False
    writer.close()
    return False
