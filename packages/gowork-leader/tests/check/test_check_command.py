"""The command `gowork worker-check`: what it prints, how it ends, and that no worker makes it crash."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from click.testing import CliRunner, Result

from gowork.leader._check.command import main
from gowork.leader._check.rules import RULES, Findings, Verdict
from gowork.leader._check.scenarios import SCENES
from gowork.leader._check.scripted import ScriptedLeader, Stream
from gowork.proto.worker.v1 import session_pb2 as pb

CONNECT = "/worker.v1.SessionService/Connect"
HELLO = pb.ConnectRequest(hello=pb.Hello(name="w", instance="i", slots=1)).SerializeToString()
#: Seconds that a stream has for what it is about to do.
SOON = 20.0


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main, [*arguments])


def test_a_worker_that_does_not_come_is_told_in_one_finding_and_exits_with_1() -> None:
    result = invoke("--wait", "0.1", "--patience", "0.1", "--only", "life", "-o", "json")
    assert result.exit_code == 1
    records = json.loads(result.stdout)
    assert [record["verdict"] for record in records] == ["fail", "not tried"]
    assert {record["seen"] for record in records} == {"no stream came within 0.1 s"}


def test_a_worker_that_ends_is_told_with_its_exit_code() -> None:
    result = invoke("--only", "life", "--", sys.executable, "-c", "raise SystemExit(7)")
    assert result.exit_code == 1
    assert "the worker ended, with exit code 7" in result.stdout
    assert "1 fail" in result.stdout


def test_a_command_that_cannot_be_started_is_named() -> None:
    result = invoke("--only", "life", "--", "/no/such/worker")
    assert result.exit_code == 1
    assert "'/no/such/worker' can't be started" in result.stdout


@pytest.mark.parametrize("address", ["here", "127.0.0.1:70000"])
def test_a_listen_address_that_is_none_is_wrong_usage(address: str) -> None:
    result = invoke("--listen", address)
    assert result.exit_code == 2
    assert "--listen" in result.stderr


def test_a_port_that_another_has_is_wrong_usage() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        result = invoke("--listen", f"127.0.0.1:{other.getsockname()[1]}")
    assert result.exit_code == 2
    assert "--listen" in result.stderr


@pytest.mark.parametrize(
    ("reads", "fences", "faults"),
    [
        (True, [1, 2], []),
        (True, [1], ["completions[0].fences: has 1 rows, and ids has 2; send as many of each"]),
        (False, [1, 2], ["reports came by columns, and Welcome did not say that the leader reads completions"]),
    ],
)
async def test_columns_that_no_leader_takes_are_faults(reads: bool, fences: list[int], faults: list[str]) -> None:
    stream = Stream(pb.Hello())
    stream.send(pb.ConnectResponse(welcome=pb.Welcome(reads_completions=reads)))
    columns = pb.Completions(ids=["a", "b"], fences=fences, execution_us=[0, 0], results=["1", "2"])
    stream.take(pb.ConnectRequest(completions=[columns]))
    assert stream.faults == faults
    if not faults:
        assert [(report.fence, report.id, report.result) for report in stream.reports] == [(1, "a", "1"), (2, "b", "2")]


def test_the_list_has_every_scene_and_rule() -> None:
    text = invoke("--list").stdout
    assert all(name in text for name in [*SCENES, *RULES])
    rows = json.loads(invoke("--list", "-o", "json").stdout)
    assert {row["scene"] for row in rows} == set(SCENES)


def test_the_first_failure_of_a_rule_stands() -> None:
    findings = Findings()
    findings.passed("report")
    findings.failed("report", "the first")
    findings.failed("report", "the second")
    findings.passed("report")
    findings.not_tried(["report", "ping"], "it was over")
    assert [(finding.rule, finding.verdict, finding.seen) for finding in findings.all()] == [
        ("report", Verdict.FAIL, "the first"),
        ("ping", Verdict.NOT_TRIED, "it was over"),
    ]


@pytest.fixture
async def leader() -> AsyncIterator[ScriptedLeader]:
    leader = ScriptedLeader()
    async with leader.serving("127.0.0.1:0"):
        yield leader


def connect(channel: grpc.aio.Channel) -> grpc.aio.StreamStreamCall[bytes, bytes]:
    """A worker's stream, in bytes."""
    method: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(CONNECT)
    return method()


async def said(leader: ScriptedLeader, *frames: bytes) -> Stream:
    """The leader's stream after a worker has sent these bytes and heard how it ends."""
    async with grpc.aio.insecure_channel(leader.address) as channel:
        call = connect(channel)
        for frame in (HELLO, *frames):
            await call.write(frame)
        stream = await leader.stream(SOON)
        assert stream is not None
        async with asyncio.timeout(SOON):
            await call.code()
    return stream


async def test_bytes_that_are_no_frame_are_a_fault_of_the_worker(leader: ScriptedLeader) -> None:
    stream = await said(leader, b"\xff\xff\xff\xff")
    assert stream.faults == ["a frame is no ConnectRequest: its bytes can't be decoded"]


async def test_credit_that_falls_is_a_fault_of_the_worker(leader: ScriptedLeader) -> None:
    async with grpc.aio.insecure_channel(leader.address) as channel:
        call = connect(channel)
        for frame in (HELLO, pb.ConnectRequest(credit=[5]).SerializeToString()):
            await call.write(frame)
        stream = await leader.stream(SOON)
        assert stream is not None
        await call.write(pb.ConnectRequest(credit=[4]).SerializeToString())
        assert await stream.until(lambda: len(stream.credit) == 2, SOON)
        assert stream.faults == ["the credit fell from 5 to 4"]
        call.cancel()


async def test_a_first_frame_without_hello_is_a_fault_of_the_worker(leader: ScriptedLeader) -> None:
    async with grpc.aio.insecure_channel(leader.address) as channel:
        call = connect(channel)
        await call.write(b"")
        async with asyncio.timeout(SOON):
            assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert leader.faults == [("hello-first", "the first frame has no Hello")]


async def test_a_stream_that_is_cancelled_while_it_ends_is_over() -> None:
    leader, reading, ends = ScriptedLeader(), asyncio.Event(), asyncio.Event()

    async def requests() -> AsyncIterator[pb.ConnectRequest]:
        yield pb.ConnectRequest.FromString(HELLO)
        reading.set()
        try:
            await asyncio.Event().wait()
        finally:
            # What reads takes its time to end.
            await ends.wait()

    async def serve() -> None:
        context: Any = None
        async for _ in leader.Connect(requests(), context):
            pass

    serving = asyncio.create_task(serve())
    stream = await leader.stream(SOON)
    assert stream is not None
    await reading.wait()
    # grpc cancels a call that its caller has cancelled, whether or not it is about to end.
    for _ in range(2):
        serving.cancel()
        await asyncio.sleep(0)
    assert stream.over
    assert not leader.open
    ends.set()
    await asyncio.wait({serving})
