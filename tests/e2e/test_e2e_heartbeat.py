"""Heartbeat, in each of the three shapes in which callback workers may call it (docs/decisions/0002-heartbeat.md)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import original
import pytest
from clusters import RunningLeader
from original import Caller

HEARTBEAT = "cluster.v1.LeaderService/Heartbeat"
STATES = ("BUSY", "FAILED", "IDLE", "BUSY", "IDLE")


def request(id: str, name: str) -> Any:
    number = original.value("cluster.v1.HeartbeatStatus", f"HEARTBEAT_STATUS_{name}")
    return original.message("cluster.v1.HeartbeatRequest", id=id, status=number)


@pytest.fixture
async def cluster(leader: RunningLeader) -> AsyncIterator[Caller]:
    """A caller of a leader whose member w1 has joined."""
    async with original.calling(leader.cluster) as caller:
        await caller("cluster.v1.LeaderService/Join", id="w1", address="127.0.0.1:1")
        yield caller


async def status(cluster: Caller) -> str:
    (member,) = (await cluster("cluster.v1.LeaderService/Members")).members
    return str(member.status)


async def becomes(cluster: Caller, name: str) -> None:
    """Asks until a heartbeat counts whose response nobody has read; the test's time limit ends it otherwise."""
    while await status(cluster) != f"alive, {name.lower()}":
        pass


async def test_a_unary_caller_is_answered(cluster: Caller) -> None:
    for name in STATES:
        await cluster(HEARTBEAT, id="w1", status=request("w1", name).status)
        assert await status(cluster) == f"alive, {name.lower()}"


async def test_a_client_streaming_caller_with_one_request_is_answered(cluster: Caller) -> None:
    for name in STATES:
        await cluster.stream_unary(HEARTBEAT, iter([request("w1", name)]))
        assert await status(cluster) == f"alive, {name.lower()}"


async def test_each_heartbeat_of_a_long_client_stream_counts_while_it_lasts(cluster: Caller) -> None:
    call = cluster.stream_unary(HEARTBEAT)
    for name in STATES:
        await call.write(request("w1", name))
        await becomes(cluster, name)
    assert not call.done()
    call.cancel()
    assert await status(cluster) == "alive, idle", "the end of the stream is not the member's end"


async def test_a_bidirectional_caller_gets_one_response_for_each_request(cluster: Caller) -> None:
    call = cluster.stream_stream(HEARTBEAT)
    for name in STATES:
        await call.write(request("w1", name))
        assert await call.read() is not grpc.aio.EOF
        assert await status(cluster) == f"alive, {name.lower()}"
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK


async def test_a_stream_of_a_member_that_left_ends_at_its_next_heartbeat(cluster: Caller) -> None:
    call = cluster.stream_stream(HEARTBEAT)
    await call.write(request("w1", "IDLE"))
    await call.read()
    await cluster("cluster.v1.LeaderService/Leave", id="w1")
    await call.write(request("w1", "IDLE"))
    with pytest.raises(grpc.RpcError) as caught:
        await call.read()
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_client_stream_closed_after_several_requests_fails_at_the_caller_and_counts_at_the_leader(
    cluster: Caller,
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        await cluster.stream_unary(HEARTBEAT, iter([request("w1", "IDLE"), request("w1", "BUSY")]), timeout=2)
    assert caught.value.code() in {
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNIMPLEMENTED,
    }
    await becomes(cluster, "BUSY")
