"""What a runner does about jobs that have not started, and about what was left without an owner."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.worker import Context, handler
from gowork.worker._runner.hands import Hand
from gowork.worker._runner.messages import StopKind

MakeRig = Callable[..., Any]


async def test_a_lost_lease_stops_no_job_that_has_not_started(make_rig: MakeRig) -> None:
    begun = asyncio.Event()

    @handler(on_lease_lost="stop")
    async def careful(ctx: Context) -> None:
        begun.set()
        await asyncio.Event().wait()

    rig = make_rig(careful, slots=1)
    rig.feed((1, "careful"), (2, "careful"))
    await begun.wait()
    rig.executor.set_lease(False)
    assert [(fence, kind) for fence, _, kind in rig.stopping] == [(1, StopKind.INTERRUPT)]


async def test_a_job_for_the_loop_is_never_put_before_the_threads(make_rig: MakeRig) -> None:
    @handler
    async def on_loop() -> None:
        await asyncio.Event().wait()

    rig = make_rig(on_loop, slots=1)
    rig.feed((1, "on_loop"), (2, "on_loop"))
    rig.executor._threads._put_again()
    assert rig.executor._threads.queue.empty()


async def test_a_thread_that_was_settled_is_given_no_slot(make_rig: MakeRig) -> None:
    rig = make_rig(slots=1)
    rig.executor._threads._starve(Hand(99, lambda _: None))
    assert (rig.executor._slots.free, list(rig.executor._slots.starving)) == ([0], [])


async def test_a_runner_whose_threads_do_the_work_goes_on_when_no_more_can_be_started(
    make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = threading.Event()

    @handler
    def plain() -> None:
        go.wait(120)

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    rig = make_rig(plain, slots=2)
    rig.feed((1, "plain"))
    # One thread is there by then.
    await asyncio.sleep(0)
    assert len(rig.executor._threads.hands) == 1
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        rig.feed((2, "plain"))
        await asyncio.sleep(0)
    go.set()
    for fence in (1, 2):
        assert (await rig.report(fence)).outcome == tasks.ATTEMPT_OUTCOME_COMPLETED
    assert rig.broken == []


async def test_a_slot_that_was_left_without_an_owner_is_found_again(make_rig: MakeRig) -> None:
    @handler
    async def on_loop() -> None:
        pass

    rig = make_rig(on_loop, slots=1)
    slot = rig.executor._slots.free.pop()
    rig.feed((1, "on_loop"))
    # As if what gave it back had been broken off before it told the loop.
    rig.executor._slots.handed.append(slot)
    rig.executor.look_after()
    assert not rig.executor._slots.for_loop
    assert (await rig.report(1)).outcome == tasks.ATTEMPT_OUTCOME_COMPLETED


async def test_a_word_on_waiting_attempts_that_got_lost_is_said_again(make_rig: MakeRig) -> None:
    rig = make_rig(slots=1)
    rig.executor._waiting_told = 1
    rig.executor.look_after()
    rig.executor.look_after()
    assert rig.waiting == [0]
