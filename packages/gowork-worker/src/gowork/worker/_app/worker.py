"""The worker as a library: `Worker(…).run()`, `await worker.serve()`, `async with Worker(…)`, `with Worker(…)`.

Importing this loads nothing that talks to the network; that happens when a worker is run.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from gowork.base.codecs import DEFAULT_CODEC
from gowork.base.tls_files import TlsFiles
from gowork.worker._core import logs, references
from gowork.worker._core.encryption_options import EncryptionOptions
from gowork.worker._core.selection import Selection
from gowork.worker.errors import ConfigurationError, WorkerError, WorkerFailed

if TYPE_CHECKING:
    from gowork.worker._app.background import Background
    from gowork.worker._app.service import Service


class Worker:
    """Runs handlers for a leader, from within a program of your own.

        Worker("127.0.0.1:50051", handlers=[thumbnail]).run()

    Only `run` installs signal handlers and logging, because it owns the process while it lasts.
    """

    def __init__(
        self,
        leader: str | Iterable[str] = "127.0.0.1:50051",
        *,
        handlers: Iterable[Callable[..., Any]] = (),
        name: str | None = None,
        state_dir: str | os.PathLike[str] | None = None,
        slots: int | None = None,
        runners: int | None = None,
        labels: Mapping[str, str] | None = None,
        queues: Iterable[str] = (),
        plugins: Iterable[str] | None = None,
        imports: Iterable[str] = (),
        plugin_envs: Iterable[str | os.PathLike[str]] = (),
        default_handler: str = "echo",
        drain_timeout: float = 110.0,
        blocked_timeout: float | None = None,
        runner_tasks_max: int = 0,
        runner_memory_max: int = 0,
        trace_parent: bool = False,
        log_failures: str = "traceback",
        keys: str | os.PathLike[str] | None = None,
        codec: str | None = None,
        require_encryption: bool = False,
        tls: TlsFiles | None = None,
    ) -> None:
        """Args:
            leader: HOST:PORT of a leader, or of several: a list of them, or separated by commas; at most 16.
            handlers: functions with @handler (or @lifespan). Runner processes import them, so they must be at the
                top level of a module or script. With runners=0 they may be anywhere.
            name: unique in the cluster; the host's name with a random suffix when left out.
            state_dir: with a name: a directory where a restarted worker finds proof that its predecessor's processes
                have ended. So its tasks run again at once after a crash. No proof is kept when left out.
            slots: how many tasks run at once; four for each processor when left out.
            runners: how many processes run tasks; one for each processor when left out. 0 runs them in this process.
            labels: labels by which tasks select workers.
            queues: the queues whose tasks it takes, at most 64; those of all when left out.
            plugins: names of installed plugins, or of their distributions, to load. When left out: all; none but the
                built-in `echo` when `handlers` are given and no `plugin_envs`, so that a program offers no more than it
                names.
            imports: modules with handlers to import.
            plugin_envs: paths of virtual environments whose plugins are offered too, at most 16. Each has gowork-worker
                in the same version.
            default_handler: the name of the handler for tasks that name none.
            drain_timeout: seconds that running tasks have to finish when the worker stops.
            blocked_timeout: seconds that a handler may keep a runner's loop from answering before the runner is ended,
                5 to 604,800; 600 when left out. When a task that runs there has a time limit, the worker waits for
                that first.
            runner_tasks_max: a runner process is replaced when it has finished this number of tasks; 0 for never.
            runner_memory_max: a runner process is replaced when it takes this many MiB of memory; 0 for never.
            trace_parent: makes the span of an attempt a child of the span that scheduled its task, instead of a linked
                trace.
            log_failures: how much the log tells of an attempt that has failed: "type", "message" or "traceback".
            keys: the file of keys with which payloads are decrypted, and what their handlers say is encrypted; none
                when left out.
            codec: the name of the codec that uses the keys; aes-256-gcm when left out.
            require_encryption: refuses tasks whose payloads are not encrypted.
            tls: the files with which leaders are called by TLS. None for those that the environment variables
                GOWORK_TLS_CA, GOWORK_TLS_CERT, GOWORK_TLS_KEY and GOWORK_TLS_NAME name, or plain text if none is set.

        Raises:
            ConfigurationError: when plugin_envs is one path instead of a list, or queues one name.
            UnimportableError: for a handler that a runner process could not import.
        """
        self._tls = tls
        self._leader = leader if isinstance(leader, str) else tuple(leader)
        functions = tuple(handlers)
        if isinstance(plugin_envs, str | bytes | os.PathLike):
            raise ConfigurationError(f"plugin_envs: give a list of paths, as in [{plugin_envs!r}]")
        if isinstance(queues, str | bytes):
            raise ConfigurationError(f"queues: give a list of names, as in [{queues!r}]")
        paths = [os.fsdecode(path) for path in plugin_envs]
        if plugins is None and functions and not paths:
            plugins = ("echo",)
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
        self._options |= {"runner_tasks_max": runner_tasks_max, "runner_memory_max": runner_memory_max}
        self._options["log_failures"] = log_failures
        self._options["queues"] = tuple(dict.fromkeys(queues))
        self._options["plugin_envs"] = tuple(path and os.path.abspath(path) for path in paths)
        # A path is made absolute, because the program may change its folder.
        path = "" if keys is None else os.fspath(keys)
        if path and codec in (None, "", DEFAULT_CODEC):
            path = os.path.abspath(path)
        self._options["encryption"] = EncryptionOptions(codec or "", path, require_encryption)
        self._options["functions"] = functions if runners == 0 else ()
        self._service: Service | None = None
        self._group: asyncio.TaskGroup | None = None
        self._background: Background | None = None

    def run(self) -> None:
        """Runs the worker until SIGTERM or Ctrl-C, which drain it. A second one hands its tasks back at once.

        When the program has set up no logging of its own, the worker and its runners log to standard error.

        Raises:
            ConfigurationError: when an option is beyond its limits, or an environment of plugin_envs can't be used. The
                text names it.
            WorkerError: in a thread where an event loop runs, which it would block, and in any but the main thread,
                which alone can handle signals.
            WorkerFailed: when something else ended it.
        """
        _not_in_runner()
        _not_in_loop("run()", "use `async with Worker(…)`, `await worker.serve()`, or `worker.start()` in a notebook")
        if threading.current_thread() is not threading.main_thread():
            raise WorkerError(
                "run() handles signals, which only the main thread can: use `with Worker(…)`, or worker.start() and "
                "worker.stop()"
            )
        owns_logging = not logging.getLogger().handlers
        if owns_logging:
            self._options["log_format"] = "text"
        service = self._make()
        if owns_logging:
            logs.configure("text", service.options.log_level, service.options.name)
        # KeyboardInterrupt comes only in the moments before the worker handles Ctrl-C itself.
        with _failures(), contextlib.suppress(KeyboardInterrupt):
            asyncio.run(service.run(own_process=True))

    async def serve(self) -> None:
        """Runs the worker until `stop` is called or this is cancelled. A cancel hands running tasks back at once.

        Raises:
            ConfigurationError: when an option is beyond its limits, or an environment of plugin_envs can't be used. The
                text names it.
            WorkerFailed: when something else ended it.
        """
        _not_in_runner()
        with _failures():
            await self._make().run()

    def start(self) -> Self:
        """Runs the worker in a thread of its own, with a loop of its own. Returns at once; returns the worker.

        It lasts until `stop`. A program that ends before that hands the running tasks back at once. The thread does not
        survive a fork, so start the worker after it.

        Raises:
            ConfigurationError: when an option is beyond its limits. The text names it.
            WorkerError: when it runs already.
        """
        _not_in_runner()
        if self._background is not None and self._background.is_running:
            raise WorkerError("this worker runs already: stop() and join() it first, or make another one")
        from gowork.worker._app.background import Background

        self._background = Background(self._make())
        return self

    def stop(self) -> None:
        """Asks a running worker to drain and end. Returns at once. Any thread may call this."""
        if self._service is not None:
            self._service.stop_soon()

    def join(self, timeout: float | None = None) -> bool:
        """Waits until a worker that `start` has started has ended.

        Args:
            timeout: how many seconds to wait at most; None for as long as it takes.

        Returns:
            Whether it has ended.

        Raises:
            WorkerError: when `start` was not called.
            WorkerFailed: when something else than `stop` ended it.
        """
        if self._background is None:
            raise WorkerError("there is nothing to wait for: start() the worker first")
        with _failures():
            return self._background.join(timeout)

    def __enter__(self) -> Self:
        """Starts the worker in a thread beside the body of the `with`. Leaving the body drains the worker.

        Raises:
            WorkerError: in a thread where an event loop runs, which leaving the body would block.
        """
        # First, because a loop also runs where a runner loads a script for its handlers.
        _not_in_runner()
        _not_in_loop("`with Worker(…)`", "use `async with Worker(…)`")
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self.join()

    async def welcomed(self) -> None:
        """Waits until a leader has accepted the worker."""
        if self._service is None:
            raise WorkerError("the worker does not run: await serve() or enter `async with` first")
        await self._service.welcomed()

    async def __aenter__(self) -> Self:
        """Starts the worker beside the body of the `async with`. Leaving the body drains the worker.

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
        from gowork.base.tls import tls_of_caller
        from gowork.worker._app.service import Service
        from gowork.worker._core.options import Options

        self._service = Service(Options(**self._options), split_addresses(self._leader), tls_of_caller(self._tls))
        return self._service


@contextlib.contextmanager
def _failures(own: BaseException | None = None) -> Iterator[None]:
    """Raises WorkerFailed in place of the nested exception groups in which the worker's tasks fail.

    Args:
        own: what the program's own body has raised. It propagates by itself, not in a group.
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


def _not_in_loop(what: str, instead: str) -> None:
    """Raises where a loop runs that would stand still until the worker ends."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise WorkerError(f"{what} would block the event loop that runs in this thread: {instead}")


def _not_in_runner() -> None:
    """Raises where a script or module that a runner process loads for its handlers would start a worker."""
    if references.running_script():
        raise references.ScriptReachedWorker
    if references.in_runner():
        raise WorkerError(
            f"a module that runner process {os.getpid()} imports for its handlers starts a worker: start it only under "
            'if __name__ == "__main__":'
        )
