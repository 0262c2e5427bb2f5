"""The worker as a library: `Worker(…).run()`, `await worker.serve()`, `async with Worker(…)`.

Importing this loads nothing that talks to the network; that happens when a worker is run.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from gowork.worker._core import logs, references
from gowork.worker._core.selection import Selection
from gowork.worker.errors import WorkerError, WorkerFailed

if TYPE_CHECKING:
    from gowork.worker._app.service import Service


class Worker:
    """Runs handlers for a leader, from within a program of your own.

        Worker("127.0.0.1:50051", handlers=[thumbnail]).run()

    Installs no signal handlers and no logging, save `run`, which owns the process while it lasts.
    """

    def __init__(
        self,
        leader: str = "127.0.0.1:50051",
        *,
        handlers: Iterable[Callable[..., Any]] = (),
        name: str | None = None,
        state_dir: str | os.PathLike[str] | None = None,
        slots: int | None = None,
        runners: int | None = None,
        labels: Mapping[str, str] | None = None,
        plugins: Iterable[str] | None = None,
        imports: Iterable[str] = (),
        default_handler: str = "echo",
        drain_timeout: float = 110.0,
        blocked_timeout: float | None = None,
        trace_parent: bool = False,
        log_failures: str = "traceback",
    ) -> None:
        """Args:
            leader: HOST:PORT of a leader, or of several, separated by commas.
            handlers: functions with @handler (or @lifespan). Runner processes import them, so they stand at the
                top level of a module or script; with runners=0 any function will do.
            name: unique in the cluster; the host's name with a random suffix when left out.
            state_dir: with a name, where a worker that is started again finds the proof that nothing of its predecessor
                is left, so that its tasks run again at once after a crash; nothing is kept when left out.
            slots: how many tasks run at once; four for each processor when left out.
            runners: how many processes run them; one for each processor when left out. 0 runs handlers in this process.
            labels: what selectors of tasks are matched with.
            plugins: names of installed plugins, or of their distributions, to load; all when left out.
            imports: modules with handlers to import.
            default_handler: the name of the handler for tasks that name none.
            drain_timeout: seconds that running tasks have to finish when the worker stops.
            blocked_timeout: seconds that the loop of a runner process may not answer before the process is ended, 5 to
                604,800; 600 when left out. While a task with a time limit runs there, it has that time.
            trace_parent: trace attempts as children of what scheduled them, instead of in traces of their own that are
                linked to it.
            log_failures: how much the log tells of an attempt that has failed: "type", "message" or "traceback".

        Raises:
            ConfigurationError: for values that cannot be.
            UnimportableError: for a handler that a runner process could not import.
        """
        self._leader = leader
        functions = tuple(handlers)
        from_processes = runners != 0 and not references.in_runner()
        self._selection = Selection(
            plugins=None if plugins is None else tuple(plugins),
            imports=tuple(imports),
            references=tuple(references.refer(function) for function in functions) if from_processes else (),
            default_handler=default_handler,
        )
        kept = Path(state_dir) if name is not None and state_dir is not None else None
        given: dict[str, Any] = {"name": name, "state_dir": kept, "slots": slots, "runners": runners, "labels": labels}
        given["blocked_timeout"] = blocked_timeout
        self._options: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
        self._options |= {"selection": self._selection, "drain_timeout": drain_timeout, "trace_parent": trace_parent}
        self._options["log_failures"] = log_failures
        self._options["functions"] = functions if runners == 0 else ()
        self._service: Service | None = None
        self._group: asyncio.TaskGroup | None = None

    def run(self) -> None:
        """Runs the worker until SIGTERM or Ctrl-C, which drain it; a second one hands its tasks back at once.

        Logs to standard error, and so do its runners, when the program has set up no logging of its own.

        Raises:
            WorkerFailed: when something else ended it.
        """
        _not_in_runner()
        owns_logging = not logging.getLogger().handlers
        if owns_logging:
            self._options["log_format"] = "text"
        service = self._make()
        if owns_logging:
            logs.configure("text", service.options.log_level, service.options.name)
        # In the moments before the worker takes Ctrl-C itself.
        with _failures(), contextlib.suppress(KeyboardInterrupt):
            asyncio.run(service.run(own_process=True))

    async def serve(self) -> None:
        """Runs the worker until `stop` is called or this is cancelled; cancelling hands running tasks back at once.

        Raises:
            WorkerFailed: when something else ended it.
        """
        _not_in_runner()
        with _failures():
            await self._make().run()

    def stop(self) -> None:
        """Asks a serving worker to drain and end. Returns at once."""
        if self._service is not None:
            self._service.stop()

    async def welcomed(self) -> None:
        """Waits until a leader has taken the worker in."""
        if self._service is None:
            raise WorkerError("the worker does not run: await serve() or enter `async with` first")
        await self._service.welcomed()

    async def __aenter__(self) -> Self:
        """Starts to serve beside the body of the `async with`; leaving it drains the worker.

        When the worker ends by itself, the body is cancelled, and WorkerFailed comes out of the `async with`.
        """
        _not_in_runner()
        self._make()
        assert self._service is not None
        self._group = asyncio.TaskGroup()
        await self._group.__aenter__()
        self._group.create_task(self._service.run(), name="gowork worker")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        assert self._group is not None
        with _failures(error):
            await self._group.__aexit__(kind, error, trace)

    def _make(self) -> Service:
        from gowork.base.channels import split_addresses
        from gowork.worker._app.service import Service
        from gowork.worker._core.options import Options

        self._service = Service(Options(**self._options), split_addresses(self._leader))
        return self._service


@contextlib.contextmanager
def _failures(own: BaseException | None = None) -> Iterator[None]:
    """Turns the nested groups in which the worker's tasks fail into one error that a program can expect.

    Args:
        own: what the program itself has raised: that comes out by itself, and not in a group.
    """
    try:
        yield
    except BaseExceptionGroup as group:
        failed = group.subgroup(lambda error: not isinstance(error, BaseExceptionGroup) and error is not own)
        if failed is not None:
            raise WorkerFailed(f"the worker ended: {_first(failed)!r}") from failed


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _not_in_runner() -> None:
    """A script that is run again in a runner process, for its handlers, comes here when it would start its worker."""
    if references.running_script():
        raise references.ScriptReachedWorker
    if references.in_runner():
        raise WorkerError(
            f"a module that process {os.getpid()} imports for its handlers starts a worker: put that under "
            'if __name__ == "__main__":'
        )
