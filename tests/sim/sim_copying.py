"""The copies of stores that leaders take from each other: the real call, over a simulated channel."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

import grpc
from sim_network import SimContext
from sim_node import LeaderProcess

from gowork.leader._rpc.services import COPY_STORE, Port
from gowork.proto.cluster.v1 import leader_pb2 as pb

if TYPE_CHECKING:
    from sim_several import SeveralWorld

_Metadata = tuple[tuple[str, str], ...]

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

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        if _reached(self._world, self._address) is None:
            return grpc.ChannelConnectivity.TRANSIENT_FAILURE
        return grpc.ChannelConnectivity.READY

    def unary_stream(self, path: str, **_: object) -> Callable[..., SimCopyCall]:
        return lambda request, metadata: SimCopyCall(self._world, self._address, request, metadata)

    def unary_unary(self, path: str, **_: object) -> None:
        """No other call is made."""

    stream_stream = stream_unary = unary_unary


class SimCopyCall:
    """One copy."""

    def __init__(self, world: SeveralWorld, address: str, request: pb.CopyStoreRequest, metadata: _Metadata) -> None:
        self._world = world
        self._parts: asyncio.Queue[Any] = asyncio.Queue()
        process = _reached(world, address)
        if process is None:
            self.break_off()
            return
        process.copies[self] = None
        serving = world.loop.create_task(self._serve(process, request, metadata), context=process.context)
        serving.add_done_callback(lambda _: process.copies.pop(self, None))

    def break_off(self) -> None:
        """Ends it without an answer."""
        self._fail(grpc.StatusCode.UNAVAILABLE, "the simulated connection has ended")

    async def read(self) -> Any:
        part = await self._parts.get()
        if isinstance(part, Exception):
            raise part
        return part

    async def _serve(self, process: LeaderProcess, request: pb.CopyStoreRequest, metadata: _Metadata) -> None:
        context = _PeerContext(metadata)
        try:
            async for part in _parts(process, request, context):
                await self._world.loop.pass_time(self._world.rng.choice(_PART_SECONDS))
                self._parts.put_nowait(part)
        except grpc.aio.AbortError:
            code, details, _ = context.status
            self._fail(code, details)
        else:
            self._world.trace.seen["log: a store is copied"] += 1
            self._parts.put_nowait(grpc.aio.EOF)

    def _fail(self, code: grpc.StatusCode, details: str) -> None:
        self._parts.put_nowait(grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details))


class _PeerContext(SimContext):
    """The context of a call that another leader makes."""

    def __init__(self, metadata: _Metadata) -> None:
        super().__init__()
        self._metadata = metadata

    def invocation_metadata(self) -> Any:
        return self._metadata


def _reached(world: SeveralWorld, address: str) -> LeaderProcess | None:
    """Returns the process at this address, if calls get through to it."""
    node = world.node_at(address)
    return node.process if node.is_reached else None


async def _parts(process: LeaderProcess, request: pb.CopyStoreRequest, context: SimContext) -> AsyncIterator[Any]:
    """Yields what the process answers, whether it leads or follows."""
    node = process.leader._node
    if node._term is not None:
        async for part in node._term.methods[COPY_STORE](request, context):
            yield part
        return
    async for data in node._forwarding.methods[Port.SCHEDULER][COPY_STORE](request.SerializeToString(), context):
        yield pb.CopyStoreResponse.FromString(data)
