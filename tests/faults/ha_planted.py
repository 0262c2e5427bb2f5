"""Runs the leader's command with a bug: `python ha_planted.py NAME OPTIONS…`. A run must find each."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable

import msgspec

from gowork.leader._app import command
from gowork.leader._replication import replica
from gowork.leader.log import etcd
from gowork.leader.log.etcd import EtcdLeadership
from gowork.leader.log.protocol import LogError
from gowork.leader.store.protocol import Batch


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
    """A store that follows leaves out one of a hundred changes."""
    decode, applied = replica.decode_batch, [0]

    def decode_less(data: bytes) -> Batch:
        batch = decode(data)
        applied[0] += 1
        return batch if applied[0] % 100 else msgspec.structs.replace(batch, moves=())

    replica.decode_batch = decode_less


#: {name: what plants it}
PLANTED: dict[str, Callable[[], None]] = {
    planted.__name__.replace("_", "-"): planted
    for planted in (acknowledges_early, ignores_that_it_is_deposed, repeats_terms, applies_less)
}

if __name__ == "__main__":
    PLANTED[sys.argv.pop(1)]()
    command.main()
