"""What the leader's probes say of it."""

from __future__ import annotations

import functools
import http.client
import socket
from pathlib import Path
from typing import Any

import pytest
from leader_serving import PATIENCE, serving

from gowork.base.channels import parse_address
from gowork.leader._app import node


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_a_leader_whose_loop_does_not_turn_is_not_healthy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(node, "probe", functools.partial(node.probe, seconds=0.05))
    async with serving(tmp_path) as leader:
        connection = http.client.HTTPConnection(*parse_address(leader.addresses.http), timeout=PATIENCE)
        connection.request("GET", path)
        # This call is what holds the loop up.
        response = connection.getresponse()
        assert (response.status, response.read()) == (503, b"the event loop has not turned for 0.05 s\n")
        connection.close()


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
async def test_all_three_ports_take_an_ipv6_address(tmp_path: Path) -> None:
    listen: dict[str, Any] = {f"{name}_listen": "[::1]:0" for name in ("cluster", "scheduler", "http")}
    async with serving(tmp_path, **listen) as leader:
        for address in (leader.addresses.cluster, leader.addresses.scheduler, leader.addresses.http):
            assert address.startswith("[::1]:")
            socket.create_connection(parse_address(address), timeout=PATIENCE).close()
