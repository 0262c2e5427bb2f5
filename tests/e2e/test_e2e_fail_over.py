"""What applications, workers and tasks see when the leader's process is stopped, and another leader takes over."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from clusters import RunningLeader, first_line, sharing_leaders, start, stopped_cleanly
from etcd_members import EtcdCluster

from gowork.client import AsyncClient, Client, TaskInfo, TaskStatus

pytestmark = [pytest.mark.tool("etcd"), pytest.mark.timeout(300)]
NAMES = ("one", "two", "three")
#: The deadline of each call, in seconds.
PATIENCE = 120.0


@pytest.fixture
def leaders(tmp_path: Path) -> Iterator[dict[str, RunningLeader]]:
    with EtcdCluster(tmp_path) as etcd, sharing_leaders(tmp_path, etcd.url("gowork"), NAMES) as started:
        yield started


@pytest.fixture
def addresses(leaders: dict[str, RunningLeader]) -> str:
    """Where clients find the leaders."""
    return ",".join(leader.scheduler for leader in leaders.values())


@pytest.fixture
def worker(tmp_path: Path, leaders: dict[str, RunningLeader], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A worker that knows all leaders."""
    handlers = str(Path(__file__).parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([handlers, *filter(None, [os.environ.get("PYTHONPATH")])]))
    addresses = ",".join(leader.cluster for leader in leaders.values())
    options = ("--leader", addresses, "--name", "w", "--runners", "1", "--slots", "2", "--import", "terms_handlers")
    process = start("gowork-worker", *options, "--print-ready", folder=tmp_path)
    with stopped_cleanly(process):
        first_line(process, tmp_path / "gowork-worker.log")
        yield


class Watching(threading.Thread):
    """Watches all tasks until one of them has completed."""

    def __init__(self, client: Client, last: str) -> None:
        super().__init__(daemon=True)
        self._watch = client.watch()
        self._last = last
        self._runs = threading.Event()
        self.seen: list[TaskInfo] = []

    def until_runs(self) -> None:
        """Waits until a task runs."""
        assert self._runs.wait(PATIENCE)

    def run(self) -> None:
        for task in self._watch:
            self.seen.append(task)
            if task.status is TaskStatus.RUNNING:
                self._runs.set()
            if task.id == self._last and task.status is TaskStatus.COMPLETED:
                return


@pytest.mark.usefixtures("worker")
async def test_calls_are_late_and_tasks_go_on_when_the_leader_is_stopped(
    tmp_path: Path, leaders: dict[str, RunningLeader], addresses: str
) -> None:
    for name in ("begin", "end"):
        os.mkfifo(tmp_path / name)
    with (
        Client(addresses, timeout=PATIENCE) as client,
        Client(addresses, timeout=PATIENCE) as watcher,
        ThreadPoolExecutor(8) as pool,
    ):
        async with AsyncClient(addresses, timeout=PATIENCE) as other:
            watching = Watching(watcher, "last")
            client.pause_queue("still")
            client.schedule("p", id="held", queue="still")
            client.schedule("p", id="unwanted", queue="still")
            client.schedule("p", id="later", delay=2)
            watching.start()
            client.schedule(str(tmp_path), id="runs", handler="told")
            await asyncio.to_thread(watching.until_runs)
            before = client.leaders().leading
            assert before is not None
            former = leaders[before.name]
            former.process.send_signal(signal.SIGSTOP)
            try:
                calls = [
                    pool.submit(lambda: client.schedule("p", id="new").result(timeout=PATIENCE)),
                    pool.submit(lambda: client.handle("runs").result(timeout=PATIENCE)),
                    pool.submit(lambda: client.handle("later").result(timeout=PATIENCE)),
                    pool.submit(lambda: client.cancel("unwanted")),
                    pool.submit(lambda: [handle.id for handle in client.schedule_many(["a", "b"])]),
                ]
                async with asyncio.TaskGroup() as group:
                    group.create_task((await other.schedule("p", id="asked")).result(timeout=PATIENCE))
                    group.create_task(other.get("held"))
                    # It ends while nobody leads, or just after.
                    (tmp_path / "begin").write_text("done")
                    assert (tmp_path / "end").read_text() == "done"
                for call in calls:
                    await asyncio.wrap_future(call)
                client.schedule("p", id="last").result(timeout=PATIENCE)
                leading = client.leaders().leading
                assert leading is not None
                assert leading.term > before.term
                assert leading.name != before.name
                runs = client.get("runs")
                assert (runs.status, len(runs.attempts), runs.worker) == (TaskStatus.COMPLETED, 1, "w")
                assert (tmp_path / "runs").read_text() == "done\n"
                assert client.get("held").status is TaskStatus.PENDING
                assert client.get("unwanted").status is TaskStatus.CANCELLED
                assert [queue.paused for queue in client.queues() if queue.name == "still"] == [True]
                assert [(member.id, member.running) for member in client.members()] == [("w", 0)]
            finally:
                former.process.send_signal(signal.SIGCONT)
            watching.join(PATIENCE)
            # A task whose time has come changes, and is pending before and after.
            states = [(task.id, task.status, task.fence) for task in watching.seen if task.id != "later"]
            # What came just before a stream broke comes again if the token behind it had not come, and a slow machine
            # may change its leader twice. Nothing older does, and no task goes back.
            assert states.count(("held", TaskStatus.PENDING, 0)) == 1, watching.seen
            for id in {id for id, _, _ in states}:
                steps = [step for step, _ in itertools.groupby(state for state in states if state[0] == id)]
                assert len(steps) == len(set(steps)), watching.seen
            ended = {task.id for task in watching.seen if task.status is TaskStatus.COMPLETED}
            assert {"runs", "new", "later", "asked", "last"} <= ended
            # The former leader follows, forwards, and has nothing to say of what it led.
            with Client(former.scheduler, timeout=PATIENCE) as direct:
                assert direct.get("runs").fence == runs.fence
    assert "Traceback" not in (tmp_path / before.name / "gowork-leader.log").read_text()
