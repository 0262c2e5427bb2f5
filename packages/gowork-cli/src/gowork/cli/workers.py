"""The worker processes of `gowork up`: how they start, and start again with new code.

A worker that ends by itself is reported and stays ended, until all are started again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from gowork.cli.processes import Child, ChildFailed, Nursery

#: How long a worker may take to become ready, in seconds. Handlers may have slow imports.
_READY_S_MAX = 120.0
#: How long a child may take to end after its grace, in seconds.
STOP_MARGIN_S = 5.0


class Workers:
    """All workers of a cluster."""

    def __init__(
        self,
        nursery: Nursery,
        pages: Sequence[str],
        options: Sequence[str],
        variables: Mapping[str, str],
        say: Callable[[str], None],
    ) -> None:
        """Args:
        nursery: where they are started.
        pages: the HTTP address of each, HOST:PORT; one worker is started for each.
        options: command line options for every worker.
        variables: environment variables for every worker.
        say: called with words for the user.
        """
        self._nursery = nursery
        self._pages = list(pages)
        self._options = [*options, "--print-ready"]
        self._variables = variables
        self._say = say
        self._workers: list[Child] = []
        #: Those that were asked to end.
        self._stopped: set[Child] = set()
        self._group: asyncio.TaskGroup | None = None
        self._watches: list[asyncio.Task[None]] = []

    @property
    def names(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(f"worker-{number}" for number, _ in enumerate(self._pages, 1))

    async def start(self) -> tuple[str, ...]:
        """Starts all, and returns their HTTP addresses, which they keep when they are started again.

        Raises:
            ChildFailed: when one could not start.
        """
        self._workers = []
        for name, page in zip(self.names, self._pages, strict=True):
            arguments = ["-m", "gowork.worker", "--name", name, "--http-listen", page, *self._options]
            self._workers.append(await self._nursery.start(name, arguments, self._variables))
        failed: ChildFailed | None = None
        for number, worker in enumerate(self._workers):
            try:
                self._pages[number] = (await worker.ready("name", _READY_S_MAX))["http"]
            except ChildFailed as error:
                failed = failed or error
            self._nursery.pass_on(worker)
        if failed is not None:
            raise failed
        return tuple(self._pages)

    async def restart(self, grace: float) -> None:
        """Stops all, whose running tasks have `grace` seconds to finish, and starts them again.

        Raises:
            ChildFailed: when one could not start.
        """
        self._stopped = set(self._workers)
        async with asyncio.TaskGroup() as group:
            for worker in self._workers:
                group.create_task(worker.stop(grace + STOP_MARGIN_S))
        for worker in self._workers:
            self._nursery.forget(worker)
        try:
            await self.start()
        except asyncio.CancelledError:
            # The cluster stops: nobody is to hear of the workers that end with it.
            self._group = None
            raise
        finally:
            if self._group is not None:
                self.watch(self._group)

    def watch(self, group: asyncio.TaskGroup) -> None:
        """Says from now on when a worker ends by itself.

        Args:
            group: where this is done, also for the workers that are started later.
        """
        self._group = group
        self._watches = [group.create_task(self._report(worker)) for worker in self._workers]

    def stop_watching(self) -> None:
        """Says nothing more."""
        for watch in self._watches:
            watch.cancel()

    async def _report(self, worker: Child) -> None:
        await worker.ended()
        if worker not in self._stopped:
            self._say(f"{worker.name} ended with exit code {worker.code}; its tasks go to other workers")
