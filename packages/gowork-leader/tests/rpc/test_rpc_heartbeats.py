"""Heartbeats are heard whatever becomes of their responses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

import pytest

from gowork.leader._rpc import heartbeats
from gowork.leader._rpc.heartbeats import HeartbeatStream
from gowork.proto.cluster.v1 import leader_pb2 as pb


async def beats(number: int) -> AsyncIterator[pb.HeartbeatRequest]:
    for place in range(number):
        yield pb.HeartbeatRequest(id=str(place))


async def test_a_caller_that_reads_no_response_is_heard_to_its_last_heartbeat() -> None:
    heard: list[str] = []
    last = asyncio.Event()

    async def hear(request: pb.HeartbeatRequest) -> None:
        heard.append(request.id)
        if len(heard) == 30_000:
            last.set()

    responses = HeartbeatStream(beats(30_000)).responses(hear)
    # From here on the transport takes nothing, as for a caller that never reads.
    await anext(responses)
    await last.wait()
    assert isinstance(responses, AsyncGenerator)
    await responses.aclose()
    assert heard == [str(place) for place in range(30_000)]


async def test_each_heartbeat_has_one_response() -> None:
    async def hear(request: pb.HeartbeatRequest) -> None:
        await asyncio.sleep(0)

    assert len([response async for response in HeartbeatStream(beats(100)).responses(hear)]) == 100


async def test_a_refusal_ends_the_stream_behind_the_responses_that_are_owed() -> None:
    async def hear(request: pb.HeartbeatRequest) -> None:
        if request.id == "3":
            raise LookupError("no member")

    seen: list[pb.HeartbeatResponse] = []

    async def read() -> None:
        async for response in HeartbeatStream(beats(10)).responses(hear):
            seen.append(response)

    with pytest.raises(LookupError):
        await read()
    assert len(seen) == 3


async def test_a_refusal_that_a_caller_does_not_read_resets_its_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeats, "UNREAD_SECONDS", 0.01)

    async def hear(request: pb.HeartbeatRequest) -> None:
        if request.id == "3":
            raise LookupError("no member")

    async def serve() -> None:
        async for _ in HeartbeatStream(beats(10)).responses(hear):
            await asyncio.Event().wait()

    (ended,) = await asyncio.gather(asyncio.create_task(serve()), return_exceptions=True)
    assert isinstance(ended, asyncio.CancelledError)


async def test_the_reading_ends_with_the_call() -> None:
    ended = asyncio.Event()

    async def silent() -> AsyncIterator[pb.HeartbeatRequest]:
        try:
            yield pb.HeartbeatRequest(id="0")
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def hear(request: pb.HeartbeatRequest) -> None:
        pass

    responses = HeartbeatStream(silent()).responses(hear)
    await anext(responses)
    assert isinstance(responses, AsyncGenerator)
    await responses.aclose()
    assert ended.is_set()
