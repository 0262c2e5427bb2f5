"""Which connections go through which proxy, and what is said of it."""

from __future__ import annotations

import pytest

from gowork.base import channels
from gowork.base.channels import open_blocking_channel, unanswered
from gowork.base.proxies import is_loopback, proxy_of

PROXY = {"http_proxy": "http://user:secret@10.0.0.1:3128"}


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.9.9.9",
        "localhost",
        "LOCALHOST",
        "localhost.",
        "a.localhost",
        "::1",
        "::ffff:127.0.0.1",
        "0.0.0.0",
        "::",
    ],
)
def test_this_machine_is_known_by_its_names_and_numbers(host: str) -> None:
    assert is_loopback(host)
    assert proxy_of([host], PROXY) == ""


@pytest.mark.parametrize("host", ["10.0.0.5", "leader", "localhost.example.org", "128.0.0.1", "fe80::1%eth0", ""])
def test_other_hosts_are_not_this_machine(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize(
    ("environment", "proxy"),
    [
        ({}, ""),
        (PROXY, "http_proxy=http://10.0.0.1:3128"),
        ({**PROXY, "grpc_proxy": "http://b:1"}, "grpc_proxy=http://b:1"),
        ({**PROXY, "https_proxy": ""}, "http_proxy=http://10.0.0.1:3128"),
        ({**PROXY, "no_proxy": "example.org"}, "http_proxy=http://10.0.0.1:3128"),
        ({**PROXY, "no_proxy": "x, leader.internal"}, ""),
        ({**PROXY, "no_proxy": ".internal"}, ""),
        ({**PROXY, "no_grpc_proxy": "x", "no_proxy": ".internal"}, "http_proxy=http://10.0.0.1:3128"),
        ({"HTTP_PROXY": "http://b:1"}, ""),
    ],
)
def test_the_proxy_is_the_one_that_grpc_takes(environment: dict[str, str], proxy: str) -> None:
    assert proxy_of(["leader.internal"], environment) == proxy


def test_errors_name_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("grpc_proxy", "https_proxy", "no_proxy", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://10.0.0.1:3128")
    assert unanswered(["leader:1"]) == (
        "no leader answers at leader:1 through the proxy of http_proxy=http://10.0.0.1:3128; "
        "list the host in no_proxy to go past it"
    )
    assert unanswered(["127.0.0.1:1"]) == "no leader answers at 127.0.0.1:1"


@pytest.mark.parametrize(("addresses", "past"), [(["127.0.0.1:1"], True), (["10.0.0.5:1"], False), (["odd"], False)])
def test_no_proxy_is_used_for_this_machine(monkeypatch: pytest.MonkeyPatch, addresses: list[str], past: bool) -> None:
    seen: list[tuple[str, object]] = []
    monkeypatch.setattr(channels, "uninstrumented", lambda make: lambda target, options: seen.extend(options))
    monkeypatch.setattr(channels, "intercepted", lambda channel: channel)
    open_blocking_channel(addresses)
    assert (("grpc.enable_http_proxy", 0) in seen) is past
