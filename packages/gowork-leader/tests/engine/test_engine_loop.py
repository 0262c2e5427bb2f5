"""The engine over a real store whose commits can be held up or made to fail: nothing leaves before it is durable."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, assert_type

import grpc
import pytest

from gowork.base.channels import open_channel
from gowork.leader import Addresses, Leader
from gowork.leader._core import commands as cmd
from gowork.leader._core import effects as ef
from gowork.leader._core.model import HandlerPolicy, Outcome, Standing, Status, Task
from gowork.leader._core.state import State
from gowork.leader._engine import blocked, loop
from gowork.leader._engine.asked import RefusedError
from gowork.leader._engine.blocked import NotServingError, NotTakenError
from gowork.leader._engine.counts import Counts
from gowork.leader._engine.loop import Engine
from gowork.leader._engine.step import Stepper
from gowork.leader._engine.subscriptions import Waiter
from gowork.leader._engine.watching import Watcher
from gowork.leader._rpc.filters import selection_of
from gowork.leader._wire.specs import spec_from
from gowork.leader.store.codec import new_task
from gowork.leader.store.protocol import Batch, StoreError, StoreFullError
from gowork.leader.store.sqlite import SqliteStore
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb
from gowork.proto.scheduler.v1 import scheduler_pb2_grpc

PATIENCE = 120.0


class TroubledStore(SqliteStore):
    """The SQLite store, with a gate before its commits."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.gate = asyncio.Event()
        self.gate.set()
        #: Set while a commit waits at the gate.
        self.arrived = asyncio.Event()
        #: What the next commits raise.
        self.trouble: StoreError | None = None
        self.batches: list[Batch] = []

    async def commit(self, batch: Batch) -> None:
        self.arrived.set()
        await self.gate.wait()
        if self.trouble is not None:
            raise self.trouble
        await super().commit(batch)
        self.batches.append(batch)


class Delivered:
    """Keeps what is let out."""

    def __init__(self) -> None:
        self.effects: list[ef.Effect] = []

    def deliver(self, effects: Sequence[ef.Effect]) -> None:
        self.effects += effects


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[tuple[Engine, TroubledStore, Delivered]]:
    store, delivered = TroubledStore(folder / "store.db"), Delivered()
    engine = Engine(store, delivered, Counts())
    await engine.recover()
    try:
        async with asyncio.TaskGroup() as group, asyncio.timeout(PATIENCE):
            group.create_task(engine.run())
            yield engine, store, delivered
            store.gate.set()
            engine.stop()
    finally:
        await store.close()


def submit(*ids: str) -> cmd.Submit:
    return cmd.Submit([spec_from(pb.Task(id=id, handler="h")) for id in ids])


def ids(state: State) -> list[str]:
    return list(state.tasks)


def asked(engine: Engine, *whats: cmd.AnyCommand | Callable[[State], object]) -> list[asyncio.Future[object]]:
    """All in one batch."""
    calls = [engine.read(what) if callable(what) else engine.ask(what) for what in whats]
    return [asyncio.ensure_future(call) for call in calls]


async def test_replies_reads_and_effects_wait_until_their_batch_is_durable(tmp_path: Path) -> None:
    async with running(tmp_path) as (engine, store, delivered):
        engine.post(cmd.OpenSession(1, "w", "i", 1, (), {}, "", (), (), ""))
        await engine.read(ids)
        assert [type(effect) for effect in delivered.effects] == [ef.Welcome]
        store.gate.clear()
        store.arrived.clear()
        calls = asked(engine, submit("a"), ids, submit("a"), cmd.Cancel("unknown"))
        engine.post(cmd.OpenSession(2, "w2", "i2", 1, (), {}, "", (), (), ""))
        await store.arrived.wait()
        # Whoever comes now is in the next batch.
        later = asked(engine, ids)
        await asyncio.sleep(0)
        assert not any(call.done() for call in (*calls, *later))
        assert len(delivered.effects) == 1
        store.gate.set()
        submitted, read, again, refused = await asyncio.gather(*calls, return_exceptions=True)
        assert submitted == cmd.Submitted(1, 0)
        assert again == cmd.Submitted(0, 1)
        assert read == ["a"]
        assert isinstance(refused, RefusedError)
        assert await later[0] == ["a"]
        assert [type(effect) for effect in delivered.effects].count(ef.Welcome) == 2


