"""A node has one term after the other in one process, answers in between, and keeps nothing of a term that is over."""

from __future__ import annotations

import asyncio
import gc
import threading
import urllib.error
import urllib.request
import weakref
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from leader_serving import PATIENCE, ServedLeader, refused, stream_refused

from gowork.base.channels import open_channel
from gowork.leader import Settings
from gowork.leader._app import node
from gowork.leader._app.equipment import Equipment
from gowork.leader._app.node import Node
from gowork.leader._app.term import Term
from gowork.leader._engine.counts import Counts
from gowork.leader._engine.retention import Kept
from gowork.leader._replication.journal import LoneJournal
from gowork.leader.store.protocol import Batch, Opened, StoreError
from gowork.leader.store.sqlite import SqliteStore
from gowork.proto.cluster.v1 import leader_pb2 as cpb
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb
from gowork.proto.scheduler.v1 import scheduler_pb2_grpc
from gowork.proto.worker.v1 import session_pb2 as spb

#: What calls get between terms, in seconds: a refusal comes at once, on a machine that is busy.
SOON = 20.0
TERMS = 20
FINISHED = spb.HELD_STATE_FINISHED


class Office:
    """A node, a client that stays connected to it, and one term at a time."""

    def __init__(self, node: Node, counts: Counts, leader: ServedLeader, store: SqliteStore) -> None:
        self.node = node
        self.counts = counts
        self.leader = leader
        self.health = health_pb2_grpc.HealthStub(leader.channel)
        self.store = store
        self.past: list[weakref.ref[Term]] = []
        #: Duties that the next term has besides its own.
        self.duties: list[CountingDuty] = []

    @asynccontextmanager
    async def term(self) -> AsyncIterator[asyncio.Event]:
        """A term that leads within; gives what ends it sooner."""
        term = Term(self.store, Equipment(self.counts, Settings(), Kept()))
        term.duties += self.duties
        self.past.append(weakref.ref(term))
        leads, ended = asyncio.Event(), asyncio.Event()
        async with asyncio.TaskGroup() as group:
            leading = group.create_task(self.node.lead(term, leads=leads.set, ended=[ended]))
            waiting = group.create_task(leads.wait())
            await asyncio.wait({leading, waiting}, return_when=asyncio.FIRST_COMPLETED)
            try:
                yield ended
            finally:
                waiting.cancel()
                ended.set()

    async def page(self, path: str) -> tuple[int, str]:
        """The status and the text of a page."""
        return await asyncio.to_thread(self._page, path)

    def _page(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://{self.leader.addresses.http}{path}", timeout=PATIENCE) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    async def status(self) -> int:
        """What the health service says of the leader's services."""
        request = health_pb2.HealthCheckRequest(service="scheduler.v1.SchedulerService")
        return (await self.health.Check(request, timeout=PATIENCE)).status


@asynccontextmanager
async def office(folder: Path) -> AsyncIterator[Office]:
    """A node on free ports. Nobody leads on it yet."""
    listen: Any = {f"{name}_listen": "127.0.0.1:0" for name in ("cluster", "scheduler", "http")}
    counts = Counts()
    made = Node(counts, reflection=True, **listen)
    stopped = asyncio.Event()
    async with made.serving(stopped) as addresses, open_channel([addresses.scheduler]) as channel:
        yield Office(made, counts, ServedLeader(addresses, channel, stopped), SqliteStore(folder / "leader.db"))


class CountingDuty:
    """Counts how often it was begun, and ended in order."""

    def __init__(self) -> None:
        self.begun = self.ended = 0

    async def run(self, stopped: asyncio.Event) -> None:
        self.begun += 1
        await stopped.wait()
        self.ended += 1


class SlowDuty(CountingDuty):
    """Ends when it may."""

    def __init__(self) -> None:
        super().__init__()
        self.may_end = asyncio.Event()

    async def run(self, stopped: asyncio.Event) -> None:
        await self.may_end.wait()
        await super().run(stopped)


async def test_before_a_term_all_calls_are_refused_with_the_reason(tmp_path: Path) -> None:
    async with office(tmp_path) as here:
        async with asyncio.timeout(SOON):
            await assert_turned_away(here, "NOT_LEADING")
            assert (await here.page("/readyz"))[0] == 503
            assert await here.page("/healthz") == (200, "alive\n")
            assert await here.status() == health_pb2.HealthCheckResponse.NOT_SERVING
            assert "gowork_leader_is_leader 0.0" in (await here.page("/metrics"))[1]


async def assert_turned_away(here: Office, reason: str) -> None:
    leader = here.leader
    refusals = [
        await refused(leader.submit("early")),
        await refused(leader.get("early")),
        await refused(leader.cluster.Join(cpb.JoinRequest(id="m", address="a:1"), timeout=PATIENCE)),
        await stream_refused(leader.scheduler.WatchTasks(pb.WatchTasksRequest(), timeout=PATIENCE)),
        await stream_refused(leader.scheduler.WaitTasks(pb.WaitTasksRequest(ids=["a"]), timeout=PATIENCE)),
        await leader.session().refusal(),
    ]
    for refusal in refusals:
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, reason)
        assert refusal.message


