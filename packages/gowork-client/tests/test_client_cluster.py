"""The clients against a real leader and a real worker."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from own_ports import own_addresses

from gowork.client import (
    AlreadyExists,
    AsyncClient,
    AttemptOutcome,
    CancelledTasks,
    Client,
    FailedPrecondition,
    FailureKind,
    InvalidArgument,
    Liveness,
    MemberKind,
    NewTask,
    NotFound,
    Priority,
    RetriedTasks,
    RetryPolicy,
    TaskCancelled,
    TaskFailed,
    TaskStatus,
    TaskView,
    WaitCode,
)

_HANDLERS = """
from gowork.worker import Context, handler


@handler("double")
def double(ctx: Context, number: int) -> int:
    return 2 * number


@handler("reverse")
def reverse(ctx: Context, data: bytes) -> bytes:
    return data[::-1]


@handler("fail")
def fail(ctx: Context, message: dict) -> None:
    raise RuntimeError(message["text"])


@handler("fail_once")
def fail_once(ctx: Context, nothing: None) -> int:
    if ctx.attempt == 1:
        raise RuntimeError("the first time")
    return ctx.attempt
"""


@contextlib.contextmanager
def running(*arguments: str, cwd: Path) -> Iterator[dict[str, str]]:
    """A leader or a worker; yields what it prints when it is ready. Stopped by SIGTERM."""
    with subprocess.Popen(
        [sys.executable, "-m", *arguments, "--log-level", "warning"], cwd=cwd, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())
        finally:
            process.terminate()
            process.wait()


def leader(directory: Path, *, scheduler: str = "127.0.0.1:0") -> contextlib.AbstractContextManager[dict[str, str]]:
    return running(
        "gowork.leader",
        *("--cluster-listen", "127.0.0.1:0", "--scheduler-listen", scheduler, "--http-listen", "127.0.0.1:0"),
        *("--data-dir", str(directory), "--print-addresses"),
        cwd=directory,
    )


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A leader with one worker."""
    directory = tmp_path_factory.mktemp("cluster")
    (directory / "client_test_handlers.py").write_text(_HANDLERS)
    with leader(directory) as addresses:
        options = ("--import", "client_test_handlers", "--runners", "1", "--name", "w", "--label", "site=here")
        with running("gowork.worker", "--leader", addresses["cluster"], *options, "--print-ready", cwd=directory):
            yield addresses["scheduler"]


@pytest.fixture
def client(address: str) -> Iterator[Client]:
    with Client(address) as client:
        yield client


@pytest.fixture
def mark() -> str:
    """A label of this test's own, so that tests share a leader."""
    return uuid.uuid4().hex


LATER = timedelta(hours=1)


