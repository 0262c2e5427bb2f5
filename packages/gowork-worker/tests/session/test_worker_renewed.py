"""Calls begin with the newest certificates, and those under way end with the ones that they began with."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from tls_authority import Authority

from gowork.base import channels
from gowork.base.channels import AddressError, bind
from gowork.base.tls import Tls
from gowork.worker._session import renewed
from gowork.worker._session.renewed import RenewedStub

PATIENCE = 30.0


class Greeter(grpc.GenericRpcHandler):
    """Answers with the caller's name in its certificate. A call with `wait` first waits until it may go on."""

    def __init__(self) -> None:
        self.waits = asyncio.Event()
        self.may_go_on = asyncio.Event()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        async def hello(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
            if request == b"wait":
                self.waits.set()
                await self.may_go_on.wait()
            (name,) = context.auth_context()["x509_common_name"]
            return name

        return grpc.unary_unary_rpc_method_handler(hello)


class Stub:
    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.Hello: Any = channel.unary_unary("/test.Service/Hello")


@asynccontextmanager
async def serving(greeter: Greeter, tls: Tls) -> AsyncIterator[str]:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((greeter,))
    port = bind(server, "127.0.0.1:0", tls)
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[grpc.aio.Channel]:
    """The channels that were opened."""
    made: list[grpc.aio.Channel] = []

    def open_channel(*arguments: Any, **more: Any) -> grpc.aio.Channel:
        made.append(channels.open_channel(*arguments, **more))
        return made[-1]

    monkeypatch.setattr(renewed, "open_channel", open_channel)
    return made


def is_closed(channel: grpc.aio.Channel) -> bool:
    return channel.get_state() is grpc.ChannelConnectivity.SHUTDOWN


async def test_a_call_begins_with_the_newest_certificate_and_one_under_way_goes_on(
    tmp_path: Path, opened: list[grpc.aio.Channel]
) -> None:
    authority, greeter = Authority(tmp_path), Greeter()
    own = authority.client("own")
    for mine, others in zip((own.cert, own.key), authority.issue("one", "one.example"), strict=True):
        os.replace(others, mine or "")
    tls = Tls(own)
    async with serving(greeter, Tls(authority.server(client_ca=authority.file))) as address:
        async with RenewedStub(Stub, [address], tls) as stub, asyncio.TaskGroup() as group:
            assert await stub.Hello(b"", timeout=PATIENCE) == b"one"
            waiting = group.create_task(stub.Hello(b"wait", timeout=PATIENCE))
            await greeter.waits.wait()
            authority.client("own")
            tls.refresh(0.0)
            assert await stub.Hello(b"", timeout=PATIENCE) == b"own"
            assert [is_closed(channel) for channel in opened] == [False, False]
            greeter.may_go_on.set()
            assert await waiting == b"one"
            assert [is_closed(channel) for channel in opened] == [True, False]
            authority.client("own")
            tls.refresh(0.0)
            assert await stub.Hello(b"", timeout=PATIENCE) == b"own"
            assert [is_closed(channel) for channel in opened] == [True, True, False]
    assert [is_closed(channel) for channel in opened] == [True, True, True]


async def test_while_no_address_is_known_calls_go_on_with_the_old_certificate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority, greeter = Authority(tmp_path), Greeter()
    tls = Tls(authority.client("own"))

    def open_channel(*_arguments: Any, **_more: Any) -> grpc.aio.Channel:
        raise AddressError("none is known")

    async with serving(greeter, Tls(authority.server(client_ca=authority.file))) as address:
        async with RenewedStub(Stub, [address], tls) as stub:
            monkeypatch.setattr(renewed, "open_channel", open_channel)
            authority.client("own")
            tls.refresh(0.0)
            assert await stub.Hello(b"", timeout=PATIENCE) == b"own"
