"""Looks whether anybody is there, when nothing comes back from an address, for the asyncio client.

A timer looks while calls are open. It asks once a second at most, whatever the number of the calls.
"""

from __future__ import annotations

import asyncio
from contextvars import Context
from typing import Any, cast

import grpc

from gowork.base.rotation import Rotation
from gowork.base.succession import Succession
from gowork.base.tls import Tls
from gowork.client import _lookouts as lookouts
from gowork.client._channels import Channels, Line
from gowork.client._lookouts import PING, shows_life


class Lookout:
    """Gives up the calls to an address that is silent, when another leader leads."""

    def __init__(self, rotation: Rotation, channels: Channels[grpc.aio.Channel], tls: Tls | None = None) -> None:
        self._rotation = rotation
        self._channels = channels
        self._succession = Succession(rotation, tls=tls)
        self._timer: asyncio.TimerHandle | None = None
        self._looking: asyncio.Task[None] | None = None
        self._closed = False

    def look(self) -> None:
        """Keeps a lookout from now on, while calls are open. Call it when a call has begun."""
        if self._timer is None and len(self._rotation.addresses) > 1 and not self._closed:
            # The context of the call that happens to be the first one is not that of the others.
            self._timer = asyncio.get_running_loop().call_later(
                lookouts.LOOK_SECONDS, self._timer_rings, context=Context()
            )

    async def close(self) -> None:
        """Ends the lookout."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait({self._looking})

    def _timer_rings(self) -> None:
        self._timer = None
        if not (lines := self._channels.open):
            return
        silent = [line for line in lines if line.is_silent]
        if silent and (self._looking is None or self._looking.done()):
            self._looking = asyncio.get_running_loop().create_task(self._look_at(silent), name="gowork-lookout")
        self.look()

    async def _look_at(self, lines: list[Line[grpc.aio.Channel]]) -> None:
        for line in lines:
            if await self._answers(line):
                line.hear()
                continue
            await self._succession.ask(line.address)
            if self._rotation.current != line.address:
                self._channels.give_up(line)
                for call in line.open:
                    cast("Any", call).cancel()

    async def _answers(self, line: Line[grpc.aio.Channel]) -> bool:
        ping: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = line.channel.unary_unary(PING)
        try:
            await ping(b"", timeout=lookouts.PING_SECONDS)
        except grpc.aio.AioRpcError as error:
            return shows_life(error)
        return True