async def test_who_subscribes_in_a_question_is_told_of_later_batches_alone(tmp_path: Path) -> None:
    async with running(tmp_path) as (engine, store, _):
        watcher = Watcher(selection_of(""))

        def subscribe(state: State) -> int:
            engine.subscriptions.watchers.add(watcher)
            return engine.changed

        _, changed, _ = await asyncio.gather(*asked(engine, submit("a"), subscribe, submit("b")))
        assert [len(batch.inserts) for batch in store.batches] == [2]
        # What the batch has changed is to be read from the store, because it counts as known from now on.
        assert [record.changed for record in await store.load(["a", "b"])] == [changed] * 2
        await asyncio.gather(*asked(engine, submit("c")))
        part = await watcher.take(10, 1 << 20)
        assert [snapshot.spec.id for snapshot in part.tasks] == ["c"]


async def test_what_gathers_while_a_batch_is_in_flight_is_one_batch(tmp_path: Path) -> None:
    async with running(tmp_path) as (engine, store, _):
        store.gate.clear()
        first = asked(engine, submit("a"))
        await store.arrived.wait()
        rest = asked(engine, *(submit(str(n)) for n in range(50)))
        await asyncio.sleep(0)
        store.gate.set()
        await asyncio.gather(*first, *rest)
        assert [len(batch.inserts) for batch in store.batches] == [1, 50]


async def test_a_waiter_that_comes_while_the_batch_is_in_flight_that_ends_its_task_is_told_when_it_is_durable(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as (engine, store, _):
        await engine.ask(submit("a"))
        store.gate.clear()
        store.arrived.clear()
        (cancelled,) = asked(engine, cmd.Cancel("a"))
        await store.arrived.wait()
        assert engine.will_tell("a")
        waiter = Waiter(engine.subscriptions.waiting)
        engine.subscriptions.add_waiter(waiter, ["a"])
        told = asyncio.ensure_future(waiter.take())
        await asyncio.sleep(0)
        assert not told.done()
        store.gate.set()
        (ended,), _ = await told
        assert (ended.id, ended.standing.status) == ("a", Status.CANCELLED)
        await cancelled
        # Nothing more will be told of it, and nothing of one that there is not.
        assert not engine.will_tell("a")
        assert not engine.will_tell("unknown")
        assert engine._stepper.being_moved == {}


async def test_nothing_will_be_told_of_a_finished_task_that_a_batch_has_looked_up(tmp_path: Path) -> None:
    async with running(tmp_path) as (engine, store, _):
        await asyncio.gather(*asked(engine, submit("a"), cmd.Cancel("a")))
        store.gate.clear()
        store.arrived.clear()
        again = asked(engine, submit("a"), submit("b"))
        await store.arrived.wait()
        assert not engine.will_tell("a")
        assert engine.will_tell("b")
        store.gate.set()
        await asyncio.gather(*again)


async def test_a_caller_that_gives_up_does_not_take_back_what_it_asked_for(tmp_path: Path) -> None:
    async with running(tmp_path) as (engine, store, _):
        store.gate.clear()
        (call,) = asked(engine, submit("a"))
        await store.arrived.wait()
        call.cancel()
        store.gate.set()
        assert await engine.read(ids) == ["a"]
        assert [record.id for record in await store.load(["a"])] == ["a"]


async def test_all_that_waits_for_a_batch_that_does_not_fit_is_refused_and_the_batch_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocked, "BLOCKED_RETRY_SECONDS", 0.01)
    async with running(tmp_path) as (engine, store, _):
        store.trouble = StoreFullError("no room")
        store.gate.clear()
        in_batch = asked(engine, submit("a"), ids)
        await store.arrived.wait()
        behind = asked(engine, submit("b"), ids)
        frame = engine.post_frame(cmd.ReceiveFrame(1))
        await asyncio.sleep(0)
        store.gate.set()
        answers = await asyncio.gather(*in_batch, *behind, return_exceptions=True)
        assert [type(answer) for answer in answers] == [NotTakenError] * 4
        assert ["may yet come about" in str(answer) for answer in answers] == [True, True, False, False]
        with pytest.raises(NotTakenError):
            await engine.ask(submit("c"))
        # A worker is held back, not refused.
        assert not frame.done()
        store.trouble = None
        await frame
        assert engine.blocked is None
        assert await engine.read(ids) == ["a"]


