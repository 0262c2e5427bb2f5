"""A leader whose process is gone is not waited for, and one that is only slow or stopped is."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import AsyncIterator

import grpc
import pytest
from memory_log import MemoryLog, MemoryPlace

from gowork.base.channels import open_channel
from gowork.leader._app import early_ending
from gowork.leader._app.early_ending import EarlyEnding
from gowork.leader._replication.announcement import Announcement, encode
from gowork.leader.log import Candidate, Generation, Leader, Leadership

PATIENCE = 60.0
GENERATION = Generation("0123456789abcdef")


class House:
    """A log, a leader that leads, and another leader that watches it."""

    def __init__(self) -> None:
        self.place = MemoryPlace()
        self.log, self.other = MemoryLog(self.place), MemoryLog(self.place)
        self.ending = EarlyEnding(self.other)

    async def led_from(self, address: str) -> Leadership:
        """Has a leader elected that says that it serves at this address, and has the other watch it."""
        if self.place.generation is None:
            await self.log.begin(GENERATION, None)
        own = encode(Announcement("one", address, address, address, "store", "1.0"))
        leadership = await self.log.campaign(Candidate(GENERATION.id, 0, 0, own))
        self.ending.watch(leadership.leader)
        return leadership

    async def until_nobody_leads(self) -> None:
        async with asyncio.timeout(PATIENCE):
            while self.place.leader()[0] is not None:
                await self.place.change(asyncio.get_running_loop().time() + 1)


@pytest.fixture
async def house() -> AsyncIterator[House]:
    made = House()
    yield made
    made.ending.watch(None)
    await made.log.close()


async def serving() -> tuple[grpc.aio.Server, str]:
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    return server, f"127.0.0.1:{port}"


async def test_who_refuses_connections_leads_no_more(house: House, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    server, address = await serving()
    await house.led_from(address)
    # The log still hears from it: only the closed port says that it is gone.
    await server.stop(None)
    await house.until_nobody_leads()
    assert [record.message for record in caplog.records] == ["leader is gone"]


async def test_who_takes_connections_and_says_nothing_goes_on_leading(house: House) -> None:
    connections: asyncio.Queue[None] = asyncio.Queue()
    open_ends: list[asyncio.StreamWriter] = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_ends.append(writer)
        connections.put_nowait(None)
        await reader.read()

    silent = await asyncio.start_server(take, "127.0.0.1", 0)
    host, port = silent.sockets[0].getsockname()
    leadership = await house.led_from(f"{host}:{port}")
    async with asyncio.timeout(PATIENCE):
        for _ in range(3):
            await connections.get()
    assert house.place.leader()[0] == leadership.leader
    house.ending.watch(None)
    for writer in open_ends:
        writer.close()
    silent.close()


@pytest.mark.parametrize(
    "error",
    [
        None,
        TimeoutError(),
        OSError(errno.EHOSTUNREACH, "No route to host"),
        OSError(errno.ENETUNREACH, "Network is unreachable"),
        ConnectionResetError(),
        socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"),
    ],
    ids=repr,
)
async def test_only_a_refused_connection_says_that_a_leader_is_gone(
    monkeypatch: pytest.MonkeyPatch, error: OSError | None
) -> None:
    async def connect(host: str, port: int) -> None:
        if error is None:
            # As to a machine that drops packets.
            await asyncio.get_running_loop().create_future()
        raise error or ConnectionRefusedError

    monkeypatch.setattr(asyncio, "open_connection", connect)
    monkeypatch.setattr(early_ending, "CONNECT_SECONDS", 0.01)
    assert not await early_ending._is_refused("192.0.2.1:1")


async def test_that_a_leader_can_not_be_watched_or_ended_is_said_and_ends_nothing_else(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    addresses = ("nonsense", f"{'a' * 64}.example:1")
    announced = (encode(Announcement("one", each, each, each, "store", "1.0")) for each in addresses)
    for announcement in (b"unreadable", *announced):
        house.ending.watch(Leader(1, 1, announcement))
        await _ended(house)
    await house.led_from("127.0.0.1:1")
    house.other.is_cut = True
    await _ended(house)
    said = [record.message for record in caplog.records if record.name == early_ending.__name__]
    assert said == ["leader not watched"] * 3 + ["leader is gone", "leader not watched"]


async def _ended(house: House) -> None:
    """Returns when nothing is watched any more. It raises what the watch has raised."""
    assert house.ending._watching is not None
    async with asyncio.timeout(PATIENCE):
        await house.ending._watching


async def test_one_refused_connection_is_not_enough(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [True, False, False]
    asked = asyncio.Event()

    async def is_refused(address: str) -> bool:
        if not answers:
            asked.set()
            return False
        return answers.pop(0)

    monkeypatch.setattr(early_ending, "_is_refused", is_refused)
    # Nobody listens at port 1, so the state of the channel goes on changing.
    leadership = await house.led_from("127.0.0.1:1")
    async with asyncio.timeout(PATIENCE):
        await asked.wait()
    assert house.place.leader()[0] == leadership.leader


async def test_a_leader_that_grpc_reaches_is_not_gone_though_another_address_of_its_name_refuses(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def is_refused(address: str) -> bool:
        return True

    monkeypatch.setattr(early_ending, "_is_refused", is_refused)
    monkeypatch.setattr(early_ending, "BETWEEN_SECONDS", 0.0)
    server, address = await serving()
    watching = asyncio.ensure_future(early_ending.until_refused(address))
    async with open_channel([address]) as channel:
        await channel.channel_ready()
    # The other channel began to connect before this one did.
    await asyncio.wait({watching}, timeout=0.2)
    assert not watching.done()
    await server.stop(None)
    async with asyncio.timeout(PATIENCE):
        await watching


async def test_a_leader_ends_those_at_one_address_at_most_once_in_a_while(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = asyncio.Event()
    until_refused = early_ending.until_refused

    async def watched(address: str, tls: None = None) -> None:
        await until_refused(address, tls)
        refused.set()

    monkeypatch.setattr(early_ending, "until_refused", watched)
    await house.led_from("127.0.0.1:1")
    await house.until_nobody_leads()
    refused.clear()
    leadership = await house.led_from("127.0.0.1:1")
    async with asyncio.timeout(PATIENCE):
        await refused.wait()
    await asyncio.sleep(0)
    assert house.place.leader()[0] == leadership.leader
    monkeypatch.setattr(early_ending, "AGAIN_SECONDS", 0.0)
    house.ending.watch(leadership.leader)
    await house.until_nobody_leads()


async def test_a_successor_that_is_gone_as_well_is_not_waited_for(house: House) -> None:
    for _ in range(3):
        server, address = await serving()
        await house.led_from(address)
        await server.stop(None)
        await house.until_nobody_leads()


async def test_who_is_watched_no_more_is_left_alone(house: House) -> None:
    server, address = await serving()
    leadership = await house.led_from(address)
    house.ending.watch(None)
    await server.stop(None)
    assert house.place.leader()[0] == leadership.leader
