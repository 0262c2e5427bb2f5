"""A run: three leaders that share a log, faults one after the other under load, and what came of it."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import chaos_faults
from chaos_history import History, read_executions
from ha_cluster import LEADERS, LeaderEnded, LeadersCluster, running_leaders
from ha_faults import Event, Faults, Kind, plan
from ha_linear import linearizable
from ha_load import CALL_SECONDS, Load, Told, deaf_client
from ha_log import LogReader, check_log, check_stores, reading
from ha_network import Network
from ha_result import STUCK_SECONDS, Result, count, measure

from gowork.client import AsyncClient, TaskView

#: How many clients there are. Each tries the leaders in another order.
CLIENTS = 6
#: The longest pause between two faults, in seconds.
_PAUSE_SECONDS = 1.0

Tell = Callable[[str], None]


class Stuck(Exception):
    """The cluster does not go on by itself."""


async def run(
    folder: Path,
    seed: int,
    deck: Mapping[Kind, int],
    seconds: float = 0.0,
    *,
    log: str = "etcd",
    network: Network | None = None,
    planted: str = "",
    tell: Tell = lambda line: None,
) -> Result:
    """Runs a cluster, does faults to it, waits for the last task and checks.

    Args:
        folder: the working directory of its processes.
        seed: decides on the faults and the tasks.
        deck: how often each fault is done.
        seconds: how long faults are done at least; when the deck is through, it is shuffled anew. 0: a short run, in
            which it is done once, and nothing stays away for longer than it must.
        log: what has the log: "etcd" or "postgresql".
        network: where processes run; None: here, with links.
        planted: a bug that the leaders get; see ha_planted.py.
        tell: is called with a line for each fault.
    """
    result = Result()
    try:
        async with running_leaders(folder, log, network, planted) as cluster:
            await _run(result, cluster, folder, seed, deck, seconds, tell)
    except* (LeaderEnded, Stuck) as errors:
        result.found += [f"nobody needs to help: {error}" for error in _leaves(errors)]
    return result


async def _run(
    result: Result,
    cluster: LeadersCluster,
    folder: Path,
    seed: int,
    deck: Mapping[Kind, int],
    seconds: float,
    tell: Tell,
) -> None:
    wall_offset = time.time() - time.monotonic()
    async with AsyncExitStack() as stack:
        reader = await stack.enter_async_context(reading(cluster.servers.url))
        clients = [
            await stack.enter_async_context(AsyncClient(cluster.addresses(number), timeout=CALL_SECONDS))
            for number in range(CLIENTS)
        ]
        deaf = [await stack.enter_async_context(deaf_client(cluster.address_of(name))) for name in LEADERS]
        load = Load(clients, deaf, seed)
        async with asyncio.TaskGroup() as group:
            # So that everything ends when one of both fails.
            group.create_task(load.run())
            await _faults(result, cluster, reader, load, seed, deck, seconds, tell)
            load.stop()
            tell("waits for the last tasks")
        tasks = {task.id: task async for task in clients[0].tasks(view=TaskView.FULL, page_size=10_000)}
        for name in LEADERS:
            await asyncio.to_thread(cluster.terminate, name)
        await reader.all_read()
        assert reader.generation is not None
        checks = check_log(reader.generation, reader.entries)
        stores = {name: cluster.store(name) for name in LEADERS}
        checks.found += await check_stores(folder, reader.generation, reader.entries, checks, stores)
    executions = await asyncio.to_thread(lambda: read_executions(folder.glob("*.chaos")))
    history = History(tasks, executions, load.told.ledger, _as_faults(result.events), wall_offset)
    result.found += [*checks.found, *history.found(), *_linear(load.told)]
    measure(result, load.told)
    count(result, load.told, history, checks)


async def _faults(
    result: Result,
    cluster: LeadersCluster,
    reader: LogReader,
    load: Load,
    seed: int,
    deck: Mapping[Kind, int],
    seconds: float,
    tell: Tell,
) -> None:
    chance, faults = random.Random(seed), Faults(cluster, reader)
    began = time.monotonic()
    planned = plan(chance, deck, is_short=not seconds)
    while planned or time.monotonic() < began + seconds:
        planned = planned or plan(chance, deck)
        fault = planned.pop()
        await _well(cluster, load)
        # A fault may come at any moment.
        await asyncio.sleep(chance.uniform(0, _PAUSE_SECONDS))
        async with AsyncExitStack() as recovery:
            event = await faults.strike(fault, recovery)
            result.events.append(replace(event, until=event.at + fault.away))
            await asyncio.sleep(max(0.0, event.at + fault.away - time.monotonic()))
        tell(f"{len(result.events)}: {event.kind.value} ({', '.join(event.targets)})")
    await _well(cluster, load)


async def _well(cluster: LeadersCluster, load: Load) -> None:
    """Returns when everything runs, and a task that was submitted after that has completed.

    Raises:
        Stuck: that did not happen within STUCK_SECONDS.
        LeaderEnded: see LeadersCluster.well.
    """
    try:
        async with asyncio.timeout(STUCK_SECONDS):
            await cluster.well()
            await load.passed(time.monotonic())
    except TimeoutError:
        report = await asyncio.to_thread(cluster.report)
        words = f"a leader was not ready or no new task completed for {STUCK_SECONDS:g} s"
        raise Stuck(f"after a fault, {words}:\n{report}") from None


def _as_faults(events: Sequence[Event]) -> list[chaos_faults.Event]:
    """Returns the faults as the checker of the handlers' record wants them: each may cost a task its attempt."""
    return [
        chaos_faults.Event(chaos_faults.Kind.STOP_LEADER, "leader", event.began, event.until, frozenset())
        for event in events
    ]


def _linear(told: Told) -> list[str]:
    found = []
    for id, calls in told.calls.items():
        try:
            fits = linearizable(calls)
        except TimeoutError:
            found.append(f"it takes too long to tell whether calls are linearizable: {id}, {len(calls)} calls")
            continue
        if not fits:
            told_calls = [(c.client, c.did.name, c.answer.name, c.began, c.ended, c.seen) for c in calls]
            found.append(f"calls about a task are linearizable: {id}: {told_calls}")
    return found


def _leaves(errors: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    """Returns the exceptions of a group, and of the groups in it."""
    nested = [_leaves(error) if isinstance(error, BaseExceptionGroup) else [error] for error in errors.exceptions]
    return [leaf for each in nested for leaf in each]
