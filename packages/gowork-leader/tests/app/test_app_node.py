"""How the node of a process stops."""

from __future__ import annotations

import asyncio
import socket

import pytest

from gowork.leader._app.node import FAILED_GRACE_SECONDS, STOP_GRACE_SECONDS, Node
from gowork.leader._app.ports import ListenError
from gowork.leader._engine.counts import Counts


def node(http_listen: str = "127.0.0.1:0") -> Node:
    free = "127.0.0.1:0"
    return Node(Counts(), cluster_listen=free, scheduler_listen=free, http_listen=http_listen, reflection=False)


async def test_calls_have_one_grace_however_often_the_node_is_told_to_stop(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    stopping = node()
    stopping._begin_to_stop()
    stops_by = stopping._stops_by
    assert STOP_GRACE_SECONDS / 2 < stopping._grace_left() <= STOP_GRACE_SECONDS
    stopping._begin_to_stop()
    assert (stopping._stops_by, caplog.messages) == (stops_by, ["stopping"])


async def test_answers_that_say_why_have_time_to_get_out_when_no_grace_is_left() -> None:
    stopping = node()
    assert stopping._grace_left() == FAILED_GRACE_SECONDS
    stopping._stops_by = asyncio.get_running_loop().time() - 60.0
    assert stopping._grace_left() == FAILED_GRACE_SECONDS


async def test_a_node_that_cannot_listen_on_all_its_ports_gives_those_up_that_it_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        starting = node(f"127.0.0.1:{taken.getsockname()[1]}")
        stop, stopped = starting._ports.stop, []

        async def noted(seconds: float) -> None:
            await stop(seconds)
            stopped.append(len(starting._ports._servers))

        monkeypatch.setattr(starting._ports, "stop", noted)
        with pytest.raises(ListenError):
            async with starting.serving(asyncio.Event()):
                pass
    assert stopped == [2]