async def test_heartbeats_that_come_one_after_another_share_a_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []

    async def counted(stepper: Stepper, batch: list[Any], *more: Any) -> Any:
        steps.append(len(batch))
        return await step(stepper, batch, *more)

    async with running(tmp_path) as (engine, _, _):
        await engine.read(ids)
        step = Stepper.step
        monkeypatch.setattr(Stepper, "step", counted)
        monkeypatch.setattr(loop, "HEARTBEAT_SECONDS", 0.5)
        frames = []
        for connection in range(10):
            frames.append(engine.post_heartbeat(cmd.ReceiveFrame(connection)))
            # Whatever is ready has its turn, as between frames of the network.
            for _ in range(10):
                await asyncio.sleep(0)
        await asyncio.wait_for(asyncio.gather(*frames), PATIENCE)
        assert steps == [10]
        # What somebody waits for does not wait for heartbeats.
        frames = [engine.post_heartbeat(cmd.ReceiveFrame(1))]
        await engine.read(ids)
        assert frames[0].done()
        assert steps == [10, 2]


async def test_a_stop_does_not_wait_for_room(tmp_path: Path) -> None:
    async with running(tmp_path) as (engine, store, _):
        store.trouble = StoreFullError("no room")
        (call,) = asked(engine, submit("a"))
        with pytest.raises(NotTakenError):
            await call
    async with running(tmp_path) as (engine, store, _):
        assert await engine.read(ids) == []


async def test_a_stop_answers_what_was_taken_and_takes_no_more(tmp_path: Path) -> None:
    async with running(tmp_path) as (engine, store, _):
        store.gate.clear()
        first = asked(engine, submit("a"))
        await store.arrived.wait()
        second = asked(engine, submit("b"))
        await asyncio.sleep(0)
        engine.stop()
        with pytest.raises(NotServingError):
            await engine.ask(submit("c"))
        with pytest.raises(NotServingError):
            await engine.read(ids)
        store.gate.set()
        assert await asyncio.gather(*first, *second) == [cmd.Submitted(1, 0)] * 2
    async with running(tmp_path) as (engine, _, _):
        assert await engine.read(ids) == ["a", "b"]


async def test_a_store_in_doubt_ends_the_engine_and_answers_nobody_as_if_all_were_well(tmp_path: Path) -> None:
    store, delivered = TroubledStore(tmp_path / "store.db"), Delivered()
    engine = Engine(store, delivered, Counts())
    await engine.recover()
    engine.post(cmd.OpenSession(1, "w", "i", 1, (), {}, "", (), (), ""))
    store.trouble = StoreError("in doubt")
    calls = asked(engine, submit("a"), ids)
    await asyncio.sleep(0)
    with pytest.raises(StoreError, match="in doubt"):
        await asyncio.wait_for(engine.run(), PATIENCE)
    assert [str(answer) for answer in await asyncio.gather(*calls, return_exceptions=True)] == ["in doubt"] * 2
    assert delivered.effects == []
    with pytest.raises(NotServingError):
        await engine.ask(submit("b"))
    await store.close()


