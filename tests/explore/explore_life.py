"""What a leader does: it follows, stands for election, commits batches, confirms, prunes and steps down.

The code that does so is the leader's. What is here stands for the standby and the engine, and tells the checkers.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, suppress
from hashlib import sha256
from typing import cast

from explore_process import Effect, Process
from memory_store import Content
from sim_etcd_calls import SimEtcdClient

from gowork.leader._core.model import Fact
from gowork.leader._engine.blocked import Writer
from gowork.leader._replication.candidacy import Candidacy
from gowork.leader._replication.journal import LoggedJournal
from gowork.leader.log.entries import ChainError
from gowork.leader.log.etcd import EtcdLog
from gowork.leader.log.protocol import (
    Candidate,
    Leadership,
    LeadershipLostError,
    Log,
    LogEntry,
    LogError,
    LogFullError,
    LogRefusedError,
    PrunedError,
)
from gowork.leader.store.protocol import Batch, StoreError

#: The keys of the log begin with this.
PREFIX = "x"
#: The kind of the facts that batches write.
KIND = "batch"


class Life:
    """The life of any leader, from its start to a crash.

    Args:
        batches: how many batches there are to commit. Who leads commits those that its store lacks.
        make_log: makes its log.
        prunes: whether it prunes.
    """

    def __init__(
        self, batches: int, make_log: Callable[[SimEtcdClient, str], EtcdLog] = EtcdLog, *, prunes: bool = True
    ) -> None:
        self._batches, self._make_log, self._prunes = batches, make_log, prunes

    async def __call__(self, process: Process, etcd: SimEtcdClient) -> None:
        log = _Watched(process, self._make_log(etcd, PREFIX))
        await process.store.open_logged(process.content.position.generation if process.content.position else None)
        candidacy = Candidacy(process.store, cast(Log, log), lambda stood_ms: b"", "1", lambda: 0)
        while True:
            try:
                journal, leadership = await candidacy.elected()
            except (PrunedError, ChainError):
                await self._copy(process)
                continue
            except StoreError:
                # It belongs to another generation, and stops.
                return
            try:
                await self._lead(process, candidacy, journal, leadership)
            except* (LeadershipLostError, LogFullError, LogRefusedError):
                pass
            finally:
                process.leads = False
                await journal.close()
                await leadership.resign()
                process.is_over()

    async def _copy(self, process: Process) -> None:
        process.copied = asyncio.get_running_loop().create_future()
        content: Content = await process.copied
        process.shelf.contents["store"] = content

    async def _lead(
        self, process: Process, candidacy: Candidacy, journal: LoggedJournal, leadership: Leadership
    ) -> None:
        await journal.open()
        process.leads = True
        async with asyncio.TaskGroup() as group:
            working = group.create_task(self._work(process, journal, leadership))
            ends = [group.create_task(event.wait()) for event in (leadership.lost, process.stepping_down)]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            for each in (working, *ends):
                each.cancel()
        if process.stepping_down.is_set():
            process.stepping_down.clear()
            candidacy.give_way()

    async def _work(self, process: Process, journal: LoggedJournal, leadership: Leadership) -> None:
        """Commits what there is to commit, prunes from the first batch on, and confirms in the end."""
        writer = Writer(journal, asyncio.Event(), lambda blocked: None)
        async with asyncio.TaskGroup() as group:
            pruning: asyncio.Task[None] | None = None
            for key in [f"{number}" for number in range(self._batches)]:
                if key not in keys_of(process.content):
                    await writer.write(Batch(facts=[Fact(KIND, key, b"")]))
                    position = process.content.position
                    assert position is not None
                    process.effects.append(Effect("acknowledged", position.index, position.hash))
                if pruning is None and self._prunes:
                    pruning = group.create_task(_prune(process, leadership))
            if pruning is not None:
                await pruning
            process.effects.append(Effect("asks", leadership.leader.token))
            await writer.confirm()
            process.effects.append(Effect("confirmed"))


async def _prune(process: Process, leadership: Leadership) -> None:
    position = process.content.position
    assert position is not None
    with suppress(LogError):
        await leadership.prune(position.index)


def keys_of(content: Content) -> set[str]:
    """Returns which batches a store has."""
    return {key.key for key in content.facts}


class _Watched:
    """A log that tells the checkers."""

    def __init__(self, process: Process, log: EtcdLog) -> None:
        self._process, self._log = process, log
        self._leadership: Leadership | None = None
        self.span, self.leaders = log.span, log.leaders

    async def campaign(self, candidate: Candidate) -> Leadership:
        leadership = await self._log.campaign(candidate)
        self._process.was_elected(leadership.leader.token)
        append, process = leadership.append, self._process

        async def appending(index: int, data: bytes) -> None:
            try:
                await append(index, data)
            except (LogFullError, LogRefusedError):
                process.effects.append(Effect("refused", index, sha256(data).digest()))
                raise

        leadership.append = appending  # type: ignore[method-assign]
        self._leadership = leadership
        return leadership

    async def follow(self, after: int) -> AsyncGenerator[Sequence[LogEntry], None]:
        try:
            async with aclosing(self._log.follow(after)) as pages:
                async for page in pages:
                    for entry in page:
                        read = Effect("read", entry.index, sha256(entry.data).digest())
                        self._process.effects.append(read)
                    yield page
        except PrunedError:
            if self._leadership is not None and not self._leadership.lost.is_set():
                self._process.effects.append(Effect("lags", self._leadership.leader.token))
            raise
