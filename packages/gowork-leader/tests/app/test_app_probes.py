"""What the leader's probes say of it."""

from __future__ import annotations

import asyncio
import functools
import http.client
import socket
from pathlib import Path
from typing import Any

import pytest
from leader_serving import PATIENCE, serving

from gowork.base.channels import parse_address
from gowork.leader._app import node
from gowork.leader.store import Batch
from gowork.leader.store.sqlite import SqliteStore


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


async def test_a_leader_whose_batch_is_not_written_in_time_is_not_ready_until_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node, "SILENT_SECONDS", 0.05)
    commit, goes_on = SqliteStore.commit, asyncio.Event()

    async def commit_late(store: SqliteStore, batch: Batch) -> None:
        await goes_on.wait()
        await commit(store, batch)

    monkeypatch.setattr(SqliteStore, "commit", commit_late)

    async with asyncio.timeout(PATIENCE), serving(tmp_path) as leader:

        async def says() -> tuple[int, str]:
            return await asyncio.to_thread(_ready, leader.addresses.http)

        assert await says() == (200, "ready\n")
        submitting = asyncio.ensure_future(leader.submit("a"))
        while (said := await says()) == (200, "ready\n"):
            pass
        assert said[0] == 503
        assert said[1].startswith("the log, or the disk of the store, has not taken what is to be written for ")
        goes_on.set()
        await submitting
        assert await says() == (200, "ready\n")


def _ready(address: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection(*parse_address(address), timeout=PATIENCE)
    connection.request("GET", "/readyz")
    response = connection.getresponse()
    said = response.status, response.read().decode()
    connection.close()
    return said


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
async def test_all_three_ports_take_an_ipv6_address(tmp_path: Path) -> None:
    listen: dict[str, Any] = {f"{name}_listen": "[::1]:0" for name in ("cluster", "scheduler", "http")}
    async with serving(tmp_path, **listen) as leader:
        for address in (leader.addresses.cluster, leader.addresses.scheduler, leader.addresses.http):
            assert address.startswith("[::1]:")
            socket.create_connection(parse_address(address), timeout=PATIENCE).close()
