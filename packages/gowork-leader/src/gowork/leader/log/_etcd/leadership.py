"""A leadership that etcd has given."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from contextlib import aclosing, suppress

from gowork.leader.log._etcd import etcd_pb2 as pb
from gowork.leader.log._etcd.client import Etcd, Keeping
from gowork.leader.log._etcd.compaction import Compaction
from gowork.leader.log._etcd.keys import Keys
from gowork.leader.log._etcd.requests import absent, delete, empty, get, held, present, put
from gowork.leader.log._etcd.values import split
from gowork.leader.log._etcd.watching import changes
from gowork.leader.log.holding import Held, Holding, OwnLease, told_in_time
from gowork.leader.log.protocol import (
    Leader,
    LeadershipLostError,
    LogDamagedError,
    LogError,
    LogRefusedError,
    LogUnreachableError,
)

#: How many entries one transaction removes at most, so that appends do not wait for long.
_PRUNED_AT_ONCE = 1_000
#: How long to wait before etcd is asked again that has refused this leader, in seconds.
_REFUSED_SECONDS = 1.0


class EtcdLeadership(Held):
    """See Leadership."""

    def __init__(
        self,
        etcd: Etcd,
        keys: Keys,
        leader: Leader,
        own: OwnLease,
        lease: int,
        base: int,
        compaction: Compaction,
    ) -> None:
        super().__init__(Holding(leader, own))
        self._etcd = etcd
        self._keys = keys
        self._lease = lease
        self._base = base
        self._compaction = compaction
        self._keeping: Keeping = etcd.keep(lease, own, self.lost.set)
        self._watching = asyncio.get_running_loop().create_task(self._watch(), name="watch the leadership")

    async def append(self, index: int, data: bytes) -> None:
        """See Leadership.append."""
        keys, token = self._keys, self.leader.token
        if index <= self._base:
            raise LogDamagedError(f"the log begins after entry {self._base}, and entry {index} was to be appended")
        nonce = secrets.token_bytes(8)
        parts, value = split(data, nonce)
        for number, part in enumerate(parts):
            # Parts count for nothing until the last one is there, so they may be refused after a doubt.
            if not (
                await self._told([held(keys.leader, token)], [put(keys.part(index, nonce, number), part)])
            ).succeeded:
                raise self._over()
        compared = [held(keys.leader, token), absent(keys.entry(index))]
        compared.append(empty(*keys.entries) if index == self._base + 1 else present(keys.entry(index - 1)))
        read = [get(keys.entry(index)), get(keys.leader, keys_only=True)]
        answer = await self._told(compared, [put(keys.entry(index), value)], read, is_final=True)
        if answer.succeeded:
            return
        found, leader = (response.response_range.kvs for response in answer.responses)
        if found and found[0].value == value:
            # An earlier attempt wrote it.
            return
        if not leader or leader[0].create_revision != token:
            raise self._over()
        there = "has another entry" if found else "lacks the entry before"
        raise LogDamagedError(f"the log {there} {index}, though only this leader may append")

    async def confirm(self) -> None:
        """See Leadership.confirm."""
        request = pb.RangeRequest(key=self._keys.leader, keys_only=True)
        answer = await self._holding.until_told(lambda: self._etcd.range(request))
        if not answer.kvs or answer.kvs[0].create_revision != self.leader.token or not self.holds():
            raise self._over()

    async def prune(self, before: int) -> None:
        """See Leadership.prune."""
        keys = self._keys
        ends = await self._told([], keys.ends())
        first, last = (response.response_range.kvs for response in ends.responses)
        if not last:
            return
        start, before = keys.index_of(first[0].key), min(before, keys.index_of(last[0].key))
        revision = 0
        while start < before:
            start = min(start + _PRUNED_AT_ONCE, before)
            # The entry that will be the first must be there, so the last one always stays.
            compared = [held(keys.leader, self.leader.token), present(keys.entry(start))]
            removed = [delete(keys.entries[0], keys.entry(start)), delete(keys.parts[0], keys.part(start))]
            answer = await self._told(compared, removed)
            if not answer.succeeded:
                raise self._over()
            revision = answer.header.revision
        if revision:
            await self._compaction.pruned(revision)

    async def resign(self) -> None:
        """See Leadership.resign."""
        self._keeping.stop()
        self._watching.cancel()
        if self.lost.is_set():
            return
        self.lost.set()
        key = self._keys.leader
        request = pb.TxnRequest(compare=[held(key, self.leader.token)], success=[delete(key)])
        await told_in_time(lambda: self._etcd.txn(request), self._holding.lasts)
        with suppress(LogError):
            await self._etcd.revoke(self._lease)

    async def _told(
        self,
        compared: Sequence[pb.Compare],
        success: Sequence[pb.RequestOp],
        failure: Sequence[pb.RequestOp] = (),
        *,
        is_final: bool = False,
    ) -> pb.TxnResponse:
        """Makes a transaction that may be repeated; see Holding.until_told."""
        request = pb.TxnRequest(compare=compared, success=success, failure=failure)
        return await self._holding.until_told(lambda: self._etcd.txn(request), is_final=is_final)

    async def _watch(self) -> None:
        """Finds out that the key of the leader is gone, also when nothing is appended."""
        key = self._keys.leader
        # What was before the watch is compared by each append.
        revision = self.leader.token + 1
        while not self.lost.is_set():
            try:
                async with aclosing(changes(self._etcd, key, b"", revision)) as events:
                    async for _ in events:
                        # It was removed. Nobody writes it again while it is there.
                        self._over()
                answer = await self._etcd.range(pb.RangeRequest(key=key, keys_only=True))
            except LogUnreachableError:
                continue
            except LogRefusedError:
                # etcd's users have changed. It may be let in again.
                await asyncio.sleep(_REFUSED_SECONDS)
                continue
            if not answer.kvs or answer.kvs[0].create_revision != self.leader.token:
                self._over()
            revision = answer.header.revision + 1

    def _over(self) -> LeadershipLostError:
        self._keeping.stop()
        self._watching.cancel()
        return self._holding.over()