@contextlib.contextmanager
def drained_worker(address: str, directory: Path) -> Iterator[None]:
    """A worker that is drained meanwhile: it must end by itself, with 0."""
    options = ("--leader", address, "--runners", "1", "--name", "w", "--handler", "echo", "--print-ready")
    with subprocess.Popen(
        [sys.executable, "-m", "gowork.worker", *options, "--log-level", "warning"],
        cwd=directory,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        try:
            yield
            assert process.wait(120) == 0
        finally:
            process.kill()


@dataclass
class Echo:
    payload: str
    worker: str
    attempt: int


class TestResults:
    def test_a_result_comes_back_as_the_value_that_the_handler_returned(self, client: Client) -> None:
        assert client.schedule(21, handler="double").result(int) == 42

    def test_a_task_without_a_handler_is_echoed_by_the_workers_default(self, client: Client) -> None:
        assert client.schedule("some work").result(Echo) == Echo("some work", "w", 1)

    def test_bytes_come_back_as_bytes(self, client: Client) -> None:
        assert client.schedule(b"\x00\xffab", handler="reverse").result() == b"ba\xff\x00"

    def test_a_function_that_is_decorated_stands_for_its_name(self, client: Client) -> None:
        from gowork.worker import Context, handler

        @handler("double")
        def double(ctx: Context, number: int) -> int:
            raise AssertionError("the worker's own is run")

        assert client.schedule(2, handler=double).result() == 4

    def test_what_a_handler_raises_is_raised_with_its_type(self, client: Client) -> None:
        with pytest.raises(TaskFailed, match="RuntimeError: out of paper") as raised:
            client.schedule({"text": "out of paper"}, handler="fail").result()
        failure = raised.value.failure
        assert failure is not None
        assert (failure.kind, failure.type, failure.message) == (FailureKind.HANDLER, "RuntimeError", "out of paper")
        assert "raise RuntimeError" in failure.traceback

    def test_a_payload_that_does_not_fit_the_handler_is_rejected(self, client: Client) -> None:
        task = client.schedule("not a number", handler="double").wait()
        assert task.status is TaskStatus.ERROR
        assert task.failure is not None
        assert task.failure.kind is FailureKind.REJECTED

    def test_a_task_is_tried_as_often_as_its_policy_says(self, client: Client) -> None:
        handle = client.schedule(None, handler="fail_once", retry=RetryPolicy(3, initial_delay=0.001))
        assert handle.result() == 2
        task = handle.get()
        assert [attempt.outcome for attempt in task.attempts] == [AttemptOutcome.FAILED, AttemptOutcome.COMPLETED]
        assert [attempt.worker for attempt in task.attempts] == ["w", "w"]
        assert task.attempts_used == 2

    def test_thousands_go_out_and_come_back(self, client: Client) -> None:
        done = list(client.as_completed(client.schedule_many(range(3_000), handler="double"), timeout=120))
        assert sorted(handle.result() for handle in done) == list(range(0, 6_000, 2))


class TestScheduling:
    def test_a_task_keeps_its_options(self, client: Client, mark: str) -> None:
        run_at = datetime(2100, 1, 1, tzinfo=UTC)
        handle = client.schedule(
            {"a": 1},
            handler="double",
            id=f"{mark}-id",
            priority=Priority.HIGH,
            queue="slow",
            labels={"mark": mark},
            selector={"site": "here"},
            run_at=run_at,
            time_limit=1.5,
            expires_at=run_at + LATER,
            retry=RetryPolicy(3, initial_delay=0.5, factor=3.0, max_delay=60.0, jitter=0.25, no_retry=("ValueError",)),
        )
        task = client.get(handle.id)
        assert task.id == f"{mark}-id"
        assert task.status is TaskStatus.PENDING
        assert (task.payload, task.handler, task.queue, task.priority) == ('{"a":1}', "double", "slow", Priority.HIGH)
        assert (task.labels, task.selector) == ({"mark": mark}, {"site": "here"})
        assert (task.run_at, task.time_limit, task.expires_at) == (run_at, 1.5, run_at + LATER)
        assert task.retry == RetryPolicy(3, 0.5, 3.0, 60.0, 0.25, ("ValueError",))
        assert task.waiting_reason
        client.cancel(task.id)

    def test_the_same_task_again_changes_nothing(self, client: Client, mark: str) -> None:
        first = client.schedule(1, handler="double", id=mark)
        assert first.result() == 2
        assert client.schedule(1, handler="double", id=mark).result() == 2

    def test_another_task_of_the_same_id_is_refused(self, client: Client, mark: str) -> None:
        client.schedule(1, handler="double", id=mark)
        with pytest.raises(AlreadyExists, match=mark):
            client.schedule(2, handler="double", id=mark)

    def test_an_empty_id_is_named_as_the_field_at_fault(self, client: Client) -> None:
        with pytest.raises(InvalidArgument) as raised:
            client.schedule("p", id="")
        assert [violation.field for violation in raised.value.violations] == ["task.id"]

    def test_a_task_at_fault_among_many_is_named_by_its_place(self, client: Client) -> None:
        with pytest.raises(InvalidArgument) as raised:
            list(client.schedule_many(["p", "p", NewTask("p", id="")]))
        assert [violation.field for violation in raised.value.violations] == ["tasks[2].id"]

    def test_a_pending_task_is_cancelled_at_once(self, client: Client) -> None:
        handle = client.schedule("p", delay=LATER)
        handle.cancel()
        handle.cancel()
        with pytest.raises(TaskCancelled):
            handle.result()

    def test_a_finished_task_is_not_cancelled(self, client: Client) -> None:
        handle = client.schedule(1, handler="double")
        handle.wait()
        with pytest.raises(FailedPrecondition):
            handle.cancel()

    @pytest.mark.parametrize("method", ["get", "cancel"])
    def test_an_unknown_task_is_not_found(self, client: Client, method: str) -> None:
        with pytest.raises(NotFound, match="no such task as this"):
            getattr(client, method)("no such task as this")

    def test_an_unknown_task_is_not_waited_for(self, client: Client) -> None:
        with pytest.raises(NotFound):
            client.wait(["no such task as this"], timeout=120)


class TestLists:
    def test_pages_follow_each_other_in_the_order_of_scheduling(self, client: Client, mark: str) -> None:
        ids = [handle.id for handle in client.schedule_many(["p"] * 7, labels={"mark": mark}, delay=LATER)]
        assert [task.id for task in client.tasks(labels={"mark": mark}, page_size=2)] == ids
        newest = client.tasks(labels={"mark": mark}, page_size=3, newest_first=True)
        assert [task.id for task in newest] == ids[::-1]

    @pytest.mark.parametrize("value", ['say "hi"', "back\\slash", "a = b AND c", "ümlaut", "'"])
    def test_any_label_can_be_filtered_by(self, client: Client, mark: str, value: str) -> None:
        client.schedule("p", id=f"{mark}-a", labels={"mark": mark, "value": value}, delay=LATER)
        client.schedule("p", id=f"{mark}-b", labels={"mark": mark, "value": "other"}, delay=LATER)
        assert [task.id for task in client.tasks(labels={"mark": mark, "value": value})] == [f"{mark}-a"]

    def test_terms_are_joined(self, client: Client, mark: str) -> None:
        client.schedule(1, handler="double", id=f"{mark}-1", labels={"mark": mark}).wait()
        client.schedule(1, handler="double", id=f"{mark}-2", labels={"mark": mark}, queue="q", priority="high").wait()
        client.schedule(1, handler="double", id=f"{mark}-3", labels={"mark": mark}, delay=LATER)

        def ids(filter: str = "", **terms: str) -> list[str]:
            found = client.tasks(filter, labels={"mark": mark}, **terms)  # type: ignore[arg-type]
            return [task.id.removeprefix(mark) for task in found]

        assert ids(status="completed") == ["-1", "-2"]
        assert ids(status="PENDING", handler="double") == ["-3"]
        assert ids(queue="q") == ids(priority="HIGH") == ids('queue != "default"') == ["-2"]
        assert ids(id_prefix=f"{mark}-1") == ["-1"]
        assert ids(handler="other") == []

    def test_the_view_says_how_much_of_a_task_comes(self, client: Client, mark: str) -> None:
        client.schedule(1, handler="double", labels={"mark": mark}).wait()
        views = {view: next(client.tasks(labels={"mark": mark}, view=view)) for view in TaskView}
        assert [views[view].result for view in TaskView] == ["", "2", "2"]
        assert [views[view].payload for view in TaskView] == ["", "", "1"]

    def test_a_filter_that_does_not_parse_is_refused(self, client: Client) -> None:
        with pytest.raises(InvalidArgument) as raised:
            next(client.tasks("status ="))
        assert [violation.field for violation in raised.value.violations] == ["filter"]

    def test_a_watch_sees_a_task_until_it_has_finished(self, client: Client, mark: str) -> None:
        with client.watch(labels={"mark": mark}, view=TaskView.RESULT) as changes:
            client.schedule(1, handler="double", labels={"mark": mark})
            last = next(task for task in changes if task.status.finished)
        assert last.value() == 2

    def test_a_watch_goes_on_where_an_earlier_one_ended(self, client: Client, mark: str) -> None:
        with client.watch(labels={"mark": mark}) as changes:
            token = changes.token
        client.schedule("p", id=mark, labels={"mark": mark}, delay=LATER)
        with client.watch(labels={"mark": mark}, token=token) as changes:
            assert next(changes).id == mark

    def test_members_are_listed_with_what_they_can_do(self, client: Client) -> None:
        (member,) = client.members()
        assert (member.id, member.liveness, member.kind) == ("w", Liveness.LIVE, MemberKind.SESSION)
        assert {"double", "reverse", "fail", "echo"} <= set(member.handlers)
        assert member.labels == {"site": "here"}
        assert member.slots > 0

    def test_stats_count_tasks_and_members(self, client: Client, mark: str) -> None:
        list(client.schedule_many(["p"] * 3, queue=mark, delay=LATER))
        stats = client.stats()
        assert [(row.status, row.tasks) for row in stats.queues if row.queue == mark] == [(TaskStatus.PENDING, 3)]
        assert [(row.liveness, row.members) for row in stats.members] == [(Liveness.LIVE, 1)]
        assert stats.term >= 1

    def test_activity_tells_what_queues_hold_and_have_done(self, client: Client, mark: str) -> None:
        client.wait(client.schedule_many([1, 2], handler="double", queue=mark), timeout=120)
        failed = client.schedule({"text": "no"}, handler="fail", queue=mark)
        failed.wait(timeout=120)
        client.schedule("p", queue=mark, delay=LATER)
        client.schedule("p", queue=mark, handler="unheard-of")
        told = client.activity(failures=1)
        (row,) = (row for row in told.queues if row.queue.name == mark)
        assert (row.queue.waiting, row.queue.delayed, row.queue.running) == (1, 1, 0)
        assert row.waiting == {WaitCode.NO_HANDLER: 1, WaitCode.DELAYED: 1}
        assert row.oldest_waiting is not None
        assert row.counts is not None
        counts = row.counts
        assert (counts.submitted, counts.completed, counts.cancelled, counts.failed) == (5, 2, 0, 1)
        assert (sum(counts.start_counts), len(counts.start_counts)) == (3, len(told.start_bounds) + 1)
        assert [(task.id, task.queue, task.worker) for task in told.failures] == [(failed.id, mark, "w")]
        assert [(row.liveness, row.members) for row in told.members] == [(Liveness.LIVE, 1)]
        assert told.uptime > 0
        assert told.now is not None
        assert abs(told.now - datetime.now(UTC)) < timedelta(minutes=1)
        assert told.failed_tasks >= 1
        with pytest.raises(InvalidArgument, match="failures_max"):
            client.activity(failures=101)


class TestDrain:
    def test_a_worker_is_drained_and_leaves(self, tmp_path: Path) -> None:
        with leader(tmp_path) as addresses, Client(addresses["scheduler"]) as client:
            with pytest.raises(NotFound):
                client.drain("nobody")
            with drained_worker(addresses["cluster"], tmp_path):
                with pytest.raises(InvalidArgument):
                    client.drain("w", timedelta(days=2))
                client.drain("w", 30)
            assert [member.liveness for member in client.members()] == [Liveness.LEFT]

    async def test_the_asyncio_client_drains_too(self, tmp_path: Path) -> None:
        with leader(tmp_path) as addresses:
            async with AsyncClient(addresses["scheduler"]) as client:
                with drained_worker(addresses["cluster"], tmp_path):
                    await client.drain("w", timedelta(seconds=0))
                assert [member.liveness for member in await client.members()] == [Liveness.LEFT]


class TestAsyncio:
    async def test_the_asyncio_client_does_all_of_it_too(self, address: str, mark: str) -> None:
        async with AsyncClient(address) as client, client.watch(labels={"mark": mark}) as changes:
            handle = await client.schedule(21, handler="double", labels={"mark": mark})
            assert await handle.result(int) == 42
            assert (await anext(changes)).id == handle.id
            done = client.as_completed(client.schedule_many(range(3_000), handler="double"), timeout=120)
            assert sorted([await each.result() async for each in done]) == list(range(0, 6_000, 2))
            assert [task.id async for task in client.tasks(labels={"mark": mark})] == [handle.id]
            assert (await handle.get()).attempts[0].worker == "w"
            assert [member.id for member in await client.members()] == ["w"]
            assert (await client.stats()).version
            assert (await client.activity()).queues_total >= 1
            later = await client.schedule("p", delay=LATER)
            await later.cancel()
            with pytest.raises(TaskCancelled):
                await later.result()


def test_a_wait_outlives_a_restart_of_the_leader(tmp_path: Path, mark: str) -> None:
    (address,) = own_addresses(1)
    with leader(tmp_path, scheduler=address):
        client = Client(address)
        handle = client.schedule("p", id=mark, delay=LATER)
        others = [client.schedule("p", delay=LATER)]
        done = client.as_completed([handle, *others], timeout=120)
        # One of them comes back, so that the wait is known to be under way when the leader stops.
        others[0].cancel()
        assert next(done) is others[0]
    with client, leader(tmp_path, scheduler=address):
        client.cancel(mark)
        assert next(done) is handle
        assert handle.task is not None
        assert handle.task.status is TaskStatus.CANCELLED


class TestQueues:
    def test_a_queue_is_paused_explained_and_resumed(self, client: Client, mark: str) -> None:
        client.pause_queue(mark)
        handle = client.schedule(21, handler="double", queue=mark)
        explanation = client.explain(handle.id, verbose=True)
        assert explanation.status is TaskStatus.PENDING
        assert [reason.code for reason in explanation.reasons] == [WaitCode.QUEUE_PAUSED]
        assert {verdict.code for verdict in explanation.workers} <= {WaitCode.UNSPECIFIED, WaitCode.NO_SLOT}
        assert client.get(handle.id).waiting_reason == explanation.reasons[0].message
        assert [(row.paused, row.waiting) for row in client.queues() if row.name == mark] == [(True, 1)]
        client.resume_queue(mark)
        assert handle.result(int) == 42

    def test_limits_are_set_one_by_one_and_lifted_by_zero(self, client: Client, mark: str) -> None:
        client.configure_queue(mark, weight=2, concurrency_limit=3, rate_limit=2.5)
        changed = client.configure_queue(mark, concurrency_limit=0, key_concurrency_limit=1)
        assert (changed.weight, changed.concurrency_limit, changed.key_concurrency_limit, changed.rate_limit) == (
            2,
            0,
            1,
            2.5,
        )
        client.configure_queue(mark, weight=1, key_concurrency_limit=0, rate_limit=0)
        assert mark not in [row.name for row in client.queues()]

    def test_a_concurrency_key_reaches_the_task(self, client: Client) -> None:
        handle = client.schedule(21, handler="double", concurrency_key="user-7")
        assert client.get(handle.id).concurrency_key == "user-7"

    def test_a_range_of_versions_reaches_the_task_which_waits_for_such_a_version(self, client: Client) -> None:
        wanted = ">=1.2,<2"
        alone = client.schedule(21, handler="double", plugin_version=wanted)
        free = NewTask(21, plugin_version="")
        one, own = client.schedule_many([21, free], handler="double", plugin_version=wanted)
        assert own.result(int) == 42
        for handle in (alone, one):
            assert client.get(handle.id).plugin_version == wanted
            assert [reason.code for reason in client.explain(handle.id).reasons] == [WaitCode.PLUGIN_VERSION]
            client.cancel(handle.id)

    def test_bad_settings_name_the_field(self, client: Client) -> None:
        with pytest.raises(InvalidArgument) as caught:
            client.configure_queue("", weight=0, rate_limit=float("nan"))
        assert [violation.field for violation in caught.value.violations] == ["name", "weight", "rate_limit"]

    async def test_the_asyncio_client_does_the_same(self, address: str, mark: str) -> None:
        async with AsyncClient(address) as client:
            assert (await client.configure_queue(mark, weight=7)).weight == 7
            await client.pause_queue(mark)
            handle = await client.schedule(21, handler="double", queue=mark)
            assert [reason.code for reason in (await client.explain(handle.id)).reasons] == [WaitCode.QUEUE_PAUSED]
            assert mark in [row.name for row in await client.queues()]
            await client.resume_queue(mark)
            assert await handle.result(int) == 42
            with pytest.raises(NotFound):
                await client.explain("nobody")


class TestKeeping:
    def failed(self, client: Client, mark: str) -> str:
        handle = client.schedule({"text": "no"}, handler="fail", labels={"mark": mark})
        handle.wait()
        return handle.id

    def test_a_failed_task_is_run_again_and_fails_again(self, client: Client, mark: str) -> None:
        id = self.failed(client, mark)
        client.retry(id)
        task = client.handle(id).wait()
        assert (task.status, task.attempts_used) == (TaskStatus.ERROR, 1)
        assert len(client.get(id).attempts) == 2
        done = client.schedule(1, handler="double")
        done.wait()
        with pytest.raises(FailedPrecondition):
            client.retry(done.id)

    def test_finished_tasks_are_removed_by_id_and_by_filter(self, client: Client, mark: str) -> None:
        ids = [self.failed(client, mark) for _ in range(3)]
        assert client.purge([ids[0], "nobody"]) == 1
        assert client.purge(labels={"mark": mark}, older_than=timedelta(hours=1)) == 0
        assert client.purge(labels={"mark": mark}) == 2
        assert list(client.tasks(labels={"mark": mark})) == []
        with pytest.raises(InvalidArgument):
            client.purge()

    def test_what_a_filter_selects_is_cancelled_and_run_again(self, client: Client, mark: str) -> None:
        ids = [self.failed(client, mark) for _ in range(3)]
        waits = client.schedule(21, handler="double", labels={"mark": mark}, delay=3600)
        told: list[object] = []
        assert client.cancel_many(labels={"mark": mark}, progress=told.append) == CancelledTasks(cancelled=1)
        assert told == [CancelledTasks(1, 0)]
        assert client.get(waits.id).status is TaskStatus.CANCELLED
        told.clear()
        assert client.retry_many(labels={"mark": mark}, progress=told.append) == RetriedTasks(retried=3)
        assert told == [RetriedTasks(3, 0)]
        tasks = client.wait(ids)
        assert [len(client.get(task.id).attempts) for task in tasks] == [2, 2, 2]
        assert client.retry_many("status = CANCELLED", labels={"mark": mark}) == RetriedTasks(retried=1)
        assert client.get(waits.id).status is TaskStatus.PENDING
        for nothing in (client.cancel_many, client.retry_many):
            with pytest.raises(InvalidArgument, match="filter"):
                nothing()

    def test_a_failed_task_runs_again_with_another_payload_and_handler(self, client: Client, mark: str) -> None:
        id = self.failed(client, mark)
        client.retry(id, payload=21, handler="double")
        assert client.handle(id).result(int) == 42
        task = client.get(id)
        assert (task.handler, task.payload, task.changed_fields) == ("double", "21", ("handler", "payload"))
        assert [attempt.outcome for attempt in task.attempts] == [AttemptOutcome.FAILED, AttemptOutcome.COMPLETED]
        again = self.failed(client, mark)
        client.retry(again, payload=b"abc", handler="reverse")
        assert client.handle(again).result(bytes) == b"cba"
        third = self.failed(client, mark)
        client.retry(third, payload={"text": "other"})
        failure = client.handle(third).wait().failure
        assert failure is not None
        assert failure.message == "other"
        client.retry(third, payload={"text": "other"})
        assert len(client.get(client.handle(third).wait().id).attempts) == 3
        with pytest.raises(FailedPrecondition):
            client.retry(id, payload=1)
        with pytest.raises(NotFound):
            client.retry("nobody", payload=1)

    def test_a_task_that_waits_is_changed(self, client: Client, mark: str) -> None:
        options: dict[str, Any] = {"handler": "double", "labels": {"mark": mark}, "delay": 3600, "expires_in": 7200}
        id = client.schedule(21, id=mark, **options).id
        client.update(id, queue=mark, priority="HIGH", expires_at=0)
        task = client.get(id)
        assert (task.queue, task.priority, task.expires_at) == (mark, Priority.HIGH, None)
        assert task.changed_fields == ("expires_at", "priority", "queue")
        assert task.changed_at is not None
        assert client.schedule(21, id=mark, **options).id == id
        client.update(id, run_at=datetime.now(UTC) + timedelta(hours=2), expires_in=timedelta(hours=3))
        client.update(id, delay=0)
        assert client.handle(id).result(int) == 42
        with pytest.raises(FailedPrecondition, match="finished with COMPLETED"):
            client.update(id, queue="other")
        with pytest.raises(NotFound):
            client.update("nobody", queue="other")

    def test_a_watch_tells_of_removals(self, client: Client, mark: str) -> None:
        removed: list[str] = []
        id = self.failed(client, mark)
        with client.watch(labels={"mark": mark}, on_removed=removed.append) as changes:
            client.purge([id])
            # Another change comes after it.
            other = self.failed(client, mark)
            assert next(changes).id == other
        assert removed == [id]

    def test_a_backup_is_whole_or_not_there(self, client: Client, tmp_path: Path) -> None:
        told: list[tuple[int, int]] = []
        client.backup(tmp_path / "backup", lambda done, total: told.append((done, total)))
        assert told[-1][0] == told[-1][1] == (tmp_path / "backup").stat().st_size
        with pytest.raises(FileExistsError):
            client.backup(tmp_path / "backup")
        assert [path.name for path in tmp_path.iterdir()] == ["backup"]

    async def test_the_asyncio_client_does_the_same(self, address: str, mark: str, tmp_path: Path) -> None:
        async with AsyncClient(address) as client:
            handle = await client.schedule({"text": "no"}, handler="fail", labels={"mark": mark})
            await handle.wait()
            await client.retry(handle.id)
            await client.handle(handle.id).wait()
            await client.retry(handle.id, payload={"text": "else"})
            await client.handle(handle.id).wait()
            assert (await client.get(handle.id)).changed_fields == ("payload",)
            assert await client.retry_many(labels={"mark": mark}) == RetriedTasks(1)
            await client.handle(handle.id).wait()
            later = await client.schedule(21, labels={"mark": mark}, delay=3600)
            await client.update(later.id, priority="LOW", queue=mark)
            assert (await client.get(later.id)).queue == mark
            assert await client.cancel_many(labels={"mark": mark}) == CancelledTasks(1)
            assert await client.purge(labels={"mark": mark}) == 2
            await client.backup(tmp_path / "backup")
        assert (tmp_path / "backup").stat().st_size > 0
