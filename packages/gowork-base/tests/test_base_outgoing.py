"""Answers that callers have not read are bounded over all calls."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from gowork.base import outgoing as module
from gowork.base.outgoing import Outgoing
from gowork.proto.status import Refusal


async def test_an_answer_that_finds_no_room_is_refused_with_the_limit() -> None:
    outgoing = Outgoing(100, room_seconds=0.01)
    with outgoing.sending(60):
        await outgoing.make_room(40)
        with pytest.raises(Refusal, match="have not read 60 bytes of answers, and the limit is 100") as caught:
            await outgoing.make_room(41)
    assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MUCH_UNREAD")
    await outgoing.make_room(41)


async def test_one_answer_is_always_sent() -> None:
    await Outgoing(100, room_seconds=0.01).make_room(1_000)


async def test_an_answer_waits_for_those_that_are_read() -> None:
    outgoing = Outgoing(100)
    with outgoing.sending(100):
        waiting = asyncio.create_task(outgoing.make_room(50))
        await asyncio.sleep(0)
        assert not waiting.done()
    await waiting


async def test_the_answer_of_a_unary_call_is_counted_until_its_task_is_done() -> None:
    outgoing, go_on = Outgoing(100), asyncio.Event()
    serving = asyncio.create_task(go_on.wait())
    outgoing.count_for(serving, 70)
    assert outgoing.unread_bytes == 70
    go_on.set()
    await serving
    await asyncio.sleep(0)
    assert outgoing.unread_bytes == 0


async def test_answers_that_exist_wait_for_room_up_to_a_bound_and_those_made_later_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "WAITING_BYTES_MAX", 150)
    outgoing = Outgoing(100)
    with outgoing.sending(100):
        waiting = [
            asyncio.create_task(outgoing.make_room(100)),
            asyncio.create_task(outgoing.make_room(99, made=False)),
        ]
        await asyncio.sleep(0)
        with pytest.raises(Refusal) as caught:
            await outgoing.make_room(51)
        assert caught.value.reason == "TOO_MUCH_UNREAD"
        waiting.append(asyncio.create_task(outgoing.make_room(50)))
        await asyncio.sleep(0)
        assert not any(each.done() for each in waiting)
    await asyncio.gather(*waiting)
    with outgoing.sending(100):
        waiting = [asyncio.create_task(outgoing.make_room(150))]
        await asyncio.sleep(0)
        assert not waiting[0].done()
    await waiting[0]
