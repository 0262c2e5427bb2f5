"""Refusals travel from a server to a caller whole, over a real connection."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import contextmanager

import grpc
import pytest

from gowork.base.channels import open_blocking_channel, open_channel
from gowork.proto.cluster.v1 import leader_pb2 as cluster
from gowork.proto.cluster.v1 import leader_pb2_grpc as cluster_grpc
from gowork.proto.status import FieldViolation, Refusal, abort, invalid, refusal_of, status_of


class Refusing(cluster_grpc.LeaderServiceServicer):
    """Refuses every Join with `refusal`, or with `raw` trailing metadata of another origin."""

    refusal = invalid([FieldViolation("id", "must not be empty")])
    raw: tuple[tuple[str, bytes], ...] | None = None

    async def Join(self, request, context):
        if self.raw is not None:
            await context.abort(grpc.StatusCode.INTERNAL, "from elsewhere", self.raw)
        await abort(context, self.refusal)


@pytest.fixture
async def served() -> AsyncIterator[tuple[Refusing, str]]:
    servicer = Refusing()
    server = grpc.aio.server()
    cluster_grpc.add_LeaderServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield servicer, f"127.0.0.1:{port}"
    await server.stop(0)


async def join(address: str) -> Refusal:
    async with open_channel([address]) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            await cluster_grpc.LeaderServiceStub(channel).Join(cluster.JoinRequest(), timeout=120)
    return refusal_of(caught.value)


def join_blocking(address: str) -> Refusal:
    with open_blocking_channel([address]) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            cluster_grpc.LeaderServiceStub(channel).Join(cluster.JoinRequest(), timeout=120)
    return refusal_of(caught.value)


def parts(refusal: Refusal) -> tuple[object, ...]:
    return refusal.code, refusal.reason, refusal.message, list(refusal.violations), dict(refusal.metadata)


async def test_a_refusal_arrives_whole_at_both_kinds_of_caller(served: tuple[Refusing, str]) -> None:
    servicer, address = served
    servicer.refusal = Refusal(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "TASKS_MAX",
        "the store takes no more than 10 tasks",
        (FieldViolation("tasks[3].id", "is one too many"), FieldViolation("tasks[4].id", "is two too many")),
        {"limit": "10"},
    )
    assert parts(await join(address)) == parts(servicer.refusal)
    assert parts(await asyncio.to_thread(join_blocking, address)) == parts(servicer.refusal)


async def test_violations_beyond_what_trailers_hold_are_left_out_and_counted_in_the_message(
    served: tuple[Refusing, str],
) -> None:
    servicer, address = served
    servicer.refusal = invalid([FieldViolation(f"tasks[{n}].payload", "x" * 5000) for n in range(10_000)])
    refusal = await join(address)
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    # They are long: fewer than the 20 that there may be.
    assert [violation.field for violation in refusal.violations] == [f"tasks[{n}].payload" for n in range(10)]
    assert servicer.refusal.message.endswith("(and 9999 more)")
    assert len(refusal.message) == 1000


async def test_a_refusal_in_wide_characters_arrives_too(served: tuple[Refusing, str]) -> None:
    # A character takes up to 4 bytes, and each of these travels as three.
    servicer, address = served
    wide = "\U0001f600" * 1000
    servicer.refusal = invalid([FieldViolation(wide, wide)] * 20)
    refusal = await join(address)
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refusal.message.startswith("\U0001f600" * 200)
    assert refusal.violations[0].description.startswith("\U0001f600" * 40)


@pytest.mark.parametrize("raw", [b"\xff\xff\xff", b""])
async def test_details_that_are_not_a_status_are_passed_over(served: tuple[Refusing, str], raw: bytes) -> None:
    servicer, address = served
    servicer.raw = (("grpc-status-details-bin", raw),)
    assert parts(await join(address)) == (grpc.StatusCode.INTERNAL, "INTERNAL", "from elsewhere", [], {})


async def test_an_unreachable_server_reads_as_a_refusal_too() -> None:
    refusal = await join("127.0.0.1:1")
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE")
    assert "127.0.0.1:1" in refusal.message


async def test_a_call_that_a_proxy_cuts_off_reads_as_one_that_no_server_answered() -> None:
    def cut_off(listener: socket.socket) -> socket.socket:
        connection, _ = listener.accept()
        # HTTP/2: an empty SETTINGS; and when the call has begun, RST_STREAM for stream 1 with INTERNAL_ERROR.
        connection.sendall(bytes.fromhex("000000 04 00 00000000"))
        while b"/cluster.v1.LeaderService/Join" not in connection.recv(1 << 16):
            continue
        connection.sendall(bytes.fromhex("000004 03 00 00000001 00000002"))
        return connection

    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = asyncio.create_task(asyncio.to_thread(cut_off, listener))
        refusal = await join(f"127.0.0.1:{listener.getsockname()[1]}")
        (await serving).close()
    assert (refusal.code, refusal.is_said) == (grpc.StatusCode.UNAVAILABLE, False)
    assert "RST_STREAM" in refusal.message


def test_a_refusal_passes_through_a_context_manager() -> None:
    @contextmanager
    def around():
        yield

    with pytest.raises(Refusal, match="id: must not be empty"), around():
        raise invalid([FieldViolation("id", "must not be empty")])


def test_every_refusal_carries_an_error_info_of_the_domain() -> None:
    status = status_of(Refusal(grpc.StatusCode.NOT_FOUND, "TASK_UNKNOWN", "no task has the id 'a'"))
    (detail,) = status.details
    assert detail.type_url == "type.googleapis.com/google.rpc.ErrorInfo"
    assert b"TASK_UNKNOWN" in detail.value
    assert b"gowork" in detail.value
