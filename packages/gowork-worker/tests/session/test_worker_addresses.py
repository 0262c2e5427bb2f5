"""A worker with the addresses of several leaders, of which one leads."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest

from gowork.proto.status import Refusal
from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker import Context, Worker, handler
from gowork.worker._session import connector, stream

NOT_LEADING = Refusal(grpc.StatusCode.UNAVAILABLE, "NOT_LEADING", "this leader does not lead now")

#: How a refusal arrives that came while Hello was being written. gRPC seldom does that, and not on demand.
LOST = Refusal(grpc.StatusCode.INTERNAL, "INTERNAL", "Internal error from Core")


@pytest.fixture
async def other(leader: Any) -> AsyncIterator[Any]:
    """A second scripted leader."""
    other = type(leader)()
    await other.start()
    yield other
    await other.stop()


@pytest.fixture
def silent_address() -> Iterator[str]:
    """An address that connects and says nothing, as that of a leader whose process is stopped."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def never_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that would pause before it connects stays away for good."""
    monkeypatch.setattr(connector, "_DELAY_FIRST", 1e9)
    monkeypatch.setattr(connector, "_DELAY_MAX", 1e9)


def complaints(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Why there was no session, each reason as often as it was logged."""
    return [vars(each)["reason"] for each in caplog.records if each.getMessage() == "no session, trying again"]


@handler
async def endless(ctx: Context) -> None:
    ctx.progress(0.5)
    await asyncio.Event().wait()


@pytest.mark.usefixtures("never_pauses")
async def test_worker_goes_from_a_leader_that_does_not_lead_to_the_next_at_once(
    leader: Any, other: Any, start_worker: Any
) -> None:
    leader.refusal = NOT_LEADING
    await start_worker(addresses=[leader.address, other.address])
    assert (await other.session()).hello.name


@pytest.mark.usefixtures("never_pauses")
async def test_worker_takes_its_tasks_to_the_next_leader_at_once(leader: Any, other: Any, start_worker: Any) -> None:
    await start_worker([endless], addresses=[leader.address, other.address])
    first = await leader.session()
    first.grant(1, "endless")
    await first.started(1)
    await leader.stop()
    second = await other.session()
    assert [(held.fence, held.state) for held in second.hello.held] == [(1, session.HELD_STATE_RUNNING)]


@pytest.mark.usefixtures("never_pauses")
async def test_address_that_is_silent_is_given_up_before_the_welcome_would_be(
    leader: Any, silent_address: str, start_worker: Any, caplog: pytest.LogCaptureFixture
) -> None:
    await start_worker(addresses=[silent_address, leader.address])
    assert (await leader.session()).hello.name
    # It would say "did not answer within 5 s" if it had waited for the Welcome.
    assert f"no leader answers at {silent_address}" in str([vars(record).get("reason") for record in caplog.records])


async def test_each_bad_address_is_named_with_its_reason_once(
    leader: Any, silent_address: str, start_worker: Any, caplog: pytest.LogCaptureFixture, eventually: Any
) -> None:
    lacking = grpc.aio.server()
    wrong = f"127.0.0.1:{lacking.add_insecure_port('127.0.0.1:0')}"
    await lacking.start()
    leader.refusal = NOT_LEADING
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        free = f"127.0.0.1:{reserved.getsockname()[1]}"
        await start_worker(addresses=[wrong, free, "leaders.invalid:1", silent_address, leader.address])
        # Two more rounds over all addresses.
        await eventually(lambda: leader.refused >= 3)
        leader.refusal = None
        await leader.session()
    await lacking.stop(None)
    reasons = complaints(caplog)
    unknown = reasons.pop(2)
    assert unknown.startswith("no leader answers at leaders.invalid:1: ")
    assert reasons == [
        f"what answers at {wrong} took no session: it is no leader's address, or it refused this worker before it read "
        "anything, or is a proxy without a leader",
        f"no leader answers at {free}: Connection refused",
        f"no leader answers at {silent_address}: no answer",
        f"the leader at {leader.address} said: this leader does not lead now",
    ]


async def test_refusal_that_comes_before_hello_has_left_is_asked_for_again(
    leader: Any, start_worker: Any, caplog: pytest.LogCaptureFixture
) -> None:
    leader.unread_refusals = [LOST, Refusal(grpc.StatusCode.UNAUTHENTICATED, "NO_IDENTITY", "show a token")]
    await start_worker()
    await leader.session()
    assert complaints(caplog) == [f"the leader at {leader.address} refused: show a token"]


async def test_refusal_that_is_lost_where_the_next_session_begins_is_no_ones_word(
    leader: Any, start_worker: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "_UNREAD_SECONDS", 0.01)
    leader.unread_refusals = [LOST]
    await start_worker()
    await leader.session()
    assert complaints(caplog) == [f"what answers at {leader.address} took no session: {connector._UNREAD}"]


@pytest.mark.usefixtures("never_pauses")
async def test_worker_takes_its_tasks_from_a_leader_that_falls_silent_to_the_one_that_leads_then(
    leader: Any, other: Any, start_worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "_ANSWER_SECONDS", 0.05)
    monkeypatch.setattr(stream, "_ASK_AGAIN", 0.02)
    leader.heartbeat_ms, leader.lease_ms = 50, 3_600_000
    await start_worker([endless], addresses=[leader.address, other.address])
    first = await leader.session()
    first.grant(1, "endless")
    await first.started(1)
    # It still leads, and is not left.
    other.says_leads(1, leader.address, other.address)
    leader.answers = False
    await other.asked.wait()
    other.asked.clear()
    await other.asked.wait()
    assert not first.closed.is_set()
    other.term = 2
    other.says_leads(2, other.address, leader.address)
    second = await other.session()
    assert [(held.fence, held.state) for held in second.hello.held] == [(1, session.HELD_STATE_RUNNING)]


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker notices soon that its leader is silent, and asks often."""
    monkeypatch.setattr(stream, "_ANSWER_SECONDS", 0.05)
    monkeypatch.setattr(stream, "_ASK_AGAIN", 0.02)


@pytest.mark.usefixtures("hasty", "never_pauses")
async def test_worker_behind_a_balancer_connects_again_when_another_leader_leads(
    leader: Any, start_worker: Any
) -> None:
    leader.heartbeat_ms, leader.lease_ms = 50, 3_600_000
    await start_worker([endless])
    first = await leader.session()
    first.grant(1, "endless")
    await first.started(1)
    leader.says_leads(1, "leader-1:50051", "leader-2:50051")
    leader.answers = False
    for _ in range(2):
        await leader.asked.wait()
        leader.asked.clear()
    assert not first.closed.is_set()
    leader.term = 2
    leader.says_leads(2, "leader-2:50051", "leader-1:50051")
    second = await leader.session()
    assert [(held.fence, held.state) for held in second.hello.held] == [(1, session.HELD_STATE_RUNNING)]


@pytest.mark.usefixtures("hasty")
async def test_worker_behind_a_balancer_tries_again_soon_when_it_meets_the_former_leader(
    leader: Any, start_worker: Any, caplog: pytest.LogCaptureFixture
) -> None:
    leader.heartbeat_ms, leader.lease_ms = 50, 3_600_000
    await start_worker()
    await leader.session()
    leader.answers, leader.hangs, leader.term = False, 1, 2
    leader.says_leads(2, "leader-2:50051", "leader-1:50051")
    await leader.session()
    assert f"the leader at {leader.address} did not answer within 1 s" in [
        vars(each).get("reason") for each in caplog.records
    ]


@pytest.mark.usefixtures("hasty", "never_pauses")
async def test_worker_stays_with_a_lone_leader_that_is_slow(leader: Any, start_worker: Any) -> None:
    leader.heartbeat_ms, leader.lease_ms = 50, 3_600_000
    await start_worker([endless])
    first = await leader.session()
    leader.answers = False
    await leader.asked.wait()
    first.grant(1, "endless")
    await first.started(1)
    assert not first.closed.is_set()


@pytest.mark.usefixtures("never_pauses")
async def test_worker_asks_nobody_while_its_leader_answers(
    leader: Any, other: Any, start_worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "_ANSWER_SECONDS", 60.0)
    monkeypatch.setattr(stream, "_ASK_AGAIN", 0.01)
    leader.heartbeat_ms = 50
    other.says_leads(2, other.address, leader.address)
    await start_worker([endless], addresses=[leader.address, other.address])
    first = await leader.session()
    await first.until(lambda: [frame.ByteSize() for frame in first.frames].count(0) >= 5)
    assert not other.asked.is_set()


@pytest.mark.usefixtures("never_pauses")
async def test_worker_goes_to_the_leader_that_a_follower_names(leader: Any, other: Any, start_worker: Any) -> None:
    leader.hint = other.address
    await start_worker()
    through = await leader.session()
    direct = await other.session()
    assert direct.hello.instance == through.hello.instance
    assert await direct.until(lambda: direct.credit)
    assert not through.frames


@pytest.mark.usefixtures("never_pauses")
async def test_worker_goes_to_the_leader_that_a_refusal_names(leader: Any, other: Any, start_worker: Any) -> None:
    leader.refusal, leader.hint = NOT_LEADING, other.address
    await start_worker()
    assert (await other.session()).hello.name


async def test_worker_stays_with_a_follower_whose_hint_does_not_connect(leader: Any, start_worker: Any) -> None:
    leader.hint = "127.0.0.1:1"
    await start_worker()
    scripted = await leader.session()
    assert await scripted.until(lambda: scripted.credit)


async def test_worker_stays_with_one_of_two_leaders_that_name_each_other(
    leader: Any, other: Any, start_worker: Any
) -> None:
    leader.hint, other.hint = other.address, leader.address
    await start_worker()
    scripted = await other.session()
    assert await scripted.until(lambda: scripted.credit)


async def test_worker_that_a_hint_led_astray_goes_back_to_its_own_addresses(
    leader: Any, other: Any, start_worker: Any
) -> None:
    leader.hint = other.address
    other.refusal = NOT_LEADING
    await start_worker()
    await leader.session()
    scripted = await leader.session()
    assert await scripted.until(lambda: scripted.credit)


def test_library_takes_a_list_of_addresses() -> None:
    service = Worker(iter(["10.0.0.1:1", "10.0.0.2:1,10.0.0.3:1"]), runners=0)._make()
    assert list(service.link._rotation.addresses) == ["10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1"]  # type: ignore[attr-defined]