@pytest.mark.longer
async def test_a_worker_and_a_client_go_on_over_twenty_terms_and_nothing_of_a_term_is_left(tmp_path: Path) -> None:
    process = psutil.Process()
    loads = []
    async with office(tmp_path) as here:
        leader = here.leader
        grant: spb.Grant | None = None
        for n in range(TERMS):
            async with here.term():
                assert await here.page("/readyz") == (200, "ready\n")
                assert await here.status() == health_pb2.HealthCheckResponse.SERVING
                session = leader.session()
                held: list[spb.Held] = (
                    [] if grant is None else [spb.Held(id=grant.id, fence=grant.fence, state=FINISHED)]
                )
                await session.hello("w", instance="w-1", held=held)
                assert (await session.welcome()).term == n + 1
                await session.send(credit=[1])
                if grant is not None:
                    # It was done while nobody led, and the worker has kept its report.
                    await session.report(grant)
                    assert (await leader.get(grant.id)).status == pb.TASK_STATUS_COMPLETED
                watch = leader.scheduler.WatchTasks(pb.WatchTasksRequest(), timeout=PATIENCE)
                changes = aiter(watch)
                await anext(changes)
                await leader.submit(f"t{n}")
                waiting = asyncio.ensure_future(
                    leader.scheduler.WaitTask(pb.WaitTaskRequest(id=f"t{n}"), timeout=PATIENCE)
                )
                grant = await session.grant()
                assert grant.id == f"t{n}"
            # Streams are told, and waits, which may have come too late.
            refusals = [await session.refusal(), await stream_refused(changes), await refused(waiting)]
            assert {each.code for each in refusals} == {grpc.StatusCode.UNAVAILABLE}
            assert {each.reason for each in refusals[:2]} == {"NOT_SERVING"}
            assert refusals[2].reason in {"NOT_SERVING", "NOT_LEADING"}
            gc.collect()
            assert [term for term in here.past if term() is not None] == []
            loads.append((len(asyncio.all_tasks()), threading.active_count(), process.num_fds()))
        # What is made once, in the first terms, stays.
        assert all(last <= early for last, early in zip(loads[-1], loads[TERMS // 2], strict=True)), loads
        # Counters are the process's, and go on.
        assert here.counts.transitions == 2 * TERMS
        assert here.counts.queues["default"].submitted["h", "accepted"] == TERMS
        async with here.term():
            assert [task.id for task in await leader.list(page_size=100)] == [f"t{n}" for n in range(TERMS)]


async def test_calls_between_terms_are_refused_with_the_reason_and_taken_again_in_the_next(tmp_path: Path) -> None:
    async with office(tmp_path) as here:
        async with here.term():
            await here.leader.submit("a")
        async with asyncio.timeout(SOON):
            await assert_turned_away(here, "NOT_LEADING")
            assert await here.page("/readyz") == (503, node.NOT_LEADING + "\n")
            assert await here.status() == health_pb2.HealthCheckResponse.NOT_SERVING
            assert "gowork_leader_is_leader 0.0" in (await here.page("/metrics"))[1]
        async with here.term():
            assert (await here.leader.get("a")).status == pb.TASK_STATUS_PENDING


async def test_a_term_that_does_not_open_leaves_the_node_answering_and_the_next_one_leads(tmp_path: Path) -> None:
    async with office(tmp_path) as here:
        other = SqliteStore(tmp_path / "leader.db")
        await other.open()
        with pytest.raises(ExceptionGroup) as caught:
            async with here.term():
                pass
        assert caught.group_contains(StoreError, match="another leader")
        await assert_turned_away(here, "NOT_LEADING")
        await other.close()
        async with here.term():
            await here.leader.submit("a")
        # It never led.
        assert here.counts.transitions == 2


async def test_a_store_that_fails_ends_its_term_alone(tmp_path: Path) -> None:
    async with office(tmp_path) as here:
        here.store = store = FailingStore(tmp_path / "leader.db")
        with pytest.raises(ExceptionGroup) as caught:
            await fail(here)
        assert caught.group_contains(StoreError, match="in doubt")
        await assert_turned_away(here, "NOT_LEADING")
        store.fails = False
        async with here.term():
            await here.leader.submit("a")


async def fail(here: Office) -> None:
    async with here.term() as ended:
        assert isinstance(here.store, FailingStore)
        here.store.fails = True
        assert (await refused(here.leader.submit("a"))).code is grpc.StatusCode.UNAVAILABLE
        await ended.wait()


class FailingStore(SqliteStore):
    """Commits nothing while it fails."""

    fails = False

    async def commit(self, batch: Batch) -> None:
        if self.fails:
            raise StoreError("in doubt")
        await super().commit(batch)


async def test_a_caller_that_does_not_read_holds_up_no_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node, "STOP_GRACE_SECONDS", 0.1)
    async with office(tmp_path) as here:
        async with here.term():
            for n in range(8):
                # More than a connection takes unread.
                await here.leader.submit(*(f"{n}-{m}" for m in range(30)), payload="x" * 100_000)
            backup = here.leader.scheduler.BackupStore(pb.BackupStoreRequest(), timeout=SOON)
            await backup.read()
        gc.collect()
        assert [term for term in here.past if term() is not None] == []
        # It reads on, and is told that there is no more.
        refusal = await refused(to_the_end(backup))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "NOT_LEADING")


async def to_the_end(call: Any) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass


async def test_heartbeats_end_with_their_term_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Whoever is cut off for being late is told NOT_LEADING.
    monkeypatch.setattr(node, "STOP_GRACE_SECONDS", SOON / 2)
    async with office(tmp_path) as here:
        async with here.term():
            await here.leader.cluster.Join(cpb.JoinRequest(id="m", address="127.0.0.1:1"), timeout=PATIENCE)
            call = here.leader.cluster.Heartbeat(timeout=PATIENCE)
            await call.write(cpb.HeartbeatRequest(id="m", status=cpb.HEARTBEAT_STATUS_IDLE))
            await call.read()
        refusal = await refused(to_the_end(call))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "NOT_SERVING")


