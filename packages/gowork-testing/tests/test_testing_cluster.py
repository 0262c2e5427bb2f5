"""A cluster in a test: it starts, works, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from gowork.client import AsyncClient, Client, ClientClosed, TaskNotFinished, TaskView
from gowork.testing import AsyncCluster, Cluster, ClusterError, _async_cluster, _cluster
from gowork.worker import Context, handler

#: Seconds for what comes within milliseconds on a machine that is not busy.
SOON = 60.0


@handler
def double(number: int) -> int:
    return 2 * number


@handler
async def count_down(ctx: Context, number: int) -> int:
    if number:
        ctx.schedule(number - 1, handler="count_down")
    return number


def test_a_task_is_scheduled_and_run() -> None:
    with Cluster(handlers=[double]) as cluster:
        assert cluster.client.schedule(21, handler=double).result(timeout=SOON) == 42
        assert cluster.client.schedule("said", handler="echo").result(timeout=SOON) is not None
        assert [member.id for member in cluster.client.members()] == cluster.workers == ["worker-1"]


async def test_an_async_cluster_shares_the_loop_of_the_test() -> None:
    asked = asyncio.Event()

    @handler
    async def asks() -> str:
        asked.set()
        return "there"

    async with AsyncCluster(handlers=[asks], workers=2) as cluster:
        handle = await cluster.client.schedule(handler=asks)
        await asyncio.wait_for(asked.wait(), SOON)
        assert await handle.result(timeout=SOON) == "there"
        assert cluster.workers == ["worker-1", "worker-2"]


async def test_a_cluster_in_a_thread_serves_a_client_on_the_loop_of_the_test() -> None:
    with Cluster(handlers=[double]) as cluster:
        async with AsyncClient(cluster.address) as client:
            handles = [handle async for handle in client.schedule_many(range(100), handler=double)]
            tasks = await client.wait(handles, SOON)
    assert sorted(task.value() for task in tasks) == list(range(0, 200, 2))


def test_all_is_waited_for_with_what_handlers_schedule() -> None:
    with Cluster(handlers=[count_down]) as cluster:
        cluster.client.schedule(30, handler=count_down)
        cluster.wait_all(SOON)
        tasks = list(cluster.client.tasks(view=TaskView.FULL))
    assert [task.value() for task in tasks] == list(range(30, -1, -1))


def test_what_does_not_finish_is_named() -> None:
    with Cluster(handlers=[double]) as cluster:
        for number in range(7):
            cluster.client.schedule(1, handler="nobody's", id=f"lonely-{number}")
        with pytest.raises(TimeoutError, match=r"after 0.1 s: lonely-0 \(PENDING\), .* and 2 more"):
            cluster.wait_all(0.1)


def test_only_what_is_named_is_offered() -> None:
    with Cluster(handlers=[double]) as cluster:
        (member,) = cluster.client.members()
        assert sorted(member.handlers) == ["double", "echo"]
        with pytest.raises(TaskNotFinished):
            cluster.client.schedule({"command": ["true"]}, handler="shell").result(timeout=0.1)


def test_a_module_and_a_plugin_may_be_offered_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cluster_handlers.py").write_text(
        "from gowork.worker import handler\n@handler\ndef triple(n: int) -> int: return 3 * n\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with Cluster(imports=["cluster_handlers"], plugins=["shell"]) as cluster:
        (member,) = cluster.client.members()
        assert sorted(member.handlers) == ["shell", "triple"]
        assert cluster.client.schedule(2, handler="triple").result(timeout=SOON) == 6


def test_a_task_of_a_worker_that_stops_runs_on_another() -> None:
    begun = threading.Semaphore(0)
    go = threading.Event()

    @handler
    def works(ctx: Context) -> str:
        begun.release()
        while not go.is_set():
            if ctx.cancelled.wait(0.01):
                return "never told, because the task is handed back"
        return ctx.worker

    with Cluster(handlers=[works]) as cluster:
        handle = cluster.client.schedule(handler=works)
        assert begun.acquire(timeout=SOON)
        assert cluster.add_worker("nora") == "nora"
        cluster.stop_worker("worker-1")
        assert begun.acquire(timeout=SOON)
        go.set()
        assert handle.result(timeout=SOON) == "nora"
        assert cluster.workers == ["nora"]


def test_workers_may_differ() -> None:
    with Cluster(handlers=[double], labels={"size": "small"}) as cluster:
        cluster.add_worker(labels={"size": "large"}, slots=1)
        cluster.client.schedule(1, handler=double, selector={"size": "large"}, id="task").result(timeout=SOON)
        assert cluster.client.get("task").worker == "worker-2"


def test_what_cannot_be_a_handler_is_named() -> None:
    @handler
    def counts() -> object:
        yield 1

    with pytest.raises(ClusterError, match="worker-1: .*'counts' is a generator"):
        with Cluster(handlers=[counts]):
            pass
    with pytest.raises(ClusterError, match="No module named 'absent_handlers'"):
        with Cluster(imports=["absent_handlers"]):
            pass


def test_a_cluster_that_cannot_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_async_cluster, "_LOOPBACK", "192.0.2.1:1")
    with pytest.raises(ClusterError, match=r"192\.0\.2\.1"):
        with Cluster():
            pass


def test_a_worker_that_cannot_start_leaves_the_cluster_as_it_is() -> None:
    @handler
    def counts() -> object:
        yield 1

    with Cluster(handlers=[double]) as cluster:
        for options, words in (({"slots": -1}, "slots is 1 to"), ({"handlers": [counts]}, "'counts' is a generator")):
            with pytest.raises(ClusterError, match=f"worker worker-.: .*{words}|did not start: {words}"):
                cluster.add_worker(**options)
        assert cluster.workers == ["worker-1"]
        assert cluster.client.schedule(21, handler=double).result(timeout=SOON) == 42


def test_each_worker_has_a_name_of_its_own() -> None:
    with Cluster(handlers=[double]) as cluster:
        with pytest.raises(ClusterError, match="a worker worker-1 runs already"):
            cluster.add_worker("worker-1")
        cluster.add_worker("worker-2")
        assert cluster.add_worker() == "worker-3"
        cluster.stop_worker("worker-1")
        assert cluster.add_worker("worker-1") == "worker-1"


async def test_a_cluster_may_be_entered_again_when_it_has_been_left() -> None:
    cluster = AsyncCluster(handlers=[double])
    for _ in range(2):
        async with cluster:
            assert await (await cluster.client.schedule(21, handler=double)).result(timeout=SOON) == 42
            assert cluster.workers == ["worker-1"]
            with pytest.raises(ClusterError, match="runs already"):
                await cluster.__aenter__()


async def test_a_cluster_whose_start_is_cancelled_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_async_cluster, "_MEMORY", tmp_path)
    entering = asyncio.ensure_future(AsyncCluster(handlers=[double]).__aenter__())
    # Its first step begins the cluster.
    await asyncio.sleep(0)
    entering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await entering
    assert os.listdir(tmp_path) == []
    assert not [task for task in asyncio.all_tasks() if task.get_name() in ("gowork cluster", "gowork leader")]


def test_the_client_of_a_cluster_is_closed_with_it() -> None:
    with Cluster(handlers=[double]) as cluster:
        client = cluster.client
        client.members()
    with pytest.raises(ClientClosed):
        client.members()


def test_a_cluster_that_was_not_entered_has_nothing() -> None:
    for ask in (lambda: Cluster().address, lambda: Cluster().client, lambda: AsyncCluster().client):
        with pytest.raises(ClusterError, match="does not run"):
            ask()


def test_an_option_that_is_not_there_is_named() -> None:
    for kind in (Cluster, AsyncCluster):
        with pytest.raises(TypeError, match="no option 'slot'; they have default_handler, handlers"):
            kind(slot=3)  # type: ignore[call-arg]


def test_handlers_may_come_from_an_iterator() -> None:
    with Cluster(workers=2, handlers=iter([double])) as cluster:
        assert [sorted(member.handlers) for member in cluster.client.members()] == [["double", "echo"]] * 2


@pytest.fixture
async def entered() -> AsyncIterator[AsyncCluster]:
    # A fixture may be set up and torn down by two tasks.
    async with AsyncCluster(handlers=[double]) as cluster:
        yield cluster


async def test_a_cluster_may_be_a_fixture(entered: AsyncCluster) -> None:
    assert await (await entered.client.schedule(21, handler=double)).result(timeout=SOON) == 42
    await entered.add_worker("nora")
    await entered.stop_worker("worker-1")
    assert entered.workers == ["nora"]


def test_clusters_are_apart() -> None:
    with Cluster(handlers=[double]) as one, Cluster(handlers=[double]) as other:
        one.client.schedule(1, handler=double, id="same").result(timeout=SOON)
        assert list(other.client.tasks()) == []


def test_a_cluster_takes_no_settings_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOWORK_TLS_CA", "/nowhere/ca.pem")
    monkeypatch.setenv("GOWORK_KEYS", "/nowhere/keys")
    with Cluster(handlers=[double]) as cluster:
        assert cluster.client.schedule(21, handler=double).result(timeout=SOON) == 42


def test_a_handler_that_does_not_end_keeps_a_cluster_from_ending(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go = threading.Event(), threading.Event()

    @handler
    def stuck() -> None:
        begun.set()
        go.wait(SOON)

    cluster = Cluster(handlers=[stuck]).__enter__()
    cluster.client.schedule(handler=stuck)
    assert begun.wait(SOON)
    monkeypatch.setattr(_cluster, "_PATIENCE", 0.5)
    with pytest.raises(ClusterError, match=r"did not end within 0\.5 s: a handler does not"):
        cluster.__exit__(None, None, None)
    go.set()
    cluster._ended.result(SOON)


def test_a_cluster_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_async_cluster, "_MEMORY", tmp_path)
    begun = threading.Event()

    @handler
    async def endless() -> None:
        begun.set()
        await asyncio.Event().wait()

    def use() -> tuple[set[str], int, list[logging.Handler], list[Path]]:
        with Cluster(handlers=[endless]) as cluster:
            assert len(list(tmp_path.iterdir())) == 1
            cluster.client.schedule(handler=endless)
            assert begun.wait(SOON)
        descriptors = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
        names = {thread.name for thread in threading.enumerate() if "gowork" in thread.name}
        return names, descriptors, list(logging.getLogger().handlers), list(tmp_path.iterdir())

    first = use()
    assert (first[0], first[3]) == (set(), [])
    # gRPC keeps some for the process, from its first use on.
    assert use() == first


def test_the_store_is_with_temporary_files_where_there_is_no_folder_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_async_cluster, "_MEMORY", tmp_path / "absent")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with Cluster():
        assert [path.name.startswith("gowork-cluster-") for path in tmp_path.iterdir()] == [True]


def test_a_client_may_be_made_by_the_program_under_test(gowork_cluster: Callable[..., Cluster]) -> None:
    def program(address: str) -> int:
        with Client(address) as client:
            return int(client.schedule(2, handler="double").result(timeout=SOON))

    assert program(gowork_cluster(handlers=[double]).address) == 4
