"""The same cluster for tests that are not asynchronous: on a loop of its own, in a thread of its own."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

from gowork.testing._async_cluster import AsyncCluster, ClusterError, ClusterOptions, checked_options

if TYPE_CHECKING:
    from gowork.client import Client

T = TypeVar("T")

#: Seconds that a cluster has to start or to end.
_PATIENCE = 30.0


class Cluster:
    """A cluster in a thread.

        with Cluster(handlers=[double]) as cluster:
            assert cluster.client.schedule(21, handler=double).result() == 42

    Async handlers run on the cluster's loop, plain ones in threads.
    """

    def __init__(self, *, workers: int = 1, **options: Unpack[ClusterOptions]) -> None:
        """Takes what AsyncCluster takes."""
        self._workers_wanted = workers
        self._options = checked_options(options)
        self._client: Client | None = None
        self._running: tuple[asyncio.AbstractEventLoop, AsyncCluster, asyncio.Event] | None = None
        self._thread: threading.Thread | None = None
        #: Done when the thread has nothing left to do.
        self._ended: concurrent.futures.Future[None] = concurrent.futures.Future()

    def __enter__(self) -> Self:
        """Starts the cluster.

        Raises:
            ClusterError: when it does not start, with the reason as cause.
        """
        ready: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._ended = concurrent.futures.Future()
        self._thread = threading.Thread(target=self._run, args=(ready,), name="gowork-cluster", daemon=True)
        self._thread.start()
        try:
            ready.result(_PATIENCE)
        except TimeoutError:
            raise ClusterError(f"the cluster did not start within {_PATIENCE:g} s") from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the cluster, as AsyncCluster does.

        Raises:
            ClusterError: when it has ended by itself, or does not end because a handler does not.
        """
        if self._client is not None:
            self._client.close()
            self._client = None
        if self._running is not None:
            loop, _, stopping = self._running
            self._running = None
            try:
                loop.call_soon_threadsafe(stopping.set)
            except RuntimeError:
                pass  # It has ended by itself.
        try:
            self._ended.result(_PATIENCE)
        except TimeoutError:
            raise ClusterError(f"the cluster did not end within {_PATIENCE:g} s: a handler does not") from None
        assert self._thread is not None
        self._thread.join()

    @property
    def address(self) -> str:
        """Where clients find the leader, HOST:PORT."""
        return self._cluster.address

    @property
    def worker_address(self) -> str:
        """Where workers find the leader, HOST:PORT."""
        return self._cluster.worker_address

    @property
    def client(self) -> Client:
        """A client of the cluster, made at the first use. It is closed with the cluster."""
        if self._client is None:
            from gowork.base.tls_files import TlsFiles
            from gowork.client import Client

            self._client = Client(self.address, keys="", tls=TlsFiles())
        return self._client

    @property
    def workers(self) -> list[str]:
        """The names of the workers that run."""
        return self._cluster.workers

    def add_worker(self, name: str | None = None, **options: Unpack[ClusterOptions]) -> str:
        """See AsyncCluster.add_worker."""
        return self._call(self._cluster.add_worker(name, **options))

    def stop_worker(self, name: str) -> None:
        """See AsyncCluster.stop_worker."""
        self._call(self._cluster.stop_worker(name))

    def wait_all(self, timeout: float = 10.0) -> None:
        """See AsyncCluster.wait_all."""
        self._call(self._cluster.wait_all(timeout))

    @property
    def _cluster(self) -> AsyncCluster:
        if self._running is None:
            raise ClusterError("the cluster does not run: enter it with `with`")
        return self._running[1]

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        assert self._running is not None
        return asyncio.run_coroutine_threadsafe(work, self._running[0]).result()

    def _run(self, ready: concurrent.futures.Future[None]) -> None:
        try:
            asyncio.run(self._live(ready))
        except BaseException as error:  # noqa: BLE001 - who starts or ends the cluster gets it
            (self._ended if ready.done() else ready).set_exception(error)
        if not self._ended.done():
            self._ended.set_result(None)

    async def _live(self, ready: concurrent.futures.Future[None]) -> None:
        stopping = asyncio.Event()
        async with AsyncCluster(workers=self._workers_wanted, **self._options) as cluster:
            self._running = asyncio.get_running_loop(), cluster, stopping
            ready.set_result(None)
            await stopping.wait()