async def test_callers_of_a_leader_whose_store_fails_are_told_to_look_elsewhere(tmp_path: Path) -> None:
    store = TroubledStore(tmp_path / "store.db")
    nowhere = "127.0.0.1:0"
    leader = Leader(store, cluster_listen=nowhere, scheduler_listen=nowhere, http_listen=nowhere)
    started: asyncio.Future[Addresses] = asyncio.get_running_loop().create_future()
    running = asyncio.ensure_future(leader.run(started, asyncio.Event()))
    addresses = await asyncio.wait_for(started, PATIENCE)
    async with open_channel([addresses.scheduler]) as channel:
        scheduler = scheduler_pb2_grpc.SchedulerServiceStub(channel)
        store.trouble = StoreError("in doubt")
        request = pb.ScheduleTaskRequest(task=pb.Task(id="a", handler="h"))
        calls = [scheduler.ScheduleTask(request, timeout=PATIENCE) for _ in range(20)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
    assert {answer.code() for answer in answers if isinstance(answer, grpc.aio.AioRpcError)} == {
        grpc.StatusCode.UNAVAILABLE
    }
    assert not [answer for answer in answers if not isinstance(answer, grpc.aio.AioRpcError)]
    with pytest.raises(ExceptionGroup) as caught:
        await asyncio.wait_for(running, PATIENCE)
    assert caught.group_contains(StoreError, match="in doubt")


async def test_an_answer_has_the_type_that_its_command_promises_and_a_refusal_is_raised(tmp_path: Path) -> None:
    async with running(tmp_path) as (engine, _, _):
        assert assert_type(await engine.ask(submit("a")), cmd.Submitted) == cmd.Submitted(1, 0)
        purged = await engine.ask(cmd.Purge(["unknown"]))
        assert assert_type(purged, cmd.Purged) == cmd.Purged(0)
        with pytest.raises(RefusedError, match="no task has the id 'b'") as caught:
            await engine.ask(cmd.Cancel("b"))
        assert caught.value.refused.code is cmd.TASK_UNKNOWN
        with pytest.raises(RefusedError):
            await engine.ask(cmd.Purge(["a"], strict=True))


async def test_a_question_that_fails_is_its_callers_affair(tmp_path: Path) -> None:
    def broken(state: State) -> object:
        raise LookupError("no")

    async with running(tmp_path) as (engine, _, _):
        with pytest.raises(LookupError):
            await engine.read(broken)
        assert await engine.read(ids) == []


async def test_a_finished_task_leaves_memory_and_is_known_all_the_same(tmp_path: Path) -> None:
    async with running(tmp_path) as (engine, store, _):
        await engine.ask(submit("a"))
        await engine.ask(cmd.Cancel("a"))
        assert await engine.read(ids) == []
        assert await engine.ask(submit("a")) == cmd.Submitted(0, 1)
        (answer,) = await asyncio.gather(*asked(engine, cmd.Cancel("a")))
        assert answer is None
        report = cmd.Report(1, "a", Outcome.COMPLETED)
        await engine.post_frame(cmd.ReceiveFrame(1, [report]))
        assert await engine.read(ids) == []
        (record,) = await store.load(["a"])
        assert record.standing.status is Status.CANCELLED


async def test_what_a_member_held_that_is_gone_is_taken_back_at_the_start_and_runs_in_its_place(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "store.db")
    opened = await store.open()
    tasks = [
        Task(seq, spec_from(pb.Task(id=id, payload="p")), Standing(Status.PENDING, 1))
        for seq, id in enumerate("abc", opened.next_seq)
    ]
    tasks[0].standing = Standing(Status.RUNNING, 1, fence=1, grants=1, worker="gone", started_ms=1)
    await store.commit(Batch([new_task(task) for task in tasks], [], [], []))
    await store.close()
    async with running(tmp_path) as (engine, _, delivered):
        policies = (HandlerPolicy("work", is_default=True),)
        await engine.ask(cmd.Submit(()))
        engine.post(cmd.OpenSession(1, "w", "w-1", 9, policies, {}, "", (), (), ""))
        engine.post(cmd.ReceiveFrame(1, credit=9))
        await engine.read(ids)
        grants = [grant for effect in delivered.effects if isinstance(effect, ef.GrantTasks) for grant in effect.grants]
        granted = [grant.spec.id for grant in grants]
        assert granted == ["a", "b", "c"]
