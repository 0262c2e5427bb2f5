"""Runs a whole cluster on this machine: a leader and workers as child processes, for as long as this process lives.

It reports a process that ends by itself, and does not restart it. When the leader ends, all others are stopped.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from gowork.cli.processes import Nursery
from gowork.cli.reloading import ReloadPlan, reload_workers
from gowork.cli.workers import STOP_MARGIN_S, Workers

#: How long a leader may take to become ready, in seconds.
_READY_S_MAX = 120.0
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True, slots=True)
class ClusterPlan:
    """What to start."""

    #: Command line options for every worker.
    worker_options: Sequence[str]
    #: The HTTP address of each worker, HOST:PORT; one worker is started for each.
    worker_pages: Sequence[str]
    #: Command line options for the leader.
    leader_options: Sequence[str]
    log_level: str
    #: "text" or "json"; None for the value of the environment variable, which the children inherit.
    log_format: str | None
    #: How long running tasks have to finish when the cluster stops, in seconds.
    grace: float
    #: When the workers are started again; None: never.
    reload: ReloadPlan | None = None


@dataclass(frozen=True, slots=True)
class Addresses:
    """The addresses on which the cluster listens, each HOST:PORT, and its store."""

    cluster: str
    scheduler: str
    http: str
    #: The workers' names, and in the same order their HTTP addresses.
    workers: tuple[str, ...]
    workers_http: tuple[str, ...]
    #: Where the leader keeps tasks, as in sqlite:////home/ada/gowork.db; empty where it is too old to say.
    store: str


async def run_cluster(plan: ClusterPlan, started: Callable[[Addresses], None], say: Callable[[str], None]) -> bool:
    """Runs a cluster until SIGINT, SIGTERM, or the end of the leader. A second signal kills all processes at once.

    Args:
        plan: what to start.
        started: called when all processes are ready. If it raises an error, all are stopped.
        say: called with words for the user about what happens later.

    Returns:
        Whether a signal stopped the cluster.

    Raises:
        ChildFailed: when a process could not start. No process is left running then.
    """
    async with Nursery() as nursery:
        with _Signals(nursery) as signals:
            try:
                await _run(plan, nursery, started, say)
            except asyncio.CancelledError:
                if not signals.take_cancellation():
                    raise
            finally:
                if signals.received:
                    _announce(nursery, plan.grace, say)
                await _stop(nursery, plan.grace)
    return signals.received > 0


async def _run(
    plan: ClusterPlan, nursery: Nursery, started: Callable[[Addresses], None], say: Callable[[str], None]
) -> None:
    log = ["--log-level", plan.log_level, *(["--log-format", plan.log_format] if plan.log_format else [])]
    leader = await nursery.start("the leader", ["-m", "gowork.leader", *plan.leader_options, *log, "--print-addresses"])
    facts = await leader.ready("cluster", _READY_S_MAX)
    nursery.pass_on(leader)
    options = [*plan.worker_options, *log, "--leader", facts["cluster"], "--drain-timeout", str(plan.grace)]
    # Python would take a file that was changed twice within a second for the one that it has compiled.
    variables = {"PYTHONDONTWRITEBYTECODE": "1"} if plan.reload is not None else {}
    workers = Workers(nursery, plan.worker_pages, options, variables, say)
    pages = await workers.start()
    started(
        Addresses(facts["cluster"], facts["scheduler"], facts["http"], workers.names, pages, facts.get("store", ""))
    )
    async with asyncio.TaskGroup() as group:
        workers.watch(group)
        reloading = None
        if plan.reload is not None:
            reloading = group.create_task(reload_workers(plan.reload, workers, nursery, plan.grace, say))
        await leader.ended()
        say(f"the leader ended with exit code {leader.code}; the cluster stops")
        if reloading is not None:
            reloading.cancel()
        workers.stop_watching()


def _announce(nursery: Nursery, grace: float, say: Callable[[str], None]) -> None:
    """Says which workers the stop waits for, and for how long."""
    workers = [child.name for child in nursery.children[1:] if child.code is None]
    if workers:
        what = workers[0] if len(workers) == 1 else f"{len(workers):,} workers"
        say(f"stopping: {what} may finish running tasks, for {grace:g} s at most; Ctrl-C again kills all at once")


async def _stop(nursery: Nursery, grace: float) -> None:
    """Stops the workers, so that the leader gets their reports, and then the leader."""
    leader, workers = nursery.children[:1], nursery.children[1:]
    for children in (workers, leader):
        async with asyncio.TaskGroup() as group:
            for child in children:
                group.create_task(child.stop(grace + STOP_MARGIN_S))


class _Signals:
    """Handles SIGINT and SIGTERM: the first cancels the asyncio task that made this, the next kills all children."""

    def __init__(self, nursery: Nursery) -> None:
        self._nursery = nursery
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task(self._loop)
        #: How many signals have come.
        self.received = 0

    def __enter__(self) -> Self:
        for number in _STOP_SIGNALS:
            self._loop.add_signal_handler(number, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number in _STOP_SIGNALS:
            self._loop.remove_signal_handler(number)

    def take_cancellation(self) -> bool:
        """Returns whether a signal cancelled the asyncio task. If so, it undoes the cancellation."""
        if self.received and self._task is not None:
            self._task.uncancel()
            return True
        return False

    def _receive(self) -> None:
        self.received += 1
        if self.received == 1 and self._task is not None:
            self._task.cancel()
        else:
            for child in self._nursery.children:
                child.kill()
