"""The copies of stores that leaders take from each other: the real call, over a simulated channel."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import grpc
from sim_network import SimContext
from sim_node import LeaderProcess
from sim_seat import Seat

from gowork.proto.scheduler.v1 import scheduler_pb2 as pb

if TYPE_CHECKING:
    from sim_several import SeveralWorld

_CALL = "scheduler.v1.SchedulerService/BackupStore"
#: How long a part of a copy is under way, in seconds.
_PART_SECONDS = (0.001, 0.02, 0.5)


class SimPeerChannel:
    """Plays grpc.aio.Channel between two leaders, as far as a copy needs it."""

    def __init__(self, world: SeveralWorld, address: str) -> None:
        self._world, self._address = world, address

    async def __aenter__(self) -> SimPeerChannel:
        return self

    async def __aexit__(self, *error: object) -> None:
        """Has nothing to close."""

    def unary_stream(self, path: str, **_: object) -> Callable[[pb.BackupStoreRequest], SimCopyCall]:
        return lambda request: SimCopyCall(self._world, self._address, request)

    def unary_unary(self, path: str, **_: object) -> None:
        """No other call is made."""

    stream_stream = stream_unary = unary_unary


class SimCopyCall:
    """One copy."""

    def __init__(self, world: SeveralWorld, address: str, request: pb.BackupStoreRequest) -> None:
        self._world = world
        self._parts: asyncio.Queue[Any] = asyncio.Queue()
        process = world.process_at(address)
        if process is None or process.seat is None or process.world.loop.now < process.node.away_until:
            self.break_off()
            return
        process.copies.add(self)
        serving = world.loop.create_task(self._serve(process, process.seat, request), context=process.context)
        serving.add_done_callback(lambda _: process.copies.discard(self))

    def break_off(self) -> None:
        """Ends it without an answer."""
        words = "the simulated connection has ended"
        self._parts.put_nowait(
            grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), words)
        )

    async def read(self) -> Any:
        part = await self._parts.get()
        if isinstance(part, Exception):
            raise part
        return part

    async def _serve(self, process: LeaderProcess, seat: Seat, request: pb.BackupStoreRequest) -> None:
        term = process.leader._node._term
        if term is None:
            self.break_off()
            return
        try:
            async for part in term.methods[_CALL](request, SimContext()):
                await self._world.loop.pass_time(self._world.rng.choice(_PART_SECONDS))
                self._parts.put_nowait(part)
        except grpc.aio.AbortError:
            self.break_off()
        else:
            self._world.trace.seen["log: a store is copied"] += 1
            self._parts.put_nowait(grpc.aio.EOF)
