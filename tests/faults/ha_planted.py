"""Runs the leader's command with a bug: `python ha_planted.py NAME OPTIONS…`. A run must find each."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable

import msgspec

from gowork.leader._app import command
from gowork.leader._core.model import Standing, Status
from gowork.leader._core.state import State
from gowork.leader._engine.loop import Engine
from gowork.leader._replication import replica
from gowork.leader._replication.journal import LoggedJournal
from gowork.leader.log import etcd
from gowork.leader.log._etcd.leadership import EtcdLeadership
from gowork.leader.log.protocol import LogError
from gowork.leader.store.protocol import Batch

_WAITS = Standing(Status.PENDING, 0)


def acknowledges_early() -> None:
    """What the log does not have yet counts: entries are appended one after the other, and nobody waits for that."""
    append = EtcdLeadership.append
    last: list[asyncio.Task[None]] = []

    async def later(before: list[asyncio.Task[None]], leadership: EtcdLeadership, index: int, data: bytes) -> None:
        await asyncio.gather(*before)
        # As if etcd were far away, so that there is something to lose.
        await asyncio.sleep(0.05)
        try:
            await append(leadership, index, data)
        except LogError:
            leadership.lost.set()

    async def append_later(leadership: EtcdLeadership, index: int, data: bytes) -> None:
        last[:] = [asyncio.get_running_loop().create_task(later(last[:], leadership, index, data))]

    EtcdLeadership.append = append_later  # type: ignore[method-assign,assignment]


def ignores_that_it_is_deposed() -> None:
    """It goes by neither its lease nor the log: what the log refuses counts as appended."""
    append = EtcdLeadership.append
    never = asyncio.Event()

    async def append_or_not(leadership: EtcdLeadership, index: int, data: bytes) -> None:
        with contextlib.suppress(LogError):
            await append(leadership, index, data)

    async def confirm(leadership: EtcdLeadership) -> None:
        pass

    EtcdLeadership.append = append_or_not  # type: ignore[method-assign,assignment]
    EtcdLeadership.confirm = confirm  # type: ignore[method-assign,assignment]
    EtcdLeadership.holds = lambda leadership: True  # type: ignore[method-assign,assignment]
    EtcdLeadership.lost = property(lambda leadership: never)  # type: ignore[method-assign,assignment]


def repeats_terms() -> None:
    """A new leader gets the term of the one before it."""
    etcd.next_term = lambda *known: max(*known, 1)


def applies_less() -> None:
    """A store that follows leaves out one of ten changes."""
    decode, applied = replica.decode_batch, [0]

    def decode_less(data: bytes) -> Batch:
        batch = decode(data)
        applied[0] += 1
        return batch if applied[0] % 10 else msgspec.structs.replace(batch, moves=())

    replica.decode_batch = decode_less


def drops_acknowledged() -> None:
    """One of ten new tasks is acknowledged and granted, and nothing of it is written."""
    commit = LoggedJournal.commit
    dropped: set[int] = set()

    async def commit_less(journal: LoggedJournal, batch: Batch) -> None:
        dropped.update(new.record.seq for new in batch.inserts if new.record.seq % 10 == 0)
        kept = {
            "inserts": [new for new in batch.inserts if new.record.seq not in dropped],
            "moves": [moved for moved in batch.moves if moved.seq not in dropped],
            "deletes": [gone for gone in batch.deletes if gone.seq not in dropped],
        }
        await commit(journal, msgspec.structs.replace(batch, **kept))

    LoggedJournal.commit = commit_less  # type: ignore[method-assign,assignment]


def grants_unrecorded() -> None:
    """Tasks are started, though no record says so before they end."""
    commit = LoggedJournal.commit

    async def commit_less(journal: LoggedJournal, batch: Batch) -> None:
        inserts = [
            msgspec.structs.replace(new, record=msgspec.structs.replace(new.record, standing=_WAITS), state=b"")
            if new.record.standing.status is Status.RUNNING
            else new
            for new in batch.inserts
        ]
        moves = [moved for moved in batch.moves if moved.standing.status is not Status.RUNNING]
        await commit(journal, msgspec.structs.replace(batch, inserts=inserts, moves=moves))

    LoggedJournal.commit = commit_less  # type: ignore[method-assign,assignment]


def reads_unconfirmed() -> None:
    """Reads are answered from memory at once: neither is the log asked who leads, nor the lease looked at."""
    never = asyncio.Event()

    async def read(engine: Engine, question: Callable[[State], object]) -> object:
        return question(engine._state)

    Engine.read = read  # type: ignore[method-assign,assignment]
    EtcdLeadership.holds = lambda leadership: True  # type: ignore[method-assign,assignment]
    EtcdLeadership.lost = property(lambda leadership: never)  # type: ignore[method-assign,assignment]


#: {name: what plants it}. ha_plants.py says how each is found.
PLANTED: dict[str, Callable[[], None]] = {
    planted.__name__.replace("_", "-"): planted
    for planted in (
        acknowledges_early,
        ignores_that_it_is_deposed,
        repeats_terms,
        applies_less,
        drops_acknowledged,
        grants_unrecorded,
        reads_unconfirmed,
    )
}

if __name__ == "__main__":
    PLANTED[sys.argv.pop(1)]()
    command.main()
