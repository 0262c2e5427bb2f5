"""Addresses, and the channels that are opened to them."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from hypothesis import given
from hypothesis import strategies as st

from gowork.base import channels
from gowork.base.channels import (
    SERVER_OPTIONS,
    AddressError,
    format_address,
    may_be_handshake,
    open_blocking_channel,
    open_channel,
    parse_address,
    split_addresses,
    target_of,
    why_unanswered,
)

PORTS = st.integers(0, 65535)
HOSTS = st.one_of(
    st.from_regex(r"[a-z][a-z0-9-]{0,20}(\.[a-z]{1,5})?", fullmatch=True),
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(str),
)


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """The port of a server that answers health checks."""
    server = grpc.aio.server(options=list(SERVER_OPTIONS))
    health_pb2_grpc.add_HealthServicer_to_server(health_aio.HealthServicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield port
    await server.stop(0)


@given(HOSTS, PORTS)
def test_an_address_survives_formatting_and_parsing(host: str, port: int) -> None:
    assert parse_address(format_address(host, port)) == (host, port)


def test_an_address_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(AddressError, match="is not UTF-8 text"):
        parse_address("host\udcff:1")


@pytest.mark.parametrize(
    "text", ["", "localhost", "localhost:", "localhost:http", "localhost:65536", "host:-1", "host:²"]
)
def test_what_is_not_an_address_is_refused_by_name(text: str) -> None:
    with pytest.raises(AddressError, match="cluster address .* is not HOST:PORT"):
        parse_address(text, name="cluster address")


def test_a_url_is_refused_with_the_address_in_it() -> None:
    with pytest.raises(AddressError, match="write HOST:PORT without http://, as in leader:50052"):
        parse_address("http://leader:50052/")


def test_an_ipv6_host_without_brackets_is_refused_with_the_way_out() -> None:
    with pytest.raises(AddressError, match="write an IPv6 host in brackets"):
        parse_address("::1:50051")


def test_no_host_means_all_interfaces() -> None:
    host, port = parse_address(":50051")
    assert ipaddress.ip_address(host).is_unspecified
    assert port == 50051


def test_addresses_are_split_at_commas_and_trimmed() -> None:
    assert split_addresses(" a:1, b:2,, [::1]:3 ") == ["a:1", "b:2", "[::1]:3"]


@pytest.mark.parametrize("text", ["", " , ,", "a:1,b"])
def test_a_list_without_an_address_or_with_a_bad_one_is_refused(text: str) -> None:
    with pytest.raises(AddressError):
        split_addresses(text)


def test_addresses_are_given_as_several_texts_too_and_those_given_twice_count_once() -> None:
    assert split_addresses(["a:1", "b:2,a:1"]) == ["a:1", "b:2"]


def test_more_addresses_than_anybody_needs_are_refused() -> None:
    given = [f"a:{port}" for port in range(channels.ADDRESSES_MAX + 1)]
    assert len(split_addresses(given[1:])) == channels.ADDRESSES_MAX
    with pytest.raises(AddressError, match="17 addresses given; at most 16 are taken"):
        split_addresses(given)


@pytest.mark.parametrize(
    ("addresses", "target"),
    [
        (["leader.example:1"], "leader.example:1"),
        (["127.0.0.1:1", "127.0.0.2:2"], "ipv4:127.0.0.1:1,127.0.0.2:2"),
        (["[::1]:1", "[::2]:2"], "ipv6:[::1]:1,[::2]:2"),
        (["[::1]:1", "127.0.0.1:2"], "ipv4:127.0.0.1:2"),
        (["localhost:1", "127.0.0.1:2"], "ipv4:127.0.0.1:1,127.0.0.1:2"),
        (["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:1"], "ipv4:127.0.0.1:1,127.0.0.1:2"),
        (["no-such-host.invalid:1", "127.0.0.1:2"], "ipv4:127.0.0.1:2"),
    ],
)
def test_several_addresses_become_a_target_that_grpc_takes(addresses: list[str], target: str) -> None:
    assert target_of(addresses) == target


def test_several_unknown_hosts_are_refused() -> None:
    with pytest.raises(AddressError, match="none of these hosts is known: a.invalid:1, b.invalid:2"):
        target_of(["a.invalid:1", "b.invalid:2"])


async def test_a_channel_goes_on_to_the_next_address_when_one_refuses(port: int) -> None:
    async with open_channel(["127.0.0.1:1", f"localhost:{port}"]) as channel:
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=120)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_calls_of_a_channel_to_several_addresses_take_turns() -> None:
    called = []

    class Counted(health_aio.HealthServicer):  # type: ignore[misc]
        async def Check(self, request: health_pb2.HealthCheckRequest, context: Any) -> health_pb2.HealthCheckResponse:
            called.append(self)
            return await super().Check(request, context)

    servers = [grpc.aio.server(options=list(SERVER_OPTIONS)) for _ in range(2)]
    for server in servers:
        health_pb2_grpc.add_HealthServicer_to_server(Counted(), server)
    addresses = [f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}" for server in servers]
    for server in servers:
        await server.start()
    async with open_channel(addresses) as channel:
        for _ in range(1000):
            await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=120)
            if len(set(called)) == 2:
                break
    for server in servers:
        await server.stop(0)
    assert len(set(called)) == 2


def test_an_attempt_to_connect_is_given_up_early_where_there_are_other_addresses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(channels, "CONNECT_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        for has_others, code in ((True, grpc.StatusCode.UNAVAILABLE), (False, grpc.StatusCode.DEADLINE_EXCEEDED)):
            with open_blocking_channel([address], has_others=has_others) as channel:
                with pytest.raises(grpc.RpcError) as caught:
                    health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=1.5)
            assert caught.value.code() is code


async def test_two_servers_never_share_a_port(port: int) -> None:
    second = grpc.aio.server(options=list(SERVER_OPTIONS))
    with pytest.raises(RuntimeError, match="Failed to bind"):
        second.add_insecure_port(f"127.0.0.1:{port}")


def test_a_refused_connection_is_told_at_once_and_not_retried() -> None:
    with open_blocking_channel(["127.0.0.1:1"]) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=120)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


REFUSED = "failed to connect to all addresses; last error: UN"


@pytest.mark.parametrize(
    ("said", "words"),
    [
        # By grpcio 1.76, and by 1.80 and later.
        (f"{REFUSED}AVAILABLE: ipv4:127.0.0.1:1: connect: Connection refused (111)", "Connection refused"),
        (
            f"{REFUSED}KNOWN: ipv4:127.0.0.1:1: Failed to connect to remote host: Connection refused",
            "Connection refused",
        ),
    ],
)
def test_what_old_and_new_grpc_say_of_an_address_is_told_alike(said: str, words: str) -> None:
    assert why_unanswered(said) == words


def test_a_certificate_that_envoy_does_not_take_is_a_matter_of_tls() -> None:
    said = f"{REFUSED}AVAILABLE: ipv4:127.0.0.1:1: Unwrap failed (TSI_DATA_CORRUPTED)"
    assert may_be_handshake(said)
    assert why_unanswered(said) == "it does not take the certificate of who calls, or wants one"


@pytest.mark.parametrize("words", ["Socket closed", "Secure read failed"])
def test_a_connection_that_ended_at_once_may_be_a_matter_of_tls(words: str) -> None:
    said = f"{REFUSED}AVAILABLE: ipv4:127.0.0.1:1: {words}"
    assert may_be_handshake(said)
    assert why_unanswered(said).startswith("it ended the connection at once")
    # A call that was under way is not asked about.
    assert not may_be_handshake(words)
    assert why_unanswered(words) == words
