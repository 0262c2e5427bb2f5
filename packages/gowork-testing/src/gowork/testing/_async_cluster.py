"""A leader and workers on the loop that runs, with a client: the real ones, on ports that the system chooses.

Invariant: when the cluster has been left, nothing of it is left: no task, thread, port or file.

Leader, worker and client are imported only when a cluster starts, so that importing this costs nothing.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypedDict, Unpack

if TYPE_CHECKING:
    from gowork.client import AsyncClient, TaskInfo
    from gowork.leader import Addresses
    from gowork.worker import Worker

_LOOPBACK = "127.0.0.1:0"
#: A folder in memory, where there is one.
_MEMORY = Path("/dev/shm")  # noqa: S108 - the store's own folder there is private
#: How many of the tasks that have not finished a message names.
_NAMED_MAX = 5


class ClusterError(Exception):
    """The cluster did not start, ended by itself, or did not come to its end."""


class ClusterOptions(TypedDict, total=False):
    """What the workers of a cluster offer. What is left out is as `Worker` has it, except where it says otherwise."""

    #: Functions with @handler or @lifespan, defined anywhere: none.
    handlers: Iterable[Callable[..., Any]]
    #: Modules whose handlers, lifespans and hooks are loaded: none.
    imports: Iterable[str]
    #: Names of installed plugins to load: only "echo", so that a test does not depend on what is installed.
    plugins: Iterable[str]
    #: How many tasks a worker runs at once: 8.
    slots: int
    #: Labels by which tasks select workers: none.
    labels: Mapping[str, str]
    #: The name of the handler for tasks that name none: "echo".
    default_handler: str


class AsyncCluster:
    """A cluster on the loop that runs.

        async with AsyncCluster(handlers=[double]) as cluster:
            handle = await cluster.client.schedule(21, handler=double)
            assert await handle.result() == 42

    Async handlers run on the same loop, so that they may share its objects with the test. Plain ones run in threads. A
    handler that blocks the loop blocks all.
    """

    def __init__(self, *, workers: int = 1, **options: Unpack[ClusterOptions]) -> None:
        """Args:
        workers: how many workers are there from the start. They are named worker-1, worker-2 and so on.
        **options: see ClusterOptions.
        """
        self._workers_wanted = workers
        self._options = checked_options(options)
        self._addresses: Addresses | None = None
        self._client: AsyncClient | None = None
        #: {name: the worker and the asyncio task that it serves in}
        self._workers: dict[str, tuple[Worker, asyncio.Task[None]]] = {}
        #: How many workers were named by their number.
        self._numbered = 0
        #: {name of a worker that its leader never accepted: why}
        self._refused: dict[str, Exception] = {}
        self._stopping = asyncio.Event()
        self._ready = asyncio.Event()
        self._group: asyncio.TaskGroup | None = None
        #: Owns everything. It is a task of its own, because a fixture may enter and leave the cluster in two tasks.
        self._life: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Starts the cluster.

        Raises:
            ClusterError: when it does not start, with the reason as cause, and when it runs already.
        """
        if self._life is not None and not self._life.done():
            raise ClusterError("the cluster runs already: make another one")
        # Anew, because a cluster may be entered again when it has been left.
        self._stopping, self._ready, self._numbered = asyncio.Event(), asyncio.Event(), 0
        self._life = asyncio.create_task(self._live(), name="gowork cluster")
        ready = asyncio.create_task(self._ready.wait(), name="gowork cluster ready")
        try:
            await asyncio.wait({self._life, ready}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            await self._end()
            raise
        finally:
            ready.cancel()
        if not self._ready.is_set():
            await self._end()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the cluster. Tasks that run are handed back, and gone with the store.

        Raises:
            ClusterError: when it has ended by itself.
        """
        await self._end()

    @property
    def address(self) -> str:
        """Where clients find the leader, HOST:PORT."""
        return self._served.scheduler

    @property
    def worker_address(self) -> str:
        """Where workers find the leader, HOST:PORT."""
        return self._served.cluster

    @property
    def client(self) -> AsyncClient:
        """A client of the cluster. It is closed with it."""
        if self._client is None:
            raise ClusterError("the cluster does not run: enter it with `async with`")
        return self._client

    @property
    def workers(self) -> list[str]:
        """The names of the workers that run."""
        return list(self._workers)

    async def add_worker(self, name: str | None = None, **options: Unpack[ClusterOptions]) -> str:
        """Starts one more worker, and returns its name when the leader has accepted it.

        Args:
            name: unique among the workers; None for the next of worker-1, worker-2 and so on.
            **options: in place of the cluster's own.

        Raises:
            TypeError: when there is no such option.
            ClusterError: when it does not start, or one of its handlers cannot be one, or a module cannot be imported,
                or a worker of that name runs. The cluster goes on without it.
        """
        from gowork.base.tls_files import TlsFiles
        from gowork.worker import Worker

        own = checked_options(options)
        if name is not None and name in self._workers:
            raise ClusterError(f"a worker {name} runs already: stop it first, or give another name")
        name = name or self._next_name()
        given: dict[str, Any] = {"plugins": ("echo",), "slots": 8, **self._options, **own}
        worker = Worker(self.worker_address, name=name, runners=0, drain_timeout=0.0, tls=TlsFiles(), **given)
        assert self._group is not None
        serving = self._group.create_task(self._serve(name, worker), name=f"gowork {name}")
        # Its first step makes what the next lines ask.
        await asyncio.sleep(0)
        if not serving.done():
            welcomed = self._group.create_task(worker.welcomed(), name=f"gowork {name} welcomed")
            await asyncio.wait({serving, welcomed}, return_when=asyncio.FIRST_COMPLETED)
            welcomed.cancel()
        if serving.done():
            reason = self._refused.pop(name, None)
            raise ClusterError(f"worker {name} did not start: {reason}") from reason
        self._workers[name] = worker, serving
        errors = [error async for error in self._plugin_errors(name)]
        if errors:
            await self.stop_worker(name)
            raise ClusterError(f"worker {name}: {'; '.join(errors)}")
        return name

    async def stop_worker(self, name: str) -> None:
        """Stops a worker, as SIGTERM does with no time left: what it runs goes back to the queue.

        Raises:
            KeyError: when there is none of that name.
        """
        worker, serving = self._workers.pop(name)
        worker.stop()
        await asyncio.wait({serving})

    async def wait_all(self, timeout: float = 10.0) -> None:
        """Waits until every task has finished, also those that handlers schedule meanwhile.

        Raises:
            TimeoutError: when that takes longer than `timeout` seconds. It names tasks that have not finished.
        """
        left: list[str] = []
        try:
            async with asyncio.timeout(timeout):
                while left := [f"{task.id} ({task.status})" async for task in self._unfinished()]:
                    await self.client.wait([told.rpartition(" ")[0] for told in left])
        except TimeoutError:
            left = [f"{task.id} ({task.status})" async for task in self._unfinished()]
            more = f" and {len(left) - _NAMED_MAX} more" if len(left) > _NAMED_MAX else ""
            raise TimeoutError(f"not finished after {timeout:g} s: {', '.join(left[:_NAMED_MAX])}{more}") from None

    def _next_name(self) -> str:
        while True:
            self._numbered += 1
            if (name := f"worker-{self._numbered}") not in self._workers:
                return name

    async def _serve(self, name: str, worker: Worker) -> None:
        """Runs a worker until it is stopped. What ends it before its leader has accepted it ends nothing else."""
        try:
            await worker.serve()
        except Exception as error:
            if name in self._workers:
                raise
            self._refused[name] = error

    async def _plugin_errors(self, name: str) -> AsyncIterator[str]:
        for member in await self.client.members():
            if member.id == name:
                for error in member.plugin_errors:
                    yield error

    def _unfinished(self) -> AsyncIterator[TaskInfo]:
        return self.client.tasks("status != COMPLETED AND status != ERROR AND status != CANCELLED")

    @property
    def _served(self) -> Addresses:
        if self._addresses is None:
            raise ClusterError("the cluster does not run: enter it with `async with`")
        return self._addresses

    async def _end(self) -> None:
        self._stopping.set()
        life = self._life
        if life is None:
            return
        await asyncio.wait({life})
        self._addresses = self._client = None
        self._workers.clear()
        if (error := life.exception()) is not None:
            while isinstance(error, BaseExceptionGroup):
                error = error.exceptions[0]
            raise ClusterError(f"the cluster ended: {error}") from error

    async def _live(self) -> None:
        from gowork.base.tls_files import TlsFiles
        from gowork.client import AsyncClient
        from gowork.leader import Leader
        from gowork.leader.store.sqlite import SqliteStore

        with tempfile.TemporaryDirectory(prefix="gowork-cluster-", dir=_store_folder()) as folder:
            store = SqliteStore(Path(folder, "leader.db"))
            leader = Leader(
                store, cluster_listen=_LOOPBACK, scheduler_listen=_LOOPBACK, http_listen=_LOOPBACK, reflection=False
            )
            stopped = asyncio.Event()
            started: asyncio.Future[Addresses] = asyncio.get_running_loop().create_future()
            async with asyncio.TaskGroup() as self._group:
                leading = self._group.create_task(leader.run(started, stopped), name="gowork leader")
                either: set[asyncio.Future[Any]] = {leading, started}
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                try:
                    if started.done():
                        self._addresses = started.result()
                        async with AsyncClient(self.address, keys="", tls=TlsFiles()) as self._client:
                            for _ in range(self._workers_wanted):
                                await self.add_worker()
                            self._ready.set()
                            await self._stopping.wait()
                            for name in self.workers:
                                await self.stop_worker(name)
                finally:
                    stopped.set()


def checked_options(options: ClusterOptions) -> ClusterOptions:
    """Returns the options as several workers can use them, one after the other.

    Raises:
        TypeError: when there is no such option.
    """
    for name in options:
        if name not in ClusterOptions.__annotations__:
            names = ", ".join(sorted(ClusterOptions.__annotations__))
            raise TypeError(f"the workers of a cluster have no option {name!r}; they have {names}")
    checked = options.copy()
    for name in ("handlers", "imports", "plugins"):
        if name in checked:
            # An iterator would be empty for the second worker.
            checked[name] = tuple(checked[name])  # type: ignore[literal-required]
    return checked


def _store_folder() -> Path | None:
    """Returns a folder in memory; None for the one of temporary files."""
    return _MEMORY if _MEMORY.is_dir() and os.access(_MEMORY, os.W_OK | os.X_OK) else None
