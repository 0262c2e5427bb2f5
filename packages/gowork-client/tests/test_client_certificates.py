"""New certificates of a client: they are used without a new client, and open calls go on with the old ones."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from tls_authority import Authority

from gowork.base.rotation import Rotation
from gowork.base.tls import Tls
from gowork.base.tls_files import TlsFiles
from gowork.client import AsyncClient, Client
from gowork.client import _channels as channels
from gowork.client._channels import Channels
from gowork.proto.cluster.v1 import leader_pb2, leader_pb2_grpc

#: A length of time after which a test fails, in seconds.
PATIENCE = 60.0


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(channels, "time", clock)
    return clock


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


class TestChannels:
    @pytest.fixture
    def tls(self, authority: Authority) -> Tls:
        return Tls(authority.client())

    @pytest.fixture
    def dropped(self) -> list[str]:
        return []

    @pytest.fixture
    def renew(self, authority: Authority, tls: Tls) -> Callable[[], None]:
        def renew() -> None:
            authority.client()
            tls.refresh(0.0)

        return renew

    @pytest.fixture
    def of_client(self, tls: Tls, dropped: list[str]) -> Channels[str]:
        return Channels(
            Rotation(["10.0.0.1:1"]), lambda address, _: f"certificate {tls.generation}", dropped.append, tls
        )

    def test_a_call_begins_on_a_channel_with_the_newest_certificate(
        self, of_client: Channels[str], renew: Callable[[], None]
    ) -> None:
        assert of_client.current().channel == "certificate 0"
        renew()
        assert of_client.current().channel == "certificate 1"
        assert of_client.current() is of_client.current()

    def test_an_old_channel_is_kept_for_a_while_because_a_call_may_be_about_to_begin_on_it(
        self, of_client: Channels[str], renew: Callable[[], None], clock: Clock, dropped: list[str]
    ) -> None:
        of_client.current()
        renew()
        of_client.current()
        clock.now += channels._RETIRED_SECONDS - 0.1
        of_client.current()
        assert dropped == []
        clock.now += 0.1
        of_client.current()
        assert dropped == ["certificate 0"]

    def test_an_old_channel_is_kept_until_its_calls_end(
        self, of_client: Channels[str], renew: Callable[[], None], clock: Clock, dropped: list[str]
    ) -> None:
        old, call = of_client.current(), object()
        old.begin(call)
        renew()
        of_client.current()
        clock.now += 100 * channels._RETIRED_SECONDS
        of_client.current()
        assert (dropped, of_client.open) == ([], [old])
        old.end(call)
        of_client.current()
        assert (dropped, of_client.open) == (["certificate 0"], [])

    def test_old_channels_are_closed_with_the_others(
        self, of_client: Channels[str], renew: Callable[[], None], dropped: list[str]
    ) -> None:
        of_client.current()
        renew()
        of_client.current()
        assert of_client.close() == ["certificate 1", "certificate 0"]

    def test_an_old_channel_that_is_given_up_is_dropped_once(
        self, of_client: Channels[str], renew: Callable[[], None], clock: Clock, dropped: list[str]
    ) -> None:
        old = of_client.current()
        renew()
        of_client.current()
        of_client.give_up(old)
        clock.now += channels._RETIRED_SECONDS
        assert of_client.current().channel == "certificate 1"
        assert dropped == ["certificate 0"]


class Doorkeeper(leader_pb2_grpc.LeaderServiceServicer):
    """Notes whose certificate each call comes with."""

    def __init__(self) -> None:
        self.seen: list[bytes] = []

    def Members(self, request: leader_pb2.MembersRequest, context: grpc.ServicerContext) -> leader_pb2.MembersResponse:
        shown: Any = context.auth_context()["x509_common_name"]
        self.seen += shown
        return leader_pb2.MembersResponse()


class TestClients:
    @pytest.fixture(autouse=True)
    def watchful(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Files are looked at with each call."""
        monkeypatch.setattr(Tls.refresh, "__defaults__", (0.0,))

    @pytest.fixture
    def door(self) -> Doorkeeper:
        return Doorkeeper()

    @pytest.fixture
    def address(self, authority: Authority, door: Doorkeeper) -> Iterator[str]:
        tls = Tls(authority.server(client_ca=authority.file))
        with ThreadPoolExecutor(2) as pool:
            server = grpc.server(pool)
            leader_pb2_grpc.add_LeaderServiceServicer_to_server(door, server)
            port = server.add_secure_port("127.0.0.1:0", tls.server_credentials())
            server.start()
            yield f"127.0.0.1:{port}"
            server.stop(None).wait()

    @pytest.fixture
    def files(self, authority: Authority, tmp_path: Path) -> TlsFiles:
        """A client's files, with a certificate for `before`."""
        for kind, path in zip(("pem", "key"), authority.issue("before"), strict=True):
            path.rename(tmp_path / f"live.{kind}")
        return TlsFiles(authority.file, tmp_path / "live.pem", tmp_path / "live.key")

    def replace(self, authority: Authority, files: TlsFiles) -> None:
        """Puts a certificate for `after` in its place."""
        new: Any
        for new, old in zip(authority.issue("after"), (files.cert, files.key), strict=True):
            new.replace(old)

    def test_a_blocking_client_shows_its_new_certificate(
        self, authority: Authority, address: str, door: Doorkeeper, files: TlsFiles
    ) -> None:
        with Client(address, tls=files, timeout=PATIENCE) as client:
            client.members()
            self.replace(authority, files)
            client.members()
        assert door.seen == [b"before", b"after"]

    async def test_an_asyncio_client_shows_its_new_certificate(
        self, authority: Authority, address: str, door: Doorkeeper, files: TlsFiles
    ) -> None:
        async with AsyncClient(address, tls=files, timeout=PATIENCE) as client:
            await client.members()
            await asyncio.to_thread(self.replace, authority, files)
            await client.members()
        assert door.seen == [b"before", b"after"]

    def test_a_new_certificate_that_can_not_be_used_leaves_the_old_one(
        self, authority: Authority, address: str, door: Doorkeeper, files: TlsFiles
    ) -> None:
        with Client(address, tls=files, timeout=PATIENCE) as client:
            client.members()
            Path(str(files.cert)).write_text("half a certificate")
            client.members()
        assert door.seen == [b"before", b"before"]