async def test_while_the_store_is_opened_calls_are_refused_and_probes_say_why(tmp_path: Path) -> None:
    async with office(tmp_path) as here:
        here.store = store = SlowStore(tmp_path / "leader.db")
        async with asyncio.timeout(SOON), asyncio.TaskGroup() as group:
            leading = group.create_task(lead_once(here))
            await store.opening.wait()
            await assert_turned_away(here, "NOT_LEADING")
            status, words = await here.page("/readyz")
            assert status == 503
            assert "store" in words
            store.gate.set()
            await leading


async def lead_once(here: Office) -> None:
    async with here.term():
        await here.leader.submit("a")


class SlowStore(SqliteStore):
    """Opens when the gate does."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.opening, self.gate = asyncio.Event(), asyncio.Event()

    async def open(self) -> Opened:
        self.opening.set()
        await self.gate.wait()
        return await super().open()


async def test_a_health_check_that_watches_goes_on_over_terms(tmp_path: Path) -> None:
    async with office(tmp_path) as here:
        watch = here.health.Watch(health_pb2.HealthCheckRequest(), timeout=PATIENCE)
        statuses = [(await watch.read()).status]
        for _ in range(2):
            async with here.term():
                statuses.append((await watch.read()).status)
            statuses.append((await watch.read()).status)
    serving, not_serving = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
    assert statuses == [not_serving, serving, not_serving, serving, not_serving]


async def test_a_node_stops_between_terms_and_says_so(tmp_path: Path) -> None:
    async with AsyncExitStack() as connected:
        async with office(tmp_path) as here:
            async with here.term():
                await here.leader.submit("a")
            channel = await connected.enter_async_context(open_channel([here.leader.addresses.scheduler]))
            await channel.channel_ready()
            here.leader.stopped.set()
            stub = scheduler_pb2_grpc.SchedulerServiceStub(channel)
            # It is under way when the node begins to close.
            call = asyncio.ensure_future(refused(stub.Stats(pb.StatsRequest(), timeout=PATIENCE)))
            await asyncio.sleep(0)
        refusal = await call
    assert refusal.code is grpc.StatusCode.UNAVAILABLE
    assert refusal.reason in {"NOT_LEADING", "NOT_SERVING"}


async def test_a_term_resigns_before_its_duties_have_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    duty = SlowDuty()

    async def resign(journal: LoneJournal) -> None:
        duty.may_end.set()

    monkeypatch.setattr(LoneJournal, "resign", resign)
    async with office(tmp_path) as here:
        here.duties.append(duty)
        async with asyncio.timeout(SOON), here.term():
            pass
    assert duty.ended == 1


async def test_a_duty_is_begun_and_ended_with_each_term(tmp_path: Path) -> None:
    counting = CountingDuty()
    async with office(tmp_path) as here:
        here.duties.append(counting)
        for n in range(1, 4):
            async with asyncio.timeout(SOON), here.term():
                assert (counting.begun, counting.ended) == (n, n - 1)
            assert (counting.begun, counting.ended) == (n, n)
